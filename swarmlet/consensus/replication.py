"""What a leader keeps about each follower: entries in flight, a snapshot on its way. No I/O.

PySyncObj sends without limit and steps back with each acknowledgement; here a window bounds what is
under way, so that neither a slow follower nor a large snapshot fills memory.
"""

from collections import deque
from typing import Final

from swarmlet.consensus.entries import Entry
from swarmlet.consensus.wal import Mark

#: Bytes of commands in one message: a sync and a TLS write of sensible size.
MESSAGE_BYTES: Final = 1 << 20
#: Bytes unacknowledged towards one follower before only heartbeats go out.
WINDOW_BYTES: Final = 8 << 20
#: Messages unacknowledged: many small ones are as bad as few large ones.
WINDOW_MESSAGES: Final = 256

CHUNK_BYTES: Final = 256 << 10
#: Chunks of a snapshot under way at once: 2 MiB keep a 100 ms link busy at 20 MB/s.
WINDOW_CHUNKS: Final = 8


class Transfer:
    """One snapshot being sent. It keeps its own bytes: a newer one must not restart it."""

    def __init__(self, mark: Mark, blob: bytes) -> None:
        self.mark = mark
        self.blob = blob
        self._acked = 0
        self._sent = 0
        self._moved = True

    def next_chunk(self) -> tuple[int, bytes] | None:
        """Return (offset, data) if the window has room."""
        if self._sent >= min(len(self.blob), self._acked + WINDOW_CHUNKS * CHUNK_BYTES):
            return None
        offset = self._sent
        data = self.blob[offset : offset + CHUNK_BYTES]
        self._sent = offset + len(data)
        return offset, data

    def acknowledge(self, have: int) -> None:
        """Note how far the follower is; one that lost its beginning starts again."""
        if have > self._acked:
            self._acked, self._moved = min(have, len(self.blob)), True
            self._sent = max(self._sent, self._acked)
        elif have < self._acked:
            self._acked = self._sent = have

    def rewind_if_stuck(self) -> None:
        """Rewind if nothing moved since the last heartbeat."""
        if not self._moved:
            self.rewind()
        self._moved = False

    def rewind(self) -> None:
        """Send again from the last acknowledged byte."""
        self._sent = self._acked


class Progress:
    """One follower, as its leader sees it."""

    def __init__(self) -> None:
        self.transfer: Transfer | None = None
        self._flight: deque[tuple[int, int]] = deque()
        self._bytes = 0
        #: When the follower found, by its clock, that it lacks what it acknowledged; else 0.
        self.regressed = 0.0

    def has_room(self) -> bool:
        """Whether more entries may be sent before an acknowledgement."""
        return self._bytes < WINDOW_BYTES and len(self._flight) < WINDOW_MESSAGES

    def sent(self, entries: list[Entry]) -> None:
        """Count entries that went out."""
        size = sum(len(entry[0]) for entry in entries)
        self._flight.append((entries[-1][1], size))
        self._bytes += size

    def acknowledged(self, index: int) -> None:
        """Entries up to ``index`` arrived."""
        self.regressed = 0.0
        while self._flight and self._flight[0][0] <= index:
            self._bytes -= self._flight.popleft()[1]
        if self.transfer is not None and index >= self.transfer.mark.index:
            self.transfer = None

    def lost(self) -> None:
        """Forget what was under way: a new connection, or the follower asks for something else."""
        self._flight.clear()
        self._bytes = 0
        if self.transfer is not None:
            self.transfer.rewind()
