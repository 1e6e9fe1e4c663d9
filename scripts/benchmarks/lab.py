"""A playground to measure on, and how events on it are waited for."""

import itertools
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, Final, TypeVar

from swarmlet.client import Client, DaemonUnreachable, RemoteError, filters
from swarmlet.errors import SwarmletError
from swarmlet.playground import cluster
from swarmlet.playground.playground import Playground, Wish
from swarmlet.playground.progress import Lines

#: Seconds between two looks: what is measured is known to within this.
POLL: Final = 0.02

#: Seconds between two writes to one host while a first accepted one is waited for.
WRITE_EVERY: Final = 0.1

#: Seconds for what should take a few; past this the measurement has failed.
PATIENCE: Final = 120.0

IMAGE: Final = "busybox:lab"

MANAGERS: Final = ("m1", "m2", "m3")
WORKERS: Final = ("w1", "w2")
HOSTS: Final = (*MANAGERS, *WORKERS)

T = TypeVar("T")
Json = Any  # the Engine API's objects


class TooLate(SwarmletError):
    """Something that was waited for did not happen."""


def say(text: str) -> None:
    """Tell the user how far it is."""
    print(text, file=sys.stderr, flush=True)


def until(look: Callable[[], T | None], what: str, *, poll: float = POLL) -> T:
    """Look until there is something to see, and return it; a daemon may be away meanwhile."""
    deadline = time.monotonic() + PATIENCE
    reason = ""
    while time.monotonic() < deadline:
        try:
            if seen := look():
                return seen
        except (RemoteError, DaemonUnreachable) as exc:
            reason = f": {exc.message}"
        time.sleep(poll)
    raise TooLate(f"not within {PATIENCE:g} s: {what}{reason}")


class Lab:
    """A playground of three managers and two workers."""

    def __init__(self, playground: Playground) -> None:
        self.playground = playground
        self._numbers = itertools.count(1)

    @classmethod
    @contextmanager
    def up(cls, *, init: bool = True) -> Iterator["Lab"]:
        """Make one for the length of a ``with`` block; its name is this process's own."""
        playground = Playground.create(
            f"bench-{os.getpid()}",
            managers=len(MANAGERS),
            workers=len(WORKERS),
            wish=Wish(init=init),
            progress=Lines(),
        )
        try:
            yield cls(playground)
        finally:
            playground.down()

    # -- looking ---------------------------------------------------------------------------------

    def client(self, host: str) -> Client:
        """Calls to a host's daemon."""
        return Client(self.playground.site.spot(host).socket, timeout=10.0)

    def engine(self, host: str) -> Client:
        """Calls straight to a host's Docker Engine: its API is of the same shape."""
        return Client(self.playground.site.spot(host).engine_socket)

    def leader(self) -> str:
        """The name of the leader's host."""
        return until(self._leader, "a leader")

    def _leader(self) -> str | None:
        for host in MANAGERS:
            with suppress(RemoteError, DaemonUnreachable):
                for node in self.client(host).get("/nodes"):
                    if (node.get("ManagerStatus") or {}).get("Leader"):
                        return str(node["Description"]["Hostname"])
        return None

    def settle(self) -> str:
        """Wait until every host is a ready node, then a little longer; return the leader."""
        leader = self.leader()
        cluster.wait_ready(self.client(leader), set(HOSTS))
        time.sleep(1.0)
        return self.leader()

    def node_ids(self, host: str) -> dict[str, str]:
        """The id of each host's node."""
        nodes = self.client(host).get("/nodes")
        return {node["Description"]["Hostname"]: node["ID"] for node in nodes}

    # -- services --------------------------------------------------------------------------------

    def name(self) -> str:
        """A name that nothing has."""
        return f"bench{next(self._numbers)}"

    def create(self, host: str, replicas: int, *, delay: float | None = None) -> str:
        """Create a service that sleeps; returns its id."""
        created = self.client(host).post("/services/create", spec(self.name(), replicas, delay))
        return str(created["ID"])

    def create_running(self, host: str, replicas: int, *, delay: float | None = None) -> str:
        """Create a service and wait for all its tasks."""
        service = self.create(host, replicas, delay=delay)
        self.wait_running(host, service, replicas)
        return service

    def wait_running(
        self, host: str, service: str, count: int, ok: Callable[[Json], bool] = bool
    ) -> list[Json]:
        """Wait for so many tasks that run and are ``ok``; returns them."""

        def look() -> list[Json] | None:
            wanted = filters(service=[service], **{"desired-state": ["running"]})
            tasks = self.client(host).get("/tasks", wanted)
            running = [t for t in tasks if t["Status"]["State"] == "running" and ok(t)]
            return running if len(running) == count else None

        return until(look, f"{count} tasks of {service} run")

    def wait_count(self, host: str, service: str, count: int) -> None:
        """Wait until a service says that so many tasks run: cheaper to ask than for all of them."""
        query = filters(id=[service]) | {"status": "true"}

        def look() -> bool:
            (found,) = self.client(host).get("/services", query)
            return bool(found["ServiceStatus"]["RunningTasks"] == count)

        until(look, f"{count} tasks of {service} run")

    def remove(self, host: str, *services: str) -> None:
        """Remove services, and wait until no engine has a container."""
        for service in services:
            self.client(host).delete(f"/services/{service}")
        until(lambda: self.containers() == 0, "all containers are gone", poll=0.1)

    def containers(self) -> int:
        """Containers on all engines, stopped ones too."""
        return sum(len(self.engine(host).get("/containers/json", {"all": "1"})) for host in HOSTS)

    # -- writes ----------------------------------------------------------------------------------

    def first_write(self, hosts: Sequence[str]) -> tuple[float, str]:
        """Send writes to hosts until one is accepted; returns when it was, and by whom."""
        accepted: queue.Queue[tuple[float, str]] = queue.Queue()

        def write(host: str) -> None:
            with suppress(RemoteError, DaemonUnreachable):
                self.create(host, 0)
                accepted.put((time.monotonic(), host))

        threads: list[threading.Thread] = []
        deadline = time.monotonic() + PATIENCE
        for host in itertools.cycle(hosts):
            threads.append(threading.Thread(target=write, args=(host,), daemon=True))
            threads[-1].start()
            with suppress(queue.Empty):
                first = accepted.get(timeout=WRITE_EVERY / len(hosts))
                break
            if time.monotonic() > deadline:
                raise TooLate(f"no write was accepted within {PATIENCE:g} s")
        for thread in threads:
            thread.join()
        return first

    def clear(self, host: str) -> None:
        """Remove all services."""
        listed = self.client(host).get("/services")
        self.remove(host, *(service["ID"] for service in listed))


def spec(name: str, replicas: int, delay: float | None = None) -> Json:
    """A service of tasks that sleep and die at once when told to."""
    policy: Json = {"Condition": "any"}
    if delay is not None:
        policy["Delay"] = int(delay * 1e9)
    container = {"Image": IMAGE, "Command": ["sleep", "100000"], "StopSignal": "SIGKILL"}
    return {
        "Name": name,
        "TaskTemplate": {"ContainerSpec": container, "RestartPolicy": policy},
        "Mode": {"Replicated": {"Replicas": replicas}},
    }


def at_once(act: Callable[[int], T], count: int) -> list[T]:
    """Do something so many times at the same time."""
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(act, range(count)))
