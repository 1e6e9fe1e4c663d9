"""How far an update is, whether it failed, and which slots are next: read off the tasks alone.

An update replaces the tasks that are not up to date (:mod:`.template`), slot by slot; its own tasks
carry the service's ``spec_version``. In each slot one of those is the *proof* of the new template:
the first that came up, ended by itself, or was given up as late. It tells whether the slot failed,
and when the slot was through, from where the delay and the monitor count. The reaper spares it as
long as the update runs, so what there is to remember is in the store (docs/adr/0011).
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

from msgspec.structs import replace

from swarmlet.clock import Instant
from swarmlet.control import restart
from swarmlet.control.decision import earlier
from swarmlet.model.defaults import Terms, come_up_limit, restart_policy, update_terms
from swarmlet.model.objects import Service, Task, TaskState, UpdateState, UpdateStatus
from swarmlet.state.commands import AnyCommand, PutService, SetUpdateStatus
from swarmlet.state.store import SlotKey

#: Separates Docker's message of an update from what the update waits for.
_WAITING: Final = "; waiting for "

#: How an update ends well, and Docker's words for it.
_ENDS: Final = {
    UpdateState.UPDATING: (UpdateState.COMPLETED, "update completed"),
    UpdateState.ROLLBACK_STARTED: (UpdateState.ROLLBACK_COMPLETED, "rollback completed"),
}
#: How it stops for a user to decide.
_PAUSES: Final = {
    UpdateState.UPDATING: (UpdateState.PAUSED, "update paused"),
    UpdateState.ROLLBACK_STARTED: (UpdateState.ROLLBACK_PAUSED, "rollback paused"),
}


def in_progress(service: Service) -> bool:
    """Whether an update or a rollback of the service is going on."""
    return service.update_status is not None and service.update_status.state.in_progress


def paused(service: Service) -> bool:
    """Whether an update or a rollback of the service waits for a user."""
    return service.update_status is not None and service.update_status.state.paused


def terms_of(service: Service) -> Terms:
    """What the user asks of the present update, or of the rollback."""
    status = service.update_status
    if status is not None and status.state in _BACK:
        return update_terms(service.spec.rollback_config)
    return update_terms(service.spec.update_config)


_BACK: Final = frozenset(
    {UpdateState.ROLLBACK_STARTED, UpdateState.ROLLBACK_PAUSED, UpdateState.ROLLBACK_COMPLETED}
)


def overdue(service: Service, task: Task) -> Instant | None:
    """When there was no news of a task for too long; None while nobody works on it.

    A task that no node has room for is not overdue: the update says what it waits for.
    """
    if not TaskState.ASSIGNED <= task.status.state < TaskState.RUNNING:
        return None
    limit = come_up_limit(service.spec.task_template)
    return Instant(max(task.updated_at, task.not_before) + limit)


def is_late(task: Task, now: Instant) -> bool:
    """Whether an update has given a task up."""
    return 0 < task.late_at <= now


def proof(attempts: Iterable[Task], now: Instant) -> Task | None:
    """The attempt of a slot that shows what the new template is worth; see above."""
    found = sorted(attempts, key=lambda task: (task.created_at, task.id))
    decided = (task for task in found if _through(task, now) is not None)
    return next(decided, found[-1] if found else None)


def _through(task: Task, now: Instant) -> Instant | None:
    """When it was decided what an attempt is worth."""
    times = [task.late_at] if is_late(task, now) else []
    if task.running_at or task.status.state is TaskState.RUNNING:
        times.append(task.running_at or task.created_at)
    if restart.ended_by_itself(task):
        times.append(task.ended_at or task.status.at)
    return min(times, default=None)


class Round:
    """One look at an update.

    ``attempts`` are its own tasks, by slot; ``concerned`` are the slots that it must reach, if it
    has not yet: those with an old task, and those whose new one is about to be made.
    """

    def __init__(
        self,
        service: Service,
        now: Instant,
        *,
        attempts: Mapping[SlotKey, Sequence[Task]],
        concerned: Collection[SlotKey],
    ) -> None:
        self.service = service
        self.terms = terms_of(service)
        self.active = in_progress(service)
        self.wake_at: Instant | None = None
        self._now = now
        self._policy = restart_policy(service.spec.task_template)
        self._concerned = set(concerned)
        self._proofs = {
            key: found for key, tasks in attempts.items() if (found := proof(tasks, now))
        }
        self._through = {key: _through(task, now) for key, task in self._proofs.items()}
        self._failed = {key: task for key, task in self._proofs.items() if self._is_failed(task)}

    def reached(self, key: SlotKey) -> bool:
        """Whether the update has made a task in a slot."""
        return key in self._proofs

    def busy(self, below: Iterable[SlotKey], beside: Iterable[SlotKey]) -> set[SlotKey]:
        """Slots that take part of the parallelism: they do not run, have two tasks, or rest.

        A slot that failed is given up for the update: it must not hold up the others for ever.
        """
        given_up = self._failed.keys() if self.active else ()
        found = {key for key in below if key not in given_up}
        found.update(beside)
        for key, at in self._through.items():
            if at is not None and self._lasts(at + self.terms.delay):
                found.add(key)
        return found

    def verdict(self) -> AnyCommand | None:
        """Pause or roll back, when too many slots failed."""
        failed, total = len(self._failed), len(self._proofs.keys() | self._concerned)
        action = self.terms.failure_action
        if not self.active or not failed or action == "continue":
            return None
        if failed / total <= self.terms.max_failure_ratio:
            return None
        last = max(
            self._failed.values(), key=lambda task: (_through(task, self._now) or 0, task.id)
        )
        why = f"due to failure or early termination of task {last.id}{self._why(last)}"
        status = self._status
        if action == "rollback" and status.state is UpdateState.UPDATING and self._has_way_back():
            return self._back(f"update rolled back {why}")
        state, words = _PAUSES[status.state]
        return self._say(replace(status, state=state, message=f"{words} {why}"))

    def completed(self) -> AnyCommand | None:
        """The update is over when every slot was reached, and watched for long enough."""
        if not self.active:
            return None
        times = [at for at in self._through.values() if at is not None]
        open_ = len(times) < len(self._proofs) or not self._concerned <= self._proofs.keys()
        if open_ or self._lasts(max(times, default=Instant(0)) + self.terms.monitor):
            return None
        state, message = _ENDS[self._status.state]
        done = replace(self._status, state=state, completed_at=self._now, message=message)
        return self._say(done)

    def waiting(self, tasks: Iterable[Task]) -> AnyCommand | None:
        """Say in the update's message for what it waits: a task of these that finds no place."""
        if not self.active:
            return None
        told = self._status.message.partition(_WAITING)[0]
        for task in sorted(tasks, key=lambda task: task.slot_key):
            if task.status.state <= TaskState.PENDING and task.status.err:
                told += f"{_WAITING}task {task.id}: {task.status.err}"
                break
        return (
            None if told == self._status.message else self._say(replace(self._status, message=told))
        )

    @property
    def _status(self) -> UpdateStatus:
        assert self.service.update_status is not None
        return self.service.update_status

    def _lasts(self, until: int) -> bool:
        """Whether a time is yet to come; then it is looked at again."""
        if until <= self._now:
            return False
        self.wake_at = earlier(self.wake_at, Instant(until))
        return True

    def _is_failed(self, task: Task) -> bool:
        if is_late(task, self._now):
            return True
        if not restart.ended_by_itself(task):
            return False
        if task.status.state is TaskState.COMPLETE and not restart.wants_another(
            self._policy, task
        ):
            return False  # it was to end like this
        ended_at = task.ended_at or task.status.at
        return not task.running_at or ended_at - task.running_at <= self.terms.monitor

    def _why(self, task: Task) -> str:
        if is_late(task, self._now):
            return ": it did not come up in time"
        return f": {task.status.err}" if task.status.err else ""

    def _has_way_back(self) -> bool:
        """Whether the previous spec is another template than the one that failed."""
        spec, before = self.service.spec, self.service.previous_spec
        return before is not None and (before.task_template, before.ports) != (
            spec.task_template,
            spec.ports,
        )

    def _say(self, status: UpdateStatus) -> AnyCommand:
        version = self.service.version
        return SetUpdateStatus(id=self.service.id, expect=version, update_status=status)

    def _back(self, message: str) -> AnyCommand:
        """The previous spec in the place of this one, which cannot be returned to."""
        before = self.service
        assert before.previous_spec is not None
        status = replace(self._status, state=UpdateState.ROLLBACK_STARTED, message=message)
        after = replace(
            before,
            spec=before.previous_spec,
            previous_spec=None,
            registry_auth=before.previous_registry_auth,
            previous_registry_auth="",
            update_status=status,
        )
        return PutService(service=after, expect=before.version)


def needed(service: Service, tasks: Iterable[Task], now: Instant) -> Task | None:
    """The task of one slot that a running update still counts with."""
    if not in_progress(service):
        return None
    return proof((task for task in tasks if task.spec_version == service.spec_version), now)
