"""Proposals from any manager: committed here when it leads, forwarded to the leader when not.

A proposal keeps one identity through every retry, so that it is applied once whatever happens to
leaders and connections in between (docs/adr: Raft, exactly-once sessions).
"""

import itertools
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from functools import partial
from typing import Final, NoReturn, TypeVar

import structlog
import trio

from swarmlet.clock import Rng, WallClock
from swarmlet.consensus.port import (
    Applied,
    Consensus,
    NotLeader,
    OutcomeUnknown,
    ProposalId,
)
from swarmlet.control.roles import quorum
from swarmlet.errors import (
    REFUSALS,
    FailedPrecondition,
    InvalidInput,
    LeaderSilent,
    NoQuorum,
    OutOfSequence,
    ReplicaBehind,
    SwarmletError,
)
from swarmlet.manager.links import Links
from swarmlet.rpc.calls import (
    Answer,
    AskReadIndex,
    CallRefused,
    Committed,
    Forward,
    ReadIndexIs,
    Request,
)
from swarmlet.rpc.channel import ConnectionLost
from swarmlet.state.commands import AnyCommand, Outcome, Refusal, decode_outcomes, encode

_T = TypeVar("_T")

log = structlog.get_logger()

#: Seconds after which a write or a barrier without a quorum fails.
NO_QUORUM_AFTER: Final = 1.7

#: Seconds after which a write or a barrier fails though there is a leader: it is busy, or its disk.
LEADER_SILENT_AFTER: Final = 4.5

#: Seconds that the local replica has to apply what is committed, until it counts as behind.
FOLLOWS_WITHIN: Final = 1.7

#: Seconds between two looks for a leader while there is none.
RETRY: Final = 0.05


class Proposer:
    """Commits commands and brings the local replica up to date."""

    def __init__(
        self, consensus: Consensus, links: Links, *, member: str, now: WallClock, rng: Rng
    ) -> None:
        self._consensus = consensus
        self._links = links
        self._now = now
        self._client = f"{member}-{rng.getrandbits(64):x}"
        self._sequence = itertools.count(1)
        self._open: dict[int, None] = {}
        self._missed = 0  # the last entry that the local replica did not reach in time

    async def propose(self, *commands: AnyCommand) -> None:
        """Commit commands as one batch; returns when the local replica has them.

        What is committed is no failure where that replica does not follow: see :meth:`behind`.
        Raises the error of the first command that was refused (the others stand), NoQuorum, or
        OutcomeUnknown.
        """
        for outcome in await self.outcomes(*commands):
            if outcome is not None:
                raise_refusal(outcome)

    async def outcomes(self, *commands: AnyCommand) -> tuple[Outcome, ...]:
        """As :meth:`propose`, with what became of each command."""
        data = encode(commands, self._now())
        seq = next(self._sequence)
        self._open[seq] = None
        deadline = trio.current_time() + LEADER_SILENT_AFTER
        try:
            applied = await self._in_time(partial(self._commit, data, seq), deadline)
        finally:
            del self._open[seq]
        if applied is None:
            raise self._missing_quorum() or OutcomeUnknown(
                "the leader did not answer in time: whether the change was made is not known",
                advice="look whether it was made, and repeat it if it was not",
            )
        # This member may stop meanwhile: the write stands all the same.
        with trio.move_on_after(FOLLOWS_WITHIN), suppress(SwarmletError):
            await self._consensus.wait_applied(applied.index)
        self._note_lag(applied.index)
        return decode_outcomes(applied.value)

    async def barrier(self, *, within: float | None = None) -> None:
        """Bring the local replica up to now (ReadIndex), in so many seconds; None: as for a write.

        Raises NoQuorum, LeaderSilent, or ReplicaBehind.
        """
        deadline = trio.current_time() + (LEADER_SILENT_AFTER if within is None else within)
        index = await self._in_time(self._read_index, deadline)
        if index is None:
            raise self._missing_quorum() or LeaderSilent
        with trio.move_on_at(min(deadline, trio.current_time() + FOLLOWS_WITHIN)):
            await self._consensus.wait_applied(index)
            return
        self._note_lag(index)
        raise ReplicaBehind(applied=self._consensus.applied, known=index)

    def no_quorum(self) -> NoQuorum:
        """The error that says how many managers are missing."""
        members = self._consensus.members()
        voters = [m for m in members if m.voter]
        reachable = sum(1 for m in voters if m.reachable)
        return NoQuorum(reachable=reachable, needed=quorum(len(voters)))

    def behind(self) -> str:
        """Why the local replica lags for long; "" when it does not."""
        applied = self._consensus.applied
        if applied >= self._missed:
            return ""
        return ReplicaBehind(applied=applied, known=self._missed).message

    def _note_lag(self, index: int) -> None:
        """The local replica had time to apply an entry: if it has not, say so once."""
        applied = self._consensus.applied
        if applied >= index:
            return
        if applied >= self._missed:
            log.warning("replica-behind", applied=applied, known=index)
        self._missed = max(self._missed, index)

    async def _in_time(self, work: Callable[[], Awaitable[_T]], deadline: float) -> _T | None:
        """What some work returns, or None: it had not ended by then, or there is no quorum."""
        results: list[_T] = []
        errors: list[SwarmletError] = []  # raised outside of the nursery, which would wrap them
        with trio.move_on_at(deadline):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._give_up, nursery.cancel_scope)
                try:
                    results.append(await work())
                except SwarmletError as exc:
                    errors.append(exc)
                nursery.cancel_scope.cancel()
        if errors:
            raise errors[0]
        return results[0] if results else None

    async def _give_up(self, scope: trio.CancelScope) -> None:
        await trio.sleep(NO_QUORUM_AFTER)
        while True:
            if self._missing_quorum() is not None:
                scope.cancel()
            await trio.sleep(RETRY)

    def _missing_quorum(self) -> NoQuorum | None:
        """Why nothing is committed, if it is for want of a leader or of managers."""
        leadership, error = self._consensus.leadership, self.no_quorum()
        if leadership.leader is None or (leadership.is_leader and error.reachable < error.needed):
            return error
        return None

    async def _commit(self, data: bytes, seq: int) -> Applied:
        while True:
            ident = ProposalId(self._client, seq, next(iter(self._open)))
            leadership = self._consensus.leadership
            try:
                if leadership.is_leader:
                    return await self._consensus.propose(data, ident=ident)
                if leadership.leader is not None:
                    return await self._forward(leadership.leader, data, ident)
            except (NotLeader, OutcomeUnknown, ConnectionLost):
                pass  # nothing is lost: the identity makes the next try the same proposal
            except CallRefused as exc:
                if exc.remote_code == InvalidInput.code:  # too large: no manager will take it
                    raise InvalidInput(exc.message, advice=exc.advice) from exc
            await trio.sleep(RETRY)

    async def _forward(self, leader: str, data: bytes, ident: ProposalId) -> Applied:
        answer = await self._call_leader(
            leader,
            Forward(client=ident.client, seq=ident.seq, floor=ident.floor, command=data),
        )
        assert isinstance(answer, Committed)
        return Applied(answer.index, answer.value)

    async def _call_leader(self, leader: str, body: Request) -> Answer:
        """Call the leader for as long as it is: a host that lost its power never answers.

        Raises ConnectionLost, CallRefused, or OutcomeUnknown when leadership moved on meanwhile.
        """
        answers: list[Answer] = []
        errors: list[SwarmletError] = []

        async def ask(scope: trio.CancelScope) -> None:
            try:
                answers.append(await self._links.call(leader, body))
            except SwarmletError as exc:
                errors.append(exc)
            scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, nursery.cancel_scope)
            async with aclosing(self._consensus.watch_leadership()) as changes:
                async for leadership in changes:
                    if leadership.leader != leader:
                        nursery.cancel_scope.cancel()
                        break
        if errors:
            raise errors[0]
        if not answers:
            raise OutcomeUnknown(f"{leader} is not the leader any more")
        return answers[0]

    async def _read_index(self) -> int:
        while True:
            leadership = self._consensus.leadership
            try:
                if leadership.is_leader:
                    return await self._consensus.read_index()
                if leadership.leader is not None:
                    answer = await self._call_leader(leadership.leader, AskReadIndex())
                    assert isinstance(answer, ReadIndexIs)
                    return answer.index
            except (NotLeader, OutcomeUnknown, ConnectionLost, CallRefused):
                pass
            await trio.sleep(RETRY)


def raise_refusal(refusal: Refusal) -> NoReturn:
    """Raise the error that a refused command stands for."""
    if refusal.code == OutOfSequence.code:
        raise OutOfSequence
    raise REFUSALS.get(refusal.code, FailedPrecondition)(refusal.message)
