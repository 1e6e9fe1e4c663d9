"""Consensus of one member in memory: for unit tests of what stands on it. Deterministic.

A proposal is applied at once, in the caller's task. Leadership is in the test's hand.
"""

from collections.abc import AsyncGenerator

import trio

from swarmlet.consensus.entries import MAX_COMMAND_BYTES, Proposal
from swarmlet.consensus.leadership import LeadershipNews
from swarmlet.consensus.port import (
    Applied,
    Leadership,
    MemberStatus,
    NotLeader,
    OutcomeUnknown,
    ProposalId,
    StateMachine,
)
from swarmlet.consensus.sessions import Answer, Sessions, attempt
from swarmlet.errors import Damaged, FailedPrecondition, InvalidInput, SwarmletError


class MemoryConsensus:
    """:class:`swarmlet.consensus.port.Consensus` without peers, disk, or waiting."""

    def __init__(self, member_id: str, state_machine: StateMachine, *, leads: bool = True) -> None:
        self._me = member_id
        self._machine = state_machine
        self._sessions = Sessions()
        self._applied = 0
        self._sequence = 0
        self._members = [member_id]
        self._lose_answers = 0
        self._stopped: Damaged | None = None
        self._advanced = trio.Event()
        leader = member_id if leads else None
        self._leadership = LeadershipNews(Leadership(term=1, leader=leader, is_leader=leads))

    # -- what a test does

    def lose_leadership(self, to: str | None = None) -> None:
        """Let ``to``, or for now nobody, lead."""
        self._leadership.tell(Leadership(term=self.leadership.term + 1, leader=to, is_leader=False))

    def gain_leadership(self) -> None:
        """Lead, in a new term."""
        self._leadership.tell(
            Leadership(term=self.leadership.term + 1, leader=self._me, is_leader=True)
        )

    def lose_answers(self, count: int = 1) -> None:
        """Apply the next ``count`` proposals, and raise OutcomeUnknown to their callers."""
        self._lose_answers = count

    # -- the port

    @property
    def leadership(self) -> Leadership:
        """What the test decided last."""
        return self._leadership.now

    @property
    def applied(self) -> int:
        """Index of the last entry applied."""
        return self._applied

    def watch_leadership(self) -> AsyncGenerator[Leadership, None]:
        """Yield the present leadership, then each change."""
        return self._leadership.watch()

    async def propose(self, command: bytes, *, ident: ProposalId | None = None) -> Applied:
        """Apply at once."""
        await trio.lowlevel.checkpoint()
        self._require_leader()
        if len(command) > MAX_COMMAND_BYTES:
            raise InvalidInput(f"a command of {len(command)} bytes, more than {MAX_COMMAND_BYTES}")
        self._sequence += 1
        identity = ident or ProposalId(self._me, self._sequence, self._sequence)
        self._advance()
        answer = self._sessions.once(Proposal(*identity, command), self._apply)
        if self._lose_answers > 0:
            self._lose_answers -= 1
            raise OutcomeUnknown("the test lost this answer")
        if not answer.ok:
            raise SwarmletError(f"the proposal was not applied: {answer.value.decode()}")
        return Applied(self._applied, answer.value)

    async def read_index(self) -> int:
        """Return the last index."""
        await trio.lowlevel.checkpoint()
        self._require_leader()
        return self._applied

    async def wait_applied(self, index: int) -> None:
        """Wait for a proposal of another task."""
        await trio.lowlevel.checkpoint()
        while self._applied < index:
            await self._advanced.wait()

    def members(self) -> list[MemberStatus]:
        """Return those the test added; they are all up and up to date."""
        return [MemberStatus(id=m, voter=True, reachable=True, lag=0) for m in self._members]

    def regressed_members(self) -> list[str]:
        """Nobody loses anything here."""
        return []

    async def add_member(self, member: str) -> None:
        """Note a member."""
        await trio.lowlevel.checkpoint()
        self._require_leader()
        if member not in self._members:
            self._members.append(member)
            self._advance()

    async def remove_member(self, member: str) -> None:
        """Forget a member."""
        await trio.lowlevel.checkpoint()
        self._require_leader()
        if self._members == [member]:
            raise FailedPrecondition("the last manager cannot be removed")
        if member == self._me:
            await self.transfer_leadership()
            raise NotLeader(self.leadership.leader)
        if member in self._members:
            self._members.remove(member)
            self._advance()

    async def transfer_leadership(self, to: str | None = None) -> None:
        """Let another member lead."""
        await trio.lowlevel.checkpoint()
        self._require_leader()
        others = [m for m in self._members if m != self._me and to in {None, m}]
        if not others:
            raise FailedPrecondition(f"{to or 'no other manager'} can take over now")
        self.lose_leadership(others[0])

    # -- inside

    def _require_leader(self) -> None:
        if self._stopped is not None:
            raise self._stopped
        if not self.leadership.is_leader:
            raise NotLeader(self.leadership.leader)

    def _apply(self, command: bytes) -> Answer:
        try:
            return attempt(self._machine, self._applied, command)
        except Damaged as exc:
            self._stopped = exc
            self.lose_leadership()
            raise

    def _advance(self) -> None:
        self._applied += 1
        self._advanced.set()
        self._advanced = trio.Event()
