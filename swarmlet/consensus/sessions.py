"""Exactly-once: a proposal repeated under the same identity is answered, not applied, again.

Part of the replicated state: the same on every member, bounded by rules that depend on nothing but
the log.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Final, NamedTuple

from swarmlet.consensus.entries import Proposal
from swarmlet.consensus.port import StateMachine
from swarmlet.errors import Damaged

#: Clients remembered; the one that proposed least recently is forgotten first. A manager proposes
#: under one identity for each of its lives, so this is thousands of manager restarts.
MAX_CLIENTS: Final = 4096

#: Answers kept for one client whose floor does not rise; then its oldest are forgotten.
MAX_ANSWERS: Final = 4096


class Answer(NamedTuple):
    """What became of a proposal: the state machine's bytes, or why there are none."""

    ok: bool
    value: bytes


STALE: Final = Answer(ok=False, value=b"stale: the client said it would never ask again")


def attempt(machine: StateMachine, index: int, command: bytes) -> Answer:
    """Apply a command; an exception, which is a bug, is an answer, the same on every member.

    Raises Damaged for a command that this version cannot read: members that can read it change
    their state, so whoever skipped it would differ from them for good, and silently.
    """
    try:
        return Answer(ok=True, value=machine.apply(index, command))
    except Damaged:
        raise
    except Exception as exc:  # noqa: BLE001 -- re-raised, it would be applied again for ever
        return Answer(ok=False, value=type(exc).__name__.encode())


class Session:
    """One client: nothing below ``floor`` is remembered."""

    __slots__ = ("answers", "floor")

    def __init__(self, floor: int, answers: dict[int, Answer]) -> None:
        self.floor = floor
        self.answers = answers

    def raise_floor(self, floor: int) -> None:
        """Forget what the client will not ask for again."""
        if floor > self.floor:
            self.floor = floor
            self.answers = {seq: a for seq, a in self.answers.items() if seq >= floor}

    def remember(self, seq: int, answer: Answer) -> None:
        """Keep an answer, within bounds."""
        self.answers[seq] = answer
        if len(self.answers) > MAX_ANSWERS:
            self.raise_floor(min(self.answers) + 1)


#: What a snapshot holds of a session: client, floor, [(seq, ok, value)].
Frozen = tuple[str, int, list[tuple[int, bool, bytes]]]


class Sessions:
    """All clients, least recently heard first."""

    def __init__(self) -> None:
        self._clients: OrderedDict[str, Session] = OrderedDict()

    def once(self, proposal: Proposal, apply: Callable[[bytes], Answer]) -> Answer:
        """Apply a proposal, unless it was: then return the answer it got."""
        session = self._session(proposal)
        known = session.answers.get(proposal.seq)
        if known is not None:
            return known
        if proposal.seq < session.floor:
            return STALE
        answer = apply(proposal.command)
        session.remember(proposal.seq, answer)
        return answer

    def freeze(self) -> list[Frozen]:
        """Return everything, in order: the order decides whom the limit forgets."""
        return [
            (client, s.floor, [(seq, a.ok, a.value) for seq, a in s.answers.items()])
            for client, s in self._clients.items()
        ]

    def load(self, frozen: list[Frozen]) -> None:
        """Undo :meth:`freeze`."""
        self._clients = OrderedDict(
            (client, Session(floor, {seq: Answer(bool(ok), value) for seq, ok, value in answers}))
            for client, floor, answers in frozen
        )

    def _session(self, proposal: Proposal) -> Session:
        session = self._clients.get(proposal.client)
        if session is None:
            session = self._clients[proposal.client] = Session(0, {})
            if len(self._clients) > MAX_CLIENTS:
                self._clients.popitem(last=False)
        else:
            self._clients.move_to_end(proposal.client)
        session.raise_floor(proposal.floor)
        return session
