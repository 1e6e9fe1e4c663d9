"""What one service needs: its slots, who fills them, and which are next in an update.

Everything is derived from the tasks in the view. :mod:`.orchestrator` knows what slots there are.
"""

from collections.abc import Callable, Iterable, Sequence

from swarmlet.clock import Instant
from swarmlet.control import restart, updater
from swarmlet.control.decision import changing, earlier, shut_down
from swarmlet.control.template import Template
from swarmlet.model.defaults import LAST_GRACE, restart_policy
from swarmlet.model.objects import NodeState, Service, Task, TaskState
from swarmlet.state.commands import AnyCommand, CreateTasks, NewTask, PutService, TaskChange
from swarmlet.state.store import SlotKey, View


class Plan:
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

    def remove(self, key: SlotKey) -> None:
        """Give up a slot for good: its tasks go, and its history with them, containers included."""
        self.tasks.pop(key, None)
        self.beside.pop(key, None)
        self._changes += [
            TaskChange(id=task.id, desired=TaskState.REMOVE)
            for task in self.view.tasks_in_slot(key)
            if task.desired < TaskState.REMOVE
        ]

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
        if old is not None and new is not None and runs(old) and not runs(new):
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
        odd = [t for t in self.tasks.values() if t.spec_version != version or not runs(t)]
        concerned = [task for task in odd if self.updatable(task)]
        dirty = {t.slot_key: t for t in concerned if self._is_dirty(t)}
        active = updater.in_progress(self.service)
        if not dirty and not active:
            return
        idle = [t for t in concerned if not runs(t) and t.slot_key not in dirty]
        coming = [*idle, *self.beside.values()]
        if active:
            self._watch(coming)
        attempts = self._attempts(idle)
        turn = updater.Round(
            self.service, self.now, attempts=attempts, concerned=dirty.keys() | self.vacant
        )
        self._said = turn.verdict()
        if self._said is None and not updater.paused(self.service):
            below = self.vacant | {task.slot_key for task in concerned if not runs(task)}
            self._advance(turn, dirty, below, attempts)
            self._said = turn.completed() or turn.waiting(coming)
        if turn.wake_at is not None:
            self.wake_at = earlier(self.wake_at, turn.wake_at)

    def _is_dirty(self, task: Task) -> bool:
        """Whether the update replaces a task; also one that an earlier update gave up."""
        given_up = updater.is_late(task, self.now) and not runs(task)
        older = task.spec_version != self.service.spec_version
        return (given_up and older) or not self._template.fits(task)

    def _watch(self, coming: Iterable[Task]) -> None:
        """See to it that no task is waited for for ever.

        One of which there was no news for long has a last grace, then it counts as failed. It goes
        on all the same, unless the slot's old task runs.
        """
        for task in coming:
            if updater.is_late(task, self.now):
                if self.beside.get(task.slot_key) is task:
                    self.stop(self.beside.pop(task.slot_key))
                continue
            at = task.late_at or updater.overdue(self.service, task)
            if at and at <= self.now:
                at = Instant(self.now + LAST_GRACE)
                self._changes.append(TaskChange(id=task.id, late_at=at))
            self.wake_at = earlier(self.wake_at, at)

    def _attempts(self, idle: Iterable[Task]) -> dict[SlotKey, list[Task]]:
        """The update's own tasks, by slot, and older ones that are up to date and do not run."""
        version = self.service.spec_version
        found: dict[SlotKey, list[Task]] = {}
        for task in self.view.tasks_of_service(self.service.id):
            key = task.slot_key
            if task.spec_version == version and (key in self.tasks or key in self.vacant):
                found.setdefault(key, []).append(task)
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
            if not runs(task):
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


def runs(task: Task) -> bool:
    """Whether a task is up."""
    return task.status.state is TaskState.RUNNING


def _merit(task: Task) -> tuple[bool, int, TaskState, str]:
    """Which of two tasks in a slot stays: the greater."""
    return (runs(task), task.spec_version, task.status.state, task.id)
