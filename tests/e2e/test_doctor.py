"""``network plan`` and ``network doctor``: all is well; a broken way between hosts is named."""

import itertools
import json
from collections.abc import Callable, Iterator

import pytest
from swarmlet.client import Json

from tests.e2e.cluster import Cluster, diagnosed, eventually
from tests.e2e.conftest import MakePlayground

pytestmark = [pytest.mark.netns, pytest.mark.docker]

Defer = Callable[..., object]

#: Where w2 listens.
PORT = 2399


@pytest.fixture(scope="module")
def cluster(make_shared_playground: MakePlayground) -> Iterator[Cluster]:
    """Two managers and two workers, one of which does not listen on the usual port."""
    playground = make_shared_playground(managers=2, workers=2)
    with diagnosed(playground):
        cluster = Cluster(playground)
        cluster.swarmlet("w2", "leave")
        cluster.swarmlet("m1", "node", "rm", "w2")
        listen = ("--listen-addr", f"0.0.0.0:{PORT}", "--advertise-addr", cluster.address("w2"))
        token = cluster.swarmlet("m1", "join-token", "-q", "worker").stdout.strip()
        cluster.swarmlet("w2", "join", "--token", token, *listen, f"{cluster.address('m1')}:2377")
        cluster.wait_all_ready()
        yield cluster


def doctor(cluster: Cluster, host: str, *words: str) -> tuple[int, list[Json]]:
    """The exit status, and a finding for each check."""
    done = cluster.swarmlet(host, "network", "doctor", "--format", "json", *words, check=False)
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def problems(cluster: Cluster, host: str = "m1") -> list[tuple[str, str]]:
    """Where something is wrong, and which check says so."""
    _, found = doctor(cluster, host)
    return sorted((f["Where"], f["Check"]) for f in found if f["Result"] == "problem")


def wait_well(cluster: Cluster) -> None:
    """Wait until the doctor has nothing to say: a node must be told of the others first."""
    eventually(
        lambda: doctor(cluster, "m1")[0] == 0,
        "all is well",
        seen=lambda: cluster.swarmlet("m1", "network", "doctor", check=False).stdout,
    )


@pytest.mark.parametrize("manager", ["m1", "m2"])
def test_a_cluster_that_is_well_has_every_pair_checked(cluster: Cluster, manager: str) -> None:
    """Whichever manager is asked: one of them does not lead."""
    wait_well(cluster)
    status, found = doctor(cluster, manager)
    assert status == 0
    assert {f["Result"] for f in found} == {"ok"}
    assert sorted((f["Where"], f["Check"]) for f in found) == sorted(
        [(host, check) for host in cluster.hosts for check in ("forwarding", "names", "clock")]
        + [
            (pair, check)
            for pair in map(" <-> ".join, itertools.combinations(sorted(cluster.hosts), 2))
            for check in ("control port", "vxlan")
        ]
    )
    told = cluster.swarmlet(manager, "network", "doctor")
    assert "24 checks, no problem." in told.stderr
    assert "checked w2" in told.stderr


def test_a_worker_checks_itself_and_its_way_to_others(cluster: Cluster) -> None:
    wait_well(cluster)
    status, found = doctor(cluster, "w1")
    assert (status, {f["Result"] for f in found}) == (0, {"ok"})
    assert {(f["Where"], f["Check"]) for f in found} == {
        ("w1", "forwarding"),
        ("w1", "names"),
        ("m1 <-> w1", "control port"),
        ("m1 <-> w1", "vxlan"),
        ("m2 <-> w1", "control port"),
        ("m2 <-> w1", "vxlan"),
        ("w1 <-> w2", "vxlan"),
    }


def test_every_node_shows_its_plan(cluster: Cluster) -> None:
    wait_well(cluster)
    for host in cluster.hosts:
        text = cluster.swarmlet(host, "network", "plan").stdout
        assert "swl0: vxlan" in text
        for other in cluster.hosts:
            assert cluster.address(other) in text
        found = json.loads(cluster.swarmlet(host, "network", "plan", "--format", "json").stdout)
        assert (found["Failure"], found["Plan"]["links"]["devices"]["swl0"]["port"]) == ("", 4789)


def close(cluster: Cluster, defer: Defer, packets: str) -> None:
    """Have w1 drop such packets of w2, by a table of its own, until the test ends."""
    run = cluster.playground.run
    run("w1", "nft", "add", "table", "ip", "firewall")
    defer(wait_well, cluster)
    defer(run, "w1", "nft", "delete", "table", "ip", "firewall")
    run("w1", "nft", "add chain ip firewall input { type filter hook input priority -10; }")
    rule = f"ip saddr {cluster.address('w2')} {packets} drop"
    run("w1", "nft", f"add rule ip firewall input {rule}")


def test_a_way_that_is_blocked_is_named_as_the_pair_that_has_it(
    cluster: Cluster, defer: Defer
) -> None:
    """By a stranger's table, which the forwarder leaves alone."""
    wait_well(cluster)
    close(cluster, defer, "udp dport 4789")
    status, found = doctor(cluster, "m1")
    assert status == 1
    [bad] = [f for f in found if f["Result"] != "ok"]
    assert (bad["Where"], bad["Check"], bad["Result"]) == ("w1 <-> w2", "vxlan", "problem")
    assert bad["Detail"] == "no packet passes from w2 to w1, the other way they do"
    way = f"from {cluster.address('w2')} to {cluster.address('w1')}"
    assert bad["Fix"].startswith(f"let udp 4789 pass {way}: ")
    assert problems(cluster, "w2") == [("w1 <-> w2", "vxlan")]
    told = cluster.swarmlet("m1", "network", "doctor", check=False)
    assert "1 problem" in told.stderr
    assert "exit status 1" in told.stderr


def test_large_packets_that_do_not_pass_are_told_from_none(cluster: Cluster, defer: Defer) -> None:
    wait_well(cluster)
    close(cluster, defer, "udp dport 4789 udp length > 1400")
    _, found = doctor(cluster, "m1")
    [bad] = [f for f in found if f["Result"] != "ok"]
    assert (bad["Where"], bad["Check"]) == ("w1 <-> w2", "vxlan")
    assert bad["Detail"] == "packets of 1450 bytes do not pass from w2 to w1, small ones do"


def test_a_blocked_control_port_is_named(cluster: Cluster, defer: Defer) -> None:
    """Between workers: nothing else would notice."""
    wait_well(cluster)
    close(cluster, defer, "tcp dport 2377")
    _, found = doctor(cluster, "m1")
    [bad] = [f for f in found if f["Result"] != "ok"]
    assert (bad["Where"], bad["Check"]) == ("w1 <-> w2", "control port")
    assert bad["Detail"] == f"w2 does not reach w1 at {cluster.address('w1')}:2377"


def test_a_repair_at_once_leaves_all_well(cluster: Cluster) -> None:
    """Whether the forwarder or the doctor came first: what was destroyed is there again."""
    wait_well(cluster)
    cluster.playground.run("w1", "nft", "flush", "table", "ip", "swarmlet")
    cluster.playground.run("w1", "ip", "link", "del", "swl0")
    status, found = doctor(cluster, "m1", "--fix")
    assert (status, {f["Result"] for f in found} - {"ok", "repaired"}) == (0, set())
    assert "swl0: vxlan" in cluster.swarmlet("w1", "network", "plan").stdout
    cluster.playground.run("w1", "ip", "link", "show", "swl0")


def test_a_node_that_is_down_is_named_and_its_pairs_are_not(cluster: Cluster, defer: Defer) -> None:
    wait_well(cluster)
    defer(wait_well, cluster)
    defer(cluster.playground.start_daemon, "w2")
    cluster.playground.stop_daemon("w2", kill=True)
    cluster.wait_state("w2", "down")
    assert problems(cluster) == [("w2", "control port")]
