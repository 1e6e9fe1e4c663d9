"""Checks the health of containers in their engine's stead: see :mod:`.probing`."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Final, Protocol

import structlog
import trio
from msgspec.structs import replace

from swarmlet.agent.probing import Health, after
from swarmlet.clock import SECOND, Nanos, Seconds, WallClock
from swarmlet.engine.convert import Check, Container
from swarmlet.errors import EngineError, EngineUnavailable, NotFound

#: Seconds between two looks whether a check has ended: the first, and the longest.
FIRST_LOOK: Final = Seconds(0.02)
LAST_LOOK: Final = Seconds(1.0)

log = structlog.get_logger(__name__)


class Executes(Protocol):
    """The part of :class:`swarmlet.engine.client.Engine` that is needed."""

    async def execute(self, container: str, command: Sequence[str]) -> str:
        """Begin a command in a container; returns its identifier."""
        ...

    async def exit_code(self, ident: str) -> int | None:
        """How a command ended; None while it runs."""
        ...


class Prober:
    """Knows the health of the containers that it checks. ``changed`` is told of whom it changed."""

    def __init__(
        self, engine: Executes, changed: Callable[[Container], None], *, clock: WallClock
    ) -> None:
        self._engine = engine
        self._changed = changed
        self._clock = clock
        self._checked: dict[str, _Checked] = {}

    def seen(self, found: Container) -> Container:
        """A container that the engine showed, with the health that it really has."""
        checked = self._checked.get(found.id)
        if checked is None or not checked.is_same(found):
            return found
        return replace(found, health=checked.health.status)

    async def run(self, containers: Iterable[Container]) -> None:
        """Check these until they end or are started anew, and no others any more."""
        before = self._checked
        self._checked = {}
        for one in containers:
            known = before.get(one.id)
            again = known is not None and known.is_same(one)
            self._checked[one.id] = known if known and again else _Checked(one)
        async with trio.open_nursery() as nursery:
            for checked in self._checked.values():
                log.info(
                    "health-checked-by-agent",
                    task=checked.container.task_id,
                    container=checked.container.id,
                    reason="engines before 23.0 forget to, when live-restore keeps containers",
                )
                nursery.start_soon(self._check, checked)

    async def _check(self, checked: "_Checked") -> None:
        one, check = checked.container, checked.container.check
        assert check is not None
        running: str | None = None  # a check that did not end in time, and may still run
        with suppress(NotFound):  # it is gone
            while True:
                await trio.sleep(check.interval / SECOND)
                try:
                    passed, running = await self._passes(one.id, check, running)
                except (EngineError, EngineUnavailable):
                    continue  # it is paused, or about to end, or the engine is slow
                age = Nanos(self._clock() - one.started_at)
                health = after(checked.health, check, passed=passed, age=age)
                news, checked.health = health.status != checked.health.status, health
                if news:
                    self._changed(one)

    async def _passes(
        self, container: str, check: Check, running: str | None
    ) -> tuple[bool, str | None]:
        """Whether a check ends well and in time; and if it runs on, its identifier."""
        ident = running or await self._engine.execute(container, check.command)
        pause = FIRST_LOOK
        with trio.move_on_after(check.timeout / SECOND):
            while (code := await self._engine.exit_code(ident)) is None:
                await trio.sleep(pause)
                pause = min(Seconds(2 * pause), LAST_LOOK)
            return code == 0 and running is None, None
        return False, ident


class _Checked:
    def __init__(self, container: Container) -> None:
        self.container = container
        self.health = Health(container.health)

    def is_same(self, other: Container) -> bool:
        """Whether this is the same process still."""
        return other.running and other.started_at == self.container.started_at
