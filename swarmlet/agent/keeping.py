"""When the tasks of a node are written to disk; :mod:`swarmlet.agent.storage` says how."""

from collections.abc import Callable
from typing import Final, NoReturn

import structlog
import trio

from swarmlet.agent.storage import Kept, Storage
from swarmlet.clock import Seconds
from swarmlet.errors import DiskFailed

#: A burst of changes (a full assignment, 50 tasks that start) becomes a few writes of the file.
SAVE_EVERY: Final = Seconds(0.25)

log = structlog.get_logger(__name__)


class Keeper:
    """Writes what ``kept`` returns soon after it changed."""

    def __init__(self, storage: Storage, kept: Callable[[], list[Kept]]) -> None:
        self._storage = storage
        self._kept = kept
        self._dirty = trio.Event()

    async def load(self) -> list[Kept]:
        """Read what was there when this node stopped."""
        return await trio.to_thread.run_sync(self._storage.load)

    def changed(self) -> None:
        """Something is to be written."""
        self._dirty.set()

    async def run(self) -> NoReturn:
        """Write until cancelled; what changes last is the caller's to :meth:`save`."""
        while True:
            await self._dirty.wait()
            await self.save()
            await trio.sleep(SAVE_EVERY)

    async def save(self) -> None:
        """Write now."""
        self._dirty = trio.Event()
        try:
            await trio.to_thread.run_sync(self._storage.save, self._kept())
        except DiskFailed as exc:
            # Running tasks matter more than the memory of them.
            log.warning("assignments-not-kept", reason=exc.message)
