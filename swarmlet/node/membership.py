"""One node's life in one cluster: from its start (init, join or boot) until it leaves.

Holds what every node has (listener, agent) and what comes and goes with the role (manager part).
"""

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Final

import structlog
import trio
from msgspec.structs import replace

from swarmlet.agent.attachments import Attachments
from swarmlet.agent.describe import describe
from swarmlet.agent.files import Files
from swarmlet.agent.keys import KeyKeeper
from swarmlet.agent.lookout import Lookout
from swarmlet.agent.networking import Networking
from swarmlet.agent.session import AgentSession, NodeRemoved
from swarmlet.agent.storage import Storage
from swarmlet.agent.worker import Worker
from swarmlet.clock import Rng, WallClock
from swarmlet.consensus.driver import SyncObjConsensus
from swarmlet.engine.client import Engine
from swarmlet.engine.door import Door
from swarmlet.engine.tunnel import EngineGate, at_socket
from swarmlet.errors import (
    REFUSALS,
    DiskFailed,
    EngineError,
    EngineUnavailable,
    NotAllowed,
    SwarmletError,
    Unavailable,
)
from swarmlet.manager.manager import Manager
from swarmlet.manager.replica import Replica
from swarmlet.model.checks import NodeCheck
from swarmlet.model.objects import NodeDescription, TaskStatus
from swarmlet.model.specs import Role
from swarmlet.net.forwarder import Forwarder
from swarmlet.net.resolver_keeper import ResolverKeeper
from swarmlet.node import addresses
from swarmlet.node.checking import Examiner, known_peers
from swarmlet.node.files import StateDir
from swarmlet.node.port import NodePort
from swarmlet.node.renewal import renew_in_time
from swarmlet.rpc.calls import (
    Answer,
    AskRenew,
    BecomeMember,
    CallRefused,
    OfContainers,
    RemoveMember,
    Renewed,
    Request,
)
from swarmlet.rpc.listener import RemoteNode
from swarmlet.rpc.messages import (
    Assignments,
    Forwarding,
    GoodbyeReason,
    Payloads,
    Peer,
    Settings,
)
from swarmlet.security import ca, sealed
from swarmlet.security.identity import Identity
from swarmlet.state.commands import AnyCommand

log = structlog.get_logger()

#: Seconds between two tries to renew the certificate.
RENEWAL_RETRY: Final = 0.5

#: Seconds between two tries to become a Raft member.
MEMBER_RETRY: Final = 0.25

#: Seconds between two looks whether a manager that joins has caught up.
SETTLE_CHECK: Final = 0.02

#: Seconds that an engine may be away, to restart or to be upgraded, before its node counts as lost.
ENGINE_GRACE: Final = 15.0

#: Seconds between two looks at an engine that is away for almost as long.
ENGINE_CHECK: Final = 0.5

#: Seconds for one manager to commit what this node asks for its plain containers.
ATTACH_TIMEOUT: Final = 4.0

#: Seconds that containers may take to stop; then the node goes without waiting for them.
STOP_TIMEOUT: Final = 20.0

#: Seconds for a leader that stops to hand over.
HANDOVER_TIMEOUT: Final = 1.5


class Membership:
    """This node as a member of its cluster (:class:`swarmlet.agent.session.NodeSide`)."""

    def __init__(
        self,
        state: StateDir,
        identity: Identity,
        *,
        files: Files,
        engine: Engine,
        now: WallClock,
        rng: Rng,
    ) -> None:
        self.state = state
        self.identity = identity
        self.file = state.load_node()
        self.manager: Manager | None = None
        #: Set once a manager part has ended.
        self.manager_gone = trio.Event()
        #: Set once the leader has welcomed this node.
        self.welcomed = trio.Event()
        self._files = files
        self._engine = engine
        self._now = now
        self._rng = rng
        self._port = NodePort(state.identity)
        self._description: NodeDescription | None = None
        self._wanted_role = identity.role
        self._role_changed = trio.Event()
        self._renewing = trio.Lock()
        self._manager_scope: trio.CancelScope | None = None
        forwarder = Forwarder(state.forwarding)
        self.networking = Networking(
            engine,
            forwarder,
            ResolverKeeper(state.forwarding),
            control_port=self.listen_port,
            directory=state.tasks,
            rng=rng,
        )
        self.attachments = Attachments(engine, self.networking, self._ask_managers, rng=rng)
        self._keys = KeyKeeper(state.forwarding, forwarder, self._describe_again, clock=now)
        self.examiner = Examiner(self.networking, self._port, now=now, rng=rng)
        self._port.examiner = self._answer_check
        self._gate = EngineGate(at_socket(engine.socket_path))
        self._door = Door(engine, self._gate)
        self._port.door = self._serve_engine
        self._worker = Worker(
            engine,
            Storage(state.tasks),
            self._report,
            self.networking,
            files,
            clock=now,
            rng=rng,
        )
        self._session = AgentSession(self, managers=self.file.managers, rng=rng)
        self._lookout = Lookout(
            self._session.alone, self.networking.ask_peers, self.networking.set_silent
        )

    async def run(
        self,
        *,
        founding: Sequence[AnyCommand] = (),
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Be a member until cancelled.

        ``founding`` are the first commands of a new cluster, whose first manager this is then.
        Raises Damaged, DiskFailed, or NodeRemoved when the cluster has removed this node.
        """
        listeners = await self._port.listen(*addresses.split(self.file.listen_addr))
        async with trio.open_nursery() as nursery:
            for listener in listeners:
                nursery.start_soon(self._port.serve, listener)
            if self.identity.role is Role.MANAGER:
                manager = await self._start_manager(nursery, bootstrap=bool(founding))
                if founding:
                    await manager.proposer.propose(*founding)
            elif self.file.voted:
                self._forget_raft()  # a demotion that was interrupted
            await nursery.start(self.networking.run)
            await nursery.start(self._keys.run)
            await nursery.start(self._worker.run)
            nursery.start_soon(self.attachments.run)
            nursery.start_soon(self._hold_sessions)
            nursery.start_soon(self._lookout.run)
            nursery.start_soon(self._follow_role, nursery)
            nursery.start_soon(
                partial(renew_in_time, lambda: self.identity.cert, self._renew, now=self._now)
            )
            task_status.started()

    async def _hold_sessions(self) -> None:
        """Serve the leader. Raises NodeRemoved once nothing of this node's tasks runs any more.

        Others run them by now: to go on here would be two where one was asked for.
        """
        try:
            await self._session.run()
        except NodeRemoved:
            await self.let_go(known=False)
            raise

    async def say_goodbye(self, reason: GoodbyeReason) -> None:
        """Hand over leadership and tell the leader why this node goes."""
        manager = self.manager
        if manager is not None and manager.member.leadership.is_leader:
            with trio.move_on_after(HANDOVER_TIMEOUT):
                await manager.hand_over()
        await self._session.goodbye(reason)

    async def settled(self) -> None:
        """Wait until the leader has welcomed this node and, on a manager, its member votes."""
        await self.welcomed.wait()
        # Raft's configuration has no event to wait for, and this happens once in a node's life.
        while self.manager is not None and not self.manager.ready():  # noqa: ASYNC110
            await trio.sleep(SETTLE_CHECK)

    async def informed(self) -> None:
        """Wait until this node, if it is a manager, knows its cluster's state."""
        manager = self.manager
        while manager is not None and manager.replica.view.cluster is None:  # noqa: ASYNC110 - as above
            await trio.sleep(SETTLE_CHECK)

    def is_demoted(self) -> bool:
        """Whether this node is a manager that shall be none."""
        node = self.manager.replica.view.node(self.identity.node_id) if self.manager else None
        return node is not None and node.spec.role is Role.WORKER

    async def resign(self) -> None:
        """Take this manager out of Raft, so that the others keep their quorum."""
        manager = self.manager
        if manager is None or manager.is_alone():
            return
        await manager.hand_over()
        await self._port.call_any(self._manager_addrs(), RemoveMember(member=self.identity.node_id))

    async def let_go(self, *, known: bool = True) -> None:
        """Stop and remove every container of this node's tasks, then their networks.

        Plain containers leave those; the cluster is told of that if it has this node still.

        An engine that is away or hangs keeps what is its own, and nothing else.
        """
        self._worker.assign(Assignments(full=True))
        with trio.move_on_after(STOP_TIMEOUT) as scope:
            await self._worker.wait_idle()
        if scope.cancelled_caught:
            log.warning("containers-left-behind", after_seconds=STOP_TIMEOUT)
        await self._files.clear()
        await self.attachments.leave(known=known)
        await self.networking.leave()
        self._keys.forget()

    async def check(self, node_id: str, *, fix: bool) -> NodeCheck:
        """Have a node look at its networks; "" is this one. A worker knows only itself."""
        if self.manager is None:
            peers = known_peers(self.networking.tables, self.file.managers)
            return await self.examiner.look(peers, fix=fix)
        nodes = await self.manager.addresses()
        peers = [peer for peer in nodes if peer.id != (node_id or self.identity.node_id)]
        if not node_id:
            return await self.examiner.look(peers, fix=fix)
        return await self.examiner.ask(_living(nodes, node_id), peers, fix=fix)

    async def connections(self, node_id: str, tasks: Sequence[str]) -> dict[str, int]:
        """How many connections tasks of a node have. Raises Unavailable when it does not answer."""
        if node_id == self.identity.node_id:
            return await self.examiner.connections(None, tasks)
        nodes = await self.manager.addresses() if self.manager else []
        return await self.examiner.connections(_living(nodes, node_id), tasks)

    async def engine_of(self, node_id: str) -> EngineGate:
        """The way to a node's engine. Raises Unavailable when the node is down."""
        if node_id == self.identity.node_id:
            return self._gate
        nodes = await self.manager.addresses() if self.manager else []
        node = _living(nodes, node_id)
        return EngineGate(partial(self._port.dial_engine, node.id, node.addr))

    async def _serve_engine(self, stream: trio.abc.HalfCloseableStream, who: RemoteNode) -> None:
        """A certificate outlives a demotion: who is a manager, its settings say."""
        if who.node_id not in {peer.id for peer in self.file.managers}:
            raise NotAllowed(f"node {who.node_id} is not a manager")
        await self._door.serve(stream)

    async def _answer_check(self, request: Request, who: RemoteNode) -> Answer:
        managers = {peer.id for peer in self.file.managers}
        return await self.examiner.answer(request, who, managers=managers)

    async def _ask_managers(self, request: OfContainers) -> Answer:
        """Make a call to a manager, the leader first. Raises what it refused with, Unavailable."""
        leader = self._session.manager
        others = [peer.addr for peer in self.file.managers if peer.addr != leader]
        try:
            return await self._port.call_any(
                [leader, *others] if leader else others,
                request,
                seconds=ATTACH_TIMEOUT,
                final=REFUSALS,
            )
        except CallRefused as exc:
            kind = REFUSALS.get(exc.remote_code, Unavailable)
            raise kind(exc.message, advice=exc.advice) from exc

    # The agent's side.

    @property
    def listen_port(self) -> int:
        """Where this node's daemon listens."""
        return addresses.split(self.file.listen_addr)[1]

    async def dial(self, addr: str) -> trio.abc.Stream:
        """Connect to a manager's dispatcher. Raises ConnectionLost."""
        return await self._port.dial_agent(addr)

    async def probe(self, node_id: str, addr: str) -> bool:
        """Whether the daemon of another node answers at an address."""
        return await self._port.probe(node_id, addr)

    async def describe(self) -> NodeDescription:
        """What this node says of itself; while its engine restarts, what it said last.

        Raises EngineUnavailable or EngineError.
        """
        if self._description is None:
            self._description = await describe(self._engine)
        elif not self._worker.engine_away():  # one that hangs would keep this node silent as well
            with suppress(EngineUnavailable, EngineError):
                self._description = await describe(self._engine)
        if self._worker.engine_away() >= ENGINE_GRACE:
            raise EngineUnavailable("the Docker Engine does not answer")
        return replace(self._description, tunnel=self._keys.public)

    def _describe_again(self) -> None:
        self._session.describe_again()

    async def engine_lost(self) -> None:
        """Return once the engine is away for longer than its restart takes."""
        # An outage has a length, not an event.
        while (left := ENGINE_GRACE - self._worker.engine_away()) > 0:  # noqa: ASYNC110
            await trio.sleep(max(left, ENGINE_CHECK))

    def statuses(self) -> dict[str, TaskStatus]:
        """The last status of each task here."""
        return self._worker.statuses()

    def on_work(self, work: Payloads | Assignments) -> None:
        """The leader assigned tasks, or gave data for those that it assigns next."""
        if isinstance(work, Payloads):
            self._worker.take(work)
        else:
            self._worker.assign(work)

    def on_forwarding(self, forwarding: Forwarding) -> None:
        """The leader said what to forward by."""
        self.networking.take(forwarding)
        if forwarding.last:
            self.attachments.told()

    async def forwards(self) -> None:
        """Return once the kernel forwards by all that was said so far."""
        await self.networking.applied()

    def on_settings(self, settings: Settings) -> None:
        """The leader said where managers are and which role this node shall have."""
        self.welcomed.set()
        self._remember(settings.managers)
        self._wanted_role = settings.role
        if self._wanted_role is not self.identity.role or self._is_stranded():
            self._role_changed.set()

    def _report(self, task_id: str, status: TaskStatus) -> None:
        self._session.report(task_id, status)

    def _remember(self, managers: tuple[Peer, ...]) -> None:
        if managers and managers != self.file.managers:
            try:
                self._save(managers=managers)
            except DiskFailed as exc:
                # Old addresses are a nuisance after the next boot; running tasks matter more.
                log.warning("managers-not-saved", reason=exc.message)

    def _save(self, **changes: object) -> None:
        """Change ``node.json``."""
        self.file = replace(self.file, **changes)
        self.state.save_node(self.file)

    # The manager part.

    async def _start_manager(self, nursery: trio.Nursery, *, bootstrap: bool = False) -> Manager:
        node_id = self.identity.node_id
        self.state.check_raft(self.file)
        replica = Replica()
        member = SyncObjConsensus(
            node_id,
            bootstrap=[node_id] if bootstrap else None,
            directory=self.state.raft,
            key=sealed.load_or_create_key(self.state.raft_key),
            state_machine=replica,
            dial=lambda peer: self._port.dial_raft(peer, self._addr_of(peer)),
            rng=self._rng,
        )
        self._save(voted=True)  # its files exist by now, and it has not voted yet
        manager = self.manager = Manager(
            node_id,
            replica=replica,
            member=member,
            dial=lambda peer: self._port.dial_manager(peer, self._addr_of(peer)),
            probe=self._port.probe,
            now=self._now,
            rng=self._rng,
        )
        self._port.manager = manager
        await nursery.start(self._run_manager, manager)
        nursery.start_soon(self._become_member, manager)
        return manager

    async def _run_manager(
        self, manager: Manager, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        self.manager_gone = trio.Event()
        with trio.CancelScope() as scope:
            self._manager_scope = scope
            try:
                await manager.run(task_status=task_status)
            finally:
                self.manager = self._port.manager = None
                self.manager_gone.set()

    async def _stop_manager(self) -> None:
        if self.manager is not None and self._manager_scope is not None:
            self._manager_scope.cancel()
            await self.manager_gone.wait()
            self._forget_raft()

    def _is_stranded(self) -> bool:
        """Whether this manager was demoted and promoted again before it could notice.

        Its Raft member was let go then: it must begin anew.
        """
        manager = self.manager
        return manager is not None and manager.is_stranded(peer.id for peer in self.file.managers)

    def _forget_raft(self) -> None:
        """This node is no manager any more."""
        self._save(voted=False)
        self.state.wipe_raft()

    def _addr_of(self, node_id: str) -> str:
        """A manager's address: the store knows best, the file is for a replica still empty."""
        node = self.manager.replica.view.node(node_id) if self.manager else None
        if node is not None and node.manager_addr:
            return node.manager_addr
        return next((peer.addr for peer in self.file.managers if peer.id == node_id), "")

    async def _become_member(self, manager: Manager) -> None:
        """Ask to be made a voter, unless this member is one already."""
        request = BecomeMember(addr=self.file.advertise_addr)
        while self.manager is manager and not (manager.joined or manager.is_voter()):
            try:
                await self._port.call_any(self._manager_addrs(), request)
                manager.joined = True
            except SwarmletError as exc:
                log.info("not-a-member-yet", reason=exc.message)
                await trio.sleep(MEMBER_RETRY)
        manager.joined = True

    def _manager_addrs(self) -> list[str]:
        return [peer.addr for peer in self.file.managers if peer.id != self.identity.node_id]

    # Roles and certificates.

    async def _follow_role(self, nursery: trio.Nursery) -> None:
        """Change the certificate and the manager part when the leader says so."""
        while True:
            await self._role_changed.wait()
            self._role_changed = trio.Event()
            while self._wanted_role is not self.identity.role:
                await self._renew()
            if self.identity.role is Role.WORKER or self._is_stranded():
                await self._stop_manager()
            if self.identity.role is Role.MANAGER and self.manager is None:
                await self._start_manager(nursery)
            log.info("role-changed", role=self.identity.role)

    async def _renew(self) -> None:
        """Get a fresh certificate (with a fresh key) for the role that the cluster gives."""
        async with self._renewing:  # an answer that is late must not undo a newer one
            await self._renew_now()

    async def _renew_now(self) -> None:
        key = ca.new_key()
        request = AskRenew(csr=ca.signing_request(key))
        answer = await self._ask_until_answered(request)
        self.identity = Identity(
            node_id=self.identity.node_id,
            role=answer.role,
            cluster_id=self.identity.cluster_id,
            key=key.decode(),
            cert=answer.cert,
            ca=answer.ca,
        )
        self.state.identity.save(self.identity)
        self._port.reload()
        log.info("certificate-renewed", role=answer.role)

    async def _ask_until_answered(self, request: AskRenew) -> Renewed:
        while True:
            try:
                answer = await self._port.call_any(
                    [peer.addr for peer in self.file.managers], request
                )
            except SwarmletError as exc:
                log.warning("certificate-not-renewed", reason=exc.message)
                await trio.sleep(RENEWAL_RETRY)
            else:
                assert isinstance(answer, Renewed)
                return answer


def _living(nodes: Sequence[Peer], node_id: str) -> Peer:
    """A node, of those that are not down. Raises Unavailable."""
    node = next((peer for peer in nodes if peer.id == node_id), None)
    if node is None:
        raise Unavailable(f"node {node_id} is down")
    return node
