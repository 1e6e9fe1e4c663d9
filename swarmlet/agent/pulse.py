"""Whether the engine lives: it is asked for a sign of life every few seconds.

Its stream of events says nothing of that: a process that hangs keeps its connections open, and
takes new ones. So each question comes over a new connection, and only an answer counts.
"""

from collections.abc import Callable
from typing import Final, NoReturn, Protocol

import structlog
import trio

from swarmlet.clock import Seconds
from swarmlet.errors import EngineError, EngineUnavailable, NotFound

log = structlog.get_logger(__name__)

#: Seconds between two questions. One costs 0.4 ms here and as much in the engine; by so much later,
#: at most, is a node down whose engine hangs.
PROBE_EVERY: Final = 5.0

#: Seconds for an answer. ``/_ping`` waits for no disk and no container, only for its turn on a
#: processor: an engine that was given a twentieth of one, and four containers to start with it,
#: took up to 0.5 s. One that needs ten seconds for this starts nothing in time either.
PROBE_TIMEOUT: Final = 10.0

#: Seconds between two questions to an engine that is away: most are only restarted.
PROBE_AGAIN: Final = 1.0


class Pinged(Protocol):
    """The one thing that is asked of an engine here."""

    async def ping(self) -> None:
        """Return when the engine answers a new connection."""
        ...


class Pulse:
    """For how long an engine is away.

    ``missed`` is called at each question without an answer.
    """

    def __init__(self, engine: Pinged, *, missed: Callable[[], None]) -> None:
        self._engine = engine
        self._missed = missed
        self._silent_since: float | None = None  # no sign of life since then
        self._blind_since: float | None = None  # it lives, but shows no containers since then
        self._doubted = trio.Event()

    def away(self) -> Seconds:
        """For how long the engine is of no use; 0 while it is."""
        now = trio.current_time()
        since = [s for s in (self._silent_since, self._blind_since) if s is not None]
        return Seconds(now - min(since, default=now))

    def doubt(self) -> None:
        """A connection to the engine broke: it counts as silent until it answers, asked at once."""
        self._fall_silent(trio.current_time())
        self._doubted.set()

    def failed(self, began: float) -> None:
        """A look at all containers, begun at that time, failed."""
        if self._silent_since is None and self._blind_since is None:
            self._blind_since = began

    def seen(self) -> None:
        """A look at all containers succeeded."""
        self._silent_since = self._blind_since = None

    async def watch(self) -> NoReturn:
        """Ask, for good."""
        self._fall_silent(trio.current_time())  # until it has answered once
        while True:
            if await self._answers():
                self._silent_since = None
                with trio.move_on_after(PROBE_EVERY):
                    await self._doubted.wait()
                self._doubted = trio.Event()
            else:
                self._missed()
                await trio.sleep(PROBE_AGAIN)

    async def _answers(self) -> bool:
        with trio.move_on_after(PROBE_TIMEOUT):
            try:
                await self._engine.ping()
            except EngineUnavailable:
                self._fall_silent(trio.current_time())
                return False
            except (EngineError, NotFound):
                pass  # whatever it says: it lives
            return True
        # Not since the question was asked: this process may have stood still meanwhile.
        self._fall_silent(trio.current_time() - PROBE_TIMEOUT)
        return False

    def _fall_silent(self, since: float) -> None:
        if self._silent_since is None:
            self._silent_since = since
