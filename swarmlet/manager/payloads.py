"""Which secrets and configs one node was given, and which it has to get or give back next.

A node has the data of those that its tasks name, from before a task is assigned until the last task
that names it has ended. However many tasks share one, it is sent once.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from msgspec.structs import replace

from swarmlet.manager import briefing
from swarmlet.model.files import payloads_of
from swarmlet.model.objects import Config, Secret, Task
from swarmlet.rpc.messages import Payloads
from swarmlet.state.store import View

#: Bytes of data in one message; one that is larger goes alone.
MAX_DATA: Final = 1 << 20


class PayloadFeed:
    """The payloads of one session."""

    def __init__(self) -> None:
        self._users: dict[str, set[str]] = {}
        self._of_task: dict[str, frozenset[str]] = {}

    @property
    def given(self) -> tuple[str, ...]:
        """Identifiers of what the node has by now, if it was told all."""
        return tuple(sorted(self._users))

    def next(self, view: View, task_ids: Iterable[str]) -> list[Payloads]:
        """What to say before these tasks of the node, which changed or went, are assigned."""
        before = set(self._users)
        for task_id in task_ids:
            self._note(task_id, _needed(view.task(task_id)))
        now = set(self._users)
        return list(_messages(view, sorted(now - before), sorted(before - now)))

    def _note(self, task_id: str, needed: frozenset[str]) -> None:
        had = self._of_task.pop(task_id, frozenset())
        if needed:
            self._of_task[task_id] = needed
        for ident in needed - had:
            self._users.setdefault(ident, set()).add(task_id)
        for ident in had - needed:
            users = self._users[ident]
            users.discard(task_id)
            if not users:
                del self._users[ident]


def _needed(task: Task | None) -> frozenset[str]:
    """A task that was placed needs its payloads until it has ended: its host may go down and up."""
    if task is None or not briefing.sendable(task) or task.status.state.ended:
        return frozenset()
    return payloads_of(task.spec.container)


def _messages(view: View, new: Sequence[str], gone: Sequence[str]) -> Iterator[Payloads]:
    """Nothing, or one message or several. What was removed meanwhile is missing: tasks say so."""
    piece: list[Secret | Config] = []
    room = MAX_DATA
    for ident in new:
        one: Secret | Config | None = view.secrets.get(ident)
        one = one or view.configs.get(ident)
        if one is None:
            continue
        if piece and len(one.data) > room:
            yield _message(piece)
            piece, room = [], MAX_DATA
        piece.append(one)
        room -= len(one.data)
    if piece or gone:
        yield replace(_message(piece), gone=tuple(gone))


def _message(piece: Sequence[Secret | Config]) -> Payloads:
    return Payloads(
        data={one.id: one.data for one in piece},
        templates=tuple(one.id for one in piece if one.spec.templating is not None),
    )
