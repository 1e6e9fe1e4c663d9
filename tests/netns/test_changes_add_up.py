"""A kernel that followed every change holds what one holds that was told the last state only.

One is told by libnftables, the other by the program.
"""

import os
from collections import Counter
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from swarmlet.model.forwarding import Tables

from tests.netns.driven import Driven
from tests.netns.rig import Namespace, require
from tests.unit.net.clusters import clusters

pytestmark = [pytest.mark.netns, pytest.mark.slow]

#: Each example is some twenty transactions of a kernel.
EXAMPLES = 15
CHANGES = 5


class Host(Driven):
    """A namespace, and a forwarder in it."""

    def __init__(self, name: str, *options: str) -> None:
        self.space = Namespace(name)
        self.space.ip("link add eth0 type veth peer name eth1", "addr add 192.0.2.1/24 dev eth0")
        self.space.ip("link set eth0 up", "link set eth1 up")
        super().__init__(self.space.path, *options)
        self.start()

    def give(self, tables: Tables) -> None:
        self.order("tables", msgspec.to_builtins(tables))

    def holds(self) -> list[str]:
        """All that the kernel has of ours; sets have no order."""
        parts = [
            self.space.run("ip", "-d", "link", "show", "swl0").partition(":")[2],
            self.space.run("ip", "-o", "-4", "addr", "show", "swl0").partition(":")[2],
            self.space.run("ip", "rule"),
            self.space.run("ip", "-4", "route", "show", "table", "all"),
            self.space.run("ip", "-4", "neigh", "show", "nud", "permanent"),
            self.space.run("bridge", "fdb", "show", "dev", "swl0"),
            self.space.run("sysctl", "-a", "-r", r"^net\.ipv4\.(ip_forward|conf\.(all|swl0)\.)"),
        ]
        lines = [line for part in parts for line in sorted(part.splitlines())]
        for family in ("ip", "bridge"):
            listing = self.space.run("nft", "-j", "list", "table", family, "swarmlet")
            lines += sorted(_bare(msgspec.json.decode(listing)["nftables"]))
        return lines

    def delete(self) -> None:
        super().delete()
        self.space.delete()


def _bare(entries: list[dict[str, dict[str, object]]]) -> Iterator[str]:
    """A table's parts without the numbers that the kernel gave them; rules keep their order."""
    rules = Counter[object]()
    for entry in entries:
        ((kind, body),) = entry.items()
        body = {key: value for key, value in body.items() if key != "handle"}
        if isinstance(elements := body.get("elem"), list):
            body["elem"] = sorted(str(element) for element in elements)
        if kind == "rule":
            body["number"] = rules[body["chain"]]
            rules[body["chain"]] += 1
        yield f"{kind} {sorted(body.items())}"


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[Host, Host]]:
    require()
    made: list[Host] = []
    try:
        made.append(Host(f"swl{os.getpid()}-follower"))
        made.append(Host(f"swl{os.getpid()}-fresh", "--without-library"))
        yield made[0], made[1]
    finally:
        for host in made:
            host.delete()


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(states=st.lists(clusters(), min_size=2, max_size=CHANGES), same=st.booleans())
def test_changes_add_up(hosts: tuple[Host, Host], states: list[Tables], same: bool) -> None:
    """Whatever came before, a node that changes its number included; and again is no change."""
    follower, fresh = hosts
    if same:
        me = states[0].me
        states = [replace(s, me=me, peers=states[0].peers | s.peers) for s in states]
    for state in states:
        follower.give(state)
    fresh.order("clear")
    fresh.give(states[-1])
    assert follower.holds() == fresh.holds()
    bridges = [d for d in follower.order("differences") if "(network " not in d]
    assert bridges == []
    follower.order("repair")
    assert follower.holds() == fresh.holds()
    assert follower.order("statistics")["failures"] == 0, follower.log()
