"""What a member knows of leadership, and who waits to hear of a change."""

from collections.abc import AsyncGenerator

import trio

from swarmlet.consensus.port import Leadership


class LeadershipNews:
    """The present leadership. Whoever is slow to listen hears the newest, not each."""

    def __init__(self, first: Leadership) -> None:
        self.now = first
        self._changed = trio.Event()

    def tell(self, news: Leadership) -> None:
        """Wake those who listen, if this is news."""
        if news != self.now:
            self.now = news
            self._changed.set()
            self._changed = trio.Event()

    async def watch(self) -> AsyncGenerator[Leadership, None]:
        """Yield the present leadership, then each change."""
        seen = None
        while True:
            while self.now == seen:
                await self._changed.wait()
            seen = self.now
            yield seen
