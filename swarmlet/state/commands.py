"""The closed set of replicated commands, and their form in the Raft log.

A proposal is one :class:`Batch`: every command in it is applied in order, each with an outcome of
its own, at one index. Commands carry every identifier and time they need; ``apply`` reads no clock.
The form is a msgpack array ``[FORMAT, time, [command, ...]]``; each command is tagged by name.
A member that meets a newer format stops instead of guessing (docs/checklists/replicated-command).
"""

from typing import Final

import msgspec

from swarmlet.clock import Instant
from swarmlet.errors import Damaged
from swarmlet.model.objects import (
    AttachedContainer,
    Cluster,
    Config,
    Network,
    Node,
    NodeDescription,
    NodeStatus,
    Secret,
    Service,
    TaskState,
    TaskStatus,
    UpdateStatus,
)
from swarmlet.model.specs import Role

#: Version of the commands' form and meaning. A new optional field does not change it; anything
#: else does. 2: nodes get numbers, services and tasks addresses and ports when they are written;
#: tasks carry when they came up and ended, a begun update is a new spec version. 3: plain
#: containers are attached. 4: secrets and configs.
FORMAT: Final = 4


class Command(msgspec.Struct, frozen=True, kw_only=True, gc=False, tag=True, omit_defaults=True):
    """Base of all replicated commands.

    ``expect`` is the version of the object that the decision was made on: 0 means that it must not
    exist yet. A command whose object has moved on is refused and changes nothing.
    """


class PutCluster(Command, frozen=True, kw_only=True, gc=False):
    """Create or replace the cluster object."""

    cluster: Cluster
    expect: int


class PutNode(Command, frozen=True, kw_only=True, gc=False):
    """Create a node or replace what operators decide about it (spec, role, manager address)."""

    node: Node
    expect: int


class NodeChange(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """What was learned of one node; None leaves a field as it is."""

    id: str
    status: NodeStatus | None = None
    description: NodeDescription | None = None
    role: Role | None = None
    manager_addr: str | None = None


class ChangeNodes(Command, frozen=True, kw_only=True, gc=False):
    """Record what the leader observed of nodes. A node that is gone is skipped."""

    changes: tuple[NodeChange, ...]


class DeleteNode(Command, frozen=True, kw_only=True, gc=False):
    """Forget a node; its tasks are ORPHANED."""

    id: str
    expect: int


class PutService(Command, frozen=True, kw_only=True, gc=False):
    """Create a service or replace its spec. Its name must be free."""

    service: Service
    expect: int


class SetUpdateStatus(Command, frozen=True, kw_only=True, gc=False):
    """Record where an update stands; refused when the service changed meanwhile."""

    id: str
    expect: int
    update_status: UpdateStatus


class DeleteService(Command, frozen=True, kw_only=True, gc=False):
    """Remove a service; its tasks are asked to go."""

    id: str


class PutNetwork(Command, frozen=True, kw_only=True, gc=False):
    """Create a network. Its name must be free.

    Without a subnet it gets the first free one of the cluster's pools that overlaps none of
    ``avoid`` (what the hosts themselves route).
    """

    network: Network
    avoid: tuple[str, ...] = ()


class DeleteNetwork(Command, frozen=True, kw_only=True, gc=False):
    """Remove a network that nobody uses."""

    id: str


class PutSecret(Command, frozen=True, kw_only=True, gc=False):
    """Create a secret, whose name must be free, or change its labels: its data never changes."""

    secret: Secret
    expect: int


class DeleteSecret(Command, frozen=True, kw_only=True, gc=False):
    """Remove a secret that no service names."""

    id: str


class PutConfig(Command, frozen=True, kw_only=True, gc=False):
    """Create a config, or change its labels; see :class:`PutSecret`."""

    config: Config
    expect: int


class DeleteConfig(Command, frozen=True, kw_only=True, gc=False):
    """Remove a config that no service names."""

    id: str


class NewTask(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """A task to create. Its spec is the service's, so not sent; ``node_id`` for global ones."""

    id: str
    slot: int = 0
    node_id: str = ""
    desired: TaskState = TaskState.RUNNING
    not_before: Instant = Instant(0)


class CreateTasks(Command, frozen=True, kw_only=True, gc=False):
    """Create tasks of one service; refused as a whole when its template is not ``spec_version``."""

    service_id: str
    spec_version: int
    tasks: tuple[NewTask, ...]


class TaskChange(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """What a manager decides about one task; None leaves a field as it is.

    Desired states and statuses only grow, and a task is assigned once, so a late command does no
    harm: what no longer fits is skipped.
    """

    id: str
    desired: TaskState | None = None
    node_id: str | None = None
    status: TaskStatus | None = None
    late_at: Instant | None = None


class ChangeTasks(Command, frozen=True, kw_only=True, gc=False):
    """Record decisions about tasks: placements, desired states, why one is pending."""

    changes: tuple[TaskChange, ...]


class TaskReport(msgspec.Struct, frozen=True, gc=False):
    """What an agent observed of one task."""

    id: str
    status: TaskStatus


class ReportTasks(Command, frozen=True, kw_only=True, gc=False):
    """Statuses from one node; a report about a task of another node is skipped."""

    node_id: str
    reports: tuple[TaskReport, ...]


class DeleteTasks(Command, frozen=True, kw_only=True, gc=False):
    """Forget tasks that ended or whose node is gone."""

    ids: tuple[str, ...]


class AttachContainer(Command, frozen=True, kw_only=True, gc=False):
    """Give a plain container places in attachable networks, beside those that it has.

    An attachment may name its address. A command that is repeated changes nothing; one that comes
    too late leaves a container that its node does not have: nodes look for those, and detach them.
    """

    container: AttachedContainer


class DetachContainers(Command, frozen=True, kw_only=True, gc=False):
    """Take containers of a node out of one network, or of all ("").

    One that is left without a network is forgotten; one of another node is skipped.
    """

    node_id: str
    ids: tuple[str, ...]
    network_id: str = ""


class ContainerReport(msgspec.Struct, frozen=True, gc=False):
    """What a node's engine shows of an attached container."""

    id: str
    container_id: str
    name: str
    running: bool


class ReportContainers(Command, frozen=True, kw_only=True, gc=False):
    """Observations from one node; one about a container of another node is skipped.

    A late one is put right by the node, which compares what it said with what it is told.
    """

    node_id: str
    reports: tuple[ContainerReport, ...]


AnyCommand = (
    PutCluster
    | PutNode
    | ChangeNodes
    | DeleteNode
    | PutService
    | SetUpdateStatus
    | DeleteService
    | PutNetwork
    | DeleteNetwork
    | PutSecret
    | DeleteSecret
    | PutConfig
    | DeleteConfig
    | CreateTasks
    | ChangeTasks
    | ReportTasks
    | DeleteTasks
    | AttachContainer
    | DetachContainers
    | ReportContainers
)


class Batch(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One proposal. ``at`` is the proposer's wall clock: the time that written objects carry."""

    format: int
    at: Instant
    commands: tuple[AnyCommand, ...]


class Refusal(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Why a command changed nothing. ``code`` is that of a type in :mod:`swarmlet.errors`."""

    code: str
    message: str


#: One outcome a command, in order: None for done.
Outcome = Refusal | None

_batch_decoder: Final = msgspec.msgpack.Decoder(Batch)
_outcome_decoder: Final = msgspec.msgpack.Decoder(tuple[Outcome, ...])
_encoder: Final = msgspec.msgpack.Encoder()


def encode(commands: tuple[AnyCommand, ...], at: Instant) -> bytes:
    """Encode a proposal for the log."""
    return _encoder.encode(Batch(FORMAT, at, commands))


def decode(data: bytes) -> Batch:
    """Decode a proposal. Raises Damaged for one that this version cannot read."""
    try:
        batch = _batch_decoder.decode(data)
    except msgspec.DecodeError as exc:
        raise Damaged(
            f"a replicated command cannot be read: {exc}",
            advice="run the swarmlet version that the other managers run",
        ) from exc
    if batch.format > FORMAT:
        raise Damaged(
            f"a replicated command has format {batch.format}, this version reads up to {FORMAT}",
            advice="upgrade this manager to the version that the others run",
        )
    return batch


def encode_outcomes(outcomes: list[Outcome]) -> bytes:
    """Encode what became of each command of a batch."""
    return _encoder.encode(outcomes)


def decode_outcomes(data: bytes) -> tuple[Outcome, ...]:
    """Decode :func:`encode_outcomes`."""
    return _outcome_decoder.decode(data)
