"""Group commit for the leader's own small writes.

What gathers while one proposal is under way goes into the next. So ten thousand status reports
cost a few Raft entries, and a single one waits for nobody.
"""

from collections import deque
from typing import Final

import msgspec
import structlog
import trio

from swarmlet.errors import SwarmletError, Unavailable
from swarmlet.manager.proposer import Proposer
from swarmlet.state.commands import AnyCommand

log = structlog.get_logger()

#: Bytes of commands in one proposal (or one command, if it alone is larger): far below the 1 MiB
#: that a Raft entry may have, and small enough not to delay heartbeats.
MAX_BATCH: Final = 256 << 10


class Committer:
    """Proposes queued commands in order; each waiter is told when its command is committed."""

    def __init__(self, proposer: Proposer) -> None:
        self._proposer = proposer
        self._queue: deque[tuple[AnyCommand, int, trio.Event]] = deque()
        self._wake = trio.Event()

    def submit(self, command: AnyCommand) -> trio.Event:
        """Queue a command; the event is set when it is committed (refusals are not reported)."""
        done = trio.Event()
        self._queue.append((command, len(msgspec.msgpack.encode(command)), done))
        self._wake.set()
        return done

    async def run(self) -> None:
        """Commit until cancelled; while there is no quorum, try again (commands are idempotent)."""
        while True:
            await self._wake.wait()
            commands, waiting = self._take()
            if not self._queue:
                self._wake = trio.Event()
            await self._commit(commands)
            for done in waiting:
                done.set()

    def _take(self) -> tuple[list[AnyCommand], list[trio.Event]]:
        """The next batch."""
        commands: list[AnyCommand] = []
        waiting: list[trio.Event] = []
        room = MAX_BATCH
        while self._queue and (not commands or self._queue[0][1] <= room):
            command, size, done = self._queue.popleft()
            commands.append(command)
            waiting.append(done)
            room -= size
        return commands, waiting

    async def _commit(self, commands: list[AnyCommand]) -> None:
        while True:
            try:
                await self._proposer.outcomes(*commands)
            except Unavailable as exc:
                log.warning("commit-delayed", reason=exc.message, commands=len(commands))
            except SwarmletError as exc:
                await self._commit_one_by_one(commands, exc)
                return
            else:
                return

    async def _commit_one_by_one(self, commands: list[AnyCommand], why: SwarmletError) -> None:
        """One command that Raft will not take must not take the others, or the leader, with it."""
        if len(commands) == 1:
            log.error("command-dropped", reason=why.message, command=type(commands[0]).__name__)
            return
        for command in commands:
            await self._commit([command])
