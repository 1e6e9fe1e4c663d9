"""Two-step failure detection: a silent node is *suspect* first and *down* later.

A state machine without I/O: the dispatcher tells it what it hears, with its monotonic clock, and
asks it when the time came (:meth:`Detector.tick`). What it knows is about this leadership only; the
judged states are in the store. Rules (docs/adr/0008):

* Only silence counts. A lost connection is not death: a daemon that restarts within the time is
  never noticed.
* A goodbye before a restart gives a longer time; one before a shutdown is believed at once.
* While a peer still hears the node (asked when it becomes suspect), it has twice the time.
* A new leader gives every node it has not heard twice the time, counted from its own start.
* When the detector itself was late (the leader was frozen), everybody's time is moved by as much.
"""

import enum
from collections.abc import Mapping
from typing import Final

import msgspec

from swarmlet.clock import SECOND, Seconds
from swarmlet.model.defaults import failure_times
from swarmlet.model.objects import NodeState
from swarmlet.model.specs import ClusterSpec

#: How long a daemon that said that it restarts may take, containers going on meanwhile.
RESTART_GRACE: Final = Seconds(15.0)

#: Lateness of a tick above which the leader itself must have stood still, not the nodes.
FROZEN: Final = 1.0

#: Longest time between two ticks, so that a freeze is noticed.
TICK: Final = 0.5


class Settings(msgspec.Struct, frozen=True):
    """Silence in seconds after which a node is suspect, and down."""

    suspect_after: float
    down_after: float

    @classmethod
    def of(cls, spec: ClusterSpec, nodes: int = 0) -> "Settings":
        """Those of a cluster with so many nodes."""
        suspect, down = failure_times(spec, nodes)
        return cls(suspect / SECOND, down / SECOND)


class Session(enum.Enum):
    """What is known of a node's session with this leader."""

    NONE = "none"  # not seen since this leadership began
    CONNECTED = "connected"
    LOST = "lost"
    RESTARTING = "restarting"  # said goodbye, its daemon restarts
    GONE = "gone"  # said goodbye, its host shuts down


class Transition(msgspec.Struct, frozen=True):
    """A node's state changed, and why (for its status message)."""

    node_id: str
    state: NodeState
    message: str


class Judgement(msgspec.Struct, frozen=True):
    """What a tick found. ``probes``: nodes to ask others about. Tick again at ``wake_at``."""

    transitions: tuple[Transition, ...]
    probes: tuple[str, ...]
    wake_at: Seconds


class _Record:
    """What is known of one node."""

    __slots__ = ("heard_at", "peer_hears", "session", "silent")

    def __init__(self, heard_at: float) -> None:
        self.heard_at = heard_at
        self.session = Session.NONE
        self.silent = False  # found suspect or down since it was last heard
        self.peer_hears = False


class Detector:
    """The failure detector of one leadership. All times are monotonic seconds."""

    def __init__(self, settings: Settings, started_at: float) -> None:
        self.settings = settings
        self._records: dict[str, _Record] = {}
        self._last_tick = started_at
        self._expected = started_at + TICK

    def beat(self, node_id: str, now: float) -> None:
        """The node was heard: whatever was suspected is over."""
        record = self._record(node_id, now)
        record.heard_at = max(record.heard_at, now)
        record.session = Session.CONNECTED
        record.silent = record.peer_hears = False

    def lost(self, node_id: str, now: float) -> None:
        """The connection broke without a goodbye. Nothing but silence follows from that."""
        record = self._record(node_id, now)
        if record.session is Session.CONNECTED:
            record.session = Session.LOST

    def goodbye(self, node_id: str, now: float, *, restart: bool) -> None:
        """The node ends its session on purpose."""
        record = self._record(node_id, now)
        record.heard_at = max(record.heard_at, now)
        record.session = Session.RESTARTING if restart else Session.GONE
        record.silent = record.peer_hears = False

    def probed(self, node_id: str, *, heard: bool) -> None:
        """A peer answered whether it hears the node. One that does outweighs any that do not."""
        record = self._records.get(node_id)
        if record is not None and record.silent:
            record.peer_hears |= heard

    def tick(self, now: float, nodes: Mapping[str, NodeState]) -> Judgement:
        """Judge the nodes of the store, given the states they have there."""
        self._forgive(now)
        for gone in self._records.keys() - nodes.keys():
            del self._records[gone]
        transitions, probes = [], []
        wake_at = now + TICK
        for node_id in sorted(nodes):
            record = self._record(node_id, now)
            state, deadline = self._judge(record, now)
            wake_at = min(wake_at, deadline)
            if state is NodeState.DISCONNECTED and not record.silent:
                probes.append(node_id)
            record.silent |= state is not NodeState.READY
            if _differs(record, nodes[node_id], state):
                transitions.append(Transition(node_id, state, _message(record, state)))
        self._last_tick, self._expected = now, wake_at
        return Judgement(tuple(transitions), tuple(probes), Seconds(wake_at))

    def _record(self, node_id: str, now: float) -> _Record:
        record = self._records.get(node_id)
        if record is None:
            record = self._records[node_id] = _Record(now)
        return record

    def _forgive(self, now: float) -> None:
        """Move everybody's time by ours when this tick comes far too late."""
        late = now - self._expected
        if late > FROZEN:
            for record in self._records.values():
                record.heard_at = min(now, record.heard_at + late)

    def _judge(self, record: _Record, now: float) -> tuple[NodeState, float]:
        """The state that a node's silence deserves, and until when."""
        if record.session is Session.GONE:
            return NodeState.DOWN, float("inf")
        suspect_at, down_at = self._deadlines(record)
        if now < suspect_at:
            return NodeState.READY, suspect_at
        if now < down_at:
            return NodeState.DISCONNECTED, down_at
        return NodeState.DOWN, float("inf")

    def _deadlines(self, record: _Record) -> tuple[float, float]:
        suspect, down = self.settings.suspect_after, self.settings.down_after
        if record.session is Session.RESTARTING:
            suspect, down = (
                max(suspect, RESTART_GRACE),
                max(suspect, RESTART_GRACE) + down - suspect,
            )
        elif record.session is Session.NONE:
            suspect, down = 2 * suspect, 2 * down
        if record.peer_hears:
            down = max(down, 2 * self.settings.down_after)
        return record.heard_at + suspect, record.heard_at + down


#: From better to worse.
_WORSE: Final = {
    NodeState.READY: 0,
    NodeState.UNKNOWN: 0,
    NodeState.DISCONNECTED: 1,
    NodeState.DOWN: 2,
}


def _differs(record: _Record, known: NodeState, judged: NodeState) -> bool:
    """Whether the judgement changes what the store says.

    Silence can make a node worse at any time. Better it gets only by being heard again: neither a
    peer's late answer nor time that was forgiven brings it back.
    """
    if _WORSE[judged] > _WORSE[known]:
        return True
    heard = record.session is not Session.NONE and not record.silent
    return judged is NodeState.READY and known is not NodeState.READY and heard


def _message(record: _Record, state: NodeState) -> str:
    if record.session is Session.GONE:
        return "the node shut down"
    if state is NodeState.DISCONNECTED:
        return "heartbeat late: other nodes are asked whether they hear it"
    if state is NodeState.DOWN:
        return "heartbeat failure"
    return ""
