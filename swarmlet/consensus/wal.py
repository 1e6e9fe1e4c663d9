"""The Raft log: entries in memory, and what of them is not yet on disk.

Records are facts in order: an entry was added, entries from an index on were cut, term and vote
became so, the log was replaced by a snapshot. Nothing is rewritten; a whole segment goes once a
snapshot covers it. What is committed is noted along with other records, never for its own sake, so
it lags: a member that starts alone knows most of the state; the leader says the rest.
"""

from collections.abc import Callable
from functools import partial
from typing import Final, overload

import msgspec

from swarmlet.consensus.disk import Disk
from swarmlet.consensus.entries import NO_OP_COMMAND, Entry, decode_members
from swarmlet.consensus.segments import ENTRY, Record, SegmentWriter, load_segments
from swarmlet.errors import JOIN_ANEW, Damaged

_CUT: Final = 1
_VOTE: Final = 2
_RESET: Final = 3
_COMMIT: Final = 4

#: Every old segment may go: an installed snapshot replaces whatever they hold.
_ALL: Final = 1 << 63


class Mark(msgspec.Struct, frozen=True):
    """Where a snapshot stands in the log."""

    index: int
    term: int


class Configuration(msgspec.Struct, frozen=True):
    """The voters, and the index of the entry that named them."""

    index: int
    members: tuple[str, ...]


class Wal:
    """The log, in the shape PySyncObj expects of a journal where it touches it."""

    def __init__(self, disk: Disk, key: bytes) -> None:
        loaded = load_segments(disk, key)
        self._writer = SegmentWriter(disk, key, loaded.segments)
        #: Differs from every earlier start on this disk: each one begins a segment of its own.
        self.life = 1 + (loaded.segments[-1].number if loaded.segments else 0)
        self.empty_disk = not loaded.segments
        self.torn = loaded.torn
        self.term = 0
        self.vote: str | None = None
        #: Every entry up to here is committed. Its note stands behind those entries in the log, so
        #: a log that lost its tail lost the note first.
        self.committed = 0
        self._noted = 0
        self.configurations: list[Configuration] = []
        self._entries: list[Entry] = []
        self._bytes = 0
        for record in loaded.records:
            self._replay(record)
        self._pending: list[Record] = []
        self._rotate = True
        self._drop_to = 0

    # -- what is there

    def __len__(self) -> int:
        return len(self._entries)

    @overload
    def __getitem__(self, position: int) -> Entry: ...
    @overload
    def __getitem__(self, position: slice) -> list[Entry]: ...
    def __getitem__(self, position: int | slice) -> Entry | list[Entry]:
        return self._entries[position]

    @property
    def first(self) -> int:
        """Index of the oldest entry; only its index and term may be asked for."""
        return self._entries[0][1]

    @property
    def last(self) -> int:
        """Index of the newest entry."""
        return self._entries[-1][1]

    @property
    def last_term(self) -> int:
        """Term of the newest entry."""
        return self._entries[-1][2]

    @property
    def size(self) -> int:
        """Bytes of all commands held."""
        return self._bytes

    @property
    def segments(self) -> int:
        """Files on disk."""
        return self._writer.segments

    @property
    def bytes_written(self) -> int:
        """Bytes given to the disk since the start."""
        return self._writer.bytes_written

    def at(self, index: int) -> Entry:
        """Return the entry with that index, which must be held."""
        return self._entries[index - self.first]

    def holds(self, mark: Mark) -> bool:
        """Whether the entry with that index is here, and of that term."""
        return bool(self._entries) and (
            self.first <= mark.index <= self.last and self.at(mark.index)[2] == mark.term
        )

    def batch(self, start: int, *, limit: int) -> list[Entry]:
        """Return entries from ``start`` on, about ``limit`` bytes of them but at least one."""
        position, size = start - self.first, 0
        begin = position
        while position < len(self._entries) and (size < limit or position == begin):
            size += len(self._entries[position][0])
            position += 1
        return self._entries[begin:position]

    # -- changes, as PySyncObj calls them

    def add(self, command: bytes, index: int, term: int) -> None:
        """Append one entry."""
        self._put((command, index, term))
        self._pending.append((ENTRY, index, term, command))

    def deleteEntriesFrom(self, position: int) -> None:  # noqa: N802 -- PySyncObj calls it so
        """Cut the entry at ``position`` and all behind it."""
        index = self._entries[position][1] if position < len(self._entries) else self.last + 1
        self._cut(index)
        self._pending.append((_CUT, index))

    def setCurrentTerm(self, term: int, vote: str | None) -> None:  # noqa: N802 -- as above
        """Note term and vote; they are durable before any message that depends on them leaves."""
        if (term, vote) != (self.term, self.vote):
            self.term, self.vote = term, vote
            self._pending.append((_VOTE, term, vote))

    def setRaftCommitIndex(self, index: int) -> None:  # noqa: N802 -- as above
        """Do nothing: :attr:`committed` is set once a round, when all of it is known."""

    def onOneSecondTimer(self) -> None:  # noqa: N802 -- as above
        """Do nothing."""

    # -- snapshots

    def anchor(self, mark: Mark) -> None:
        """At start: make the log stand on the snapshot at ``mark``, or refuse to go on."""
        if self.holds(mark):
            return
        if not self._entries or self.first == mark.index + 1:
            self._entries.insert(0, (NO_OP_COMMAND, mark.index, mark.term))
            return
        if self.first > mark.index:
            raise Damaged(
                f"the log starts at entry {self.first}, the newest snapshot ends at {mark.index}: "
                "a snapshot was lost",
                advice=JOIN_ANEW,
            )
        self.reset(mark)  # a crash came between an installed snapshot and the log's reset

    def reset(self, mark: Mark) -> None:
        """Throw the log away: a snapshot, durable by then, stands in its place."""
        self._entries = [(NO_OP_COMMAND, mark.index, mark.term)]
        self.configurations = []
        self._bytes = 0
        self._pending = [(_RESET, mark.index, mark.term)]
        self._rotate, self._drop_to = True, _ALL

    def trim(self, keep_from: int, *, durable: Mark) -> None:
        """Forget entries before ``keep_from``; the snapshot at ``durable`` is safely on disk."""
        count = max(0, min(keep_from, durable.index) - self.first)
        self._bytes -= sum(len(entry[0]) for entry in self._entries[:count])
        del self._entries[:count]
        self.configurations = [c for c in self.configurations if c.index > self.first]
        self._rotate, self._drop_to = True, max(self._drop_to, durable.index)

    def job(self) -> Callable[[], None] | None:
        """Return the blocking write that makes everything so far durable, if there is any."""
        records, self._pending = self._pending, []
        if self._rotate or (records and self.committed > self._noted):
            self._noted = self.committed
            records.append((_COMMIT, self.committed))
        if self._rotate:
            drop_to, self._rotate, self._drop_to = self._drop_to, False, 0
            records = [(_VOTE, self.term, self.vote), *records]
            return partial(self._writer.rotate, records, drop_to=drop_to)
        return partial(self._writer.append, records) if records else None

    # -- inside

    def _put(self, entry: Entry) -> None:
        if self._entries and entry[1] != self.last + 1:
            raise Damaged(f"entry {entry[1]} follows entry {self.last} in the log")
        self._entries.append(entry)
        self._bytes += len(entry[0])
        members = decode_members(entry[0])
        if members is not None:
            self.configurations.append(Configuration(entry[1], members))

    def _cut(self, index: int) -> None:
        if not self._entries:
            return
        position = max(0, index - self.first)
        self._bytes -= sum(len(entry[0]) for entry in self._entries[position:])
        del self._entries[position:]
        while self.configurations and self.configurations[-1].index >= index:
            self.configurations.pop()

    def _replay(self, record: Record) -> None:
        match record:
            case (0, int(index), int(term), bytes(command)):
                self._put((command, index, term))
            case (1, int(index)):
                self._cut(index)
            case (2, int(term), str() | None as vote):
                self.term, self.vote = term, vote
            case (3, int(index), int(term)):
                self._entries = [(NO_OP_COMMAND, index, term)]
                self.configurations, self._bytes = [], 0
            case (4, int(index)):
                self.committed = self._noted = index
            case _:
                raise Damaged(f"the log holds a record of unknown kind {record[0]!r}")
