"""The manager part of a node: replica, Raft member and, while it leads, the leader's loops."""

from collections.abc import Iterable, Iterator
from contextlib import aclosing, contextmanager, suppress
from typing import Final, Protocol

import structlog
import trio

from swarmlet.clock import Rng, WallClock
from swarmlet.consensus.port import Consensus, NotLeader
from swarmlet.control import roles
from swarmlet.errors import NotAllowed, SwarmletError
from swarmlet.manager.attaching import Attaching
from swarmlet.manager.briefing import managers
from swarmlet.manager.dispatcher import DEFAULT_PORT
from swarmlet.manager.leader import Leader
from swarmlet.manager.links import DialManager, Links
from swarmlet.manager.members import Members, Probe
from swarmlet.manager.proposer import Proposer
from swarmlet.manager.replica import Replica
from swarmlet.model.objects import NodeState
from swarmlet.model.specs import Role
from swarmlet.rpc.calls import (
    MAX_OPEN_CALLS,
    AddressesAre,
    Answer,
    AskAddresses,
    OfContainers,
    Request,
    serve_calls,
)
from swarmlet.rpc.channel import Channel
from swarmlet.rpc.frames import MAX_FRAME
from swarmlet.rpc.listener import RemoteNode
from swarmlet.rpc.messages import FromAgent, Peer, Redirect

log = structlog.get_logger()

#: Seconds and bytes for machines without a certificate: joining takes one small call.
STRANGER_TIMEOUT: Final = 30.0
STRANGER_FRAME: Final = 64 << 10
STRANGER_CALLS: Final = 2

#: Seconds for a leader to say where nodes listen.
ADDRESSES_WITHIN: Final = 1.0


class RaftMember(Consensus, Protocol):
    """A Raft member that this node runs: the port, and what its owner needs besides."""

    async def run(self, *, task_status: trio.TaskStatus[None] = ...) -> None:
        """Take part in Raft until cancelled. Raises DiskFailed or Damaged."""
        ...

    async def serve_peer(self, peer_id: str, stream: trio.abc.Stream) -> None:
        """Read messages of an authenticated peer until its connection ends."""
        ...


class Manager:
    """One manager. ``run`` lives as long as the node is a manager."""

    def __init__(  # noqa: PLR0913 - the node wires it once, by keyword
        self,
        node_id: str,
        *,
        replica: Replica,
        member: RaftMember,
        dial: DialManager,
        probe: Probe,
        now: WallClock,
        rng: Rng,
    ) -> None:
        self.node_id = node_id
        self.replica = replica
        self.member = member
        self._links = Links(dial)
        self.proposer = Proposer(member, self._links, member=node_id, now=now, rng=rng)
        self.attaching = Attaching(replica, self.proposer)
        self.members = Members(replica, member, self.proposer, probe=probe, now=now, rng=rng)
        self._now = now
        self._rng = rng
        #: Whether the member has been a voter since it was started.
        self.joined = False
        self._leader: Leader | None = None
        self._peers: dict[str, set[trio.CancelScope]] = {}

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Be a manager until cancelled. Raises DiskFailed or Damaged."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._links.run)
            nursery.start_soon(self._cut_off_strangers)
            await nursery.start(self.member.run)
            task_status.started()
            await self._follow_leadership(nursery)

    def is_voter(self) -> bool:
        """Whether this member takes part in Raft's decisions."""
        return any(m.voter and m.id == self.node_id for m in self.member.members())

    def is_alone(self) -> bool:
        """Whether there is no other voter."""
        return not any(m.voter and m.id != self.node_id for m in self.member.members())

    def is_stranded(self, managers: Iterable[str]) -> bool:
        """Whether the cluster, whose managers these are, has let this member go.

        One that has joined is among them: its address is stored before it votes. (What the member
        itself believes is no help: it may not have heard, or replay an older removal.)
        """
        return self.joined and self.node_id not in set(managers)

    def ready(self) -> bool:
        """Whether this manager votes and knows the cluster."""
        return self.is_voter() and self.replica.view.cluster is not None

    async def addresses(self) -> list[Peer]:
        """Where the daemons of all nodes answer that are not down.

        Which port a worker listens on only the leader has been told; while none answers, the usual
        one is assumed.
        """
        leader = self.member.leadership.leader
        if self._leader is None and leader is not None:
            with trio.move_on_after(ADDRESSES_WITHIN), suppress(SwarmletError):
                answer = await self._links.call(leader, AskAddresses())
                assert isinstance(answer, AddressesAre)
                return list(answer.peers)
        return self._known_addresses()

    def _known_addresses(self) -> list[Peer]:
        ports = self._leader.dispatcher.ports if self._leader else {}
        return [
            Peer(node.id, f"{node.status.addr}:{ports.get(node.id, DEFAULT_PORT)}")
            if not node.manager_addr
            else Peer(node.id, node.manager_addr)
            for node in sorted(self.replica.view.nodes(), key=lambda n: n.id)
            if node.status.addr and node.status.state is not NodeState.DOWN
        ]

    async def hand_over(self) -> None:
        """Give leadership to another member, if there is one."""
        with suppress(SwarmletError):
            await self.member.transfer_leadership()

    async def _follow_leadership(self, nursery: trio.Nursery) -> None:
        """Run the leader's parts while this member leads, and only then."""
        scope: trio.CancelScope | None = None
        previous = ""  # the last that led; a member names itself a moment before it does
        async with aclosing(self.member.watch_leadership()) as changes:
            async for leadership in changes:
                log.info("leadership", leader=leadership.leader, term=leadership.term)
                if scope is not None:
                    scope.cancel()
                    scope = None
                if leadership.is_leader:
                    scope = trio.CancelScope()
                    nursery.start_soon(self._lead, scope, previous)
                if leadership.is_leader or leadership.leader not in {None, self.node_id}:
                    previous = leadership.leader or ""

    async def _lead(self, scope: trio.CancelScope, previous: str) -> None:
        leader = Leader(self.replica, self.proposer, self.members, now=self._now, rng=self._rng)
        if previous not in ("", self.node_id):
            leader.expect_little_of(previous)
        with scope:
            try:
                # Everything of earlier terms must be applied before the first decision.
                await self.member.wait_applied(await self.member.read_index())
            except NotLeader:
                return
            self._leader = leader
            try:
                await leader.run()
            finally:
                if self._leader is leader:  # not one of a later term
                    self._leader = None

    # What arrives on this node's port.

    async def serve_agent(self, stream: trio.abc.Stream, who: RemoteNode) -> None:
        """Hold an agent's session, or name the leader."""
        if not who.node_id:
            raise NotAllowed("an agent needs a certificate")
        leader = self._leader
        if leader is not None:
            await leader.dispatcher.serve(stream, who.node_id, who.host)
            return
        channel: Channel[FromAgent] = Channel(stream, FromAgent, peer=who.node_id)
        await channel.receive()
        await channel.send(self._redirect())

    def _redirect(self) -> Redirect:
        view = self.replica.view
        peers = managers(view)
        known = self.member.leadership.leader
        leader = next((peer for peer in peers if peer.id == known), None)
        own = leader is not None and leader.id == self.node_id
        return Redirect(leader=None if own else leader, managers=peers)

    async def serve_manager(self, stream: trio.abc.Stream, who: RemoteNode) -> None:
        """Answer a node's calls."""
        if not who.node_id:
            raise NotAllowed("these calls need a certificate")
        manager = who.role is Role.MANAGER  # a worker has small questions only
        await serve_calls(
            stream,
            lambda request: self._answer(request, who),
            peer=who.node_id,
            limit=MAX_FRAME if manager else STRANGER_FRAME,
            calls=MAX_OPEN_CALLS if manager else STRANGER_CALLS,
        )

    async def _answer(self, request: Request, who: RemoteNode) -> Answer:
        if isinstance(request, AskAddresses):
            self.members.demand_manager(who)
            return AddressesAre(peers=tuple(self._known_addresses()))
        if isinstance(request, OfContainers):
            return await self.attaching.answer(request, who)
        return await self.members.answer_node(request, who)

    async def serve_stranger(self, stream: trio.abc.Stream, who: RemoteNode) -> None:
        """Answer a machine that wants to join; one that dawdles or says too much is cut off."""
        with trio.move_on_after(STRANGER_TIMEOUT):
            await serve_calls(
                stream,
                lambda request: self.members.answer_stranger(request, who),
                peer=who.host,
                limit=STRANGER_FRAME,
                calls=STRANGER_CALLS,
            )

    async def serve_raft(self, stream: trio.abc.Stream, who: RemoteNode) -> None:
        """Take Raft messages from another manager."""
        if who.role is not Role.MANAGER or not self._is_peer(who.node_id):
            raise NotAllowed(f"node {who.node_id or who.host} is not a manager")
        with trio.CancelScope() as scope, self._peer(who.node_id, scope):
            await self.member.serve_peer(who.node_id, stream)

    def _is_peer(self, node_id: str) -> bool:
        """Whether a node may speak Raft: a certificate outlives a demotion and a removal."""
        view = self.replica.view
        if view.cluster is None:
            return True  # this member is new and knows nobody yet: the certificate must do
        node = view.node(node_id)
        return node is not None and roles.acting_role(node) is Role.MANAGER

    @contextmanager
    def _peer(self, node_id: str, scope: trio.CancelScope) -> Iterator[None]:
        """Keep the scope of an inbound stream, to cut it off."""
        self._peers.setdefault(node_id, set()).add(scope)
        try:
            yield
        finally:
            self._peers[node_id].discard(scope)

    async def _cut_off_strangers(self) -> None:
        """End the streams of members that are managers no more, as soon as the state says so."""
        with self.replica.watch() as watch:
            while True:
                await watch.wait()
                watch.take()
                for node_id in self._peers:
                    if not self._is_peer(node_id):
                        for scope in self._peers[node_id]:
                            scope.cancel()
