"""Changes of a Raft group's members, and of who leads it: one at a time, asked of the leader."""

import trio

from swarmlet.consensus.port import NotLeader
from swarmlet.consensus.promises import Promises, Waiter
from swarmlet.consensus.settings import RaftSettings
from swarmlet.consensus.syncobj_core import RaftCore
from swarmlet.consensus.turns import Turns
from swarmlet.errors import FailedPrecondition, Unavailable


class MemberChanges:
    """Steps that a leader takes with the core, round by round."""

    def __init__(
        self, core: RaftCore, promises: Promises, turns: Turns, settings: RaftSettings
    ) -> None:
        self._core = core
        self._promises = promises
        self._turns = turns
        self._settings = settings
        self._one = trio.Lock()

    async def add(self, member: str) -> None:
        """Add a learner, let it catch up, make it a voter. Cancelled, it is no learner any more."""
        async with self._one:
            self._turns.require_leader()
            core, term = self._core, self._core.term
            if member in core.configuration.members:
                return
            core.add_learner(member)
            self._turns.wake()
            try:
                while not core.has_caught_up(member):
                    await self._turns.next()
                    self._turns.require_term(term)
                await self._change({*core.configuration.members, member})
            finally:
                if member not in core.configuration.members and core.leads:
                    core.drop_learner(member)

    async def remove(self, member: str) -> None:
        """Remove a voter; a leader asked to remove itself hands over and raises NotLeader."""
        async with self._one:
            self._turns.require_leader()
            members = set(self._core.configuration.members)
            if member not in members:
                return
            if members == {member}:
                raise FailedPrecondition("the last manager cannot be removed")
            if member == self._core.me:
                await self._transfer(None)
                raise NotLeader(self._core.leader_id)
            await self._change(members - {member})

    async def transfer(self, to: str | None) -> None:
        """Let ``to`` (or the member that is most up to date) take over."""
        async with self._one:
            self._turns.require_leader()
            await self._transfer(to)

    async def _change(self, members: set[str]) -> None:
        term = self._core.term
        while not self._core.may_change:
            await self._turns.next()
            self._turns.require_term(term)
        waiter = Waiter(None)
        self._promises.submitted(self._core.change_members(members), [waiter])
        self._turns.wake()
        await waiter.wait()

    async def _transfer(self, to: str | None) -> None:
        core = self._core
        others = [m for m in core.configuration.members if m != core.me and core.is_reachable(m)]
        successor = to or min(others, key=core.lag, default=None)
        if successor not in others:
            raise FailedPrecondition(f"{to or 'no other manager'} can take over now")
        now, patience = trio.current_time(), 2 * self._settings.election_max
        core.start_transfer(successor, until=now + patience)
        self._turns.wake()
        with trio.move_on_at(now + 2 * patience):
            while (core.leads and core.transferring) or core.leader_id is None:
                await self._turns.next()
        if core.leads:
            raise Unavailable(f"{successor} did not take over in time")
