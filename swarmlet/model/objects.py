"""What the cluster stores. Immutable; changed only by :mod:`swarmlet.state.fsm`.

Each object carries ``version``: the Raft index that wrote it (``Version.Index`` of the Engine API).
"""

import enum
from typing import Final

import msgspec

from swarmlet.clock import Instant
from swarmlet.model.forwarding import Attachment
from swarmlet.model.networks import DEFAULT_DATA_PORT, DEFAULT_SUBNET_SIZE, NetworkSpec
from swarmlet.model.specs import (
    Availability,
    ClusterSpec,
    ConfigSpec,
    Labels,
    NodeSpec,
    Platform,
    PortConfig,
    Resources,
    Role,
    SecretSpec,
    ServiceSpec,
    TaskSpec,
)
from swarmlet.model.tunnels import TunnelKeys


class Stored(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """Base of everything in the store. Times are nanoseconds since the epoch, UTC."""

    id: str
    version: int = 0
    created_at: Instant = Instant(0)
    updated_at: Instant = Instant(0)


class TaskState(enum.IntEnum):
    """Life of a task. Observed states only grow; the numbers are swarmkit's, with room between.

    Managers move a task to ASSIGNED, its agent from there on. REMOVE and ORPHANED are never
    observed on a node: REMOVE is desired only, ORPHANED says that its node is gone for good.
    """

    NEW = 0
    PENDING = 64
    ASSIGNED = 192
    ACCEPTED = 256
    PREPARING = 320
    READY = 384
    STARTING = 448
    RUNNING = 512
    COMPLETE = 576
    SHUTDOWN = 640
    FAILED = 704
    REJECTED = 768
    REMOVE = 800
    ORPHANED = 832

    @property
    def ended(self) -> bool:
        """Whether the task will never run again."""
        return self > TaskState.RUNNING

    @property
    def word(self) -> str:
        """The API's word for it."""
        return self.name.lower()


#: What an agent may be asked for, besides the order to forget a task (REMOVE).
DESIRED: Final = (TaskState.READY, TaskState.RUNNING, TaskState.SHUTDOWN, TaskState.REMOVE)


class ContainerStatus(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """The container of a task, as its engine reports it."""

    container_id: str = ""
    pid: int = 0
    exit_code: int | None = None
    oom_killed: bool = False


class TaskStatus(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """What was last observed of a task. ``err`` says what went wrong, in a user's words.

    ``halted``: it has no process now, and may have one again in the same container: its engine went
    down, or it is not known yet why it ended. Nobody shall be sent to it meanwhile.
    """

    state: TaskState
    at: Instant
    message: str = ""
    err: str = ""
    container: ContainerStatus | None = None
    halted: bool = False


class Task(Stored, frozen=True, kw_only=True, gc=False):
    """One attempt to run one slot of a service; never reused: a restart is a new task in the slot.

    ``slot`` counts from 1 for replicated services; it is 0 for global ones, whose slot is the node.
    ``not_before`` holds a replacement at READY until then (restart delay). ``attachments`` are the
    networks it joins; they get their addresses when the task gets its node, and keep them until the
    task has ended. ``running_at`` and ``ended_at`` are when the managers first heard so;
    ``late_at`` is when an update gives up waiting for it, unless there is news of it before. 0 is
    not yet.
    """

    service_id: str
    service_name: str
    slot: int = 0
    node_id: str = ""
    spec: TaskSpec
    spec_version: int = 0
    ports: tuple[PortConfig, ...] = ()
    attachments: tuple[Attachment, ...] = ()
    status: TaskStatus
    desired: TaskState = TaskState.RUNNING
    not_before: Instant = Instant(0)
    running_at: Instant = Instant(0)
    ended_at: Instant = Instant(0)
    late_at: Instant = Instant(0)

    @property
    def name(self) -> str:
        """``service.slot.id``, and ``service.node.id`` for a global service; the container too."""
        return f"{self.service_name}.{self.slot or self.node_id}.{self.id}"

    @property
    def slot_key(self) -> tuple[str, int, str]:
        """What identifies the slot that this task fills: service, number, node of a global one."""
        return (self.service_id, self.slot, "" if self.slot else self.node_id)

    @property
    def wanted(self) -> bool:
        """Whether it fills its slot: it has not ended and nobody asked it to."""
        return self.desired <= TaskState.RUNNING and not self.status.state.ended


class UpdateState(enum.StrEnum):
    """Where the update of a service stands."""

    UPDATING = "updating"
    PAUSED = "paused"
    COMPLETED = "completed"
    ROLLBACK_STARTED = "rollback_started"
    ROLLBACK_PAUSED = "rollback_paused"
    ROLLBACK_COMPLETED = "rollback_completed"

    @property
    def in_progress(self) -> bool:
        """Whether tasks are being replaced, forth or back."""
        return self in {UpdateState.UPDATING, UpdateState.ROLLBACK_STARTED}

    @property
    def paused(self) -> bool:
        """Whether a user has to decide what happens next."""
        return self in {UpdateState.PAUSED, UpdateState.ROLLBACK_PAUSED}


class UpdateStatus(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """The latest update of a service."""

    state: UpdateState
    started_at: Instant
    completed_at: Instant = Instant(0)
    message: str = ""


class Service(Stored, frozen=True, kw_only=True, gc=False):
    """A service.

    ``spec_version`` is the index at which its tasks' template last changed, or its latest update or
    rollback began: a task that carries it was made by that update. A task is up to date when it is
    what would be made now (:mod:`swarmlet.control.template`). ``attachments`` are its networks,
    with its virtual addresses; ``ports`` are the spec's, each with the number that is published.
    Both are the state machine's to give.
    ``registry_auth`` is the client's ``X-Registry-Auth``, passed on to pulls; "" for none.
    """

    spec: ServiceSpec
    spec_version: int = 0
    attachments: tuple[Attachment, ...] = ()
    ports: tuple[PortConfig, ...] = ()
    previous_spec: ServiceSpec | None = None
    update_status: UpdateStatus | None = None
    registry_auth: str = ""
    previous_registry_auth: str = ""


class NodeState(enum.StrEnum):
    """What managers know of a node's life. DISCONNECTED is the API's word for *suspect*."""

    UNKNOWN = "unknown"
    DOWN = "down"
    READY = "ready"
    DISCONNECTED = "disconnected"


class Plugin(msgspec.Struct, frozen=True, gc=False):
    """A plugin of an engine."""

    type: str
    name: str


class NodeDescription(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """What a node says of itself when it connects.

    ``subnets`` are those of its own addresses and routes: overlay networks keep clear of them.
    ``tunnel`` are its keys for encrypted networks; a node without cannot encrypt.
    """

    hostname: str
    platform: Platform
    resources: Resources
    subnets: tuple[str, ...] = ()
    tunnel: TunnelKeys | None = None
    engine_version: str = ""
    engine_labels: Labels = msgspec.field(default_factory=dict[str, str])
    plugins: tuple[Plugin, ...] = ()


class NodeStatus(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """The life of a node as the leader judges it. ``addr`` is an IP address without a port."""

    state: NodeState = NodeState.UNKNOWN
    message: str = ""
    addr: str = ""
    since: Instant = Instant(0)


class Node(Stored, frozen=True, kw_only=True, gc=False):
    """A machine of the cluster.

    ``spec.role`` is what the operator wants; ``role`` is what its certificate says and what it may
    do now. ``manager_addr`` is ``host:port`` of its manager listener, "" for a worker.
    ``number`` counts nodes from 1; packets between nodes carry it (the state machine gives it).
    """

    spec: NodeSpec
    role: Role
    number: int = 0
    description: NodeDescription | None = None
    status: NodeStatus = msgspec.field(default_factory=NodeStatus)
    manager_addr: str = ""

    @property
    def hostname(self) -> str:
        """Its hostname, "" before it first connected."""
        return self.description.hostname if self.description else ""

    @property
    def schedulable(self) -> bool:
        """Whether new tasks may go there."""
        return (
            self.status.state is NodeState.READY and self.spec.availability is Availability.ACTIVE
        )


class RootCa(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The cluster's certificate authority: PEM texts. The key never leaves the managers."""

    cert: str
    key: str


class JoinTokens(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The secrets that let a machine join, in full ``SWMTKN-1-…`` form."""

    worker: str
    manager: str


class Network(Stored, frozen=True, kw_only=True, gc=False):
    """An overlay network. Its addresses are the state machine's to give, see state.addresses.

    ``pool`` is the part of ``subnet`` that tasks and services get their addresses from.
    """

    spec: NetworkSpec
    subnet: str = ""
    gateway: str = ""
    pool: str = ""


class Secret(Stored, frozen=True, kw_only=True, gc=False):
    """Bytes that only the tasks of services that name it see. No log shows them."""

    spec: SecretSpec
    data: bytes

    def __repr__(self) -> str:
        return f"Secret({self.id}, {self.spec.name}, {len(self.data)} bytes)"


class Config(Stored, frozen=True, kw_only=True, gc=False):
    """As :class:`Secret`, of bytes that users may see too."""

    spec: ConfigSpec
    data: bytes

    def __repr__(self) -> str:
        return f"Config({self.id}, {self.spec.name}, {len(self.data)} bytes)"


class AttachedContainer(Stored, frozen=True, kw_only=True, gc=False):
    """A plain container in attachable networks, on the engine of one node.

    It has its addresses while this object is there, whether it runs or not; the state machine gives
    them. ``hostname`` is "" where the engine chooses it, and ``container_id`` until that is known.
    """

    node_id: str
    name: str = ""
    container_id: str = ""
    hostname: str = ""
    running: bool = False
    attachments: tuple[Attachment, ...] = ()


class Cluster(Stored, frozen=True, kw_only=True, gc=False):
    """The one cluster object. ``address_pools`` is where subnets of new networks come from."""

    spec: ClusterSpec
    root_ca: RootCa
    tokens: JoinTokens
    address_pools: tuple[str, ...] = ()
    subnet_size: int = DEFAULT_SUBNET_SIZE
    data_port: int = DEFAULT_DATA_PORT
