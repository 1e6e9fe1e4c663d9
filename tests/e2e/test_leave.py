"""Who leaves a cluster finds the host as it was before: compared whole, in every way to go."""

import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from swarmlet.playground import cgroups
from swarmlet.playground.playground import Wish

from tests.e2e.cluster import Cluster, diagnosed, eventually
from tests.e2e.conftest import ENGINES, MakePlayground, engines_of

pytestmark = [pytest.mark.netns, pytest.mark.docker, pytest.mark.slow]

Defer = Callable[..., object]
Host = dict[str, list[str]]

#: What the network of a host is made of, by the name of its part.
PARTS = {
    "iptables": "iptables-save; iptables-legacy-save",
    "ip6tables": "ip6tables-save",
    "nft": "nft list ruleset",
    "links": "ip -o -d link",
    "addresses": "ip -o addr",
    "routes": "ip route show table all; ip -6 route show table all",
    "policy": "ip rule; ip -6 rule",
    "neighbours": "ip neigh show nud permanent; ip neigh show proxy",
    "fdb": "bridge fdb show",
    "ports": "bridge -d link",
    "tunnels": "ip -d tunnel; ip xfrm state; ip xfrm policy",
    "settings": "sysctl -a -r ^net",
    "listening": "ss -Hlntu",
    "namespaces": "ip netns list-id",
}

NAMED = ("--format", "{{.Driver}}:{{.Name}}")

#: Figures that change by themselves.
VOLATILE = (
    re.compile(r"^net\.netfilter\.nf_conntrack_count = .*"),
    re.compile(r"^net\.ipv[46]\.route\.gc_.*"),
    re.compile(r"^# .*"),
    re.compile(r"\[\d+:\d+\]$"),
    re.compile(r"(?<=counter )packets \d+ bytes \d+"),
    re.compile(r"(?<=_lft )\d+sec"),
    re.compile(r"\b(expires|age) \d+(sec)?"),
    re.compile(r"(?<=timer)\s+[\d.]+"),
)


@pytest.fixture(scope="module", params=ENGINES)
def hosts(
    make_shared_playground: MakePlayground, request: pytest.FixtureRequest
) -> Iterator[Cluster]:
    """Three hosts in no cluster."""
    wish = Wish(init=False, engines=engines_of(request.param))
    playground = make_shared_playground(managers=2, workers=1, wish=wish)
    with diagnosed(playground):
        yield Cluster(playground)


def look(hosts: Cluster, host: str) -> Host:
    """Everything about a host that a cluster could have changed."""
    playground = hosts.playground
    found = {
        part: _stable(playground.run(host, "sh", "-c", f"{{ {command}; }} 2>/dev/null || true"))
        for part, command in PARTS.items()
    }
    # By name: the engine's own networks get a new identifier whenever it starts.
    found["network"] = sorted(hosts.engine(host, "network", "ls", *NAMED).stdout.split())
    for kind, options in (("container", ("-a",)), ("volume", ())):
        found[kind] = sorted(hosts.engine(host, kind, "ls", *options, "-q").stdout.split())
    spot = playground.site.spot(host)
    found["processes"] = sorted(_names(cgroups.members(spot.processes_cgroup)))
    found["state"] = sorted(str(p.relative_to(spot.state_dir)) for p in spot.state_dir.rglob("*"))
    found["run"] = sorted(p.name for p in spot.run_dir.iterdir())
    return found


def _stable(done: "object") -> list[str]:
    # Link-local addresses come by themselves, seconds after their links.
    lines = [line for line in str(getattr(done, "stdout", "")).splitlines() if "fe80::" not in line]
    for pattern in VOLATILE:
        lines = [pattern.sub("", line).rstrip() for line in lines]
    return sorted(line for line in lines if line)


def _names(pids: set[int]) -> Iterator[str]:
    """The programs of processes, but for what the look itself runs."""
    for pid in pids:
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        yield b" ".join(words[:4]).decode(errors="replace")


def unlike(before: Host, after: Host) -> dict[str, list[str]]:
    """What came and what went, by part."""
    found: dict[str, list[str]] = {}
    for part, was in before.items():
        gone = [f"- {line}" for line in was if line not in after[part]]
        come = [f"+ {line}" for line in after[part] if line not in was]
        if gone or come:
            found[part] = gone + come
    return found


def wait_as_before(hosts: Cluster, host: str, before: Host) -> None:
    """Wait until a host is as it was: an engine tidies up for a moment after it has answered."""

    def same() -> bool:
        difference = unlike(before, look(hosts, host))
        assert not difference, json.dumps(difference, indent=1)
        return True

    eventually(same, f"{host} is as it was")


def token(hosts: Cluster, role: str = "worker") -> str:
    return hosts.swarmlet("m1", "join-token", "-q", role).stdout.strip()


def join(hosts: Cluster, host: str, role: str = "worker") -> None:
    hosts.swarmlet(host, "join", "--token", token(hosts, role), f"{hosts.address('m1')}:2377")


def found(hosts: Cluster, defer: Defer) -> None:
    """m1 makes a cluster, which ends with the test."""
    hosts.swarmlet("m1", "init")
    defer(dissolve, hosts)


def dissolve(hosts: Cluster) -> None:
    for host in reversed(hosts.hosts):
        if hosts.playground.host(host).daemon_pid is None:
            hosts.playground.start_daemon(host)
        hosts.swarmlet(host, "leave", "--force", "--yes", check=False)


def use(hosts: Cluster, count: int) -> None:
    """Tasks on every node, in networks of every kind, with published ports."""
    hosts.docker("m1", "network", "create", "-d", "overlay", "red")
    hosts.docker("m1", "network", "create", "-d", "overlay", "--internal", "dark")
    words = ["--network", "red", "--network", "dark", "--publish", "8080:80"]
    hosts.create("web", "--mode", "global", *words)
    hosts.create("plain", "--mode", "global", "--publish", "8081:80/udp")
    for service in ("web", "plain"):
        hosts.wait_running(service, count)


@pytest.mark.parametrize("bridge_nf", ["0", "1"])
def test_a_worker_and_the_last_manager_leave_nothing(
    hosts: Cluster, defer: Defer, bridge_nf: str
) -> None:
    """With tasks, networks and connections until the last moment."""
    for host in hosts.hosts:
        key = f"net.bridge.bridge-nf-call-iptables={bridge_nf}"
        hosts.playground.run(host, "sysctl", "-qw", key)
    before = {host: look(hosts, host) for host in hosts.hosts}
    found(hosts, defer)
    join(hosts, "m2", "manager")
    join(hosts, "w1")
    use(hosts, 3)
    for host in hosts.hosts:
        now = unlike(before[host], look(hosts, host))
        assert {"nft", "links", "routes", "settings", "network", "processes"} <= now.keys()
    hosts.swarmlet("w1", "leave")
    wait_as_before(hosts, "w1", before["w1"])
    hosts.swarmlet("m2", "leave", "--force", "--yes")
    wait_as_before(hosts, "m2", before["m2"])
    hosts.swarmlet("m1", "leave", "--force", "--yes")
    wait_as_before(hosts, "m1", before["m1"])


def test_who_was_killed_before_leaves_nothing_either(hosts: Cluster, defer: Defer) -> None:
    """The daemon that leaves knows of what another one did only from disk and kernel."""
    before = look(hosts, "w1")
    found(hosts, defer)
    join(hosts, "w1")
    use(hosts, 2)
    hosts.bounce_daemon("w1", kill=True)
    hosts.swarmlet("w1", "leave")
    wait_as_before(hosts, "w1", before)


def test_who_leaves_without_any_manager_leaves_nothing(hosts: Cluster, defer: Defer) -> None:
    before = look(hosts, "w1")
    found(hosts, defer)
    join(hosts, "w1")
    use(hosts, 2)
    hosts.playground.stop_daemon("m1", kill=True)
    hosts.swarmlet("w1", "leave")
    wait_as_before(hosts, "w1", before)


def test_a_node_that_was_removed_leaves_nothing(hosts: Cluster, defer: Defer) -> None:
    """By force, while it was silent; it learns of it when it comes back."""
    before = look(hosts, "w1")
    found(hosts, defer)
    join(hosts, "w1")
    use(hosts, 2)
    hosts.playground.stop_daemon("w1", kill=True)
    hosts.wait_state("w1", "down")
    hosts.swarmlet("m1", "node", "rm", "--force", "w1")
    hosts.playground.start_daemon("w1")
    eventually(lambda: "node-removed" in hosts.log("w1"), "w1 learns that it was removed")
    hosts.swarmlet("w1", "leave")
    wait_as_before(hosts, "w1", before)


def test_a_join_that_fails_leaves_nothing(hosts: Cluster, defer: Defer) -> None:
    """A foreign token, a manager that does not answer, an address that is not this host's."""
    before = look(hosts, "w1")
    found(hosts, defer)
    good, where = token(hosts), f"{hosts.address('m1')}:2377"
    wrong = good[:-1] + ("0" if good[-1] != "0" else "1")
    for words in (
        ("--token", wrong, where),
        ("--token", good, f"{hosts.address('m2')}:2399"),
        ("--token", good, "--listen-addr", "192.0.2.1:2377", where),
    ):
        assert hosts.swarmlet("w1", "join", *words, check=False).returncode != 0
        wait_as_before(hosts, "w1", before)


def test_who_leaves_while_the_engine_is_away_takes_its_own_with_it(
    hosts: Cluster, defer: Defer
) -> None:
    """Containers and the engine's networks stay; the next membership finds and ends them."""
    before = look(hosts, "w1")
    found(hosts, defer)
    join(hosts, "w1")
    use(hosts, 2)
    kill_engine(hosts, "w1")
    defer(start_engine, hosts, "w1")
    hosts.swarmlet("w1", "leave")
    assert "containers-left-behind" in hosts.log("w1")
    ours = ("nft list tables", "ip -o link show swl0", "ip rule", "iptables -S DOCKER-USER")
    left = "".join(hosts.playground.run("w1", *o.split(), check=False).stdout for o in ours)
    assert not re.search("swarmlet|swl0|fwmark|mark", left), left
    hosts.docker("m1", "service", "rm", "web", "plain")
    start_engine(hosts, "w1")
    join(hosts, "w1")
    hosts.swarmlet("w1", "leave")
    # An engine that was killed forgets shims that it had, with their ends of links.
    lost = ("processes", "links", "addresses", "fdb", "ports", "settings", "namespaces")
    wait_as_before(hosts, "w1", {part: was for part, was in before.items() if part not in lost})


def kill_engine(hosts: Cluster, host: str) -> None:
    pid = hosts.playground.host(host).engine_pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: hosts.playground.host(host).engine_pid is None, "no engine")


def start_engine(hosts: Cluster, host: str) -> None:
    if hosts.playground.host(host).engine_pid is None:
        hosts.playground.start(host)
