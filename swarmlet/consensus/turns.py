"""Where callers and the loop meet: callers give it work, it tells them when a round has passed.

A caller that waits for something in the core looks again after each round, and first whether the
member still leads: what it waits for may never come, or come in another's term.
"""

import trio

from swarmlet.consensus.port import NotLeader
from swarmlet.consensus.syncobj_core import RaftCore
from swarmlet.errors import SwarmletError


class Turns:
    """The rounds of one member's loop."""

    def __init__(self, core: RaftCore) -> None:
        self._core = core
        self._work = trio.Event()
        self._passed = trio.Event()
        self._stopped: SwarmletError | None = None

    # -- what the loop does

    async def wait_for_work(self) -> None:
        """Return once somebody has work for the next round, or the core something to do by itself.

        Work that comes from now on is the round's after that.
        """
        core = self._core
        if core.applied_index < core.commit or core.next_deadline < trio.current_time():
            await trio.lowlevel.checkpoint()
        else:
            with trio.move_on_at(core.next_deadline + 0.001):
                await self._work.wait()
        self._work = trio.Event()

    def passed(self) -> None:
        """Let everybody who waits for a round look again."""
        self._passed.set()
        self._passed = trio.Event()

    def stop(self, reason: SwarmletError) -> SwarmletError:
        """There are no more rounds. Returns why: the first reason counts."""
        self._stopped = self._stopped or reason
        self.passed()
        return self._stopped

    # -- what callers do

    def wake(self) -> None:
        """There is work for the loop."""
        self._work.set()

    async def next(self) -> None:
        """Wait until a round has passed. Raises what the member stopped of."""
        if self._stopped is not None:
            raise self._stopped
        await self._passed.wait()

    def require_leader(self) -> None:
        """Go on only while this member leads. Raises NotLeader, or what the member stopped of."""
        if self._stopped is not None:
            raise self._stopped
        if not self._core.leads:
            raise NotLeader(self._core.leader_id)

    def require_term(self, term: int) -> None:
        """Go on only while this member leads in ``term``. Raises as :meth:`require_leader`."""
        self.require_leader()
        if self._core.term != term:
            raise NotLeader(self._core.leader_id)
