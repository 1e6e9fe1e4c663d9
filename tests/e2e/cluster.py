"""A cluster as the end-to-end tests see it: stock client, our command line, and conditions.

Nothing here measures time: :func:`eventually` waits for a condition and has a deadline only so that
a test that hangs says what it waited for and what it saw.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest
from swarmlet.client import Client, DaemonUnreachable
from swarmlet.errors import SwarmletError
from swarmlet.playground import cgroups
from swarmlet.playground.playground import Playground

#: Seconds after which a condition is given up: machines may be slow.
PATIENCE: Final = float(os.environ.get("SWARMLET_TEST_PATIENCE", "45"))

#: An image that every host of a playground has.
IMAGE: Final = "busybox:lab"

#: Runs until it is told to stop, and then ends at once (a shell as process 1 would ignore SIGTERM).
FOREVER: Final = ("sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1000 & wait $!; done")

Json = Any
T = TypeVar("T")
Done = subprocess.CompletedProcess[str]


def eventually(
    claim: Callable[[], T],
    what: str,
    *,
    within: float = PATIENCE,
    seen: Callable[[], object] | None = None,
) -> T:
    """Wait until a claim is true (not failing counts too); return what it returned."""
    deadline = time.monotonic() + within
    trouble = ""
    while True:
        try:
            found: T | None = claim()
            trouble = f"it is {found!r}"
        except (SwarmletError, AssertionError, ValueError, subprocess.CalledProcessError) as exc:
            found = None
            trouble = str(exc)
        if found:
            return found
        if time.monotonic() > deadline:
            view = seen() if seen is not None else ""
            pytest.fail(f"not within {within:g} s: {what}; {trouble}\n{view}")
        time.sleep(0.1)


class Cluster:
    """The cluster of a playground. Commands go to the API socket of the host that is named."""

    def __init__(self, playground: Playground) -> None:
        self.playground = playground

    # -- asking ----------------------------------------------------------------------------------

    def docker(self, host: str, *words: str, check: bool = True, stdin: str | None = None) -> Done:
        """Run the stock client on swarmlet's socket of a host."""
        return _run(["docker", "-H", f"unix://{self._spot(host).socket}", *words], check, stdin)

    def engine(self, host: str, *words: str, check: bool = True) -> Done:
        """Run the stock client on the engine of a host, past swarmlet."""
        return _run(["docker", "-H", f"unix://{self._spot(host).engine_socket}", *words], check)

    def swarmlet(
        self, host: str, *words: str, check: bool = True, stdin: str | None = None
    ) -> Done:
        """Run our command line on a host's socket."""
        argv = [sys.executable, "-m", "swarmlet", "-H", f"unix://{self._spot(host).socket}"]
        return _run([*argv, *words], check, stdin)

    def client(self, host: str, *, timeout: float = 30.0) -> Client:
        """A client of a host's API."""
        return Client(self._spot(host).socket, timeout=timeout)

    def get(self, host: str, path: str, **filters: str) -> Json:
        """GET with filters."""
        query = {"filters": json.dumps({k.replace("_", "-"): [v] for k, v in filters.items()})}
        return self.client(host).get(path, query if filters else None)

    def _spot(self, host: str) -> Any:
        return self.playground.site.spot(host)

    def address(self, host: str) -> str:
        """The address of a host."""
        return next(h.address for h in self.playground.record.hosts if h.name == host)

    @property
    def hosts(self) -> list[str]:
        """Names of all hosts."""
        return [host.name for host in self.playground.record.hosts]

    @property
    def managers(self) -> list[str]:
        """Names of the hosts that began as managers."""
        return [host.name for host in self.playground.record.hosts if host.role == "manager"]

    def processes(self, host: str, *words: str) -> list[int]:
        """Processes of a host, containers left out, whose command line has all of some words."""
        found: list[int] = []
        for pid in sorted(cgroups.members(self._spot(host).processes_cgroup)):
            with suppress(OSError):
                line = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
                found += [pid] if set(words) <= set(line) else []
        return found

    def log(self, host: str) -> str:
        """What the daemon of a host wrote."""
        return self.playground.host(host).log.read_text()

    # -- nodes -----------------------------------------------------------------------------------

    def nodes(self, host: str = "m1") -> dict[str, Json]:
        """Nodes by hostname (by identifier while the hostname is not known).

        A host that left and joined again is two nodes: the one that is not down is meant.
        """
        nodes = sorted(
            self.client(host).get("/nodes"), key=lambda n: n["Status"]["State"] != "down"
        )
        return {node["Description"].get("Hostname") or node["ID"]: node for node in nodes}

    def states(self, host: str = "m1") -> dict[str, str]:
        """``ready``, ``down``... by hostname."""
        return {name: node["Status"]["State"] for name, node in self.nodes(host).items()}

    def wait_state(self, node: str, state: str, *, at: str = "m1") -> None:
        """Wait until a manager says that a node is in a state."""
        eventually(
            lambda: self.states(at).get(node) == state,
            f"{node} is {state}, says {at}",
            seen=lambda: self.swarmlet(at, "node", "ls", check=False).stdout,
        )

    def voters(self, host: str = "m1") -> set[str]:
        """Hostnames of the managers."""
        return {name for name, node in self.nodes(host).items() if node.get("ManagerStatus")}

    def wait_voters(self, *names: str, at: str = "m1") -> None:
        """Wait until just these hosts are managers, says one of them."""
        eventually(
            lambda: self.voters(at) == set(names), f"{sorted(names)} are the managers, says {at}"
        )

    def leader(self, host: str = "m1") -> str:
        """Hostname of the leader, "" while there is none."""
        for name, node in self.nodes(host).items():
            if (node.get("ManagerStatus") or {}).get("Leader"):
                return name
        return ""

    def wait_leader(self, host: str = "m1", *, other_than: str = "") -> str:
        """Wait until a manager knows a leader (other than one that was)."""
        return eventually(
            lambda: name if (name := self.leader(host)) != other_than else "",
            f"{host} knows a leader other than {other_than or 'nobody'}",
        )

    def wait_all_ready(self, *hosts: str, at: str = "m1") -> None:
        """Wait until nodes are ready, and managers among them reachable."""
        names = set(hosts or self.hosts)

        def ready() -> bool:
            nodes = self.nodes(at)
            return all(
                nodes[name]["Status"]["State"] == "ready"
                and (nodes[name].get("ManagerStatus") or {}).get("Reachability", "reachable")
                == "reachable"
                for name in names
            )

        eventually(
            ready,
            f"{sorted(names)} are ready",
            seen=lambda: self.swarmlet(at, "node", "ls", check=False).stdout,
        )

    # -- services --------------------------------------------------------------------------------

    def create(
        self, name: str, *words: str, host: str = "m1", command: tuple[str, ...] = FOREVER
    ) -> str:
        """Create a service with the stock client, without waiting; returns its identifier."""
        argv = ["service", "create", "-d", "--quiet", "--no-resolve-image", "--name", name]
        return self.docker(host, *argv, *words, IMAGE, *command).stdout.strip()

    def tasks(self, service: str, host: str = "m1") -> list[Json]:
        """All tasks of a service, ended ones too."""
        return list(self.get(host, "/tasks", service=service))

    def wanted(self, service: str, host: str = "m1") -> list[Json]:
        """The tasks of a service that shall run."""
        return [t for t in self.tasks(service, host) if t["DesiredState"] in {"running", "ready"}]

    def running(self, service: str, host: str = "m1") -> list[Json]:
        """The tasks of a service that shall run, and do."""
        return [
            task
            for task in self.tasks(service, host)
            if task["DesiredState"] == "running" and task["Status"]["State"] == "running"
        ]

    def wait_running(self, service: str, count: int, host: str = "m1") -> list[Json]:
        """Wait until just so many tasks are wanted, and run."""

        def settled() -> list[Json]:
            running = self.running(service, host)
            wanted = self.wanted(service, host)
            return running if len(running) == len(wanted) == count else []

        if count == 0:
            eventually(lambda: not self.wanted(service, host), f"no task of {service} is wanted")
            return []
        return eventually(
            settled,
            f"{count} tasks of {service} run",
            seen=lambda: (
                self.docker(host, "service", "ps", "--no-trunc", service, check=False).stdout
            ),
        )

    def places(self, service: str, host: str = "m1") -> Counter[str]:
        """How many running tasks of a service each host has."""
        names = {node["ID"]: name for name, node in self.nodes(host).items()}
        return Counter(names[task["NodeID"]] for task in self.running(service, host))

    def wait_moved(self, service: str, count: int, gone: str, host: str = "m1") -> None:
        """Wait until a host has no part any more of what runs, and the others have all of it.

        That a node is down is known a moment before its tasks are replaced.
        """
        eventually(
            lambda: self.places(service, host)[gone] == 0, f"no task of {service} is on {gone}"
        )
        self.wait_running(service, count, host)

    def remove(self, *services: str, host: str = "m1") -> None:
        """Remove services, and wait until no container of them is left."""
        self.docker(host, "service", "rm", *services)
        for service in services:
            self.wait_no_containers(service)

    def remove_all(self, host: str = "m1") -> None:
        """Remove every service there is."""
        names = [service["Spec"]["Name"] for service in self.client(host).get("/services")]
        if names:
            self.remove(*names, host=host)

    def reset_nodes(self, host: str = "m1") -> None:
        """Take labels and availability from nodes."""
        for name, node in self.nodes(host).items():
            if node["Spec"]["Availability"] != "active":
                self.docker(host, "node", "update", "--availability=active", name)
            for label in node["Spec"].get("Labels") or {}:
                self.docker(host, "node", "update", "--label-rm", label, name)

    def remove_networks(self, host: str = "m1") -> None:
        """Remove every overlay but the first one, once their last tasks have stopped."""

        def removed(name: str) -> bool:
            return self.docker(host, "network", "rm", name, check=False).returncode == 0

        for network in self.client(host).get("/networks"):
            if network["Driver"] == "overlay" and not network["Ingress"]:
                eventually(partial(removed, network["Name"]), f"network {network['Name']} goes")

    # -- containers ------------------------------------------------------------------------------

    def containers(self, service: str = "", *, running: bool = True) -> list[Json]:
        """What the engines of all hosts that are on have of services: the truth."""
        found = []
        for host in self.hosts:
            found += self.containers_on(host, service, running=running)
        return found

    def containers_on(self, host: str, service: str = "", *, running: bool = True) -> list[Json]:
        """Containers of services on one host, with ``Host`` added."""
        label = "com.docker.swarm.service.name"
        filters = {"label": [f"{label}={service}" if service else label]}
        query = {"filters": json.dumps(filters), "all": "0" if running else "1"}
        with suppress(DaemonUnreachable):
            found = Client(self._spot(host).engine_socket).get("/containers/json", query)
            return [{**container, "Host": host} for container in found]
        return []

    def started(self, service: str = "") -> dict[str, str]:
        """When each running container started, by its identifier."""
        return {
            item["Id"]: self.inspect(item["Host"], item["Id"])["State"]["StartedAt"]
            for item in self.containers(service)
        }

    def inspect(self, host: str, container: str) -> Json:
        """A container, as its engine knows it."""
        return Client(self._spot(host).engine_socket).get(f"/containers/{container}/json")

    def wait_containers(self, service: str, count: int) -> list[Json]:
        """Wait until just so many containers of a service run, on all hosts together."""
        return eventually(
            lambda: found if len(found := self.containers(service)) == count else [],
            f"{count} containers of {service} run",
            seen=lambda: [(c["Host"], c["Names"], c["State"]) for c in self.containers(service)],
        )

    def wait_no_containers(self, service: str) -> None:
        """Wait until no container of a service is left, not even a stopped one."""
        eventually(
            lambda: not self.containers(service, running=False),
            f"no container of {service or 'any service'} is left",
            seen=lambda: [
                (c["Host"], c["Names"], c["State"]) for c in self.containers(service, running=False)
            ],
        )

    # -- faults ----------------------------------------------------------------------------------

    def bounce_daemon(self, host: str, *, kill: bool = False) -> None:
        """Stop a daemon and start it again."""
        self.playground.stop_daemon(host, kill=kill)
        self.playground.start_daemon(host)

    def bounce_engine(self, host: str) -> None:
        """Stop an engine as its service manager would, and start it again."""
        pid = self.playground.host(host).engine_pid
        assert pid is not None, f"{host} has no engine"
        os.kill(pid, signal.SIGTERM)
        eventually(lambda: self.playground.host(host).engine_pid is None, "the engine ends")
        self.playground.start(host)

    def other_managers(self, *hosts: str) -> list[str]:
        """Managers but for these."""
        return [name for name in self.hosts if name.startswith("m") and name not in hosts]


@contextmanager
def diagnosed(playground: Playground) -> Iterator[None]:
    """Keep the logs of all hosts when SWARMLET_TEST_LOGS names a folder for them."""
    try:
        yield
    finally:
        folder = os.environ.get("SWARMLET_TEST_LOGS")
        if folder:
            for host in playground.status():
                for path in (host.log, host.engine_log):
                    with suppress(OSError):
                        shutil.copy(
                            path, f"{folder}/{playground.site.name}-{host.name}-{path.name}"
                        )


def _run(argv: list[str], check: bool, stdin: str | None = None) -> Done:
    done = subprocess.run(
        argv, capture_output=True, text=True, check=False, input=stdin or "", timeout=120
    )
    if check and done.returncode != 0:
        pytest.fail(f"{argv[3:]}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
    return done
