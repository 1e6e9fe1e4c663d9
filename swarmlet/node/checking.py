"""How this node's networks are, and its way to others: for operators here, and for managers."""

from collections.abc import Collection, Container, Mapping, Sequence
from functools import partial
from typing import Final, Protocol

import trio
from msgspec.structs import replace

from swarmlet.clock import Rng, WallClock
from swarmlet.errors import NotAllowed
from swarmlet.model.checks import NodeCheck, Passage, PeerCheck, clock_offset
from swarmlet.model.forwarding import Reach, Tables
from swarmlet.model.networks import Place, node_address
from swarmlet.net.numbers import DEVICE, ENCRYPTED_DEVICE
from swarmlet.net.ping import Passages, passages
from swarmlet.rpc.calls import (
    Answer,
    AskCheck,
    AskConnections,
    Checked,
    ConnectionsAre,
    Request,
)
from swarmlet.rpc.listener import RemoteNode
from swarmlet.rpc.messages import Peer

#: Control ports that are tried at the same time.
AT_ONCE: Final = 32


class Examined(Protocol):
    """This node's networks (:class:`swarmlet.agent.networking.Networking`)."""

    @property
    def tables(self) -> Tables:
        """What this node forwards by."""
        ...

    async def examine(self, *, fix: bool = False) -> NodeCheck:
        """Compare kernel and names with what they should be."""
        ...

    async def connections(self, tasks: Collection[str]) -> dict[str, int]:
        """How many connections tasks of this node have."""
        ...


class Port(Protocol):
    """The way to other nodes' daemons (:class:`swarmlet.node.port.NodePort`)."""

    async def probe(self, node_id: str, addr: str) -> bool:
        """Whether the daemon of a node answers at an address."""
        ...

    async def ask_check(self, node_id: str, addr: str, request: AskCheck) -> NodeCheck:
        """Have another node look at its networks."""
        ...

    async def ask_connections(
        self, node_id: str, addr: str, request: AskConnections
    ) -> dict[str, int]:
        """Ask another node how many connections its tasks have."""
        ...


class Examiner:
    """Looks at this node, and has others look at themselves."""

    def __init__(self, networking: Examined, port: Port, *, now: WallClock, rng: Rng) -> None:
        self._networking = networking
        self._port = port
        self._now = now
        self._rng = rng

    async def answer(
        self, request: Request, who: RemoteNode, *, managers: Container[str]
    ) -> Answer:
        """Answer another node: only managers may ask. A certificate outlives a demotion."""
        if who.node_id not in managers:
            raise NotAllowed(f"node {who.node_id} is not a manager")
        match request:
            case AskCheck():
                return Checked(check=await self.look(request.peers, fix=request.fix))
            case AskConnections():
                return ConnectionsAre(tasks=await self._networking.connections(request.tasks))
            case _:
                raise NotAllowed("this request belongs to another protocol")

    async def connections(self, node: Peer | None, tasks: Sequence[str]) -> dict[str, int]:
        """How many connections tasks of a node have; None is this one."""
        if node is None:
            return await self._networking.connections(tasks)
        return await self._port.ask_connections(
            node.id, node.addr, AskConnections(tasks=tuple(tasks))
        )

    async def look(self, peers: Sequence[Peer], *, fix: bool) -> NodeCheck:
        """Look at this node, then at its way to others; an address "" is not tried."""
        began = self._now()
        check = await self._networking.examine(fix=fix)
        tables = self._networking.tables
        overlay = Passages({}, {})
        encrypted = Passages({}, {})
        control: dict[str, Passage] = {}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._ping, _overlay(tables, peers), check.mtu, overlay)
            if check.encrypted_mtu:
                ping = partial(self._ping, device=ENCRYPTED_DEVICE)
                addresses = _encrypted(tables, peers)
                nursery.start_soon(ping, addresses, check.encrypted_mtu, encrypted)
            limit = trio.CapacityLimiter(AT_ONCE)
            for peer in filter(lambda one: one.addr, peers):
                nursery.start_soon(self._probe, peer, limit, control)
        return replace(
            check,
            began=began,
            ended=self._now(),
            peers=tuple(
                PeerCheck(
                    id=peer.id,
                    hostname=tables.peers[peer.id].hostname if peer.id in tables.peers else "",
                    addr=peer.addr,
                    control=control.get(peer.id, Passage.UNTRIED),
                    overlay=overlay.both_ways.get(peer.id, Passage.UNKNOWN),
                    heard=overlay.heard.get(peer.id, Passage.UNKNOWN),
                    encrypted=encrypted.both_ways.get(peer.id, Passage.UNTRIED),
                )
                for peer in peers
            ),
        )

    async def ask(self, node: Peer, peers: Sequence[Peer], *, fix: bool) -> NodeCheck:
        """Have another node look, and compare its clock with ours."""
        sent = self._now()
        check = await self._port.ask_check(
            node.id, node.addr, AskCheck(peers=tuple(peers), fix=fix)
        )
        offset = clock_offset(sent, check.began, check.ended, self._now())
        return replace(check, offset=offset)

    async def _ping(
        self, addresses: Mapping[str, str], mtu: int, found: Passages, device: str = DEVICE
    ) -> None:
        passed = await passages(list(addresses.values()), mtu=mtu, rng=self._rng, device=device)
        for ident, address in addresses.items():
            found.both_ways[ident] = passed.both_ways[address]
            found.heard[ident] = passed.heard[address]

    async def _probe(
        self, peer: Peer, limit: trio.CapacityLimiter, found: dict[str, Passage]
    ) -> None:
        async with limit:
            heard = await self._port.probe(peer.id, peer.addr)
            found[peer.id] = Passage.WELL if heard else Passage.NONE


def _overlay(tables: Tables, peers: Sequence[Peer]) -> dict[str, str]:
    """The addresses inside the overlay of the nodes that this one was told of."""
    return {
        peer.id: node_address(tables.peers[peer.id].number)
        for peer in peers
        if peer.id in tables.peers
    }


def _encrypted(tables: Tables, peers: Sequence[Peer]) -> dict[str, str]:
    """The same in the overlay of encrypted networks: of nodes that must have tunnels as well."""
    hosting = {
        task.node
        for task in tables.tasks.values()
        for place in task.attachments
        if (network := tables.networks.get(place.network_id)) and network.encrypted
    }
    known = (tables.peers[peer.id] for peer in peers if peer.id in tables.peers)
    return {
        peer.id: node_address(peer.number, Place.ENCRYPTED)
        for peer in known
        if peer.number in hosting and peer.tunnel is not None
    }


def known_peers(tables: Tables, managers: Sequence[Peer]) -> list[Peer]:
    """The nodes that a worker knows and that managers do not call lost; ports of managers only."""
    addrs = {peer.id: peer.addr for peer in managers}
    return [
        Peer(peer.id, addrs.get(peer.id, ""))
        for peer in sorted(tables.peers.values(), key=lambda p: p.number)
        if peer.number != tables.me and peer.reach is not Reach.LOST
    ]
