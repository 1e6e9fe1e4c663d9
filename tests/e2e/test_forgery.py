"""A container that may set up its own links, and gives itself what is its neighbour's.

It does so right after its start, which is before anybody could look at it.
"""

import json
from collections.abc import Iterator
from functools import partial

import pytest

from tests.e2e.cluster import FOREVER, IMAGE, Cluster, eventually

pytestmark = [pytest.mark.netns, pytest.mark.docker]

HOSTS = (1, 0)

#: What it takes, and the script that does. It goes on to speak, so that everybody learns of it.
THEFTS = {
    "address": "ip addr flush dev eth0; ip addr add $IP/24 dev eth0",
    "hardware address": "ip link set eth0 down; ip link set eth0 address $MAC",
    "both": "ip link set eth0 down; ip link set eth0 address $MAC; ip addr flush dev eth0; "
    "ip addr add $IP/24 dev eth0",
}
KINDS = ("task", "plain container")

ASKED = 20


def serving(name: str, before: str = "") -> tuple[str, str, str]:
    """Answers at port 80 with its name, and speaks to its gateway all the time."""
    script = (
        f"mkdir -p /w; echo {name} >/w/index.html; {before} "
        "httpd -p 80 -h /w; trap 'exit 0' TERM; "
        "while :; do ping -c 1 -W 1 $GW >/dev/null && echo answered; sleep 0.1 & wait $!; done"
    )
    return "sh", "-c", script


class Neighbours:
    """On one bridge: a victim, somebody who asks it, and a thief."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        found = json.loads(cluster.docker("m1", "network", "inspect", "ov").stdout)[0]
        self.gateway = found["IPAM"]["Config"][0]["Gateway"]
        self._run("asker", *FOREVER)
        self._run("victim", *serving("victim"))
        [place] = cluster.inspect("m1", "victim")["NetworkSettings"]["Networks"].values()
        self.address, self.mac = place["IPAddress"], place["MacAddress"]
        eventually(lambda: self.ask() == "victim", "the victim answers")
        eventually(lambda: self.mac in taken(cluster), "it is known who the victim is")

    def _run(self, name: str, *words: str) -> None:
        options = ("--name", name, "--network", "ov", "--cap-add", "NET_ADMIN")
        variables = ("-e", f"GW={self.gateway}")
        self.cluster.docker("m1", "run", "-d", *options, *variables, IMAGE, *words)

    def ask(self) -> str:
        question = f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 3 {self.address} 80 | tail -n 1"
        words = ("exec", "asker", "sh", "-c", question)
        return self.cluster.engine("m1", *words, check=False).stdout.strip()

    def rob(self, kind: str, theft: str) -> str:
        """Start the thief; returns its container."""
        rest = "; ip link set eth0 up; ip route add default via $GW;"
        command = serving("thief", THEFTS[theft] + rest)
        variables = {"GW": self.gateway, "IP": self.address, "MAC": self.mac}
        words = [word for key, value in variables.items() for word in ("-e", f"{key}={value}")]
        options = ("--network", "ov", "--cap-add", "NET_ADMIN", *words)
        if kind == "task":
            self.cluster.create("thief", *options, command=command)
            return str(self.cluster.wait_containers("thief", 1)[0]["Id"])
        run = ("run", "-d", "--name", "thief", *options, IMAGE, *command)
        return self.cluster.docker("m1", *run).stdout.strip()

    def is_robbed(self, thief: str) -> bool:
        """Whether the thief has done it."""
        shown = self.cluster.engine("m1", "exec", thief, "ip", "addr", "show", "eth0").stdout
        return self.address in shown or self.mac in shown


@pytest.fixture
def neighbours(cluster: Cluster) -> Iterator[Neighbours]:
    cluster.docker("m1", "network", "create", "-d", "overlay", "--attachable", "ov")
    try:
        yield Neighbours(cluster)
    finally:
        cluster.docker("m1", "rm", "-f", "asker", "victim", "thief", check=False)


@pytest.mark.parametrize("theft", THEFTS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_thief_gets_nothing_of_its_neighbours(
    neighbours: Neighbours, kind: str, theft: str
) -> None:
    """All who ask the neighbour reach it, and the thief hears nothing, not even from the node."""
    cluster = neighbours.cluster
    thief = neighbours.rob(kind, theft)
    eventually(partial(neighbours.is_robbed, thief), "the thief has done it")
    assert [neighbours.ask() for _ in range(ASKED)] == ["victim"] * ASKED
    eventually(lambda: is_well(cluster), "the kernel is as planned")
    assert [neighbours.ask() for _ in range(ASKED)] == ["victim"] * ASKED
    assert "answered" not in cluster.engine("m1", "logs", thief).stdout


def given(cluster: Cluster) -> set[str]:
    """The hardware addresses that the engine gave in overlays."""
    overlays = {n["Name"] for n in cluster.client("m1").get("/networks") if n["Scope"] == "swarm"}
    listed = cluster.engine("m1", "ps", "-q", "--no-trunc").stdout.split()
    return {
        place["MacAddress"]
        for container in listed
        for name, place in cluster.inspect("m1", container)["NetworkSettings"]["Networks"].items()
        if name in overlays
    }


def test_pins_follow_their_containers(cluster: Cluster) -> None:
    """Of several networks, and when a container, the daemon, or the engine is started again."""
    for network in ("ov", "ov2"):
        cluster.docker("m1", "network", "create", "-d", "overlay", "--attachable", network)
    cluster.create("web", "--network", "ov", "--network", "ov2", "--replicas", "2")
    cluster.wait_containers("web", 2)
    options = ("--name", "box", "--restart", "always", "--network", "ov")
    cluster.docker("m1", "run", "-d", *options, IMAGE, *FOREVER)
    try:
        cluster.docker("m1", "network", "connect", "ov2", "box")
        for happens, ports in (
            (lambda: None, 6),
            (lambda: cluster.docker("m1", "restart", "-t", "0", "box"), 6),
            (lambda: cluster.docker("m1", "network", "disconnect", "ov", "box"), 5),
            (lambda: cluster.bounce_daemon("m1"), 5),
            (lambda: cluster.bounce_daemon("m1", kill=True), 5),
            (lambda: cluster.bounce_engine("m1"), 5),
        ):
            happens()
            cluster.wait_containers("web", 2)
            cluster.wait_running("web", 2)
            eventually(lambda: len(given(cluster)) == ports, f"{ports} are plugged in")  # noqa: B023  # called at once
            eventually(partial(is_pinned, cluster), "all are known, and nobody else")
            assert is_well(cluster)
    finally:
        cluster.docker("m1", "rm", "-f", "box", check=False)


def is_pinned(cluster: Cluster) -> bool:
    return is_well(cluster) and set(taken(cluster)) == given(cluster)


def taken(cluster: Cluster) -> list[str]:
    """The hardware addresses that are somebody's, by the plan."""
    plan = cluster.swarmlet("m1", "network", "plan").stdout
    return plan.partition("  taken = {")[2].partition("}")[0].replace(",", " ").split()


def is_well(cluster: Cluster) -> bool:
    return cluster.swarmlet("m1", "network", "doctor", check=False).returncode == 0
