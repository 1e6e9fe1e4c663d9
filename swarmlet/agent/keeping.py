"""When the tasks of a node are written to disk; :mod:`swarmlet.agent.storage` says how.

What changes is written soon. A container starts only when its task is on disk: after a power cut in
the next moment, a node that boots alone must know of it.
"""

from collections.abc import Callable
from typing import Final, NamedTuple, NoReturn

import structlog
import trio

from swarmlet.agent.storage import Kept, Storage
from swarmlet.agent.units import Unit
from swarmlet.clock import Seconds
from swarmlet.errors import DiskFailed
from swarmlet.model.objects import TaskState

#: A burst of changes (a full assignment, 50 tasks that start) becomes a few writes of the file.
SAVE_EVERY: Final = Seconds(0.25)

#: Seconds that a start waits for a disk: a task that runs is worth more than the memory of it.
KEPT_WITHIN: Final = Seconds(2.0)

log = structlog.get_logger(__name__)


class _OnDisk(NamedTuple):
    """What of a task must be on disk before its container starts."""

    desired: TaskState
    seen_in: str


class Keeper:
    """Writes what ``kept`` returns soon after it changed."""

    def __init__(self, storage: Storage, kept: Callable[[], list[Kept]]) -> None:
        self._storage = storage
        self._kept = kept
        self._dirty = trio.Event()
        self._hurry = trio.Event()
        self._tried = trio.Event()  # set, and replaced, after each write
        self._on_disk: dict[str, _OnDisk] = {}

    async def load(self) -> list[Kept]:
        """Read what was there when this node stopped."""
        return await trio.to_thread.run_sync(self._storage.load)

    def changed(self) -> None:
        """Something is to be written."""
        self._dirty.set()

    async def keep(self, unit: Unit) -> None:
        """Return once a task is on disk as it is now, or when that takes too long or fails.

        What many wait for is written at once.
        """
        wanted = _OnDisk(unit.task.desired, unit.seen_in)
        if self._holds(unit, wanted):
            return
        self._dirty.set()
        self._hurry.set()
        with trio.move_on_after(KEPT_WITHIN):
            for _ in range(2):  # the write that is under way may have begun before
                await self._tried.wait()
                if self._holds(unit, wanted):
                    return
        log.warning("task-starts-unkept", task=unit.task.task_id)

    def _holds(self, unit: Unit, wanted: _OnDisk) -> bool:
        return self._on_disk.get(unit.task.task_id) == wanted

    async def run(self) -> NoReturn:
        """Write until cancelled; what changes last is the caller's to :meth:`save`."""
        while True:
            await self._dirty.wait()
            await self.save()
            with trio.move_on_after(SAVE_EVERY):
                await self._hurry.wait()

    async def save(self) -> None:
        """Write now."""
        self._dirty, self._hurry = trio.Event(), trio.Event()
        kept = self._kept()
        try:
            await trio.to_thread.run_sync(self._storage.save, kept)
        except DiskFailed as exc:
            # Running tasks matter more than the memory of them.
            log.warning("assignments-not-kept", reason=exc.message)
        else:
            self._on_disk = {k.task.task_id: _OnDisk(k.task.desired, k.seen_in) for k in kept}
        self._tried.set()
        self._tried = trio.Event()
