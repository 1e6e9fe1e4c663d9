"""Which node runs which task, and why a task finds none.

Tasks of one service and version ask the same of a node, so they are placed as a group: each node is
checked once, those that fit go into a heap, and each placement costs one step in it. Ranking is
swarmkit's: nodes where this version failed often lately come last, then the fewest tasks of the
service, then the fewest tasks in all. Placement preferences make a tree with a heap at each leaf.
"""

import heapq
import zlib
from collections.abc import Iterable, Sequence
from typing import Final, Protocol

from swarmlet.clock import SECOND, Instant
from swarmlet.control.constraints import label_value
from swarmlet.control.decision import Decision, changing
from swarmlet.control.filters import Needs, Reason, explain
from swarmlet.control.nodeset import Load, NodeSet
from swarmlet.model.objects import Task, TaskState, TaskStatus
from swarmlet.state.addresses import REST
from swarmlet.state.commands import TaskChange
from swarmlet.state.endpoints import no_address
from swarmlet.state.store import View

#: A node on which a version of a service failed this often within the period comes last
#: (swarmkit's maxFailures and monitorFailures).
MAX_FAILURES: Final = 5
FAILURE_PERIOD: Final = 5 * 60 * SECOND

#: Knuth's multiplicative hash. A CRC alone is linear: the same few nodes would win most ties.
_MIX: Final = 2_654_435_761
_MASK: Final = 0xFFFF_FFFF

ASSIGNED_MESSAGE: Final = "scheduler assigned task to node"
PENDING_MESSAGE: Final = "pending task scheduling"


def decide(
    view: View, now: Instant, *, tasks: Iterable[str] | None = None, nodes: NodeSet | None = None
) -> Decision:
    """Place these tasks, or all that wait. ``nodes`` must be up to date; it is left as it was."""
    round_ = _Round(view, NodeSet.of(view) if nodes is None else nodes, now)
    waiting = _waiting(view, tasks)
    round_.pass_over(_replaced(view, waiting))
    for group in _groups(waiting):
        round_.place(group)
    round_.undo()
    # An address that was given back rests before it is given again: nothing else tells its end.
    wake_at = Instant(now + REST) if round_.full else None
    return Decision(changing(round_.changes), wake_at)


def _waiting(view: View, tasks: Iterable[str] | None) -> list[Task]:
    """Tasks to place, the oldest first; the order does not depend on that of the tables."""
    if tasks is None:
        found = list(view.unassigned())
    else:
        named = (view.task(task_id) for task_id in set(tasks))
        found = [t for t in named if t and t.wanted and t.status.state <= TaskState.PENDING]
    return sorted(found, key=lambda task: (task.created_at, task.service_id, task.slot, task.id))


def _replaced(view: View, waiting: Iterable[Task]) -> list[Task]:
    """Tasks that run until one of those that wait takes their slot (a start-first update)."""
    return [
        other
        for task in waiting
        for other in view.tasks_in_slot(task.slot_key)
        if other.wanted and other.node_id and other.status.state >= TaskState.ASSIGNED
    ]


def _groups(tasks: Iterable[Task]) -> Iterable[list[Task]]:
    """Tasks of one service and version; groups in the order of their first tasks."""
    groups: dict[tuple[str, int], list[Task]] = {}
    for task in tasks:
        groups.setdefault((task.service_id, task.spec_version), []).append(task)
    return groups.values()


class _Round:
    """One call of :func:`decide`: placements so far, which later ones must respect."""

    def __init__(self, view: View, nodes: NodeSet, now: Instant) -> None:
        self.changes: list[TaskChange] = []
        self.full: set[str] = set()  # networks without a free address for a task
        self._view = view
        self._nodes = nodes
        self._room: dict[str, int] = {}  # addresses left, by network
        self._now = now
        self._taken: list[tuple[Load, Task]] = []
        self._passed_over: list[tuple[Load, Task]] = []
        self._assigned = TaskStatus(state=TaskState.ASSIGNED, at=now, message=ASSIGNED_MESSAGE)

    def pass_over(self, replaced: Iterable[Task]) -> None:
        """Rank, and limit the number of replicas on a node, as it will be without these tasks.

        What they hold (resources, ports) they hold until they have ended.
        """
        for task in replaced:
            load = self._nodes.loads.get(task.node_id)
            if load is not None:
                load.count(task, -1)
                self._passed_over.append((load, task))

    def place(self, group: list[Task]) -> None:
        """Place the tasks of one service and version."""
        needs = Needs.of(group[0], encrypted=self._is_encrypted(group[0]))
        anywhere = []
        for task in group:
            if task.node_id:
                self._place_there(task, needs)
            else:
                anywhere.append(task)
        if anywhere:
            self._place_anywhere(anywhere, needs)

    def _is_encrypted(self, task: Task) -> bool:
        networks = (self._view.network(a.network_id) for a in task.attachments)
        return any(network is not None and network.spec.encrypted for network in networks)

    def _has_addresses(self, task: Task) -> bool:
        """Whether each network of a task has an address left; else the task is told."""
        for attachment in task.attachments:
            network_id = attachment.network_id
            if network_id not in self._room:
                self._room[network_id] = self._view.free_addresses(network_id, self._now)
            network = self._view.network(network_id)
            if not attachment.address and not self._room[network_id] and network is not None:
                self.full.add(network_id)
                self._refuse(task, no_address(network))
                return False
        return True

    def _place_there(self, task: Task, needs: Needs) -> None:
        """A task of a global service: its node is known, whether it fits there is not."""
        if not self._has_addresses(task):
            return
        load = self._nodes.loads.get(task.node_id)
        reason = Reason.NOT_READY if load is None else needs.refusal(load)
        if load is None or reason is not None:
            self._refuse(task, explain([] if reason is None else [reason]))
            return
        load.take(task)
        self._assign(task, load)

    def _place_anywhere(self, tasks: list[Task], needs: Needs) -> None:
        reasons: list[Reason] = []
        tree = self._tree(tasks[0], needs, reasons)
        text = ""
        for task in tasks:
            if not self._has_addresses(task):
                continue
            load = None if text else tree.place(task)
            if load is not None:
                self._assign(task, load)
                continue
            text = text or explain(reasons)
            self._refuse(task, text)

    def _tree(self, task: Task, needs: Needs, reasons: list[Reason]) -> "_Place":
        levels = [
            preference.spread.spread_descriptor
            for preference in task.spec.where.preferences
            if preference.spread is not None
        ]
        since = Instant(self._now - FAILURE_PERIOD)
        leaf = _LeafMaker(task, needs, reasons, since)
        return _grow(list(self._nodes.loads.values()), levels, leaf)

    def _assign(self, task: Task, load: Load) -> None:
        self._taken.append((load, task))
        for attachment in task.attachments:
            self._room[attachment.network_id] -= not attachment.address
        self.changes.append(TaskChange(id=task.id, node_id=load.node.id, status=self._assigned))

    def _refuse(self, task: Task, text: str) -> None:
        """Say why, unless the task says so already: an unchanged reason is not written again."""
        if (task.status.err, task.status.message) == (text, PENDING_MESSAGE):
            return
        status = TaskStatus(
            state=TaskState.PENDING, at=self._now, message=PENDING_MESSAGE, err=text
        )
        self.changes.append(TaskChange(id=task.id, status=status))

    def undo(self) -> None:
        """Leave the node set as it was: what is committed comes back to it as a change."""
        for load, task in self._taken:
            load.take(task, -1)
        for load, task in self._passed_over:
            load.count(task, 1)


class _Place(Protocol):
    """A part of the spread tree."""

    def place(self, task: Task) -> Load | None:
        """Put one task of the group on the best node in here; None when all are full."""
        ...


class _LeafMaker:
    """What all leaves of one group have in common."""

    def __init__(self, task: Task, needs: Needs, reasons: list[Reason], since: Instant) -> None:
        self.service = task.service_id
        self.needs = needs
        self.reasons = reasons
        self._spec_version = task.spec_version
        self._since = since
        self._seed = zlib.crc32(task.service_id.encode())

    def __call__(self, loads: Sequence[Load]) -> "_Leaf":
        heap = []
        for load in loads:
            reason = self.needs.refusal(load)
            if reason is None:
                heap.append((*self.rank(load), load))
            else:
                self.reasons.append(reason)
        heapq.heapify(heap)
        return _Leaf(heap, self)

    def rank(self, load: Load) -> tuple[bool, int, int, int, str]:
        """The lower the better. Ties fall differently for each service, the same every time."""
        node_id = load.node.id
        failures = load.recent_failures(self.service, self._spec_version, self._since)
        tie = ((zlib.crc32(node_id.encode()) ^ self._seed) * _MIX) & _MASK
        fewest = load.services.get(self.service, 0)
        return (failures >= MAX_FAILURES, fewest, load.tasks, tie, node_id)


class _Leaf:
    """Nodes that take one more task, the best first."""

    def __init__(
        self, heap: list[tuple[bool, int, int, int, str, Load]], common: _LeafMaker
    ) -> None:
        self._heap = heap
        self._common = common

    def place(self, task: Task) -> Load | None:
        """See :class:`_Place`."""
        if not self._heap:
            return None
        failing, fewest, total, tie, node_id, load = self._heap[0]
        load.take(task)
        full = self._common.needs.full(load)
        if full is None:
            again = (failing, fewest + 1, total + 1, tie, node_id, load)
            heapq.heapreplace(self._heap, again)
        else:
            self._common.reasons.append(full)
            heapq.heappop(self._heap)
        return load


class _Branch:
    """The values of one label; each gets the next task when it has the fewest of the service."""

    def __init__(self, children: list[tuple[int, str, _Place]]) -> None:
        self._heap = children
        heapq.heapify(self._heap)

    def place(self, task: Task) -> Load | None:
        """See :class:`_Place`."""
        while self._heap:
            count, value, child = self._heap[0]
            load = child.place(task)
            if load is not None:
                heapq.heapreplace(self._heap, (count + 1, value, child))
                return load
            heapq.heappop(self._heap)
        return None


def _grow(loads: Sequence[Load], levels: Sequence[str], leaf: _LeafMaker) -> _Place:
    """The tree below one set of nodes. Nodes without the label are one value of it, as any other.

    A branch counts the tasks on all of its nodes, also on those that take no more: what matters is
    how many tasks are lost with the zone. (swarmkit counts those on suitable nodes only.)
    """
    if not levels:
        return leaf(loads)
    values: dict[str, list[Load]] = {}
    for load in loads:
        values.setdefault(label_value(levels[0], load.node), []).append(load)
    return _Branch(
        [
            (
                sum(load.services.get(leaf.service, 0) for load in members),
                value,
                _grow(members, levels[1:], leaf),
            )
            for value, members in values.items()
        ]
    )
