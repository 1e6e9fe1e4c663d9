"""Exactly-once sessions: once, answered again, and bounded."""

from unittest import mock

from swarmlet.consensus import sessions
from swarmlet.consensus.entries import Proposal
from swarmlet.consensus.sessions import STALE, Answer, Sessions


class Counter:
    """Counts what is applied."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, command: bytes) -> Answer:
        self.count += 1
        return Answer(ok=True, value=b"%d" % self.count)


def ask(table: Sessions, counter: Counter, client: str, seq: int, floor: int = 0) -> Answer:
    return table.once(Proposal(client, seq, floor, b""), counter)


def test_a_repeated_proposal_gets_its_first_answer() -> None:
    """It is not applied again, also after others."""
    table, counter = Sessions(), Counter()
    first = ask(table, counter, "a", 1)
    ask(table, counter, "a", 2)
    ask(table, counter, "b", 1)
    assert ask(table, counter, "a", 1) == first
    assert counter.count == 3


def test_below_its_floor_a_client_gets_nothing() -> None:
    """What it said it would not ask again is forgotten, and refused rather than applied."""
    table, counter = Sessions(), Counter()
    ask(table, counter, "a", 1)
    ask(table, counter, "a", 5, floor=4)
    assert ask(table, counter, "a", 1) == STALE
    assert counter.count == 2


def test_the_client_silent_longest_is_forgotten_first() -> None:
    """The bound depends on the log only, so all members forget alike."""
    with mock.patch.object(sessions, "MAX_CLIENTS", 2):
        table, counter = Sessions(), Counter()
        for client in ("a", "b", "a", "c"):
            ask(table, counter, client, 1)
        assert [client for client, _, _ in table.freeze()] == ["a", "c"]


def test_a_client_that_never_raises_its_floor_is_bounded() -> None:
    """Its oldest answers go."""
    with mock.patch.object(sessions, "MAX_ANSWERS", 3):
        table, counter = Sessions(), Counter()
        for seq in range(10):
            ask(table, counter, "a", seq)
        (_, floor, answers), *_ = table.freeze()
        assert (floor, [seq for seq, _, _ in answers]) == (7, [7, 8, 9])


def test_sessions_survive_a_snapshot() -> None:
    """Order included: it decides whom the bound forgets."""
    table, counter = Sessions(), Counter()
    for client in ("a", "b", "a"):
        ask(table, counter, client, 1)
    copy = Sessions()
    copy.load(table.freeze())
    assert copy.freeze() == table.freeze()
    assert ask(copy, counter, "a", 1) == Answer(ok=True, value=b"1")
