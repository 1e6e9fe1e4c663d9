"""Services to tasks: one wanted task in each slot, replaced when the template changes.

A replicated service has as many slots as replicas; a global one has a slot on each node that fits.
Everything is derived from the tasks in the view, so a new leader carries on wherever the old one
stopped. Three rules carry the module:

* A slot never has two wanted tasks; while an earlier attempt may still run on a living node, its
  successor is held at READY.
* A slot without a wanted task gets one when its restart policy says so (:mod:`.restart`).
* An update takes a running task down only when every other slot runs; a slot that does not run
  loses nothing and is updated at once.
"""

import heapq
from collections.abc import Callable, Iterable
from typing import Final

from swarmlet.clock import Instant
from swarmlet.control import restart
from swarmlet.control.decision import Decision, Id, changing, decision, earlier, shut_down
from swarmlet.control.enforcer import keeps_tasks
from swarmlet.control.filters import belongs
from swarmlet.model.defaults import restart_policy
from swarmlet.model.objects import (
    Node,
    NodeState,
    Service,
    Task,
    TaskState,
    UpdateState,
    UpdateStatus,
)
from swarmlet.model.specs import Availability
from swarmlet.state.commands import AnyCommand, CreateTasks, NewTask, SetUpdateStatus, TaskChange
from swarmlet.state.store import SlotKey, View

#: How an update ends well, and Docker's words for it.
_ENDS: Final = {
    UpdateState.UPDATING: (UpdateState.COMPLETED, "update completed"),
    UpdateState.ROLLBACK_STARTED: (UpdateState.ROLLBACK_COMPLETED, "rollback completed"),
}


def decide(
    view: View, services: Iterable[str], now: Instant, new_id: Callable[[], str]
) -> Decision:
    """Bring the tasks of these services closer to their specs."""
    commands: list[AnyCommand] = []
    again: dict[Id, Instant] = {}
    for service_id in sorted(set(services)):
        service = view.service(service_id)
        if service is None:
            continue  # removed: the state machine asked its tasks to go
        if service.spec.is_global:
            plan: _Plan = _Global(view, service, now, new_id)
        elif service.spec.mode.replicated_job or service.spec.mode.global_job:
            continue
        else:
            plan = _Replicated(view, service, now, new_id)
        plan.make()
        commands += plan.commands()
        if plan.wake_at is not None:
            again[service_id] = plan.wake_at
    return decision(commands, again)


class _Plan:
    """What one service needs. ``tasks`` are its wanted tasks by slot, as the plan leaves them."""

    def __init__(
        self, view: View, service: Service, now: Instant, new_id: Callable[[], str]
    ) -> None:
        self.view = view
        self.service = service
        self.now = now
        self.wake_at: Instant | None = None
        self.tasks: dict[SlotKey, Task] = {}
        self._new_id = new_id
        self._policy = restart_policy(service.spec.task_template)
        self._changes: list[TaskChange] = []
        self._new: list[NewTask] = []
        self._unsettled = False  # a slot does not run: the update must not stop another task

    def shape(self) -> None:
        """Bring the number of slots in line: stop surplus tasks, fill empty slots."""
        raise NotImplementedError

    def updatable(self, task: Task) -> bool:
        """Whether the update concerns the slot of this task now."""
        del task
        return True

    def replaceable(self, task: Task) -> bool:
        """Whether a new task could be made in the slot of this one."""
        del task
        return True

    def make(self) -> None:
        """Decide."""
        self._one_in_each_slot()
        self.shape()
        self._update()
        self._release()

    def commands(self) -> list[AnyCommand]:
        """The decision. Stops come first: a slot must never have two wanted tasks."""
        found = list(changing(self._changes))
        if self._new:
            found.append(
                CreateTasks(
                    service_id=self.service.id,
                    spec_version=self.service.spec_version,
                    tasks=tuple(self._new),
                )
            )
        return found + self._completed()

    def stop(self, task: Task) -> None:
        """Ask a task to stop; its slot is empty or its successor's."""
        self._changes.append(shut_down(task.id))

    def fill(self, key: SlotKey) -> None:
        """Make the next attempt at a slot, when its restart policy allows one."""
        attempts = list(self.view.tasks_in_slot(key))
        version = self.service.spec_version
        start = restart.next_start(self._policy, attempts, spec_version=version, now=self.now)
        last = restart.newest(attempts)
        if start is not None:
            if start > self.now and last is not None and restart.rejected(last):
                self._unsettled = True  # its successor would be rejected while it waits at READY
                self.wake_at = earlier(self.wake_at, start)
            else:
                self._create(key, start)
            return
        if last is not None and last.status.state is not TaskState.COMPLETE:
            self._unsettled = True

    def _create(self, key: SlotKey, start: Instant) -> None:
        self._unsettled = True
        later = start > self.now
        held = later or self._occupied(key)
        if later:
            self.wake_at = earlier(self.wake_at, start)
        self._new.append(
            NewTask(
                id=self._new_id(),
                slot=key[1],
                node_id=key[2],
                desired=TaskState.READY if held else TaskState.RUNNING,
                not_before=start if later else Instant(0),
            )
        )

    def _occupied(self, key: SlotKey, *, by_other_than: str = "") -> bool:
        """Whether an attempt at the slot may still run somewhere. A dead node does not block."""
        return any(
            task.id != by_other_than and self._may_run(task)
            for task in self.view.tasks_in_slot(key)
        )

    def _may_run(self, task: Task) -> bool:
        state = task.status.state
        if state < TaskState.ASSIGNED or state.ended:
            return False
        node = self.view.node(task.node_id)
        return node is not None and node.status.state is not NodeState.DOWN

    def _one_in_each_slot(self) -> None:
        """Two wanted tasks in a slot are a mistake (or two leaders): keep the better one."""
        for task in self.view.wanted_tasks(self.service.id):
            other = self.tasks.setdefault(task.slot_key, task)
            if other is task:
                continue
            worse, better = sorted((other, task), key=_merit)
            self.tasks[task.slot_key] = better
            self.stop(worse)

    def _update(self) -> None:
        """Replace tasks of an older template: those that do not run at once, else one at a time."""
        version = self.service.spec_version
        # Most tasks of a large service are as they should be: look closely at the others only.
        odd = [t for t in self.tasks.values() if t.spec_version != version or not _runs(t)]
        concerned = [task for task in odd if self.updatable(task)]
        dirty = [task for task in concerned if task.spec_version != version]
        ready = [task for task in dirty if self.replaceable(task)]
        idle = [task for task in concerned if not _runs(task)]
        for task in sorted((task for task in ready if not _runs(task)), key=_slot):
            self._replace(task)
        self._unsettled |= bool(idle)
        if self._unsettled:
            return
        if ready:
            self._replace(min(ready, key=_slot))
        self._unsettled = bool(dirty)

    def _replace(self, task: Task) -> None:
        self.stop(task)
        del self.tasks[task.slot_key]
        self._create(task.slot_key, self.now)

    def _release(self) -> None:
        """Let go the tasks held at READY whose time has come and whose predecessor has ended."""
        for task in self.tasks.values():
            if task.desired is not TaskState.READY:
                continue
            if task.not_before > self.now:
                self.wake_at = earlier(self.wake_at, task.not_before)
            elif not self._occupied(task.slot_key, by_other_than=task.id):
                self._changes.append(TaskChange(id=task.id, desired=TaskState.RUNNING))

    def _completed(self) -> list[AnyCommand]:
        """The update is over when no slot has an old task and every slot runs."""
        status = self.service.update_status
        if status is None or status.state not in _ENDS or self._unsettled:
            return []
        state, message = _ENDS[status.state]
        done = UpdateStatus(
            state=state, started_at=status.started_at, completed_at=self.now, message=message
        )
        version = self.service.version
        return [SetUpdateStatus(id=self.service.id, expect=version, update_status=done)]


class _Replicated(_Plan):
    """So many slots, numbered from 1. After scaling down, numbers may have gaps."""

    def shape(self) -> None:
        """See :class:`_Plan`."""
        missing = self.service.spec.replicas - len(self.tasks)
        if missing < 0:
            for task in _surplus(self.tasks.values(), -missing):
                self.stop(task)
                del self.tasks[task.slot_key]
        elif missing:
            for slot in self._empty_slots(missing):
                self.fill((self.service.id, slot, ""))

    def _empty_slots(self, count: int) -> list[int]:
        """So many slots to fill.

        First those whose task had to leave its node, then those whose task ended by itself (their
        restart policy decides), then the lowest free numbers.
        """
        left, ended = self._histories()
        replicas = self.service.spec.replicas
        order = [*sorted(left), *sorted(slot for slot in ended if slot <= replicas)]
        taken = {key[1] for key in self.tasks} | set(order)
        number = 0
        while len(order) < count:
            number += 1
            if number not in taken:
                order.append(number)
        return order[:count]

    def _histories(self) -> tuple[set[int], set[int]]:
        """Empty slots whose latest task (had to leave its node, ended by itself)."""
        latest: dict[int, Task] = {}
        for task in self.view.tasks_of_service(self.service.id):
            if task.slot_key not in self.tasks:
                other = latest.get(task.slot, task)
                latest[task.slot] = restart.newest((other, task)) or task
        left = {
            slot
            for slot, task in latest.items()
            if not task.status.state.ended and not keeps_tasks(self.view.node(task.node_id))
        }
        ended = {slot for slot, task in latest.items() if restart.ended_by_itself(task)}
        return left, ended


class _Global(_Plan):
    """One slot on each node that fits, number 0. A paused node keeps its task and gets no new."""

    def shape(self) -> None:
        """See :class:`_Plan`."""
        for task in list(self.tasks.values()):
            node = self.view.node(task.node_id)
            if node is None or not keeps_tasks(node) or not self._suits(node):
                self.stop(task)
                del self.tasks[task.slot_key]
        for node in sorted(self.view.nodes(), key=lambda node: node.id):
            key = (self.service.id, 0, node.id)
            if key not in self.tasks and node.schedulable and self._suits(node):
                self.fill(key)

    def updatable(self, task: Task) -> bool:
        """See :class:`_Plan`. A paused node is left out of the update, as in swarmkit."""
        node = self.view.node(task.node_id)
        return node is not None and node.spec.availability is Availability.ACTIVE

    def replaceable(self, task: Task) -> bool:
        """See :class:`_Plan`."""
        node = self.view.node(task.node_id)
        return node is not None and node.schedulable

    def _suits(self, node: Node) -> bool:
        return belongs(self.service.spec.task_template, node)


def _runs(task: Task) -> bool:
    return task.status.state is TaskState.RUNNING


def _slot(task: Task) -> tuple[int, str]:
    return (task.slot, task.node_id)


def _merit(task: Task) -> tuple[bool, int, TaskState, str]:
    """Which of two tasks in a slot stays: the greater."""
    return (_runs(task), task.spec_version, task.status.state, task.id)


def _surplus(tasks: Iterable[Task], count: int) -> list[Task]:
    """Tasks to stop when scaling down: what does not run, then from the fullest nodes."""
    ordered = sorted(tasks, key=lambda task: task.slot, reverse=True)
    idle = [task for task in ordered if not _runs(task)][:count]
    return idle + _from_fullest([task for task in ordered if _runs(task)], count - len(idle))


def _from_fullest(tasks: list[Task], count: int) -> list[Task]:
    """So many of these tasks (highest slots first), each from the node that has most of them."""
    by_node: dict[str, list[Task]] = {}
    for task in reversed(tasks):
        by_node.setdefault(task.node_id, []).append(task)
    heap = [(-len(mine), -mine[-1].slot, node_id) for node_id, mine in by_node.items()]
    heapq.heapify(heap)
    chosen = []
    for _ in range(min(count, len(tasks))):
        node_id = heap[0][2]
        mine = by_node[node_id]
        chosen.append(mine.pop())
        if mine:
            heapq.heapreplace(heap, (-len(mine), -mine[-1].slot, node_id))
        else:
            heapq.heappop(heap)
    return chosen
