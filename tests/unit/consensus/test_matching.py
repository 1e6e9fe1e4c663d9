"""How a leader's entries fit a follower's log."""

from hypothesis import given
from hypothesis import strategies as st
from swarmlet.consensus.entries import Entry
from swarmlet.consensus.matching import fit, has_lost
from swarmlet.consensus.messages import Append
from swarmlet.consensus.wal import Mark, Wal

from tests.unit.consensus.faults import KEY, MemoryDisk


def log(terms: list[int]) -> Wal:
    """A log with one entry of each term, the first at index 2, on an empty snapshot."""
    wal = Wal(MemoryDisk(), KEY)
    wal.anchor(Mark(1, 0))
    for index, term in enumerate(terms, 2):
        wal.add(b"\1", index, term)
    return wal


def entries(wal: Wal, start: int, stop: int) -> list[Entry]:
    return [entry for entry in wal[:] if start <= entry[1] < stop]


def take(wal: Wal, message: Append, commit: int) -> int | None:
    """Do what the core does; return the last index acknowledged, or None after a refusal."""
    found = fit(wal, commit, message)
    if found.hint is not None:
        return None
    if found.entries:
        wal.deleteEntriesFrom(found.prev_index + 1 - wal.first)
        for entry in found.entries:
            wal.add(*entry)
    return found.matched


#: Terms never fall along a log; two logs agree up to a point, then each goes its own way.
common = st.lists(st.just(1), max_size=5)
mine = st.lists(st.sampled_from([2, 3]), max_size=5).map(sorted)
theirs = st.lists(st.sampled_from([4, 5]), max_size=5).map(sorted)


@given(common, mine, theirs, st.data())
def test_what_is_acknowledged_is_the_leaders(
    shared: list[int], own: list[int], new: list[int], data: st.DataObject
) -> None:
    """Whatever part of its log a leader sends, committed entries stay and no ack is too wide."""
    follower, leader = log(shared + own), log(shared + new)
    commit = data.draw(st.integers(1, 1 + len(shared)))
    prev = data.draw(st.integers(1, leader.last))
    stop = data.draw(st.integers(prev + 1, leader.last + 1))
    part = entries(leader, prev + 1, stop)
    message = Append(6, 0, prev, leader.at(prev)[2], part, 0.0)
    before = follower[:]
    acknowledged = take(follower, message, commit)
    assert follower[: commit - follower.first + 1] == before[: commit - follower.first + 1]
    if acknowledged is None:
        assert follower[:] == before
        return
    assert acknowledged <= leader.last
    assert entries(follower, 1, acknowledged + 1) == entries(leader, 1, acknowledged + 1)


@given(common, mine, theirs)
def test_repair_needs_a_round_trip_for_each_term_at_most(
    shared: list[int], own: list[int], new: list[int]
) -> None:
    """Following the hints, a leader arrives, and the logs are equal."""
    follower, leader = log(shared + own), log([*shared, *new, 6])
    prev, trips = leader.last, 0
    while True:
        part = entries(leader, prev + 1, leader.last + 1)
        message = Append(6, 0, prev, leader.at(prev)[2], part, 0.0)
        found = fit(follower, 1, message)
        if found.hint is None:
            break
        prev, trips = found.hint - 1, trips + 1
    take(follower, message, 1)
    assert follower[:] == leader[:]
    assert trips <= 2 + len(set(own))


@given(common, st.data())
def test_a_late_append_changes_nothing(shared: list[int], data: st.DataObject) -> None:
    """Any earlier message of the same leader, delivered again, leaves the log as it is."""
    follower = log(shared)
    prev = data.draw(st.integers(1, follower.last))
    stop = data.draw(st.integers(prev + 1, follower.last + 1))
    before = follower[:]
    part = entries(follower, prev + 1, stop)
    take(follower, Append(1, 0, prev, follower.at(prev)[2], part, 0.0), 1)
    assert follower[:] == before


def says(prev: int, prev_term: int, *, acked: int, term: int = 6) -> Append:
    """A heartbeat."""
    return Append(term, 0, prev, prev_term, [], 0.0, acked)


def test_entries_that_were_never_acknowledged_are_not_missed() -> None:
    """A follower may be behind, and differ in what it has beyond its acknowledgements."""
    mine = log([1, 1, 3])
    assert not has_lost(mine, 5, says(9, 6, acked=0))  # a new leader knows nothing yet
    assert not has_lost(mine, 6, says(9, 6, acked=3))
    assert not has_lost(mine, 6, says(4, 6, acked=3))
    assert not has_lost(mine, 6, says(3, 1, acked=3))
    assert not has_lost(mine, 6, says(4, 3, acked=4))


def test_acknowledged_entries_that_are_missing_or_others_are_missed() -> None:
    mine = log([1, 1, 3])
    assert has_lost(mine, 6, says(9, 6, acked=5))
    assert has_lost(mine, 6, says(4, 6, acked=4))


def test_a_term_in_which_something_was_acknowledged_is_missed() -> None:
    """The log may be whole: what was voted in that term is forgotten all the same."""
    assert has_lost(log([1, 1, 3]), 5, says(4, 3, acked=4))
