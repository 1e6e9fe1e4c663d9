"""The node's part in networks: bridges in the engine, before containers, and gone afterwards."""

import itertools
import random
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
import trio
import trio.testing
from msgspec.structs import replace
from swarmlet.agent import networking
from swarmlet.agent.networking import Networking
from swarmlet.agent.records import Records
from swarmlet.engine.client import Engine
from swarmlet.engine.networks import NETWORK_LABEL
from swarmlet.errors import EngineError, EngineUnavailable, ForwardingFailed
from swarmlet.model import checks
from swarmlet.model.forwarding import (
    DRAIN_LABEL,
    Attachment,
    NetworkRecord,
    PeerRecord,
    Reach,
    ServiceRecord,
    Tables,
    TaskRecord,
)
from swarmlet.model.specs import DnsConfig
from swarmlet.net.connections import Connections
from swarmlet.net.facts import HostFacts, Port
from swarmlet.net.owners import Guest
from swarmlet.net.plan import Plan, plan
from swarmlet.rpc.messages import Assignment, Forwarding

from tests.fakes.fake_engine import FakeEngine, Refusal
from tests.rig import task
from tests.waiting import eventually

NO_CHAIN = "No chain/target/match by that name"

FRONT = NetworkRecord(id="net1", name="front", subnet="10.9.1.0/24", gateway="10.9.1.1")
BACK = NetworkRecord(id="net2", name="back", subnet="10.9.2.0/24", gateway="10.9.2.1")


class FakeBridge(NamedTuple):
    name: str
    mtu: int


class FakeForwarder:
    """A kernel that forwards at once, unless ``stuck``."""

    def __init__(self) -> None:
        self.tables = Tables()
        self.adopted: list[str] = []
        #: What the next bridges are refused with.
        self.refusals: list[ForwardingFailed] = []
        self.stuck = False
        self.cleared = False
        self.failure = ""
        self.engine_has_rules = True
        self.engine_rules_gone = False
        #: What each look at a task's connections will find; and how many looks there were.
        self.busy: list[int] = []
        self.looks = 0
        self.trouble = self.inability = ""
        #: What is not as it should be; a repair puts right what ends in "!".
        self.wrong: list[str] = []

    def planned(self) -> Plan:
        return plan(self.tables, HostFacts())

    async def differences(self) -> list[str]:
        return list(self.wrong)

    async def firewalls(self) -> tuple[tuple[checks.Refusal, ...], tuple[str, ...]]:
        return (), ()

    async def repair(self) -> None:
        self.wrong = [one for one in self.wrong if not one.endswith("!")]

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        await trio.sleep_forever()

    def set_tables(self, tables: Tables) -> None:
        self.tables = tables

    async def applied(self) -> None:
        if self.stuck:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()

    def bridge(self, network: NetworkRecord) -> FakeBridge:
        return FakeBridge(f"sl-{network.id}", 1450)

    async def connections(self, addresses: Collection[str]) -> dict[str, Connections]:
        self.looks += 1
        busy = self.busy.pop(0) if self.busy else 0
        return dict.fromkeys(addresses, Connections(open=2, busy=busy))

    async def adopt(self, network: NetworkRecord) -> None:
        if self.refusals:
            raise self.refusals.pop()
        self.adopted.append(network.name)

    async def clear(self) -> None:
        self.cleared = True

    @property
    def ports(self) -> Mapping[str, Port]:
        return {}

    async def ports_changed(self) -> None:
        await trio.sleep_forever()

    async def identify(self, guests: Sequence[Guest]) -> None:
        await trio.lowlevel.checkpoint()

    def cannot_tunnel(self) -> str:
        return self.inability

    def tunnel_trouble(self) -> str:
        return self.inability or self.trouble


class FakeNames:
    """Remembers what was published."""

    def __init__(self) -> None:
        self.tables = Tables()
        self.listen: Sequence[str] = ()
        self.nameservers: Mapping[str, Sequence[str]] = {}
        self.stopped = False

    async def run(self) -> None:
        await trio.sleep_forever()

    async def publish(
        self,
        tables: Tables,
        listen: Sequence[str],
        nameservers: Mapping[str, Sequence[str]],
    ) -> None:
        self.tables, self.listen, self.nameservers = tables, listen, nameservers

    async def trouble(self) -> str:
        return "it does not run" if self.stopped else ""

    async def renew(self) -> None:
        self.stopped = False

    async def stop(self) -> None:
        self.stopped = True


class Node(NamedTuple):
    networking: Networking
    forwarder: FakeForwarder
    names: FakeNames
    engine: FakeEngine
    directory: Path

    def tell(
        self,
        *networks: NetworkRecord,
        tasks: tuple[TaskRecord, ...] = (),
        services: tuple[ServiceRecord, ...] = (),
    ) -> None:
        """Everything that a manager says."""
        self.networking.take(
            Forwarding(
                seq=1, full=True, me=1, networks=tuple(networks), tasks=tasks, services=services
            )
        )

    def made(self) -> dict[str, str]:
        """The engine's networks by name, with the cluster's identifiers."""
        return {n["Name"]: n["Labels"][NETWORK_LABEL] for n in self.engine.networks.values()}


@asynccontextmanager
async def a_node(fake: FakeEngine, directory: Path) -> AsyncIterator[Node]:
    forwarder, names = FakeForwarder(), FakeNames()
    async with Engine(fake.socket_path) as engine, trio.open_nursery() as nursery:
        part = Networking(
            engine,
            forwarder,
            names,
            control_port=2377,
            directory=directory,
            rng=random.Random(1),
        )
        await nursery.start(part.run)
        yield Node(part, forwarder, names, fake, directory)
        nursery.cancel_scope.cancel()


@pytest.fixture
async def node(fake: FakeEngine, directory: Path) -> AsyncIterator[Node]:
    async with a_node(fake, directory) as node:
        yield node


def attached(*places: tuple[NetworkRecord, str], dns: DnsConfig | None = None) -> Assignment:
    attachments = tuple(Attachment(network.id, address) for network, address in places)
    return replace(task(dns_config=dns), attachments=attachments)


def knows(names: FakeNames, ident: str, reach: Reach) -> bool:
    peer = names.tables.peers.get(ident)
    return peer is not None and peer.reach is reach


def as_record(assignment: Assignment) -> TaskRecord:
    return TaskRecord(
        id=assignment.task_id,
        service_id=assignment.service_id,
        name=assignment.name,
        node=1,
        attachments=assignment.attachments,
    )


async def test_a_task_gets_a_bridge_for_each_of_its_networks(node: Node) -> None:
    node.tell(FRONT, BACK)
    first, second = await node.networking.prepare(attached((FRONT, "10.9.1.5"), (BACK, "10.9.2.7")))
    assert (first.address, first.gateway) == ("10.9.1.5", "10.9.1.1")
    assert (second.address, second.gateway) == ("10.9.2.7", "10.9.2.1")
    made = node.engine.networks[first.network]
    assert made["Name"] == "front"
    assert made["IPAM"]["Config"] == [{"Subnet": "10.9.1.0/24", "Gateway": "10.9.1.1"}]
    assert made["Options"]["com.docker.network.bridge.name"] == "sl-net1"
    assert node.forwarder.adopted == ["front", "back"]


async def test_the_second_task_finds_the_bridge_there(node: Node) -> None:
    node.tell(FRONT)
    (one,) = await node.networking.prepare(attached((FRONT, "10.9.1.5")))
    (two,) = await node.networking.prepare(attached((FRONT, "10.9.1.6")))
    assert one.network == two.network
    assert node.engine.count("POST /networks/create") == 1


async def test_a_bridge_that_was_not_set_up_is_set_up_for_the_next(node: Node) -> None:
    node.tell(FRONT)
    node.forwarder.refusals = [ForwardingFailed("bridge sl-net1", "busy")]
    with pytest.raises(ForwardingFailed):
        await node.networking.prepare(attached((FRONT, "10.9.1.5")))
    for _ in range(2):
        await node.networking.prepare(attached((FRONT, "10.9.1.5")))
    assert node.forwarder.adopted == ["front"]
    assert node.engine.count("POST /networks/create") == 1


async def test_networks_that_are_gone_are_forgotten(node: Node) -> None:
    node.tell(FRONT, BACK)
    await node.networking.prepare(attached((FRONT, "10.9.1.5"), (BACK, "10.9.2.7")))
    made = node.networking._bridges
    assert set(made._making) == {FRONT.id, BACK.id}
    node.tell(BACK)
    await eventually(lambda: set(made._making) == {BACK.id})


async def test_many_tasks_at_once_make_one_bridge(node: Node) -> None:
    node.tell(FRONT)
    async with trio.open_nursery() as nursery:
        for number in range(5, 15):
            nursery.start_soon(node.networking.prepare, attached((FRONT, f"10.9.1.{number}")))
    assert node.engine.count("POST /networks/create") == 1


async def test_a_network_of_an_earlier_cluster_is_replaced(node: Node) -> None:
    node.tell(replace(FRONT, subnet="10.8.1.0/24", gateway="10.8.1.1"))
    await node.networking.prepare(attached((FRONT, "10.8.1.5")))
    node.tell(FRONT)
    (place,) = await node.networking.prepare(attached((FRONT, "10.9.1.5")))
    (made,) = node.engine.networks.values()
    assert made["Id"] == place.network
    assert made["IPAM"]["Config"][0]["Subnet"] == "10.9.1.0/24"


async def test_a_network_that_was_made_anew_under_its_name_gets_a_bridge_of_its_own(
    node: Node,
) -> None:
    node.tell(FRONT)
    await node.networking.prepare(attached((FRONT, "10.9.1.5")))
    again = replace(FRONT, id="net9")
    node.tell(again)
    await node.networking.prepare(attached((again, "10.9.1.5")))
    assert node.made() == {"front": "net9"}


async def test_a_network_may_have_the_addresses_of_one_that_was_removed(node: Node) -> None:
    node.tell(FRONT)
    await node.networking.prepare(attached((FRONT, "10.9.1.5")))
    other = replace(FRONT, id="net9", name="other")
    node.tell(other)
    await node.networking.prepare(attached((other, "10.9.1.5")))
    assert node.made() == {"other": "net9"}


async def test_a_foreign_network_of_that_name_is_left_alone_and_named(node: Node) -> None:
    node.engine.networks["x"] = {"Id": "x", "Name": "front", "Labels": {}}
    node.tell(FRONT)
    said = r"network front \(10.9.1.0/24\) cannot be made on this node: network with name front"
    with pytest.raises(EngineError, match=said) as caught:
        await node.networking.prepare(attached((FRONT, "10.9.1.5")))
    assert "x" in node.engine.networks
    assert (await node.networking.examine()).unmade == (caught.value.message,)
    del node.engine.networks["x"]
    await node.networking.prepare(attached((FRONT, "10.9.1.5")))
    assert (await node.networking.examine()).unmade == ()


async def test_an_engine_without_its_rules_is_waited_for_and_named(node: Node) -> None:
    """It makes no bridge before it is restarted: the fault of no task."""

    def refuse() -> None:
        raise Refusal(500, f"Unable to enable NAT rule: iptables: {NO_CHAIN}. (exit status 1)")

    node.tell(FRONT)
    one = attached((FRONT, "10.9.1.5"))
    with (
        node.engine.fault("POST /networks/create", refuse),
        pytest.raises(EngineUnavailable, match=NO_CHAIN) as caught,
    ):
        await node.networking.prepare(one)
    assert "systemctl restart docker" in caught.value.advice
    node.forwarder.engine_has_rules = False
    assert "firewall rules" in (await node.networking.examine()).engine
    node.forwarder.engine_has_rules = True  # whether or not anything was made since
    assert (await node.networking.examine()).engine == ""
    node.forwarder.engine_has_rules = False
    await node.networking.prepare(one)
    assert (await node.networking.examine()).engine == ""
    node.forwarder.engine_rules_gone = True
    assert "firewall rules" in (await node.networking.examine()).engine


async def test_a_network_that_nobody_told_of_is_waited_for(node: Node) -> None:
    with pytest.raises(EngineUnavailable, match="not known here yet"):
        await node.networking.prepare(attached((FRONT, "10.9.1.5")))


async def test_a_node_that_cannot_encrypt_runs_no_task_of_an_encrypted_network(
    node: Node,
) -> None:
    """It says why, and what is to be done; other networks are none the worse for it."""
    secret = replace(FRONT, encrypted=True)
    node.tell(secret, BACK)
    node.forwarder.inability = "there is no wg here"
    with pytest.raises(EngineError, match=r"network front is encrypted.*there is no wg here"):
        await node.networking.prepare(attached((secret, "10.9.1.5")))
    node.forwarder.inability, node.forwarder.trouble = "", "the program ended"
    with pytest.raises(EngineUnavailable, match=r"network front is encrypted.*the program ended"):
        await node.networking.prepare(attached((secret, "10.9.1.5")))
    await node.networking.prepare(attached((BACK, "10.9.2.5")))
    assert node.made() == {"back": "net2"}


async def test_no_container_begins_before_the_kernel_forwards(
    node: Node, autojump_clock: object
) -> None:
    node.tell(FRONT)
    node.forwarder.stuck = True
    with pytest.raises(EngineUnavailable, match="network is not ready"):
        await node.networking.prepare(attached((FRONT, "10.9.1.5")))


async def test_what_lost_its_process_is_told_to_the_kernel(node: Node) -> None:
    """Whatever managers say meanwhile; and it is not kept for the next boot."""
    node.tell(FRONT)
    node.networking.set_halted(frozenset({"t1"}))
    assert node.forwarder.tables.halted == {"t1"}
    node.tell(FRONT, BACK)
    assert node.forwarder.tables.halted == {"t1"}
    assert node.networking.tables.halted == frozenset()
    node.networking.set_halted(frozenset())
    assert node.forwarder.tables.halted == frozenset()


async def test_a_node_that_does_not_answer_is_avoided_until_it_does(node: Node) -> None:
    """By packets and by names, whatever managers said last; who is lost stays lost."""
    peers = tuple(
        PeerRecord(id=f"n{n}", number=n, addr=f"192.0.2.{n}", reach=reach)
        for n, reach in ((1, Reach.READY), (2, Reach.READY), (3, Reach.LOST))
    )
    told = Forwarding(seq=1, full=True, me=1, networks=(FRONT,), peers=peers)
    node.networking.take(told)
    for silent, seen in (({2, 3}, Reach.SUSPECT), (set[int](), Reach.READY)):
        node.networking.set_silent(frozenset(silent))
        tables = node.forwarder.tables
        assert [p.reach for p in tables.peers.values()] == [Reach.READY, seen, Reach.LOST]
        await eventually(partial(knows, node.names, "n2", seen))
    assert node.networking.tables.peers["n2"].reach is Reach.READY


async def test_names_are_answered_before_a_container_begins(node: Node) -> None:
    """At the gateways of the networks here; the task's own servers are asked for the rest."""
    one = attached((FRONT, "10.9.1.5"), dns=DnsConfig(nameservers=("10.0.0.53",)))
    node.tell(FRONT, BACK, tasks=(as_record(one),))
    await node.networking.prepare(one)
    assert node.names.listen == ["10.9.1.1"]
    assert node.names.nameservers == {one.task_id: ("10.0.0.53",)}
    assert one.task_id in node.names.tables.tasks


async def test_networks_that_are_gone_leave_the_engine(node: Node) -> None:
    node.tell(FRONT, BACK)
    await node.networking.prepare(attached((FRONT, "10.9.1.5"), (BACK, "10.9.2.7")))
    node.networking.take(Forwarding(seq=2, me=1, gone=("net1",)))
    await eventually(lambda: node.made() == {"back": "net2"}, what="front is gone")


async def test_a_network_that_is_gone_leaves_the_engine_once_its_last_container_did(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without another word of managers: they have nothing more to say."""
    monkeypatch.setattr(networking, "SWEEP_EVERY", 0.01)
    node.tell(FRONT, BACK)
    await node.networking.prepare(attached((FRONT, "10.9.1.5"), (BACK, "10.9.2.7")))
    tries = itertools.count(1)

    def in_use() -> None:
        if next(tries) <= 3:
            raise Refusal(403, "network front has active endpoints")

    with node.engine.fault("DELETE /networks", in_use):
        node.networking.take(Forwarding(seq=2, me=1, gone=("net1",)))
        await eventually(lambda: node.made() == {"back": "net2"}, what="front is gone")


async def test_a_node_without_managers_forwards_by_what_it_knew(
    fake: FakeEngine, directory: Path
) -> None:
    async with a_node(fake, directory) as node:
        kept = directory / "forwarding"
        node.tell(FRONT)
        await eventually(lambda: kept.exists() and b"front" in kept.read_bytes(), what="it is kept")
    async with a_node(fake, directory) as again:
        assert again.forwarder.tables.networks == {"net1": FRONT}
        assert again.forwarder.tables.me == 1


async def test_a_damaged_file_costs_no_more_than_asking_again(
    fake: FakeEngine, directory: Path
) -> None:
    (directory / "forwarding").write_bytes(b"\x01\xc1rubbish")
    async with a_node(fake, directory) as node:
        assert node.networking.tables == Tables()


async def test_leaving_takes_everything_away(node: Node) -> None:
    node.tell(FRONT)
    await node.networking.prepare(attached((FRONT, "10.9.1.5")))
    await node.networking.leave()
    assert node.engine.networks == {}
    assert node.names.stopped
    assert node.forwarder.cleared
    assert not (node.directory / "forwarding").exists()


@pytest.mark.parametrize("engine", ["away", "hung"])
async def test_leaving_does_not_depend_on_the_engine(
    node: Node, autojump_clock: trio.testing.MockClock, engine: str
) -> None:
    """Its networks are its own; the kernel's state and the resolver are ours."""
    node.tell(FRONT)
    await node.networking.prepare(attached((FRONT, "10.9.1.5")))

    def refuse() -> None:
        raise Refusal(500, "not now")

    with node.engine.fault("networks", refuse if engine == "away" else trio.sleep_forever):
        await node.networking.leave()
    assert node.names.stopped
    assert node.forwarder.cleared
    assert not (node.directory / "forwarding").exists()


async def test_what_managers_say_to_a_node_that_leaves_changes_nothing(node: Node) -> None:
    node.tell(FRONT)
    await node.networking.leave()
    node.names.tables = Tables()
    node.tell(FRONT, BACK)
    await trio.testing.wait_all_tasks_blocked()
    assert node.names.tables == Tables()
    assert not (node.directory / "forwarding").exists()


def test_a_change_in_pieces_counts_when_it_is_whole() -> None:
    records = Records()
    assert not records.take(Forwarding(seq=1, full=True, last=False, me=1, networks=(FRONT,)))
    assert records.tables == Tables()
    assert records.take(Forwarding(seq=1, me=1, networks=(BACK,)))
    assert records.tables.networks.keys() == {"net1", "net2"}
    assert records.take(Forwarding(seq=2, me=1, gone=("net1", "unknown")))
    assert records.tables.networks.keys() == {"net2"}
    assert records.take(Forwarding(seq=1, full=True, me=1))
    assert records.tables == Tables(me=1)


async def test_a_check_that_repairs_renews_a_resolver_that_is_no_good(node: Node) -> None:
    node.tell(FRONT)
    node.names.stopped = True
    assert (await node.networking.examine()).resolver == "it does not run"
    assert (await node.networking.examine(fix=True)).resolver == ""


async def test_a_check_names_what_is_wrong_and_repairs_nothing(
    fake: FakeEngine, directory: Path
) -> None:
    """Unless it is asked to; then it says what is right again, and what is not."""
    async with a_node(fake, directory) as node:
        assert "no manager has told" in (await node.networking.examine()).failure
        node.tell(FRONT)
        well = await node.networking.examine()
        assert (well.differences, well.failure, well.resolver, well.mtu) == ((), "", "", 1450)
        node.forwarder.wrong = ["route gone!", "rule gone"]
        looked = await node.networking.examine()
        assert (looked.differences, looked.repaired) == (("route gone!", "rule gone"), ())
        fixed = await node.networking.examine(fix=True)
        assert (fixed.differences, fixed.repaired) == (("rule gone",), ("route gone!",))
        node.forwarder.wrong = [f"route {n}" for n in range(60)]
        many = await node.networking.examine()
        assert (len(many.differences), many.more) == (50, 10)


async def test_a_check_says_why_kernel_and_names_lag_behind(
    fake: FakeEngine, directory: Path
) -> None:
    async with a_node(fake, directory) as node:
        node.tell(FRONT)
        node.forwarder.failure, node.names.stopped = "nft: out of memory", True
        found = await node.networking.examine()
        assert (found.failure, found.resolver) == ("nft: out of memory", "it does not run")
        assert (await node.networking.examine(fix=True)).failure == "nft: out of memory"
        assert node.networking.planned()[1] == "nft: out of memory"


async def test_a_network_that_is_made_during_a_sweep_stays(node: Node) -> None:
    """The sweep began before anybody knew of it, and finds it without a container in it."""
    reached, release = trio.Event(), trio.Event()

    async def first_waits() -> None:
        if not reached.is_set():
            reached.set()
            await release.wait()

    with node.engine.fault("GET /networks", first_waits):
        node.tell(FRONT)
        await reached.wait()
        node.tell(FRONT, BACK)
        await node.networking.prepare(attached((BACK, "10.9.2.5")))
        listed = node.engine.count("GET /networks")
        release.set()
        await eventually(lambda: node.engine.count("GET /networks") > listed)
    assert "back" in node.made()


def stopping(node: Node, *others: TaskRecord, drain: str = "") -> Assignment:
    """A task that is to stop, of a service that has others too."""
    labels = {DRAIN_LABEL: drain} if drain else {}
    ours = replace(
        task(labels=labels), attachments=(Attachment("net1", "10.9.1.5"),), service_id="web"
    )
    service = ServiceRecord(id="web", name="web", attachments=(Attachment("net1", "10.9.1.2"),))
    node.tell(FRONT, tasks=(as_record(ours), *others), services=(service,))
    return ours


OTHER = TaskRecord(
    id="other",
    service_id="web",
    name="web.2",
    node=1,
    attachments=(Attachment("net1", "10.9.1.6"),),
    serving=True,
)


async def test_a_task_is_not_stopped_while_clients_use_their_connections(
    node: Node, autojump_clock: object
) -> None:
    ours = stopping(node, OTHER)
    node.forwarder.busy = [2, 1, 1]
    await node.networking.relieve(ours)
    assert node.forwarder.looks == 4


async def test_clients_that_never_leave_are_not_waited_for_for_ever(
    node: Node, autojump_clock: trio.testing.MockClock
) -> None:
    """But for some seconds, or as long as the service says."""
    for drain, seconds in (("", 15.0), ("3", 3.0), ("0", 0.0)):
        node.forwarder.busy = [1] * 1000
        began = trio.current_time()
        await node.networking.relieve(stopping(node, OTHER, drain=drain))
        assert trio.current_time() - began == pytest.approx(seconds, abs=0.3)


@pytest.mark.parametrize(
    "others",
    [
        (),
        (replace(OTHER, serving=False),),
        (replace(OTHER, weight=0),),
        (replace(OTHER, service_id="else"),),
        (replace(OTHER, node=9),),  # of which this node knows nothing
    ],
)
async def test_nobody_waits_for_clients_that_have_no_other_task_to_go_to(
    node: Node, others: tuple[TaskRecord, ...]
) -> None:
    ours = stopping(node, *others)
    node.forwarder.busy = [1] * 1000
    await node.networking.relieve(ours)
    assert node.forwarder.looks == 0


async def test_a_removed_service_is_not_waited_for(node: Node) -> None:
    ours = stopping(node, OTHER)
    node.tell(FRONT, tasks=(as_record(ours), OTHER))
    await node.networking.relieve(ours)
    assert node.forwarder.looks == 0


async def test_connections_are_counted_by_task(node: Node) -> None:
    """In all of its networks; what is not here has none to tell of."""
    both = (Attachment("net1", "10.9.1.5"), Attachment("net2", "10.9.2.5"))
    near = replace(OTHER, id="near", attachments=both)
    node.tell(FRONT, BACK, tasks=(near, replace(OTHER, id="far", node=2)))
    assert await node.networking.connections(["near", "far", "unknown"]) == {"near": 4}
