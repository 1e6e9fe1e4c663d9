"""The daemon as its API sees it: outside of any cluster, or a membership in one."""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from typing import Final

import structlog
import trio
from msgspec.structs import replace

from swarmlet.agent.files import Files
from swarmlet.agent.session import NodeRemoved
from swarmlet.agent.subnets import node_like_addresses, own_addresses, own_subnets
from swarmlet.api.backend import (
    InitRequest,
    JoinRequest,
    LocalState,
    ManagerHealth,
    NetworkPlan,
)
from swarmlet.clock import Instant, Rng, WallClock
from swarmlet.config import DaemonConfig
from swarmlet.consensus.port import OutcomeUnknown
from swarmlet.engine.client import Engine
from swarmlet.engine.networks import Endpoint
from swarmlet.engine.tunnel import EngineGate
from swarmlet.errors import (
    AlreadyInSwarm,
    FailedPrecondition,
    InvalidInput,
    NoQuorum,
    NotASwarmManager,
    NotSupported,
    SwarmletError,
    Unavailable,
    first_error,
)
from swarmlet.manager.manager import Manager
from swarmlet.model import ids
from swarmlet.model.checks import NodeCheck
from swarmlet.model.forwarding import NetworkRecord, ServiceRecord
from swarmlet.model.networks import NODE_ADDRESSES
from swarmlet.model.objects import AttachedContainer
from swarmlet.model.specs import NodeSpec, Role
from swarmlet.net import report
from swarmlet.node import addresses, founding, joining, leaving, port
from swarmlet.node.files import NodeFile, StateDir
from swarmlet.node.membership import Membership
from swarmlet.rpc.messages import GoodbyeReason, Peer
from swarmlet.security.identity import Identity
from swarmlet.state.commands import AnyCommand
from swarmlet.state.store import View

log = structlog.get_logger()

#: Seconds until a node that joined is welcomed, and a manager that joined votes.
JOIN_TIMEOUT: Final = 20.0

#: Seconds that a manager which boots takes to learn from the others what is committed, before it
#: answers clients without.
LEARN_TIMEOUT: Final = 2.0

#: Seconds until a first manager leads itself.
INIT_TIMEOUT: Final = 10.0

# The Engine API's words; clients match them.
_NO_SWARM: Final = (
    'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" '
    "to connect this node to swarm and try again."
)
_WORKER: Final = (
    "This node is not a swarm manager. Worker nodes can't be used to view or modify cluster "
    "state. Please run this command on a manager node or promote the current node to a manager."
)
_IN_SWARM: Final = (
    'This node is already part of a swarm. Use "docker swarm leave" to leave this swarm and '
    "join another one."
)
_NOT_IN_SWARM: Final = "This node is not part of a swarm"


class Node:
    """This machine. Implements :class:`swarmlet.api.backend.Backend`."""

    def __init__(self, config: DaemonConfig, *, engine: Engine, now: WallClock, rng: Rng) -> None:
        self._config = config
        self._engine = engine
        self._clock = now
        self._rng = rng
        self._state = StateDir(Path(config.state_dir))
        self._files = Files(Path(config.socket).with_suffix(".files"))
        self._membership: Membership | None = None
        self._scope = trio.CancelScope()
        self._ended = trio.Event()
        self._ended.set()  # until a membership begins there is none to wait for
        self._error = ""
        #: One init, join or leave at a time.
        self._changing = trio.Lock()
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Go on with the membership that the state directory holds, until cancelled.

        Raises Damaged or DiskFailed: the daemon must not go on with a broken disk.
        """
        self._state.prepare()
        identity = self._state.identity.load()
        if identity is None:
            self._state.refuse_remains()
            await self._files.clear()  # a leave may have been cut off
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            if identity is not None:
                membership = await self._start(identity)
                with trio.move_on_after(LEARN_TIMEOUT):
                    await membership.informed()
            task_status.started()
            await trio.sleep_forever()

    async def stop(self, *, host_stops: bool) -> None:
        """Say goodbye: because the host goes down, or only this daemon. Containers go on."""
        if self._membership is not None:
            reason = GoodbyeReason.SHUTDOWN if host_stops else GoodbyeReason.RESTART
            await self._membership.say_goodbye(reason)

    async def _start(self, identity: Identity, founding: Sequence[AnyCommand] = ()) -> Membership:
        assert self._nursery is not None
        membership = Membership(
            self._state,
            identity,
            files=self._files,
            engine=self._engine,
            now=self._clock,
            rng=self._rng,
        )
        self._scope, self._ended, self._error = trio.CancelScope(), trio.Event(), ""
        try:
            await self._nursery.start(self._live, membership, founding)
        except BaseExceptionGroup as group:
            raise first_error(group) or group from None
        self._membership = membership
        return membership

    async def _live(
        self,
        membership: Membership,
        founding: Sequence[AnyCommand],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Run a membership until it is left or the cluster has removed this node."""
        ended = self._ended
        try:
            with self._scope:
                await membership.run(founding=founding, task_status=task_status)
        except* NodeRemoved as group:
            self._error = str(group.exceptions[0])
            log.warning("node-removed", reason=self._error)
        finally:
            ended.set()

    async def _end(self) -> None:
        """Stop being a member and forget the cluster."""
        self._scope.cancel()
        await self._ended.wait()
        self._membership = None
        self._error = ""
        self._state.wipe()

    # Backend: what is known.

    def local(self) -> LocalState:
        """This node's part in a cluster."""
        membership = self._membership
        if membership is None:
            return LocalState(state="inactive")
        identity = membership.identity
        host, _ = addresses.split(membership.file.advertise_addr)
        return LocalState(
            state="error" if self._error else "active",
            node_id=identity.node_id,
            node_addr=host,
            role=identity.role,
            error=self._error,
            managers=tuple((peer.id, peer.addr) for peer in membership.file.managers),
        )

    def now(self) -> Instant:
        """Wall-clock time."""
        return self._clock()

    def new_id(self) -> str:
        """A fresh object identifier."""
        return ids.new_id(self._rng)

    def _manager(self) -> Manager:
        if self._membership is None:
            raise NotASwarmManager(_NO_SWARM)
        if self._membership.manager is None:
            raise NotASwarmManager(_WORKER)
        return self._membership.manager

    @contextmanager
    def _managing(self) -> Iterator[Manager]:
        """The manager part, which a demotion may end while it is asked. Raises NotASwarmManager."""
        manager = self._manager()
        try:
            yield manager
        except (OutcomeUnknown, NoQuorum) as exc:
            membership = self._membership
            if membership is not None and membership.identity.role is Role.WORKER:
                raise NotASwarmManager(_WORKER) from exc
            raise

    def view(self) -> View:
        """This manager's replica. Raises NotASwarmManager."""
        manager = self._manager()
        if manager.replica.view.cluster is None:
            raise Unavailable("this manager has not learned the cluster's state yet; try again")
        return manager.replica.view

    def stale(self) -> str:
        """Why the replica may be behind, or nothing."""
        manager = self._manager()
        if manager.member.leadership.leader is None:
            return manager.proposer.no_quorum().message
        return manager.proposer.behind()

    def manager_health(self) -> dict[str, ManagerHealth]:
        """Managers by node identifier."""
        manager = self._manager()
        leader, ready = manager.member.leadership.leader, manager.members.reachable()
        # The store knows best while somebody leads; without a leader only the streams tell.
        return {
            status.id: ManagerHealth(
                leader=status.id == leader,
                reachable=status.id in ready if leader is not None else status.reachable,
            )
            for status in manager.member.members()
            if status.voter
        }

    async def barrier(self, *, within: float | None = None) -> None:
        """Bring the replica up to now. Raises NoQuorum, LeaderSilent, or ReplicaBehind."""
        with self._managing() as manager:
            await manager.proposer.barrier(within=within)

    @contextmanager
    def changes(self) -> Iterator[Callable[[], Awaitable[None]]]:
        """Wait for changes of the view. Raises NotASwarmManager."""
        with self._manager().replica.watch() as watch:

            async def changed() -> None:
                await watch.wait()
                watch.take()

            yield changed

    async def engine_of(self, node_id: str) -> EngineGate:
        """The way to a node's engine. Raises Unavailable when the node is down."""
        return await self._member().engine_of(node_id)

    async def propose(self, *commands: AnyCommand) -> None:
        """Commit commands; raises the first refusal, NoQuorum, or OutcomeUnknown."""
        with self._managing() as manager:
            await manager.proposer.propose(*commands)

    async def remove_node(self, node_id: str, *, force: bool) -> None:
        """Forget a node."""
        with self._managing() as manager:
            await manager.members.remove_node(node_id, force=force)

    async def rotate_tokens(self, *, worker: bool, manager: bool) -> None:
        """Replace join tokens; the old ones are refused from now on."""
        with self._managing() as part:
            await part.members.rotate_tokens(worker=worker, manager=manager)

    # Backend: this node's networks.

    def _member(self) -> Membership:
        if self._membership is None:
            raise Unavailable(_NOT_IN_SWARM, advice="swarmlet init or swarmlet join makes it one")
        return self._membership

    def network_plan(self) -> NetworkPlan:
        """What this node's kernel shall forward by."""
        member = self._member()
        wanted, failure = member.networking.planned()
        return NetworkPlan(
            node_id=member.identity.node_id,
            text=report.dump(wanted),
            plan=report.as_json(wanted),
            failure=failure,
        )

    async def check_network(self, node_id: str, *, fix: bool) -> NodeCheck:
        """Have a node look at its networks."""
        return await self._member().check(node_id, fix=fix)

    async def overlay(self, wanted: str) -> NetworkRecord | None:
        """The network of the cluster that has this name or identifier, by what managers know."""
        return await self._member().attachments.network(wanted)

    def publishing(self) -> Sequence[ServiceRecord]:
        """The services whose published ports lead from this host's addresses to their tasks."""
        membership = self._membership
        if membership is None:
            return ()
        own = own_addresses()
        services = sorted(membership.networking.tables.services.items())
        return [s for _, s in services if not s.publish_address or s.publish_address in own]

    def attaching(
        self, container: AttachedContainer, nameservers: tuple[str, ...] = ()
    ) -> AbstractAsyncContextManager[list[Endpoint]]:
        """Get a plain container places in networks, while the engine is asked to put it there."""
        return self._member().attachments.attaching(container, nameservers)

    def identify(self, labels: Mapping[str, str], container_id: str) -> str:
        """The identifier in the cluster of a container of this node's engine."""
        return self._member().attachments.identify(labels, container_id)

    async def detach(self, ident: str, network_id: str) -> None:
        """Note that a plain container has left a network."""
        await self._member().attachments.left(ident, network_id)

    async def connections(self, node_id: str, tasks: Sequence[str]) -> dict[str, int]:
        """How many connections tasks of a node have."""
        return await self._member().connections(node_id, tasks)

    # Backend: entering and leaving a cluster.

    async def init(self, request: InitRequest) -> str:
        """Form a new cluster of this node; returns its identifier."""
        if request.force_new_cluster:
            raise NotSupported("force-new-cluster is not supported yet by swarmlet")
        async with self._changing:
            self._demand_outside()
            await self._demand_engine()
            file = self._addresses(request.listen_addr, request.advertise_addr)
            founded = founding.found(
                request,
                file.advertise_addr,
                subnets=own_subnets(),
                now=self._clock,
                rng=self._rng,
            )
            node_id = founded.identity.node_id
            file = replace(file, managers=(Peer(node_id, file.advertise_addr),))
            self._state.begin()
            try:
                self._save(founded.identity, file)
                membership = await self._start(founded.identity, founded.commands)
                await self._reach_itself(membership)
            except BaseException:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + INIT_TIMEOUT):
                    await self._end()
                raise
            self._state.finish()
            log.info("cluster-created", cluster=founded.identity.cluster_id, node=node_id)
            return node_id

    async def _reach_itself(self, membership: Membership) -> None:
        """Wait until this node's agent has found its manager, at the address told to others."""
        with trio.move_on_after(INIT_TIMEOUT):
            await membership.welcomed.wait()
            return
        raise InvalidInput(
            f"this node does not reach itself at {membership.file.advertise_addr}",
            advice="give an address of this machine with --advertise-addr, "
            f"with the port that it listens on ({membership.file.listen_addr})",
        )

    async def join(self, request: JoinRequest) -> None:
        """Join a cluster. Returns when the leader has welcomed this node."""
        async with self._changing:
            self._demand_outside()
            await self._demand_engine()
            file = self._addresses(request.listen_addr, request.advertise_addr)
            await port.try_listening(*addresses.split(file.listen_addr))
            self._state.begin()
            try:
                admission = await joining.join(
                    request.remote_addrs,
                    request.token,
                    addr=file.advertise_addr,
                    availability=request.availability,
                )
                self._save(admission.identity, replace(file, managers=admission.managers))
                self._state.finish()  # from here on others may count on this node
                membership = await self._start(admission.identity)
            except SwarmletError:
                self._state.wipe()  # else the next start of the daemon would try it again
                raise
            with trio.move_on_after(JOIN_TIMEOUT) as scope:
                await membership.settled()
            if scope.cancelled_caught:
                raise Unavailable(
                    "Timeout was reached before node joined. The attempt to join the swarm will "
                    'continue in the background. Use the "docker info" command to see the '
                    "current swarm status of your node."
                )

    async def leave(self, *, force: bool) -> None:
        """Leave the cluster: tasks stop, and this node forgets all of it."""
        async with self._changing:
            membership = self._membership
            if membership is None:
                raise Unavailable(_NOT_IN_SWARM)
            if not force:
                await leaving.settle_demotion(membership)
                if membership.manager is not None:
                    leaving.refuse_manager(list(self.manager_health().values()))
            await leaving.leave(membership)
            await self._end()
            log.info("left-cluster")

    async def _demand_engine(self) -> None:
        """A node is of no use without its engine. Raises EngineUnavailable."""
        info = await self._engine.info()
        if "nftables" in str((info.get("FirewallBackend") or {}).get("Driver", "")):
            log.warning(
                "engine-has-rules-in-nftables",
                consequence="what its own tables refuse, swarmlet cannot let through",
                advice="start dockerd with --firewall-backend=iptables",
            )

    def _demand_outside(self) -> None:
        """Whoever enters a cluster is in none, and its addresses are its own.

        Raises AlreadyInSwarm, Damaged (remains), or FailedPrecondition.
        """
        if self._membership is not None:
            raise AlreadyInSwarm(_IN_SWARM)
        self._state.prepare()
        self._state.refuse_remains()
        if taken := node_like_addresses():
            raise FailedPrecondition(
                f"this machine has the address {taken[0]}, which another node may have inside the "
                f"overlay: the nodes' own addresses there are in {NODE_ADDRESSES}",
                advice=f"give that interface an address outside of {NODE_ADDRESSES}; "
                "the rest of 100.64.0.0/10 is no matter",
            )

    def _addresses(self, listen: str, advertise: str) -> NodeFile:
        host, port = addresses.listen(listen or self._config.listen_addr)
        return NodeFile(
            listen_addr=addresses.join(host, port),
            advertise_addr=addresses.advertise(advertise or self._config.advertise_addr, port),
        )

    def _save(self, identity: Identity, file: NodeFile) -> None:
        self._state.save_node(file)
        self._state.identity.save(identity)

    async def update_node(self, node_id: str, expect: int, spec: NodeSpec) -> None:
        """Replace a node's spec, role included, in one entry."""
        with self._managing() as manager:
            await manager.members.update_node(node_id, expect, spec)
