"""What managers and agents say to each other, and the version they agree on.

Every message is one msgpack map in one frame (:mod:`swarmlet.rpc.frames`), tagged by its type.
Unknown fields are ignored and new ones have defaults, so that neighbouring versions talk; what
changes a meaning raises the version in the protocol's ALPN name (:mod:`swarmlet.security.tls`).
"""

import enum
from typing import Final

import msgspec

from swarmlet.clock import Nanos
from swarmlet.model.forwarding import (
    Attachment,
    NetworkRecord,
    PeerRecord,
    ServiceRecord,
    TaskRecord,
)
from swarmlet.model.networks import DEFAULT_DATA_PORT
from swarmlet.model.objects import NodeDescription, TaskState, TaskStatus
from swarmlet.model.specs import PortConfig, Role, TaskSpec

#: Reports that an agent may have sent without an acknowledgement; newer statuses coalesce.
REPORT_WINDOW: Final = 4


class Message(msgspec.Struct, frozen=True, kw_only=True, tag=True, omit_defaults=True):
    """Base of all messages."""


# What an agent says.


class Hello(Message, frozen=True, kw_only=True):
    """First message of a session. ``listen_port`` is where the daemon answers probes."""

    description: NodeDescription
    listen_port: int
    swarmlet_version: str


class Described(Message, frozen=True, kw_only=True):
    """What :class:`Hello` said of the node has changed."""

    description: NodeDescription


class Beat(Message, frozen=True, kw_only=True):
    """I live. Sent every ``Welcome.heartbeat``."""


class Report(Message, frozen=True, kw_only=True):
    """Statuses of own tasks, oldest first. Repeated after a reconnection until acknowledged."""

    seq: int
    statuses: tuple[tuple[str, TaskStatus], ...]


class GoodbyeReason(enum.StrEnum):
    """Why an agent ends its session on purpose."""

    SHUTDOWN = "shutdown"  # the host goes down: replace its tasks at once
    RESTART = "restart"  # only the daemon stops: its containers go on, wait for it
    LEAVE = "leave"  # the node leaves the cluster


class Goodbye(Message, frozen=True, kw_only=True):
    """Last message of a session that ends on purpose."""

    reason: GoodbyeReason


class Forwarded(Message, frozen=True, kw_only=True):
    """The node's kernel forwards by what :class:`Forwarding` said, up to ``seq``."""

    seq: int


# What a manager says.


class Peer(msgspec.Struct, frozen=True, omit_defaults=True):
    """A manager: its node identifier and ``host:port``."""

    id: str
    addr: str


class Redirect(Message, frozen=True, kw_only=True):
    """Not the leader: go there. ``leader`` is None while there is none."""

    leader: Peer | None
    managers: tuple[Peer, ...]


class Refused(Message, frozen=True, kw_only=True):
    """The session cannot be: the node was removed from the cluster, or speaks another protocol."""

    code: str
    message: str


class Welcome(Message, frozen=True, kw_only=True):
    """The session stands. A full :class:`Assignments` follows."""

    heartbeat: Nanos
    managers: tuple[Peer, ...]
    role: Role


class Settings(Message, frozen=True, kw_only=True):
    """Something that :class:`Welcome` said has changed. ``role`` is what the node shall become."""

    heartbeat: Nanos
    managers: tuple[Peer, ...]
    role: Role


class Assignment(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One task for this node. Immutable but for ``desired``.

    ``state`` is the last one that the managers know, so that an agent without memory can go on.
    """

    task_id: str
    service_id: str
    service_name: str
    slot: int
    node_id: str
    spec: TaskSpec
    desired: TaskState
    state: TaskState
    ports: tuple[PortConfig, ...] = ()
    attachments: tuple[Attachment, ...] = ()
    registry_auth: str = ""
    service_labels: dict[str, str] = {}

    @property
    def name(self) -> str:
        """The container's name, see :attr:`swarmlet.model.objects.Task.name`."""
        return f"{self.service_name}.{self.slot or self.node_id}.{self.task_id}"


class Payloads(Message, frozen=True, kw_only=True):
    """Data of secrets and configs by their identifiers, before the tasks that need it.

    It adds to what was said before, in earlier sessions too; ``gone`` is needed no more.
    ``templates`` are those of the data that are templates. No log shows it.
    """

    data: dict[str, bytes] = {}
    templates: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Payloads({', '.join(self.data)}; gone: {', '.join(self.gone)})"


class Assignments(Message, frozen=True, kw_only=True):
    """Tasks of this node. ``full``: these and no others; else these changed and ``gone`` went.

    A task that is gone is stopped and removed. A full set that is large comes in pieces: ``others``
    names the tasks of the set that follow in further messages, and ``payloads`` all that the node
    may keep of what :class:`Payloads` said.
    """

    full: bool
    tasks: tuple[Assignment, ...] = ()
    others: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    payloads: tuple[str, ...] = ()


class Forwarding(Message, frozen=True, kw_only=True):
    """What the node forwards by. ``full``: forget all that was said before; else it is a change.

    ``gone`` names records of any kind. What belongs together may come in pieces: only when ``last``
    is set it counts.
    """

    seq: int
    full: bool = False
    last: bool = True
    me: int = 0
    data_port: int = DEFAULT_DATA_PORT
    peers: tuple[PeerRecord, ...] = ()
    networks: tuple[NetworkRecord, ...] = ()
    services: tuple[ServiceRecord, ...] = ()
    tasks: tuple[TaskRecord, ...] = ()
    gone: tuple[str, ...] = ()


class Acknowledged(Message, frozen=True, kw_only=True):
    """Reports up to ``seq`` are committed."""

    seq: int


class Pulse(Message, frozen=True, kw_only=True):
    """Answer to :class:`Beat`, so that an agent notices a manager that is gone."""


class ProbeRequest(Message, frozen=True, kw_only=True):
    """Does that node answer you? Asked of others before a silent node is declared down."""

    seq: int
    node_id: str
    addr: str


class ProbeAnswer(Message, frozen=True, kw_only=True):
    """Whether a probed node answered (sent by the agent)."""

    seq: int
    heard: bool


FromAgent = Hello | Described | Beat | Report | Goodbye | ProbeAnswer | Forwarded
FromManager = (
    Redirect
    | Refused
    | Welcome
    | Settings
    | Payloads
    | Assignments
    | Forwarding
    | Acknowledged
    | Pulse
    | ProbeRequest
)
