"""What a decider returns: commands to propose, and when to look again though nothing changed.

Every ``decide`` of this package is a pure function of a :class:`~swarmlet.state.store.View`, what
became dirty, and the time. It is idempotent: when its commands have been applied, the same call
returns nothing. See docs/adr/0004-decisions-are-pure.md.
"""

import msgspec

from swarmlet.clock import Instant
from swarmlet.model.objects import TaskState
from swarmlet.state.commands import AnyCommand, ChangeTasks, TaskChange


class Decision(msgspec.Struct, frozen=True):
    """Commands in the order in which they must be applied, in one proposal."""

    commands: tuple[AnyCommand, ...] = ()
    wake_at: Instant | None = None


def earlier(one: Instant | None, other: Instant | None) -> Instant | None:
    """The earlier of two wake-up times; None is never."""
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)


def changing(changes: list[TaskChange]) -> tuple[AnyCommand, ...]:
    """One command for these changes, or none."""
    return (ChangeTasks(changes=tuple(changes)),) if changes else ()


def shut_down(task_id: str) -> TaskChange:
    """Ask a task to stop."""
    return TaskChange(id=task_id, desired=TaskState.SHUTDOWN)
