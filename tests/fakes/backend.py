"""A daemon behind the API: the real state machine and store, without Raft, agents or disks."""

from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from random import Random
from typing import Any

import trio
from msgspec.structs import replace
from swarmlet.api import wording
from swarmlet.api.backend import (
    InitRequest,
    JoinRequest,
    LocalState,
    ManagerHealth,
    NetworkPlan,
)
from swarmlet.clock import SECOND, Instant
from swarmlet.control import forwarding
from swarmlet.engine.attached import ATTACHED_LABEL
from swarmlet.engine.networks import Endpoint
from swarmlet.engine.tunnel import EngineGate, at_socket
from swarmlet.errors import (
    AlreadyExists,
    EngineError,
    FailedPrecondition,
    InvalidInput,
    NoQuorum,
    NotAllowed,
    NotASwarmManager,
    NotFound,
    OutOfSequence,
    SwarmletError,
    Unavailable,
)
from swarmlet.model.checks import NodeCheck
from swarmlet.model.forwarding import NetworkRecord, ServiceRecord
from swarmlet.model.ids import new_id
from swarmlet.model.networks import INGRESS, NetworkSpec
from swarmlet.model.objects import (
    AttachedContainer,
    Cluster,
    ContainerStatus,
    JoinTokens,
    Network,
    Node,
    NodeDescription,
    NodeState,
    NodeStatus,
    RootCa,
    Service,
    Task,
    TaskState,
    TaskStatus,
    UpdateState,
)
from swarmlet.model.specs import Availability, NodeSpec, Platform, Resources, Role
from swarmlet.state import fsm
from swarmlet.state.commands import (
    FORMAT,
    AnyCommand,
    AttachContainer,
    Batch,
    ChangeTasks,
    CreateTasks,
    DeleteNode,
    DeleteTasks,
    DetachContainers,
    NewTask,
    PutCluster,
    PutNetwork,
    PutNode,
    Refusal,
    SetUpdateStatus,
    TaskChange,
    decode,
    encode,
)
from swarmlet.state.lookup import find_network
from swarmlet.state.store import Store

START = Instant(1_763_814_522_422_455_520)

_ERRORS: dict[str, type[SwarmletError]] = {
    cls.code: cls for cls in (AlreadyExists, NotFound, FailedPrecondition, InvalidInput, NotAllowed)
}


class FakeBackend:
    """See :class:`swarmlet.api.backend.Backend`.

    ``works``: services get tasks that run at once (or, if False, none). ``quorum`` False makes
    writes and barriers fail; ``behind`` is what :meth:`stale` says.
    """

    def __init__(self, *, active: bool = True, works: bool = False) -> None:
        self.store = Store()
        self.quorum = True
        self.behind = ""
        self.works = works
        self.barriers = 0
        self.joined: JoinRequest | None = None
        self.rotated: list[tuple[bool, bool]] = []
        self.check = NodeCheck(mtu=1450)
        self.checked: list[tuple[str, bool]] = []
        #: What containers ask for names that are not the cluster's, by identifier.
        self.nameservers: dict[str, tuple[str, ...]] = {}
        #: Nodes that do not answer.
        self.silent: set[str] = set()
        #: The one engine that all nodes have.
        self.engine_socket: Path | None = None
        self._local = LocalState(state="inactive")
        self._rng = Random(1)
        self._time = START
        if active:
            self._form(InitRequest(), "10.66.0.2")

    def _form(self, request: InitRequest, addr: str) -> str:
        node_id = self.new_id()
        cluster = Cluster(
            id=self.new_id(),
            spec=replace(request.spec, name="default"),
            root_ca=RootCa(cert="-----BEGIN CERTIFICATE-----\n", key=""),
            tokens=JoinTokens(worker="SWMTKN-1-a-worker0", manager="SWMTKN-1-a-manager0"),
            address_pools=request.address_pools,
            subnet_size=request.subnet_size,
            data_port=request.data_port,
        )
        self.apply(PutCluster(cluster=cluster, expect=0))
        self.add_node("n1", role=Role.MANAGER, node_id=node_id, addr=addr)
        self.add_network(INGRESS, ingress=True)
        self._local = LocalState(
            state="active",
            node_id=node_id,
            node_addr=addr,
            role=Role.MANAGER,
            managers=((node_id, f"{addr}:2377"),),
        )
        return node_id

    def add_node(
        self, hostname: str, *, role: Role = Role.WORKER, node_id: str = "", addr: str = "10.66.0.9"
    ) -> Node:
        """A node that is ready."""
        node_id = node_id or self.new_id()
        node = Node(
            id=node_id,
            spec=NodeSpec(role=role, availability=Availability.ACTIVE),
            role=role,
            description=NodeDescription(
                hostname=hostname,
                platform=Platform(architecture="x86_64", os="linux"),
                resources=Resources(nano_cpus=2 * SECOND, memory_bytes=8 << 30),
                engine_version="20.10.24",
            ),
            status=NodeStatus(state=NodeState.READY, addr=addr),
            manager_addr=f"{addr}:2377" if role is Role.MANAGER else "",
        )
        self.apply(PutNode(node=node, expect=0))
        found = self.store.node(node_id)
        assert found is not None
        return found

    def add_network(self, name: str, **fields: Any) -> Network:
        """An overlay network."""
        spec = NetworkSpec(name=name, driver="overlay", **fields)
        self.apply(PutNetwork(network=Network(id=self.new_id(), spec=spec)))
        found = self.store.network_named(name)
        assert found is not None
        return found

    def apply(self, *commands: AnyCommand) -> None:
        """Apply commands as one log entry, through their form in the log."""
        batch = decode(encode(commands, self.now()))
        assert isinstance(batch, Batch)
        assert batch.format == FORMAT
        for outcome in fsm.apply(self.store, batch, self.store.index + 1):
            if outcome is not None:
                raise _error(outcome)

    def become(self, local: LocalState) -> None:
        """Take another part in the cluster."""
        self._local = local

    # --- Backend ---

    def local(self) -> LocalState:
        return self._local

    def now(self) -> Instant:
        self._time = Instant(self._time + 1_000_001)
        return self._time

    def new_id(self) -> str:
        return new_id(self._rng)

    def view(self) -> Store:
        if self._local.role is Role.MANAGER:
            return self.store
        word = wording.NOT_A_MANAGER if self._local.role is None else wording.WORKER_ONLY
        raise NotASwarmManager(word)

    def stale(self) -> str:
        return self.behind

    async def barrier(self, *, within: float | None = None) -> None:
        del within
        self.barriers += 1
        self._need_quorum()

    @contextmanager
    def changes(self) -> Iterator[Callable[[], Awaitable[None]]]:
        first = True

        async def changed() -> None:
            nonlocal first
            await trio.lowlevel.checkpoint() if first else await trio.sleep(0.01)
            first = False

        yield changed

    async def engine_of(self, node_id: str) -> EngineGate:
        if node_id in self.silent or self.engine_socket is None:
            raise Unavailable(f"node {node_id} is down")
        return EngineGate(at_socket(self.engine_socket))

    async def propose(self, *commands: AnyCommand) -> None:
        self._need_quorum()
        self.apply(*commands)
        if self.works:
            self.work()

    def _need_quorum(self) -> None:
        if not self.quorum:
            raise NoQuorum(reachable=1, needed=2)

    def manager_health(self) -> dict[str, ManagerHealth]:
        own = self._local.node_id
        return {
            node.id: ManagerHealth(leader=node.id == own, reachable=True)
            for node in self.store.nodes()
            if node.role is Role.MANAGER
        }

    async def init(self, request: InitRequest) -> str:
        if self._local.state != "inactive":
            raise Unavailable(wording.ALREADY_IN_SWARM)
        return self._form(request, request.advertise_addr or "127.0.0.1")

    async def join(self, request: JoinRequest) -> None:
        if self._local.state != "inactive":
            raise Unavailable(wording.ALREADY_IN_SWARM)
        self.joined = request

    async def leave(self, *, force: bool) -> None:
        if self._local.state == "inactive":
            raise Unavailable(wording.NOT_IN_SWARM)
        if self._local.role is Role.MANAGER and not force:
            raise Unavailable(wording.LEAVING_LAST_MANAGER)
        self._local = LocalState(state="inactive")

    async def rotate_tokens(self, *, worker: bool, manager: bool) -> None:
        self.rotated.append((worker, manager))
        cluster = self.store.cluster
        assert cluster is not None
        tokens = JoinTokens(
            worker=cluster.tokens.worker + "x" * worker,
            manager=cluster.tokens.manager + "x" * manager,
        )
        changed = replace(cluster, tokens=tokens)
        await self.propose(PutCluster(cluster=changed, expect=cluster.version))

    async def update_node(self, node_id: str, expect: int, spec: NodeSpec) -> None:
        node = self.store.node(node_id)
        assert node is not None
        managers = [n for n in self.store.nodes() if n.spec.role is Role.MANAGER]
        if spec.role is Role.WORKER and managers == [node]:
            raise FailedPrecondition(wording.LAST_MANAGER)
        await self.propose(PutNode(node=replace(node, spec=spec, role=spec.role), expect=expect))

    async def remove_node(self, node_id: str, *, force: bool) -> None:
        node = self.store.node(node_id)
        assert node is not None
        if node.role is Role.MANAGER:
            raise FailedPrecondition(wording.NODE_IS_MANAGER.format(id=node_id))
        if node.status.state is not NodeState.DOWN and not force:
            raise FailedPrecondition(wording.NODE_IS_UP.format(id=node_id))
        await self.propose(DeleteNode(id=node_id, expect=node.version))

    async def overlay(self, wanted: str) -> NetworkRecord | None:
        found = find_network(self.store, wanted)
        return forwarding.network(found) if found else None

    def publishing(self) -> list[ServiceRecord]:
        records = [forwarding.service(one) for one in self.store.services()]
        return [record for record in records if record is not None]

    @asynccontextmanager
    async def attaching(
        self, container: AttachedContainer, nameservers: tuple[str, ...] = ()
    ) -> AsyncIterator[list[Endpoint]]:
        self.nameservers[container.id] = nameservers
        self.apply(AttachContainer(container=container))
        found = self.store.container(container.id)
        assert found is not None
        given = {a.network_id: a.address for a in found.attachments}
        networks = [n for a in container.attachments if (n := self.store.network(a.network_id))]
        try:
            yield [
                Endpoint(f"copy-of-{n.spec.name}", given[n.id], n.gateway, n.spec.name)
                for n in networks
            ]
        except EngineError:
            for attachment in container.attachments:
                await self.detach(container.id, attachment.network_id)
            raise

    def identify(self, labels: Mapping[str, str], container_id: str) -> str:
        return labels.get(ATTACHED_LABEL) or container_id[:25]

    async def detach(self, ident: str, network_id: str) -> None:
        node_id = self._local.node_id
        self.apply(DetachContainers(node_id=node_id, ids=(ident,), network_id=network_id))

    def network_plan(self) -> NetworkPlan:
        if self._local.state == "inactive":
            raise Unavailable(wording.NOT_IN_SWARM)
        return NetworkPlan(node_id=self._local.node_id, text="node 1\n", plan={"links": {}})

    async def check_network(self, node_id: str, *, fix: bool) -> NodeCheck:
        self.checked.append((node_id, fix))
        return self.check

    async def connections(self, node_id: str, tasks: Sequence[str]) -> dict[str, int]:
        if node_id in self.silent:
            raise Unavailable(f"node {node_id} is down")
        return dict.fromkeys(tasks, 3)

    # --- a cluster that does at once what it is asked ---

    def work(self) -> None:
        """Give every service its tasks, and let them run; remove those of removed services."""
        for service in list(self.store.services()):
            self._replace_tasks(service)
        kept = {service.id for service in self.store.services()}
        gone = tuple(t.id for t in self.store.tasks() if t.service_id not in kept)
        if gone:
            self.apply(DeleteTasks(ids=gone))

    def _replace_tasks(self, service: Service) -> None:
        wanted = dict.fromkeys(self._slots(service))
        for task in [t for t in self.store.tasks_of_service(service.id) if t.wanted]:
            key = (task.slot, "" if task.slot else task.node_id)
            if key in wanted and task.spec_version == service.spec_version:
                del wanted[key]
            else:
                self.end(task, TaskState.SHUTDOWN)
        for slot, node_id in wanted:
            self.start(service, slot, node_id)
        if service.update_status is not None and not service.update_status.completed_at:
            self._complete(service)

    def _slots(self, service: Service) -> Iterable[tuple[int, str]]:
        if service.spec.is_global:
            return [(0, node.id) for node in self.store.nodes()]
        return [(slot, "") for slot in range(1, service.spec.replicas + 1)]

    def _complete(self, service: Service) -> None:
        status = service.update_status
        assert status is not None
        back = status.state is UpdateState.ROLLBACK_STARTED
        done = replace(
            status,
            state=UpdateState.ROLLBACK_COMPLETED if back else UpdateState.COMPLETED,
            completed_at=self.now(),
            message="rollback completed" if back else "update completed",
        )
        self.apply(SetUpdateStatus(id=service.id, expect=service.version, update_status=done))

    def start(self, service: Service, slot: int = 1, node_id: str = "") -> Task:
        """A task that runs."""
        task_id = self.new_id()
        new = NewTask(id=task_id, slot=slot, node_id=node_id)
        node_id = node_id or min(node.id for node in self.store.nodes())
        self.apply(
            CreateTasks(service_id=service.id, spec_version=service.spec_version, tasks=(new,)),
            self._observed(task_id, TaskState.RUNNING, node_id=node_id),
        )
        task = self.store.task(task_id)
        assert task is not None
        return task

    def end(self, task: Task, state: TaskState) -> None:
        """A task that ended."""
        self.apply(self._observed(task.id, state, node_id=None, desired=TaskState.SHUTDOWN))

    def _observed(
        self,
        task_id: str,
        state: TaskState,
        *,
        node_id: str | None,
        desired: TaskState | None = None,
    ) -> ChangeTasks:
        status = TaskStatus(
            state=state,
            at=self.now(),
            message="started" if state is TaskState.RUNNING else "shutdown",
            container=ContainerStatus(container_id="c" * 64, pid=17, exit_code=0),
        )
        change = TaskChange(id=task_id, node_id=node_id, status=status, desired=desired)
        return ChangeTasks(changes=(change,))


def _error(refusal: Refusal) -> SwarmletError:
    if refusal.code == OutOfSequence.code:
        return OutOfSequence()
    return _ERRORS[refusal.code](refusal.message)
