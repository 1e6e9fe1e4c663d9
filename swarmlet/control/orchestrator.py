"""Services to tasks: one wanted task in each slot, replaced when the template changes.

A replicated service has as many slots as replicas; a global one has a slot on each node that fits.
Everything is derived from the tasks in the view, so a new leader carries on wherever the old one
stopped. Three rules carry the module:

* A slot has one wanted task; while an earlier attempt may still run on a living node, its successor
  is held at READY. Only a start-first update has two: the old one that runs, and beside it its
  replacement, until that runs.
* A slot without a wanted task gets one when its restart policy says so (:mod:`.restart`).
* An update (:mod:`.updater`) takes as many slots at a time as its parallelism allows, and counts
  every slot that does not run; a task that does not run loses nothing and is replaced at once.
"""

import heapq
from collections.abc import Callable, Iterable, Sequence

from msgspec.structs import replace

from swarmlet.clock import Instant
from swarmlet.control import restart, updater
from swarmlet.control.decision import Decision, Id, changing, decision, earlier, shut_down
from swarmlet.control.enforcer import keeps_tasks
from swarmlet.control.filters import belongs
from swarmlet.control.nodeset import host_ports
from swarmlet.control.template import Template
from swarmlet.model.defaults import restart_policy
from swarmlet.model.objects import Node, NodeState, Service, Task, TaskState
from swarmlet.model.specs import Availability
from swarmlet.state.commands import AnyCommand, CreateTasks, NewTask, PutService, TaskChange
from swarmlet.state.store import SlotKey, View


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
    """What one service needs.

    ``tasks`` are its wanted tasks by slot, as the plan leaves them; ``beside`` are replacements
    that start while the old task in ``tasks`` still runs; ``vacant`` are slots that have no wanted
    task, or one of this plan, but those whose work is done.
    """

    def __init__(
        self, view: View, service: Service, now: Instant, new_id: Callable[[], str]
    ) -> None:
        self.view = view
        self.service = service
        self.now = now
        self.wake_at: Instant | None = None
        self.tasks: dict[SlotKey, Task] = {}
        self.beside: dict[SlotKey, Task] = {}
        self.vacant: set[SlotKey] = set()
        self._new_id = new_id
        self._policy = restart_policy(service.spec.task_template)
        self._template = Template(view, service)
        self._changes: list[TaskChange] = []
        self._new: list[NewTask] = []
        self._said: AnyCommand | None = None

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

    def keeps_running(self, task: Task) -> bool:
        """Whether a replacement can start while this task still runs."""
        del task
        return True

    def make(self) -> None:
        """Decide."""
        self._sort()
        self.shape()
        self._update()
        self._release()

    def commands(self) -> list[AnyCommand]:
        """The decision. Stops come first: a slot must never have two wanted tasks."""
        if isinstance(self._said, PutService):
            return [self._said]  # all else is decided on the spec that comes back
        found = list(changing(self._changes))
        if self._new:
            found.append(
                CreateTasks(
                    service_id=self.service.id,
                    spec_version=self.service.spec_version,
                    tasks=tuple(self._new),
                )
            )
        return found if self._said is None else [*found, self._said]

    def stop(self, task: Task) -> None:
        """Ask a task to stop; its slot is empty or its successor's."""
        self._changes.append(shut_down(task.id))

    def drop(self, key: SlotKey) -> None:
        """Give up a slot."""
        for tasks in (self.tasks, self.beside):
            task = tasks.pop(key, None)
            if task is not None:
                self.stop(task)

    def fill(self, key: SlotKey) -> None:
        """Make the next attempt at a slot, when its restart policy allows one."""
        attempts = list(self.view.tasks_in_slot(key))
        version = self.service.spec_version
        start = restart.next_start(self._policy, attempts, spec_version=version, now=self.now)
        last = restart.newest(attempts)
        if start is None:
            if last is not None and last.status.state is not TaskState.COMPLETE:
                self.vacant.add(key)
            return
        self.vacant.add(key)
        if start > self.now and last is not None and restart.rejected(last):
            self.wake_at = earlier(self.wake_at, start)  # it would be rejected while it waits
        else:
            self._create(key, start)

    def _create(self, key: SlotKey, start: Instant) -> None:
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

    def _occupied(self, key: SlotKey) -> bool:
        """Whether a task that shall go may still run in the slot. A dead node does not block."""
        kept = {found.id for one in (self.tasks, self.beside) if (found := one.get(key))}
        return any(
            task.id not in kept and self._may_run(task) for task in self.view.tasks_in_slot(key)
        )

    def _may_run(self, task: Task) -> bool:
        state = task.status.state
        if state < TaskState.ASSIGNED or state.ended:
            return False
        node = self.view.node(task.node_id)
        return node is not None and node.status.state is not NodeState.DOWN

    def _sort(self) -> None:
        """Note what fills each slot, and stop what there is too much of."""
        crowded: dict[SlotKey, list[Task]] = {}
        for task in self.view.wanted_tasks(self.service.id):
            other = self.tasks.setdefault(task.slot_key, task)
            if other is not task:
                crowded.setdefault(task.slot_key, [other]).append(task)
        for key, tasks in crowded.items():
            self._choose(key, tasks)

    def _choose(self, key: SlotKey, tasks: Sequence[Task]) -> None:
        """Of several wanted tasks in a slot: the best, and its replacement while that starts.

        More than those are a mistake (or two leaders, or two updates).
        """
        groups: tuple[list[Task], list[Task]] = ([], [])
        for task in tasks:
            groups[self._template.fits(task)].append(task)
        old, new = (max(group, key=_merit, default=None) for group in groups)
        keep = [new or old]
        if old is not None and new is not None and _runs(old) and not _runs(new):
            keep = [old, new]
            self.beside[key] = new
        self.tasks[key] = keep[0] or tasks[0]
        for task in tasks:
            if task not in keep:
                self.stop(task)

    def _update(self) -> None:
        """Replace what is not up to date, as far as the update goes by now."""
        version = self.service.spec_version
        # Most tasks of a large service are as they should be: look closely at the others only.
        odd = [t for t in self.tasks.values() if t.spec_version != version or not _runs(t)]
        concerned = [task for task in odd if self.updatable(task)]
        dirty = {t.slot_key: t for t in concerned if not self._template.fits(t)}
        active = updater.in_progress(self.service)
        if not dirty and not active:
            return
        idle = [t for t in concerned if not _runs(t) and t.slot_key not in dirty]
        coming = [*idle, *self.beside.values()]
        late = self._late(coming) if active else {}
        attempts = self._attempts([late.get(task.id, task) for task in idle], late)
        turn = updater.Round(
            self.service, self.now, attempts=attempts, concerned=dirty.keys() | self.vacant
        )
        self._said = turn.verdict()
        if self._said is None and not updater.paused(self.service):
            below = self.vacant | {task.slot_key for task in concerned if not _runs(task)}
            self._advance(turn, dirty, below, attempts)
            self._said = turn.completed() or turn.waiting(coming)
        if turn.wake_at is not None:
            self.wake_at = earlier(self.wake_at, turn.wake_at)

    def _late(self, coming: Iterable[Task]) -> dict[str, Task]:
        """Give up tasks that do not come up; one beside a task that runs is stopped as well."""
        found = {}
        for task in coming:
            at = updater.late(self.service, task)
            if at is None:
                continue
            if at > self.now:
                self.wake_at = earlier(self.wake_at, at)
                continue
            found[task.id] = replace(task, late_at=self.now)
            extra = self.beside.get(task.slot_key) is task
            desired = TaskState.SHUTDOWN if extra else None
            self._changes.append(TaskChange(id=task.id, late_at=self.now, desired=desired))
            if extra:
                del self.beside[task.slot_key]
        return found

    def _attempts(self, idle: Iterable[Task], late: dict[str, Task]) -> dict[SlotKey, list[Task]]:
        """The update's own tasks, by slot, and older ones that are up to date and do not run."""
        version = self.service.spec_version
        found: dict[SlotKey, list[Task]] = {}
        for task in self.view.tasks_of_service(self.service.id):
            key = task.slot_key
            if task.spec_version == version and (key in self.tasks or key in self.vacant):
                found.setdefault(key, []).append(late.get(task.id, task))
        for task in (*idle, *self.beside.values()):
            if task.spec_version != version:
                found.setdefault(task.slot_key, []).append(task)
        return found

    def _advance(
        self,
        turn: updater.Round,
        dirty: dict[SlotKey, Task],
        below: set[SlotKey],
        attempts: dict[SlotKey, list[Task]],
    ) -> None:
        """Take the next slots: first those that do not run, then as many as there is room for."""
        busy = turn.busy(below, self.beside)
        order = sorted(dirty, key=lambda key: (turn.reached(key), key))
        for key in order:
            task = dirty[key]
            if key in self.beside or not self.replaceable(task):
                continue
            if not _runs(task):
                self._replace(task)
            elif not turn.terms.parallelism or len(busy) < turn.terms.parallelism:
                if turn.reached(key) and not self._due(attempts[key]):
                    continue
                busy.add(key)
                if turn.terms.start_first and self.keeps_running(task):
                    self._create(key, self.now)
                else:
                    self._replace(task)

    def _due(self, attempts: Iterable[Task]) -> bool:
        """Whether a slot that the update failed in, and whose old task runs, is tried again now."""
        version = self.service.spec_version
        start = restart.next_start(
            self._policy, attempts, spec_version=version, now=self.now, from_end=True
        )
        if start is not None and start > self.now:
            self.wake_at = earlier(self.wake_at, start)
        return start is not None and start <= self.now

    def _replace(self, task: Task) -> None:
        self.stop(task)
        del self.tasks[task.slot_key]
        self._create(task.slot_key, self.now)

    def _release(self) -> None:
        """Let go the tasks held at READY whose time has come and whose predecessor has ended."""
        for task in (*self.tasks.values(), *self.beside.values()):
            if task.desired is not TaskState.READY:
                continue
            if task.not_before > self.now:
                self.wake_at = earlier(self.wake_at, task.not_before)
            elif not self._occupied(task.slot_key):
                self._changes.append(TaskChange(id=task.id, desired=TaskState.RUNNING))


class _Replicated(_Plan):
    """So many slots, numbered from 1. After scaling down, numbers may have gaps."""

    def shape(self) -> None:
        """See :class:`_Plan`."""
        missing = self.service.spec.replicas - len(self.tasks)
        if missing < 0:
            for task in _surplus(self.tasks.values(), -missing):
                self.drop(task.slot_key)
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
                self.drop(task.slot_key)
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

    def keeps_running(self, task: Task) -> bool:
        """See :class:`_Plan`. Two tasks on one node cannot bind the same port of it."""
        return not set(host_ports(task.ports)) & set(host_ports(self.service.spec.ports))

    def _suits(self, node: Node) -> bool:
        return belongs(self.service.spec.task_template, node)


def _runs(task: Task) -> bool:
    return task.status.state is TaskState.RUNNING


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
