"""How a leader's entries fit a follower's log: the rule that PySyncObj gets wrong. Pure.

Stock, a late or short append cuts acknowledged entries that do not conflict with it, and repair
goes back one entry a round trip. Here what matches is trimmed off first, an acknowledgement never
covers more than was compared, and a conflict names the first index of its term. A follower that
lacks what it acknowledged knows it by what its leader says of that.
"""

from typing import NamedTuple

from swarmlet.consensus.entries import Entry
from swarmlet.consensus.messages import Append, SnapshotChunk
from swarmlet.consensus.wal import Wal
from swarmlet.errors import JOIN_ANEW, Damaged


class Fit(NamedTuple):
    """An append made harmless. ``hint`` is where the leader should start if it does not fit.

    ``matched`` is the last index known to be the leader's: what the ack and the commit may cover.
    """

    prev_index: int
    prev_term: int
    entries: list[Entry]
    matched: int
    hint: int | None


def has_lost(wal: Wal, term: int, message: Append | SnapshotChunk) -> bool:
    """Whether this log lacks what it acknowledged to the very leader of ``message``.

    An acknowledgement leaves once the disk has the entries and the term; until that term is over
    nothing contradicts them, and a message of it can only name what was acknowledged before. So no
    delay, reordering or restart makes this true: only a disk that lied or was exchanged, or another
    member of the same name before this one.
    """
    if not message.acked:
        return False
    if term < message.term or wal.last < message.acked:
        return True
    if isinstance(message, SnapshotChunk) or not wal.first <= message.prev_index <= message.acked:
        return False
    return wal.at(message.prev_index)[2] != message.prev_term


def fit(wal: Wal, commit: int, message: Append) -> Fit:
    """Fit a leader's append to this log; raise Damaged if it contradicts what is committed."""
    prev, prev_term, entries = message.prev_index, message.prev_term, message.entries
    end = prev + len(entries)
    if prev < wal.first:  # older than anything held: a snapshot covers it, so it is the leader's
        entries = [entry for entry in entries if entry[1] > wal.first]
        prev, prev_term = wal.first, wal.at(wal.first)[2]
        end = max(prev, end)
    if prev > wal.last:
        return Fit(prev, prev_term, [], commit, wal.last + 1)
    if wal.at(prev)[2] != prev_term:
        return Fit(prev, prev_term, [], commit, _conflict(wal, commit, prev))
    known = 0
    while known < len(entries) and _have(wal, entries[known]):
        known += 1
    prev += known
    entries = entries[known:]
    if not entries and wal.last > prev:
        prev = wal.last  # nothing contradicts the rest of the log: keep it
    elif prev < commit:
        raise Damaged("the leader would cut entries that are committed here", advice=JOIN_ANEW)
    return Fit(prev, wal.at(prev)[2], entries, max(end, commit), None)


def _have(wal: Wal, entry: Entry) -> bool:
    return entry[1] <= wal.last and wal.at(entry[1])[2] == entry[2]


def _conflict(wal: Wal, commit: int, index: int) -> int:
    """Return the first index of the term that conflicts at ``index``, but nothing committed."""
    if index <= commit:
        raise Damaged("a committed entry differs from the leader's", advice=JOIN_ANEW)
    term = wal.at(index)[2]
    while index > commit + 1 and wal.at(index - 1)[2] == term:
        index -= 1
    return index
