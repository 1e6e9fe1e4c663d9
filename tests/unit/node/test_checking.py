"""What a node looks at when it is asked, and whom it answers."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from random import Random

import pytest
import trio
from msgspec.structs import replace
from swarmlet.clock import SECOND, Instant, Nanos
from swarmlet.errors import NotAllowed
from swarmlet.model.checks import NodeCheck, Passage, PeerCheck, clock_offset
from swarmlet.model.forwarding import (
    Attachment,
    NetworkRecord,
    PeerRecord,
    Reach,
    Tables,
    TaskRecord,
)
from swarmlet.model.specs import Role
from swarmlet.model.tunnels import TunnelKeys
from swarmlet.net.ping import Passages
from swarmlet.node import checking
from swarmlet.node.checking import Examiner, known_peers
from swarmlet.node.files import StateDir
from swarmlet.node.port import NodePort
from swarmlet.rpc.calls import (
    Answer,
    AskCheck,
    AskConnections,
    AskReadIndex,
    Checked,
    ConnectionsAre,
    Request,
    call_once,
)
from swarmlet.rpc.channel import ConnectionLost
from swarmlet.rpc.listener import RemoteNode
from swarmlet.rpc.messages import Peer
from trio.testing import memory_stream_pair

MANAGER = RemoteNode("m1", Role.MANAGER, "c", "10.0.0.1")
WORKER = RemoteNode("w1", Role.WORKER, "c", "10.0.0.2")


def record(number: int, ident: str, reach: Reach = Reach.READY) -> PeerRecord:
    return PeerRecord(
        id=ident, number=number, addr=f"10.0.0.{number}", reach=reach, hostname=f"host-{ident}"
    )


TABLES = Tables(
    me=2,
    peers={
        p.id: p
        for p in (record(1, "m1"), record(2, "w1"), record(3, "w2"), record(4, "w3", Reach.LOST))
    },
)


class Networks:
    """This node's networks, which are well."""

    tables = TABLES

    def __init__(self) -> None:
        self.fixed = False
        self.encrypted_mtu = 0

    async def examine(self, *, fix: bool = False) -> NodeCheck:
        self.fixed = fix
        await trio.lowlevel.checkpoint()
        return NodeCheck(mtu=1450, encrypted_mtu=self.encrypted_mtu)

    async def connections(self, tasks: Collection[str]) -> dict[str, int]:
        await trio.lowlevel.checkpoint()
        return dict.fromkeys(tasks, 7)


class Others:
    """Other nodes: those that answer, and what they are asked."""

    def __init__(self, *heard: str) -> None:
        self.heard = heard
        self.asked: list[AskCheck] = []

    async def probe(self, node_id: str, addr: str) -> bool:
        await trio.lowlevel.checkpoint()
        return bool(addr) and node_id in self.heard

    async def ask_check(self, node_id: str, addr: str, request: AskCheck) -> NodeCheck:
        await trio.lowlevel.checkpoint()
        self.asked.append(request)
        return NodeCheck(began=Instant(12 * SECOND), ended=Instant(13 * SECOND))

    async def ask_connections(
        self, node_id: str, addr: str, request: AskConnections
    ) -> dict[str, int]:
        await trio.lowlevel.checkpoint()
        assert (node_id, addr) == ("w1", "10.0.0.2:2377")
        return dict.fromkeys(request.tasks, 8)


@pytest.fixture(autouse=True)
def pinged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses that were pinged; the last byte of those that answer is odd."""
    pinged: list[str] = []

    async def passages(addresses: Sequence[str], *, mtu: int, rng: Random, device: str) -> Passages:
        await trio.lowlevel.checkpoint()
        assert (device, mtu) in {("swl0", 1450), ("swl1", 1370)}
        pinged.extend(addresses)
        odd = {a: Passage.WELL if int(a[-1]) % 2 else Passage.NONE for a in addresses}
        return Passages(odd, dict.fromkeys(addresses, Passage.SMALL))

    monkeypatch.setattr(checking, "passages", passages)
    return pinged


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    return StateDir(tmp_path)


def clock(*seconds: int) -> Callable[[], Instant]:
    times = iter(seconds)
    return lambda: Instant(next(times) * SECOND)


def an_examiner(others: Others, *seconds: int) -> Examiner:
    return Examiner(Networks(), others, now=clock(*seconds), rng=Random(1))


async def test_a_node_tries_both_ways_to_each_peer(pinged: list[str]) -> None:
    """A peer that it was not told of has no address in the overlay; one without port is pinged."""
    peers = [Peer("m1", "10.0.0.1:2377"), Peer("w2", ""), Peer("w9", "10.0.0.9:2377")]
    found = await an_examiner(Others("m1"), 10, 11).look(peers, fix=False)
    assert found.peers == (
        PeerCheck(
            id="m1",
            hostname="host-m1",
            addr="10.0.0.1:2377",
            control=Passage.WELL,
            overlay=Passage.WELL,
            heard=Passage.SMALL,
        ),
        PeerCheck(id="w2", hostname="host-w2", overlay=Passage.WELL, heard=Passage.SMALL),
        PeerCheck(
            id="w9",
            addr="10.0.0.9:2377",
            control=Passage.NONE,
            overlay=Passage.UNKNOWN,
            heard=Passage.UNKNOWN,
        ),
    )
    assert pinged == ["100.64.0.1", "100.64.0.3"]
    assert (found.began, found.ended) == (10 * SECOND, 11 * SECOND)


async def test_encrypted_networks_are_tried_where_they_lead(pinged: list[str]) -> None:
    """To nodes with a key and with a task in one: others need have no tunnel."""
    networks = Networks()
    networks.encrypted_mtu = 1370
    keyed = {
        key: replace(peer, tunnel=TunnelKeys(lanes=("key", "")))
        for key, peer in TABLES.peers.items()
    }
    task = TaskRecord(
        id="t", service_id="s", name="t", node=1, attachments=(Attachment("n", "10.1.0.9"),)
    )
    hidden = NetworkRecord(
        id="n", name="n", subnet="10.1.0.0/24", gateway="10.1.0.1", encrypted=True
    )
    networks.tables = replace(TABLES, peers=keyed, networks={"n": hidden}, tasks={"t": task})
    examiner = Examiner(networks, Others(), now=clock(10, 11), rng=Random(1))
    found = await examiner.look([Peer("m1", ""), Peer("w2", "")], fix=False)
    assert [peer.encrypted for peer in found.peers] == [Passage.WELL, Passage.UNTRIED]
    assert sorted(pinged) == ["100.64.0.1", "100.64.0.3", "100.64.16.1"]


async def test_only_managers_of_now_are_answered() -> None:
    examiner = an_examiner(Others(), 10, 11)
    with pytest.raises(NotAllowed, match="w1 is not a manager"):
        await examiner.answer(AskCheck(), WORKER, managers={"m1"})
    with pytest.raises(NotAllowed, match="m1 is not a manager"):
        await examiner.answer(AskCheck(), MANAGER, managers={"m2"})
    with pytest.raises(NotAllowed, match="another protocol"):
        await examiner.answer(AskReadIndex(), MANAGER, managers={"m1"})
    answer = await examiner.answer(AskCheck(fix=True), MANAGER, managers={"m1"})
    assert isinstance(answer, Checked)


async def test_connections_are_counted_here_and_asked_of_others() -> None:
    """Of which a manager may ask this node, too."""
    examiner = an_examiner(Others())
    assert await examiner.connections(None, ["t1"]) == {"t1": 7}
    assert await examiner.connections(Peer("w1", "10.0.0.2:2377"), ["t2"]) == {"t2": 8}
    request = AskConnections(tasks=("t1",))
    answer = await examiner.answer(request, MANAGER, managers={"m1"})
    assert answer == ConnectionsAre(tasks={"t1": 7})
    with pytest.raises(NotAllowed, match="w1 is not a manager"):
        await examiner.answer(request, WORKER, managers={"m1"})


async def test_another_nodes_clock_is_compared_with_ours() -> None:
    """It took a second there and half a second each way, by clocks that are 1.5 s apart."""
    others = Others()
    found = await an_examiner(others, 10, 12).ask(
        Peer("w1", "10.0.0.2:2377"), [Peer("m1", "10.0.0.1:2377")], fix=True
    )
    assert found.offset == 1.5 * SECOND
    assert others.asked == [AskCheck(peers=(Peer("m1", "10.0.0.1:2377"),), fix=True)]


def test_what_the_way_takes_is_no_difference_of_clocks() -> None:
    times = [Instant(n) for n in (100, 1110, 1150, 160)]
    assert clock_offset(*times) == Nanos(1000)


def test_a_worker_tries_whom_it_knows_but_the_lost() -> None:
    managers = [Peer("m1", "10.0.0.1:2377")]
    assert known_peers(TABLES, managers) == [Peer("m1", "10.0.0.1:2377"), Peer("w2", "")]


async def ask_port(state: StateDir, who: RemoteNode, *, able: bool = True) -> tuple[bytes, Answer]:
    """Probe a port as a node, and go on to ask for a check."""
    port = NodePort(state.identity)

    async def examiner(request: Request, asker: RemoteNode) -> Answer:
        await trio.lowlevel.checkpoint()
        assert (request, asker) == (AskCheck(), who)
        return Checked(check=NodeCheck(mtu=1450))

    port.examiner = examiner if able else None
    ours, theirs = memory_stream_pair()

    async def serve() -> None:
        try:
            await port._on_probe(theirs, who)
        except* ConnectionLost:
            pass
        finally:
            await theirs.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        sign = bytes(await ours.receive_some(1))
        answer = await call_once(ours, AskCheck(), peer="x")
    return sign, answer


async def test_a_manager_may_go_on_after_the_sign_of_life(state: StateDir) -> None:
    assert await ask_port(state, MANAGER) == (b"!", Checked(check=NodeCheck(mtu=1450)))


@pytest.mark.parametrize(("who", "able"), [(WORKER, True), (MANAGER, False)])
async def test_others_get_the_sign_of_life_only(
    state: StateDir, who: RemoteNode, *, able: bool
) -> None:
    with pytest.RaisesGroup(ConnectionLost):
        await ask_port(state, who, able=able)
