"""The loop around plan and kernel, with a kernel that obeys, and one that refuses."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import pytest
import trio
import trio.testing
from msgspec.structs import replace
from swarmlet.errors import ForwardingFailed, TunnelFailed
from swarmlet.model.forwarding import Attachment, PeerRecord, ServiceRecord, Tables, TaskRecord
from swarmlet.net import forwarder as module
from swarmlet.net import namespaces, stale_flows
from swarmlet.net.doubts import RECONCILE
from swarmlet.net.encryption import TUNNEL_RETRY
from swarmlet.net.facts import HostFacts, Owner, OwnTunnel, Port
from swarmlet.net.forwarder import LAST_RETRY, MIND_SETTINGS, OWNERS_WITHIN, Forwarder
from swarmlet.net.kernel import Look
from swarmlet.net.links import Changes, Links
from swarmlet.net.numbers import bridge_name
from swarmlet.net.owners import Guest
from swarmlet.net.watch import Indexes, News

from tests.unit.net.clusters import keys, network
from tests.unit.net.kernel_model import obey


class FakeKernel:
    """Links that obey."""

    def __init__(self) -> None:
        self.links = Links()
        self.facts = HostFacts()
        self.bridges: frozenset[str] = frozenset()
        self.looks = 0
        self.broken = False
        self.no_tunnels = False
        self.private: dict[str, str] = {}
        #: Who was given what is its.
        self.seated: list[Owner] = []

    async def ports(self) -> Mapping[str, Port]:
        await trio.lowlevel.checkpoint()
        return self.facts.ports

    async def seat(self, ports: Mapping[str, Port]) -> None:
        await trio.lowlevel.checkpoint()
        self.seated += [port.owner for port in ports.values() if port.owner]

    async def make_tunnels(self, changes: Changes, private: Mapping[str, str]) -> None:
        await trio.lowlevel.checkpoint()
        if changes.tunnels and self.no_tunnels:
            raise TunnelFailed("swlw0", "there is no wg here")
        self.private |= private
        self.links = obey(self.links, Changes(tunnels=changes.tunnels))

    async def look(self, _tables: Tables, _sysctls: object = None) -> Look:
        await trio.lowlevel.checkpoint()
        self.looks += 1
        return Look(self.facts, self.links, self.bridges, Indexes())

    def settings(self, keys: Iterable[str]) -> dict[str, str]:
        return {key: self.links.sysctls[key] for key in keys if key in self.links.sysctls}

    def write(self, sysctls: dict[str, str]) -> list[str]:
        self.links = replace(self.links, sysctls=self.links.sysctls | sysctls)
        return []

    def others_set(self, key: str, value: str) -> None:
        self.links = replace(self.links, sysctls=self.links.sysctls | {key: value})

    async def apply(self, changes: Changes) -> None:
        await trio.lowlevel.checkpoint()
        if self.broken:
            raise ForwardingFailed("ip", "it is broken")
        self.links = obey(self.links, replace(changes, tunnels=[], removals=[], gone_tunnels=[]))

    async def finish(self, changes: Changes) -> None:
        await trio.lowlevel.checkpoint()
        self.links = obey(
            self.links, Changes(removals=changes.removals, gone_tunnels=changes.gone_tunnels)
        )


class FakeNft:
    """Takes scripts; lists nothing."""

    def __init__(self) -> None:
        self.scripts: list[str] = []
        self.refuse: Callable[[str], bool] = lambda _: False

    async def run(self, script: str) -> None:
        await trio.lowlevel.checkpoint()
        if self.refuse(script):
            raise ForwardingFailed("nft", "it is broken")
        self.scripts.append(script)

    async def listing(self, _what: str) -> bytes | None:
        await trio.lowlevel.checkpoint()
        return None


class Rig:
    def __init__(self, forwarder: Forwarder, kernel: FakeKernel, nft: FakeNft) -> None:
        self.forwarder, self.kernel, self.nft = forwarder, kernel, nft


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    async def deaf(*_: object, **__: object) -> None:
        await trio.sleep_forever()

    async def forget(*_: object) -> None:
        await trio.lowlevel.checkpoint()

    async def numbers(_: object, descriptors: Sequence[int]) -> list[int]:
        await trio.lowlevel.checkpoint()
        return list(descriptors)

    monkeypatch.setattr(module, "watch_links", deaf)
    monkeypatch.setattr(module, "watch_rules", deaf)
    monkeypatch.setattr(stale_flows, "forget", forget)
    monkeypatch.setattr(namespaces, "numbers", numbers)
    forwarder, kernel, nft = Forwarder(tmp_path), FakeKernel(), FakeNft()
    monkeypatch.setattr(forwarder, "_kernel", kernel)
    monkeypatch.setattr(forwarder, "_nft", nft)
    return Rig(forwarder, kernel, nft)


def tables(*, serving: bool = True, weight: int = 1) -> Tables:
    places = (Attachment("net1", "10.1.0.9"),)
    return Tables(
        me=1,
        peers={f"p{n}": PeerRecord(id=f"p{n}", number=n, addr=f"192.0.2.{n}") for n in (1, 2)},
        networks={"net1": network(1)},
        services={
            "s": ServiceRecord(id="s", name="s", attachments=(Attachment("net1", "10.1.9.9"),))
        },
        tasks={
            f"t{n}": TaskRecord(
                id=f"t{n}",
                service_id="s",
                name=f"s.{n}",
                node=2,
                attachments=places if n == 1 else (Attachment("net1", "10.1.0.8"),),
                serving=serving or n > 1,
                weight=weight,
            )
            for n in (1, 2)
        },
    )


async def test_what_is_given_is_applied_whole_and_then_by_changes(
    rig: Rig, nursery: trio.Nursery
) -> None:
    """The first time the tables are put in place; then only what changed."""
    await nursery.start(rig.forwarder.run)
    rig.forwarder.set_tables(tables())
    await rig.forwarder.applied()
    rig.forwarder.set_tables(tables(serving=False))
    await rig.forwarder.applied()
    whole, change = rig.nft.scripts
    assert "delete table ip swarmlet" in whole
    assert change.startswith("flush chain ip swarmlet v_s_net1\nadd rule ip swarmlet v_s_net1 dnat")
    assert "10.1.0.9/32" in rig.kernel.links.routes


def encrypted() -> Tables:
    plain = tables()
    return replace(
        plain,
        peers={k: replace(p, tunnel=keys(p.number)) for k, p in plain.peers.items()},
        networks={**plain.networks, "net2": network(2, encrypted=True)},
        tasks={
            **plain.tasks,
            "e": TaskRecord(
                id="e",
                service_id="e",
                name="e",
                node=2,
                attachments=(Attachment("net2", "10.2.0.9"),),
            ),
        },
    )


async def test_tunnels_come_before_what_needs_them(rig: Rig, nursery: trio.Nursery) -> None:
    """With the private key that belongs to the public one; and they go with their need."""
    await nursery.start(rig.forwarder.run)
    own = keys(1)
    rig.forwarder.set_tunnel(OwnTunnel(own), {own.lanes[0]: "private"})
    rig.forwarder.set_tables(encrypted())
    await rig.forwarder.applied()
    assert rig.kernel.links.routes["10.2.0.9/32"].startswith("via 100.64.16.2 dev swl1 ")
    assert rig.kernel.links.tunnels["swlw0"].peers.keys() == {keys(2).lanes[0]}
    assert rig.kernel.private[own.lanes[0]] == "private"
    rig.forwarder.set_tables(tables())
    await rig.forwarder.applied()
    assert not rig.kernel.links.tunnels
    assert "10.1.0.9/32" in rig.kernel.links.routes


async def test_other_networks_do_without_tunnels_that_cannot_be_made(
    rig: Rig, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """Encrypted ones are refused meanwhile, with the reason; and it is tried again."""
    await nursery.start(rig.forwarder.run)
    rig.kernel.no_tunnels = True
    rig.forwarder.set_tunnel(OwnTunnel(keys(1)), {})
    rig.forwarder.set_tables(encrypted())
    await rig.forwarder.applied()
    assert "10.1.0.9/32" in rig.kernel.links.routes
    assert "10.2.0.9/32" not in rig.kernel.links.routes
    assert "10.2.0.9" not in rig.forwarder.plan.live
    assert "there is no wg here" in rig.forwarder.plan.problems[0]
    assert "there is no wg here" in rig.forwarder.tunnel_trouble()
    rig.kernel.no_tunnels = False
    await trio.sleep(TUNNEL_RETRY + 1)
    assert "10.2.0.9/32" in rig.kernel.links.routes
    assert rig.forwarder.plan.problems == ()
    assert rig.forwarder.tunnel_trouble() == ""


async def test_a_burst_of_records_is_one_change(rig: Rig, nursery: trio.Nursery) -> None:
    """Only the last one counts."""
    await nursery.start(rig.forwarder.run)
    for weight in range(1, 50):
        rig.forwarder.set_tables(tables(weight=weight))
    await rig.forwarder.applied()
    assert len(rig.nft.scripts) == 1
    assert rig.forwarder.statistics().applied == 49


async def test_a_node_that_does_not_know_itself_touches_nothing(
    rig: Rig, nursery: trio.Nursery
) -> None:
    """What an earlier life of it left in the kernel goes on."""
    await nursery.start(rig.forwarder.run)
    rig.forwarder.set_tables(Tables())
    await rig.forwarder.applied()
    assert rig.nft.scripts == []
    assert rig.kernel.looks == 0


@pytest.mark.parametrize("broken", ["kernel", "nft"])
async def test_what_fails_is_tried_until_it_works(
    rig: Rig, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, broken: str
) -> None:
    """Said once, and then what the kernel holds is looked at anew."""
    rig.kernel.broken = broken == "kernel"
    rig.nft.refuse = lambda _: broken == "nft"
    await nursery.start(rig.forwarder.run)
    rig.forwarder.set_tables(tables())
    with trio.move_on_after(10 * LAST_RETRY) as waiting:
        await rig.forwarder.applied()
    assert waiting.cancelled_caught
    assert "broken" in rig.forwarder.statistics().failure
    rig.kernel.broken = False
    rig.nft.refuse = lambda _: False
    await rig.forwarder.applied()
    assert rig.forwarder.statistics().failure == ""
    assert "10.1.0.9/32" in rig.kernel.links.routes


async def test_a_change_that_the_kernel_refuses_becomes_a_replacement(
    rig: Rig, nursery: trio.Nursery
) -> None:
    """Somebody took away what it builds on."""
    await nursery.start(rig.forwarder.run)
    rig.forwarder.set_tables(tables())
    await rig.forwarder.applied()
    rig.nft.refuse = lambda script: "delete table" not in script
    rig.forwarder.set_tables(tables(serving=False))
    await rig.forwarder.applied()
    assert "delete table ip swarmlet" in rig.nft.scripts[-1]
    assert rig.forwarder.statistics().failures == 0


@pytest.mark.parametrize("heard", [True, False])
async def test_foreign_changes_are_repaired(
    rig: Rig, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, heard: bool
) -> None:
    """At once where they are heard of, within a minute where not."""
    await nursery.start(rig.forwarder.run)
    rig.forwarder.set_tables(tables())
    await rig.forwarder.applied()
    rig.kernel.links = replace(rig.kernel.links, routes={})
    if heard:
        rig.forwarder._doubted(News.LINKS)
    await trio.sleep(2 if heard else RECONCILE + 1)
    assert "10.1.0.9/32" in rig.kernel.links.routes


async def test_a_changed_setting_is_noticed_though_nobody_tells_of_it(
    rig: Rig, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    await nursery.start(rig.forwarder.run)
    rig.forwarder.set_tables(tables())
    await rig.forwarder.applied()
    looks = rig.kernel.looks
    await trio.sleep(3 * MIND_SETTINGS)
    assert rig.kernel.looks == looks
    rig.kernel.others_set("net/ipv4/conf/swl0/send_redirects", "1")
    await trio.sleep(MIND_SETTINGS + 1)
    assert rig.kernel.links.sysctls["net/ipv4/conf/swl0/send_redirects"] == "0"


class Host:
    """A host with a task of its own, with bridge-nf: what others do to it is heard."""

    bridge = bridge_name("net1")
    setting = f"net/ipv4/conf/{bridge}/rp_filter"

    def __init__(self, rig: Rig) -> None:
        self.forwarder, self.kernel = rig.forwarder, rig.kernel
        self.kernel.facts = HostFacts(bridge_nf=True)

    def ports(self, *names: str) -> None:
        self.kernel.facts = replace(
            self.kernel.facts, ports={name: Port(self.bridge) for name in names}
        )
        self.kernel.links = replace(
            self.kernel.links, hairpin=self.kernel.links.hairpin & set(names)
        )

    async def repairs(self) -> int:
        """How many things were repaired by the look that a change leads to."""
        before = self.forwarder.statistics().repairs
        self.forwarder._doubted(News.LINKS)
        await trio.sleep(2)
        return self.forwarder.statistics().repairs - before


@pytest.fixture
async def host(rig: Rig, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock) -> Host:
    host = Host(rig)
    await nursery.start(rig.forwarder.run)
    there = tables()
    rig.forwarder.set_tables(replace(there, me=2))
    await rig.forwarder.applied()
    # Rules are no matter here: FakeNft lists none.
    await host.repairs()
    return host


async def test_what_comes_and_goes_with_tasks_is_no_damage(host: Host) -> None:
    """A bridge that the engine has just made, a container that was plugged in, or that ended."""
    host.kernel.bridges = frozenset({host.bridge})
    host.kernel.others_set(host.setting, "1")
    assert await host.repairs() == 0
    assert host.kernel.links.sysctls[host.setting] == "2"
    host.ports("veth1", "veth2")
    assert await host.repairs() == 0
    assert host.kernel.links.hairpin == {"veth1", "veth2"}
    host.ports("veth2")
    assert await host.repairs() == 0


async def test_what_others_did_to_bridges_and_ports_is_damage(host: Host) -> None:
    host.kernel.bridges = frozenset({host.bridge})
    host.ports("veth1")
    await host.repairs()
    host.kernel.others_set(host.setting, "1")
    host.kernel.links = replace(host.kernel.links, hairpin=frozenset())
    assert await host.repairs() == 2
    host.kernel.bridges = frozenset()
    assert await host.repairs() == 1


async def test_a_bridge_that_was_set_up_is_nobodys_to_change(host: Host) -> None:
    """Before any look at it: who had it made sets it up at once."""
    host.kernel.bridges = frozenset({host.bridge})
    await host.forwarder.adopt(network(1))
    host.kernel.others_set(host.setting, "1")
    assert await host.repairs() == 1


async def test_an_engine_whose_rules_were_flushed_is_said_once(
    host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    """Until it has made them anew; one that never had any is no news."""
    capsys.readouterr()
    for chain, gone, said in (
        ("FORWARD", False, 0),
        ("DOCKER-USER", False, 0),
        ("", True, 1),
        ("FORWARD", True, 0),
        ("DOCKER-USER", False, 0),
        ("", True, 1),
    ):
        host.kernel.facts = replace(host.kernel.facts, accept_chain=chain)
        await host.repairs()
        assert host.forwarder.engine_rules_gone is gone
        assert capsys.readouterr().out.count("engine-rules-gone") == said


OWNER = Owner("10.1.0.8", "02:42:0a:01:00:08")
BRIDGE = bridge_name("net1")


def plugged(kernel: FakeKernel, **ports: Port) -> None:
    kernel.facts = replace(kernel.facts, ports=ports)


async def test_a_container_that_is_named_is_pinned_at_once(host: Host, rig: Rig) -> None:
    """At the port that leads to its namespace, in that network; and gets what is its."""
    plugged(rig.kernel, veth1=Port(BRIDGE, 7, 1), veth2=Port(BRIDGE, 8, 2))
    scripts = len(rig.nft.scripts)
    elsewhere = Owner("10.2.0.8", "02:42:0a:02:00:08")
    await host.forwarder.identify([Guest(2, {BRIDGE: OWNER, "sl-net2": elsewhere})])
    await host.forwarder.applied()
    (script,) = rig.nft.scripts[scripts:]
    assert f'add element bridge swarmlet macs {{ "veth2" . {OWNER.mac} }}' in script
    assert {name: port.owner for name, port in host.forwarder.ports.items()} == {
        "veth1": None,
        "veth2": OWNER,
    }
    await host.repairs()
    assert rig.kernel.seated == [OWNER]
    host.forwarder._doubted(News.RULES)  # somebody took them away
    await trio.sleep(2)
    assert rig.kernel.seated == [OWNER, OWNER]


async def test_an_owner_goes_with_its_port(host: Host, rig: Rig) -> None:
    """A number of a namespace is used again; who has it next is somebody else."""
    plugged(rig.kernel, veth1=Port(BRIDGE, 7, 1))
    await host.forwarder.identify([Guest(1, {BRIDGE: OWNER})])
    plugged(rig.kernel, veth1=Port(BRIDGE, 9, 1))
    assert await host.repairs() == 0
    assert host.forwarder.ports["veth1"].owner is None
    assert host.forwarder.plan.rules["bridge"].sets["taken"].items == {}


@pytest.mark.parametrize("named", [True, False])
async def test_rules_of_before_stay_until_it_is_known_whom_they_are_about(
    rig: Rig, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, named: bool
) -> None:
    """But an engine that does not answer is not waited for for ever."""
    plugged(rig.kernel, veth1=Port(BRIDGE, 7, 1))
    rig.forwarder.set_tables(replace(tables(), me=2))
    await nursery.start(rig.forwarder.run)
    await trio.sleep(OWNERS_WITHIN / 2)
    assert rig.nft.scripts == []
    if named:
        await rig.forwarder.identify([Guest(1, {BRIDGE: OWNER})])
    await rig.forwarder.applied()
    assert (trio.current_time() < OWNERS_WITHIN) == named
    assert (OWNER.mac in rig.nft.scripts[0]) == named
