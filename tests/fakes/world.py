"""A cluster of one store: commands go straight to the state machine, agents do as they are told."""

from collections.abc import Callable, Iterable
from itertools import count
from typing import Literal

from swarmlet.api.services import rolled_back, updated
from swarmlet.clock import SECOND, Instant
from swarmlet.control import enforcer, orchestrator, reaper, scheduler
from swarmlet.control.decision import Decision
from swarmlet.model.networks import Ipam, IpamConfig, NetworkSpec
from swarmlet.model.objects import (
    Config,
    Network,
    Node,
    NodeDescription,
    NodeState,
    NodeStatus,
    Secret,
    Service,
    Task,
    TaskState,
    TaskStatus,
    UpdateState,
    UpdateStatus,
)
from swarmlet.model.specs import (
    Availability,
    ConfigReference,
    ConfigSpec,
    ContainerSpec,
    EndpointSpec,
    FileTarget,
    Global,
    NetworkAttachment,
    NodeSpec,
    Placement,
    Platform,
    PortConfig,
    Replicated,
    ResourceRequirements,
    Resources,
    RestartPolicy,
    Role,
    SecretReference,
    SecretSpec,
    ServiceMode,
    ServiceSpec,
    TaskSpec,
    UpdateConfig,
)
from swarmlet.state import fsm
from swarmlet.state.commands import (
    AnyCommand,
    ChangeNodes,
    NodeChange,
    Outcome,
    PutConfig,
    PutNetwork,
    PutNode,
    PutSecret,
    PutService,
    ReportTasks,
    TaskReport,
    decode,
    encode,
)
from swarmlet.state.store import Store

LINUX = Platform(architecture="x86_64", os="linux")
START = Instant(1_700_000_000 * SECOND)


def a_node(
    node_id: str,
    *,
    state: NodeState = NodeState.READY,
    availability: Availability = Availability.ACTIVE,
    role: Role = Role.WORKER,
    labels: dict[str, str] | None = None,
    cpus: int = 8,
    addr: str = "10.0.0.1",
    platform: Platform = LINUX,
) -> Node:
    return Node(
        id=node_id,
        spec=NodeSpec(role=role, availability=availability, labels=labels or {}),
        role=role,
        status=NodeStatus(state=state, addr=addr),
        description=NodeDescription(
            hostname=f"host-{node_id}",
            platform=platform,
            resources=Resources(nano_cpus=cpus * SECOND, memory_bytes=cpus << 30),
        ),
    )


def a_network(
    name: str = "net", *, subnet: str = "", ip_range: str = "", attachable: bool = False
) -> Network:
    """A network; its identifier is its name with ``id-`` before it."""
    asked = Ipam(config=(IpamConfig(subnet=subnet, ip_range=ip_range),)) if subnet else None
    spec = NetworkSpec(name=name, ipam=asked, ingress=name == "ingress", attachable=attachable)
    return Network(id=f"id-{name}", spec=spec)


def a_secret(name: str = "key", *, data: bytes = b"s3cret") -> Secret:
    """A secret; its identifier is its name with ``id-`` before it."""
    return Secret(id=f"id-{name}", spec=SecretSpec(name=name), data=data)


def a_config(name: str = "conf", *, data: bytes = b"x = 1") -> Config:
    """A config; its identifier is its name with ``id-`` before it."""
    return Config(id=f"id-{name}", spec=ConfigSpec(name=name), data=data)


def a_file(name: str, *, mode: int = 0o444) -> FileTarget:
    """Where clients put a secret or a config unless told otherwise."""
    return FileTarget(name=name, uid="0", gid="0", mode=mode)


def a_service(
    service_id: str = "web",
    *,
    replicas: int | None = 3,
    image: str = "app:1",
    restart: RestartPolicy | None = None,
    placement: Placement | None = None,
    cpus: float = 0,
    ports: tuple[PortConfig, ...] = (),
    labels: dict[str, str] | None = None,
    networks: tuple[str, ...] = (),
    endpoint: Literal["", "vip", "dnsrr"] = "",
    update: UpdateConfig | None = None,
    rollback: UpdateConfig | None = None,
    secrets: tuple[str, ...] = (),
    configs: tuple[str, ...] = (),
) -> Service:
    """A service; ``replicas`` None makes it global. Secrets and configs are named."""
    mode = ServiceMode(replicated=Replicated(replicas=replicas))
    if replicas is None:
        mode = ServiceMode(global_=Global())
    reserved = Resources(nano_cpus=int(cpus * SECOND)) if cpus else None
    template = TaskSpec(
        container_spec=ContainerSpec(
            image=image,
            secrets=tuple(
                SecretReference(secret_id=f"id-{name}", secret_name=name, file=a_file(name))
                for name in secrets
            ),
            configs=tuple(
                ConfigReference(config_id=f"id-{name}", config_name=name, file=a_file(name))
                for name in configs
            ),
        ),
        restart_policy=restart,
        placement=placement,
        resources=ResourceRequirements(reservations=reserved) if reserved else None,
        networks=tuple(NetworkAttachment(target=target) for target in networks),
    )
    return Service(
        id=service_id,
        spec=ServiceSpec(
            name=f"name-{service_id}",
            mode=mode,
            task_template=template,
            labels=labels or {},
            endpoint_spec=EndpointSpec(mode=endpoint, ports=ports) if ports or endpoint else None,
            update_config=update,
            rollback_config=rollback,
        ),
    )


class World:
    """The store, a clock, and what the leader's loops and the agents do, one step at a time."""

    def __init__(self) -> None:
        self.store = Store()
        self.now = START
        #: How far tasks of an image get, where they do not simply run.
        self.fates: dict[str, TaskState] = {}
        self._ids = count()

    def new_id(self) -> str:
        return f"task{next(self._ids):021}"

    def do(self, *commands: AnyCommand) -> list[Outcome]:
        """Commit commands, through their encoded form."""
        batch = decode(encode(commands, self.now))
        return fsm.apply(self.store, batch, self.store.index + 1)

    def ok(self, *commands: AnyCommand) -> None:
        assert self.do(*commands) == [None] * len(commands)

    def nodes(self, *nodes: Node) -> None:
        self.ok(*(PutNode(node=node, expect=self._version(node.id)) for node in nodes))

    def _version(self, node_id: str) -> int:
        node = self.store.node(node_id)
        return node.version if node else 0

    def service(self, service: Service, *, updating: bool = False) -> None:
        """Create or update a service."""
        old = self.store.service(service.id)
        status = UpdateStatus(state=UpdateState.UPDATING, started_at=self.now) if updating else None
        new = Service(id=service.id, spec=service.spec, update_status=status)
        self.ok(PutService(service=new, expect=old.version if old else 0))

    def networks(self, *networks: Network, avoid: tuple[str, ...] = ()) -> None:
        """Create networks."""
        self.ok(*(PutNetwork(network=network, avoid=avoid) for network in networks))

    def secrets(self, *secrets: Secret) -> None:
        """Create secrets."""
        self.ok(*(PutSecret(secret=secret, expect=0) for secret in secrets))

    def configs(self, *configs: Config) -> None:
        """Create configs."""
        self.ok(*(PutConfig(config=config, expect=0) for config in configs))

    def update(self, service: Service) -> None:
        """Update a service as the API does."""
        old = self.found(service.id)
        new = updated(old, service.spec, self.store, self.now)
        self.ok(PutService(service=new, expect=old.version))

    def roll_back(self, service_id: str = "web") -> None:
        """Go back to the previous spec as the API does."""
        old = self.found(service_id)
        self.ok(PutService(service=rolled_back(old, self.now), expect=old.version))

    def found(self, service_id: str = "web") -> Service:
        service = self.store.service(service_id)
        assert service is not None
        return service

    def node_state(self, node_id: str, state: NodeState) -> None:
        status = NodeStatus(state=state, addr="10.0.0.1", since=self.now)
        self.ok(ChangeNodes(changes=(NodeChange(id=node_id, status=status),)))

    def report(self, task_id: str, state: TaskState) -> None:
        task = self.task(task_id)
        status = TaskStatus(state=state, at=self.now)
        self.ok(ReportTasks(node_id=task.node_id, reports=(TaskReport(task_id, status),)))

    def task(self, task_id: str) -> Task:
        task = self.store.task(task_id)
        assert task is not None
        return task

    # the leader's loops, each deciding on everything

    def orchestrate(self) -> Decision:
        services = [service.id for service in self.store.services()]
        return orchestrator.decide(self.store, services, self.now, self.new_id)

    def schedule(self) -> Decision:
        return scheduler.decide(self.store, self.now)

    def enforce(self) -> Decision:
        return enforcer.decide(self.store, self._node_ids(), self.now)

    def reap(self) -> Decision:
        slots = {task.slot_key for task in self.store.tasks()}
        return reaper.decide(self.store, slots, self.now)

    def _node_ids(self) -> set[str]:
        known = {node.id for node in self.store.nodes()}
        return known | {task.node_id for task in self.store.tasks() if task.node_id}

    def deciders(self) -> tuple[Callable[[], Decision], ...]:
        return (self.enforce, self.orchestrate, self.schedule, self.reap)

    def settle(self) -> None:
        """All loops until none has anything to do; agents do nothing meanwhile."""
        for _ in range(100):
            commands = [command for decide in self.deciders() for command in self._step(decide)]
            if not commands:
                return
        raise AssertionError("the loops never come to rest")

    def _step(self, decide: Callable[[], Decision]) -> Iterable[AnyCommand]:
        commands = decide().commands
        if commands:
            self.do(*commands)
        return commands

    # agents

    def obey(self) -> None:
        """Every agent on a living node brings its tasks to where they are wanted."""
        for task in list(self.store.tasks()):
            node = self.store.node(task.node_id)
            living = node is not None and node.status.state is NodeState.READY
            if not living or task.status.state.ended or task.status.state < TaskState.ASSIGNED:
                continue
            goal = self.goal(task)
            if task.status.state < goal:
                self.report(task.id, goal)

    def goal(self, task: Task) -> TaskState:
        """Where the agent of a task brings it next."""
        fate = self.fate(task)
        if task.desired > TaskState.RUNNING:
            return TaskState.SHUTDOWN
        if task.desired is TaskState.READY and fate is not TaskState.REJECTED:
            return min(fate, TaskState.READY)
        return fate

    def fate(self, task: Task) -> TaskState:
        """How far a task gets when it is let go."""
        return self.fates.get(task.spec.container.image, TaskState.RUNNING)

    def run(self, *, rounds: int = 60) -> None:
        """Loops and obedient agents until the cluster is at rest."""
        for _ in range(rounds):
            before = self.store.index
            self.settle()
            self.obey()
            if self.store.index == before:
                return
        raise AssertionError("the cluster never comes to rest")

    def finish(self, service_id: str = "web", *, rounds: int = 300) -> UpdateStatus:
        """Loops, agents and time until no update is in progress; how it ended."""
        for _ in range(rounds):
            status = self.found(service_id).update_status
            assert status is not None
            if not status.state.in_progress:
                self.settle()
                return status
            before = self.store.index
            self.settle()
            self.obey()
            if self.store.index == before:
                self.wait()
        raise AssertionError("the update never ends")

    def wait(self) -> None:
        """Let time pass until something is due."""
        due = min((at for decide in self.deciders() if (at := decide().wake_at)), default=None)
        assert due is not None, "nothing will ever happen again"
        assert due > self.now
        self.now = due

    def pass_time(self, seconds: float) -> None:
        self.now = Instant(self.now + int(seconds * SECOND))

    def wanted(self, service_id: str = "web") -> list[Task]:
        return sorted(self.store.wanted_tasks(service_id), key=lambda task: task.slot_key)

    def running(self, service_id: str = "web") -> list[Task]:
        tasks = self.store.tasks_of_service(service_id)
        return [task for task in tasks if task.status.state is TaskState.RUNNING]
