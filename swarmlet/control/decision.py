"""What a decider returns: commands to propose, and when to look again though nothing changed.

Every ``decide`` of this package is a pure function of a :class:`~swarmlet.state.store.View`, what
became dirty, and the time. It is idempotent: when its commands have been applied, the same call
returns nothing. See docs/adr/0004-decisions-are-pure.md.
"""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from swarmlet.clock import Instant
from swarmlet.model.objects import TaskState
from swarmlet.state.commands import AnyCommand, ChangeTasks, TaskChange
from swarmlet.state.store import SlotKey

#: What a decider is asked about: a service, a node, or a slot.
Id = str | SlotKey


class Decision(msgspec.Struct, frozen=True):
    """Commands in the order in which they must be applied, in one proposal.

    ``wake_at`` is the earliest of ``again``: when which of the dirty ids must be looked at again
    though nothing changes (see :class:`Alarms`).
    """

    commands: tuple[AnyCommand, ...] = ()
    wake_at: Instant | None = None
    again: Mapping[Id, Instant] = msgspec.field(default_factory=dict)


class Alarms:
    """What becomes dirty by time alone. A loop keeps one; a new leader starts with all dirty."""

    def __init__(self) -> None:
        self._at: dict[Id, Instant] = {}

    def note(self, decided: Iterable[Id], decision: Decision) -> None:
        """These ids were decided, and the decision says when to look at some of them again."""
        for one in decided:
            self._at.pop(one, None)
        self._at.update(decision.again)

    def due(self, now: Instant) -> set[Id]:
        """What must be decided again by now."""
        return {one for one, at in self._at.items() if at <= now}

    @property
    def wake_at(self) -> Instant | None:
        """When the next one is due."""
        return min(self._at.values(), default=None)


def decision(commands: Sequence[AnyCommand], again: Mapping[Id, Instant]) -> Decision:
    """A decision that wakes at the earliest of ``again``."""
    return Decision(tuple(commands), min(again.values(), default=None), again)


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
