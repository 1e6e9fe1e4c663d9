"""Waits between two tries at something the engine did not do."""

from typing import Final

import trio

from swarmlet.clock import Rng, Seconds

#: Retries after a failure of the engine: soon first, since most are a restart of dockerd.
RETRY_FIRST: Final = Seconds(0.05)
RETRY_MOST: Final = Seconds(3.0)


class Backoff:
    """Waits that grow from :data:`RETRY_FIRST` to :data:`RETRY_MOST`, spread by a half."""

    def __init__(self, rng: Rng) -> None:
        self._rng = rng
        self._next = RETRY_FIRST

    def reset(self) -> None:
        """Begin again with the shortest wait."""
        self._next = RETRY_FIRST

    def delay(self) -> Seconds:
        """How long to wait now; longer the next time."""
        delay = Seconds(self._next * (0.75 + self._rng.random() / 2))
        self._next = Seconds(min(self._next * 2, RETRY_MOST))
        return delay

    async def wait(self) -> None:
        """Sleep, and longer the next time."""
        await trio.sleep(self.delay())
