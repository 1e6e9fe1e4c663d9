"""The log on disk: numbered segments of frames, one frame a sync.

A frame is written only after the one before it was synced. So a bad frame with a good one behind it
was damaged *after* it had been promised durable (Damaged), while a bad frame at the very end is
what a crash in the middle of a write leaves behind (dropped: nobody was told it is there). No file
is ever appended to by a second process: each start opens a new segment, whose header says how many
frames of its predecessor count. That keeps nonces unique and makes a lost tail visible.
"""

import re
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

import msgpack

from swarmlet.consensus.disk import Disk
from swarmlet.consensus.entries import TooNew
from swarmlet.consensus.packing import pack
from swarmlet.errors import JOIN_ANEW, Damaged
from swarmlet.security.sealed import SALT_BYTES, RecordSealer, new_salt

#: One fact of the log; see :mod:`swarmlet.consensus.wal` for the kinds.
Record = tuple[object, ...]

#: The first field of a record that holds an entry; its second is the entry's index.
ENTRY: Final = 0

FORMAT: Final = 1
_MAGIC: Final = b"SWARMWAL"
#: magic, format, number, frames of the segment before that count, salt, crc32 of all that.
_HEADER: Final = struct.Struct(f">8sHQQ{SALT_BYTES}sI")
_FRAME_MAGIC: Final = b"\xf5SWF"
#: magic, ordinal, length of the sealed body, crc32 of ordinal, length and body.
_FRAME: Final = struct.Struct(">4sQII")
_NAME: Final = re.compile(r"wal-(\d{16})")


class Segment(NamedTuple):
    """One file: its number, the frames that count, and the highest entry index in it."""

    number: int
    frames: int
    max_index: int

    @property
    def name(self) -> str:
        """Return the file's name."""
        return f"wal-{self.number:016d}"


class Loaded(NamedTuple):
    """What the disk held."""

    records: list[Record]
    segments: list[Segment]
    torn: int


class _Read(NamedTuple):
    number: int
    frames_before: int
    frames: list[list[Record]]
    torn: int


def load_segments(disk: Disk, key: bytes) -> Loaded:
    """Read every segment in order; raise Damaged unless what was ever synced is all there."""
    names = [name for name in disk.names() if _NAME.fullmatch(name)]
    read = [_read_segment(name, disk.read(name), key) for name in names]
    records: list[Record] = []
    segments: list[Segment] = []
    for position, segment in enumerate(read):
        successor = read[position + 1] if position + 1 < len(read) else None
        count = _frames_that_count(segment, successor)
        kept = [record for frame in segment.frames[:count] for record in frame]
        records += kept
        segments.append(Segment(segment.number, count, _max_index(kept)))
    return Loaded(records, segments, read[-1].torn if read else 0)


def _frames_that_count(segment: _Read, successor: _Read | None) -> int:
    found = len(segment.frames)
    if successor is None:
        return found
    name = Segment(segment.number, 0, 0).name
    if successor.number != segment.number + 1:
        raise Damaged(f"the segment after {name} is missing", advice=JOIN_ANEW)
    if found < successor.frames_before:
        raise Damaged(
            f"{name} holds {found} of {successor.frames_before} frames that were synced",
            advice=JOIN_ANEW,
        )
    return successor.frames_before


def _max_index(records: list[Record]) -> int:
    return max((int(str(r[1])) for r in records if r[0] == ENTRY), default=0)


def _read_segment(name: str, raw: bytes, key: bytes) -> _Read:
    number, frames_before, sealer = _read_header(name, raw, key)
    frames: list[list[Record]] = []
    offset = _HEADER.size
    while (body := _frame_at(raw, offset, len(frames))) is not None:
        try:
            plain = sealer.open(len(frames), body)
        except Damaged as exc:
            raise Damaged(f"{name}, offset {offset}: {exc.message}", advice=JOIN_ANEW) from exc
        frames.append([tuple(record) for record in msgpack.unpackb(plain, use_list=True)])
        offset += _FRAME.size + len(body)
    torn = len(raw[offset:].rstrip(b"\0"))
    if not frames:  # a segment is renamed into place with its first frame: no crash tears that
        raise Damaged(f"{name}, offset {offset}: the first frame is damaged", advice=JOIN_ANEW)
    if torn:
        _refuse_holes(name, raw, offset, len(frames))
    return _Read(number, frames_before, frames, torn)


def _read_header(name: str, raw: bytes, key: bytes) -> tuple[int, int, RecordSealer]:
    if len(raw) < _HEADER.size or not raw.startswith(_MAGIC):
        raise Damaged(f"{name}, offset 0: no segment header", advice=JOIN_ANEW)
    _, version, number, frames_before, salt, crc = _HEADER.unpack_from(raw)
    if zlib.crc32(raw[: _HEADER.size - 4]) != crc:
        raise Damaged(f"{name}, offset 0: the segment header is damaged", advice=JOIN_ANEW)
    if version > FORMAT:
        raise TooNew(name, version)
    if Segment(number, 0, 0).name != name:
        raise Damaged(f"{name} holds segment {number}: it was renamed", advice=JOIN_ANEW)
    return number, frames_before, RecordSealer(key, salt=salt, context=raw[: _HEADER.size])


def _frame_at(raw: bytes, offset: int, ordinal: int) -> bytes | None:
    """Return the sealed body of frame ``ordinal`` if a whole one stands at ``offset``."""
    if len(raw) - offset < _FRAME.size:
        return None
    magic, found, length, crc = _FRAME.unpack_from(raw, offset)
    start = offset + _FRAME.size
    if magic != _FRAME_MAGIC or found != ordinal or length > len(raw) - start:
        return None
    body = raw[start : start + length]
    return body if _frame_crc(ordinal, body) == crc else None


def _frame_crc(ordinal: int, body: bytes) -> int:
    return zlib.crc32(body, zlib.crc32(struct.pack(">QI", ordinal, len(body))))


def _refuse_holes(name: str, raw: bytes, offset: int, ordinal: int) -> None:
    """Raise Damaged if any later frame is whole: then the bad one had been synced before it."""
    for later in _find_all(raw, _FRAME_MAGIC, offset + 1):
        if len(raw) - later < _FRAME.size:
            return
        found = int(_FRAME.unpack_from(raw, later)[1])
        if found > ordinal and _frame_at(raw, later, found) is not None:
            raise Damaged(
                f"{name}, offset {offset}: frame {ordinal} is damaged, yet frame {found} at offset "
                f"{later} is whole, so it was synced once",
                advice=JOIN_ANEW,
            )


def _find_all(raw: bytes, needle: bytes, start: int) -> Iterator[int]:
    while (start := raw.find(needle, start)) >= 0:
        yield start
        start += 1


class SegmentWriter:
    """Writes frames. Its methods block on the disk and run in a worker thread, one at a time."""

    def __init__(self, disk: Disk, key: bytes, segments: list[Segment]) -> None:
        self._disk = disk
        self._key = key
        self._old = segments
        self._number = segments[-1].number if segments else 0
        self._frames = 0
        self._max_index = 0
        self._seal: Callable[[int, bytes], bytes] | None = None
        self.bytes_written = 0

    @property
    def segments(self) -> int:
        """How many files there are."""
        return len(self._old) + (self._seal is not None)

    def append(self, records: list[Record]) -> None:
        """Write one frame and sync."""
        name = Segment(self._number, 0, 0).name
        data = self._frame(records)
        self._disk.append(name, data)
        self.bytes_written += len(data)

    def rotate(self, records: list[Record], *, drop_to: int) -> None:
        """Begin a new segment with ``records``; drop old ones with no entry beyond ``drop_to``.

        Only a prefix may go: what a later segment cuts must not come back to life.
        """
        frames_before = self._old[-1].frames if self._old else 0
        if self._seal is not None:
            self._old.append(Segment(self._number, self._frames, self._max_index))
            frames_before = self._frames
        header = self._new_header(frames_before)
        data = header + self._frame(records)
        self._disk.replace(Segment(self._number, 0, 0).name, data)
        self.bytes_written += len(data)
        while self._old and self._old[0].max_index <= drop_to:
            self._disk.remove(self._old.pop(0).name)

    def _new_header(self, frames_before: int) -> bytes:
        self._number += 1
        self._frames = self._max_index = 0
        salt = new_salt()
        fields = _HEADER.pack(_MAGIC, FORMAT, self._number, frames_before, salt, 0)[:-4]
        header = fields + struct.pack(">I", zlib.crc32(fields))
        self._seal = RecordSealer(self._key, salt=salt, context=header).seal
        return header

    def _frame(self, records: list[Record]) -> bytes:
        if self._seal is None:
            raise RuntimeError("a segment is begun by rotate()")
        ordinal = self._frames
        body = self._seal(ordinal, pack(records))
        self._frames += 1
        self._max_index = max(self._max_index, _max_index(records))
        return _FRAME.pack(_FRAME_MAGIC, ordinal, len(body), _frame_crc(ordinal, body)) + body
