"""When the next attempt at a slot may start: now, later, or never.

Derived from the attempts that the store still has, so that a new leader answers the same. Only
attempts at the present version of the service count: a changed template starts afresh, as in
swarmkit. Sources: swarmkit's orchestrator/restart, and the Engine API's ``RestartPolicy``.
"""

from collections.abc import Iterable
from typing import Final

from swarmlet.clock import SECOND, Instant
from swarmlet.model.defaults import Restart
from swarmlet.model.objects import Task, TaskState

#: How an attempt ends by itself. SHUTDOWN (we asked) and ORPHANED (its node is gone) are no
#: failures of the task: nothing is counted for them and nothing waits.
_BY_ITSELF: Final = frozenset({TaskState.COMPLETE, TaskState.FAILED, TaskState.REJECTED})

#: Guard against a hot loop where the policy has no delay: of any six starts of a slot, the last is
#: at least so long after the first. The first five are never slowed, and no start waits longer.
GUARD_STARTS: Final = 5
GUARD_PERIOD: Final = 3 * SECOND


def ended_by_itself(task: Task) -> bool:
    """Whether a task came to its end without being asked and without losing its node."""
    return task.status.state in _BY_ITSELF


def newest(attempts: Iterable[Task]) -> Task | None:
    """The latest attempt at a slot."""
    return max(attempts, key=_age, default=None)


def next_start(
    policy: Restart,
    attempts: Iterable[Task],
    *,
    spec_version: int,
    now: Instant,
    from_end: bool = False,
) -> Instant | None:
    """When the slot's next attempt may start: ``now`` for at once, None for never.

    ``attempts`` are the tasks in the slot that the store still has, in any order. ``from_end``:
    the delay counts from the end of the last attempt, since the next one is made only when due.
    """
    mine = sorted((t for t in attempts if t.spec_version == spec_version), key=_age)
    if not mine or not ended_by_itself(mine[-1]):
        return now
    last = mine[-1]
    if not wants_another(policy, last) or _exhausted(policy, mine):
        return None
    # A rejected task ended while it was prepared, where its successor would end as well and at
    # once: that one is not made before its time, so the delay counts from the end, not from now.
    since = min(last.status.at, now) if rejected(last) or from_end else now
    return Instant(max(since + policy.delay, _guarded(mine, now), now))


def rejected(task: Task) -> bool:
    """Whether a task could not even be prepared (no such image, a bad mount)."""
    return task.status.state is TaskState.REJECTED


def _age(task: Task) -> tuple[int, Instant, str]:
    return (task.spec_version, task.created_at, task.id)


def wants_another(policy: Restart, last: Task) -> bool:
    """Whether the policy's condition asks for a successor to a task that ended by itself."""
    if policy.condition == "on-failure":
        return last.status.state is not TaskState.COMPLETE
    return policy.condition == "any"


def _exhausted(policy: Restart, mine: list[Task]) -> bool:
    """Whether the attempts are used up. Each end but the first is that of a restarted task.

    The window reaches back from the last end, not from now: waiting does not bring attempts back.
    The reaper keeps enough ended tasks for this count (``max_attempts`` + 1).
    """
    if not policy.attempts:
        return False
    restarts = [task for task in mine if ended_by_itself(task)][1:]
    if policy.window:
        last = mine[-1]
        since = max(last.status.at, last.created_at) - policy.window
        restarts = [task for task in restarts if task.created_at >= since]
    return len(restarts) >= policy.attempts


def _guarded(mine: list[Task], now: Instant) -> int:
    """The earliest start that the guard allows; bounded, whatever clocks did."""
    if len(mine) < GUARD_STARTS:
        return now
    return min(mine[-GUARD_STARTS].created_at, now) + GUARD_PERIOD
