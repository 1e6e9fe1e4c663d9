"""Group commit for the leader's own small writes.

What gathers while one proposal is under way goes into the next. So ten thousand status reports
cost a few Raft entries, and a single one waits for nobody.
"""

import structlog
import trio

from swarmlet.errors import NoQuorum
from swarmlet.manager.proposer import Proposer
from swarmlet.state.commands import AnyCommand

log = structlog.get_logger()

#: Commands in one proposal: keeps a Raft entry far below its limit of 1 MiB (about 300 bytes each).
MAX_BATCH = 500


class Committer:
    """Proposes queued commands in order; each waiter is told when its command is committed."""

    def __init__(self, proposer: Proposer) -> None:
        self._proposer = proposer
        self._queue: list[tuple[AnyCommand, trio.Event]] = []
        self._wake = trio.Event()

    def submit(self, command: AnyCommand) -> trio.Event:
        """Queue a command; the event is set when it is committed (refusals are not reported)."""
        done = trio.Event()
        self._queue.append((command, done))
        self._wake.set()
        return done

    async def run(self) -> None:
        """Commit until cancelled; while there is no quorum, try again (commands are idempotent)."""
        while True:
            await self._wake.wait()
            batch, self._queue = self._queue[:MAX_BATCH], self._queue[MAX_BATCH:]
            if not self._queue:
                self._wake = trio.Event()
            await self._commit(tuple(command for command, _ in batch))
            for _, done in batch:
                done.set()

    async def _commit(self, commands: tuple[AnyCommand, ...]) -> None:
        while True:
            try:
                await self._proposer.outcomes(*commands)
            except NoQuorum:
                log.warning("commit-delayed", reason="no quorum", commands=len(commands))
            else:
                return
