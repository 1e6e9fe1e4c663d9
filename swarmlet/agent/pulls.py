"""Pulls of images: few at once, and each image once, however many tasks wait for it."""

from typing import Final

import structlog
import trio

from swarmlet.engine.client import Engine
from swarmlet.errors import EngineError, NotFound
from swarmlet.rpc.messages import Assignment

#: Pulls wait for the network: two at once fill it.
PARALLEL_PULLS: Final = 2

log = structlog.get_logger(__name__)


class Pulls:
    """The pulls of one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._limit = trio.CapacityLimiter(PARALLEL_PULLS)
        self._locks: dict[str, trio.Lock] = {}

    async def fetch(self, task: Assignment) -> None:
        """Return when a task's image is here. Raises EngineError with what the registry said."""
        image = task.spec.container.image
        async with self._locks.setdefault(image, trio.Lock()), self._limit:
            if not await self._is_here(image):
                await self._pull(image, task)

    async def _pull(self, image: str, task: Assignment) -> None:
        try:
            digest = await self._engine.pull(image, auth=task.registry_auth)
            log.info("pulled", image=image, digest=digest)
        except (EngineError, NotFound) as exc:
            log.info("pull-failed", image=image, task=task.task_id, reason=exc.message)
            if not await self._is_here(image):
                # What a user asked for is not there; why the registry could not help comes second.
                raise EngineError(f"No such image: {image}: {exc.message}", status=404) from exc

    async def _is_here(self, image: str) -> bool:
        try:
            await self._engine.image(image)
        except NotFound:
            return False
        return True
