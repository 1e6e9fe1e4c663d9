"""Who waits for which entry, and what each is told in the end. No Raft, no I/O.

A waiter moves from the queue to a ticket (submitted to the core), to an index (appended as a
leader), to its answer. Whatever happens, it is told: an answer, "certainly not", or "not known".
"""

from collections import deque
from collections.abc import Iterable
from typing import Final

import trio

from swarmlet.consensus.entries import MAX_COMMAND_BYTES, Proposal
from swarmlet.consensus.port import Applied, OutcomeUnknown
from swarmlet.consensus.sessions import Answer
from swarmlet.consensus.syncobj_core import Answered, Placed
from swarmlet.errors import SwarmletError

#: The answer to a membership change: that it is committed is all there is to say.
_DONE: Final = Answer(ok=True, value=b"")


class Waiter:
    """One caller: of propose, or, without a proposal, of a membership change."""

    __slots__ = ("_done", "_failure", "_result", "proposal")

    def __init__(self, proposal: Proposal | None) -> None:
        self.proposal = proposal
        self._done = trio.Event()
        self._result: Applied | None = None
        self._failure: SwarmletError | None = None

    def answer(self, index: int, answer: Answer) -> None:
        """Tell what the state machine said."""
        if answer.ok:
            self._result = Applied(index, answer.value)
        else:
            text = answer.value.decode(errors="replace")
            self._failure = SwarmletError(f"the proposal was not applied: {text}")
        self._done.set()

    def fail(self, failure: SwarmletError) -> None:
        """Tell why there is no answer."""
        self._failure = failure
        self._done.set()

    async def wait(self) -> Applied:
        """Wait to be told."""
        await self._done.wait()
        if self._result is None:
            raise self._failure or OutcomeUnknown("no answer")
        return self._result


class Promises:
    """All waiters of one member."""

    def __init__(self) -> None:
        self._queue: deque[tuple[Waiter, Proposal]] = deque()
        self._tickets: dict[int, list[Waiter]] = {}
        self._committing: dict[int, list[Waiter]] = {}
        self._term = -1

    @property
    def queued(self) -> int:
        """How many were not submitted yet."""
        return len(self._queue)

    @property
    def waiting(self) -> int:
        """How many wait in all."""
        return len(self._queue) + sum(map(len, self._committing.values()))

    def queue(self, proposal: Proposal) -> Waiter:
        """Let a proposal wait for the next batch."""
        waiter = Waiter(proposal)
        self._queue.append((waiter, proposal))
        return waiter

    def next_batch(self, *, limit: int) -> tuple[list[Waiter], list[Proposal]]:
        """Take what shares the next entry: at most ``limit`` proposals, or about 1 MiB."""
        waiters: list[Waiter] = []
        proposals: list[Proposal] = []
        size = 0
        while self._queue and len(waiters) < limit and size < MAX_COMMAND_BYTES:
            waiter, proposal = self._queue.popleft()
            waiters.append(waiter)
            proposals.append(proposal)
            size += len(proposal.command)
        return waiters, proposals

    def submitted(self, ticket: int, waiters: list[Waiter]) -> None:
        """Note that the core has them."""
        self._tickets[ticket] = waiters

    def placed(self, placed: Placed, *, term: int, refusal: SwarmletError) -> None:
        """Note where an entry was appended, or refuse its waiters."""
        waiters = self._tickets.pop(placed.ticket)
        if placed.index is None:
            _fail(waiters, refusal)
        else:
            self._committing[placed.index] = waiters
            self._term = term

    def answered(self, answered: Iterable[Answered]) -> None:
        """Answer those whose entry was applied."""
        for one in answered:
            waiters = self._committing.pop(one.index, [])
            for waiter, answer in zip(waiters, one.answers or [_DONE], strict=False):
                waiter.answer(one.index, answer)

    def lead_ends(self, *, leading_term: int | None) -> bool:
        """Whether entries wait that were appended in another term than the one led now."""
        return bool(self._committing) and leading_term != self._term

    def fail_committing(self, failure: SwarmletError) -> None:
        """Tell those with an entry that its fate is not known."""
        for waiters in self._committing.values():
            _fail(waiters, failure)
        self._committing.clear()

    def fail_all(self, failure: SwarmletError) -> None:
        """Tell everybody."""
        self.fail_committing(failure)
        for waiters in self._tickets.values():
            _fail(waiters, failure)
        self._tickets.clear()
        _fail((waiter for waiter, _ in self._queue), failure)
        self._queue.clear()


def _fail(waiters: Iterable[Waiter], failure: SwarmletError) -> None:
    for waiter in waiters:
        waiter.fail(failure)
