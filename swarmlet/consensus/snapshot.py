"""Snapshots: how one is encoded, sealed, kept on disk, and received in chunks.

A snapshot's plain form (what travels between managers, over TLS) is a header with format version
and CRC, then msgpack. On disk each member seals it with its own key. Files are named by index and
never overwritten, so one that is being taken and one that is being installed cannot collide.
"""

import re
import struct
import zlib
from collections.abc import Callable
from typing import Final, NamedTuple

import msgpack

from swarmlet.consensus.disk import Disk
from swarmlet.consensus.entries import TooNew
from swarmlet.consensus.packing import pack
from swarmlet.consensus.sessions import Frozen
from swarmlet.consensus.wal import Configuration, Mark
from swarmlet.errors import JOIN_ANEW, Damaged
from swarmlet.security.sealed import open_blob, seal_blob

FORMAT: Final = 1
_MAGIC: Final = b"SWARMSNP"
#: magic, format, crc32 of the body. Also the plain start of the sealed file, with crc32 0.
_HEADER: Final = struct.Struct(">8sHI")
_NAME: Final = re.compile(r"snapshot-\d{16}")


class Snapshot(NamedTuple):
    """The whole replicated state at ``mark``."""

    mark: Mark
    configuration: Configuration
    sessions: list[Frozen]
    state: bytes


def encode_snapshot(snapshot: Snapshot) -> bytes:
    """Return the form that travels."""
    body = pack(
        [
            snapshot.mark.index,
            snapshot.mark.term,
            snapshot.configuration.index,
            snapshot.configuration.members,
            snapshot.sessions,
            snapshot.state,
        ]
    )
    return _HEADER.pack(_MAGIC, FORMAT, zlib.crc32(body)) + bytes(body)


def decode_snapshot(blob: bytes) -> Snapshot:
    """Undo :func:`encode_snapshot`; raise Damaged or TooNew."""
    body = memoryview(blob)[_HEADER.size :]
    if _version(blob) > FORMAT:
        raise TooNew("a snapshot", _version(blob))
    if zlib.crc32(body) != _HEADER.unpack_from(blob)[2]:
        raise Damaged("a snapshot fails its checksum", advice=JOIN_ANEW)
    index, term, config_index, members, sessions, state = msgpack.unpackb(
        body, use_list=False, max_bin_len=len(blob)
    )
    configuration = Configuration(config_index, tuple(members))
    return Snapshot(Mark(index, term), configuration, list(sessions), state)


def _version(blob: bytes) -> int:
    if len(blob) < _HEADER.size or not blob.startswith(_MAGIC):
        raise Damaged("a snapshot has no header", advice=JOIN_ANEW)
    version: int = _HEADER.unpack_from(blob)[1]
    return version


class SnapshotStore:
    """The newest snapshot, in memory and on disk."""

    def __init__(self, disk: Disk, key: bytes) -> None:
        self._disk = disk
        self._key = key
        self.blob: bytes | None = None
        self.mark = Mark(0, 0)
        self.configuration = Configuration(0, ())

    def load(self) -> Snapshot | None:
        """Read the newest file. An older one is no way out: the log may not reach back to it."""
        names = [name for name in self._disk.names() if _NAME.fullmatch(name)]
        if not names:
            return None
        try:
            blob = self._unseal(self._disk.read(names[-1]))
            snapshot = decode_snapshot(blob)
        except TooNew:
            raise
        except Damaged as exc:
            raise Damaged(f"{names[-1]}: {exc.message}", advice=JOIN_ANEW) from exc
        self.adopt(snapshot, blob)
        return snapshot

    def adopt(self, snapshot: Snapshot, blob: bytes) -> None:
        """Let it be the newest; what makes it durable is :meth:`save`."""
        self.blob, self.mark, self.configuration = blob, snapshot.mark, snapshot.configuration

    def save(self, mark: Mark, blob: bytes) -> None:
        """Write a snapshot and drop older ones. Blocks; runs in a worker thread."""
        name = f"snapshot-{mark.index:016d}"
        header = _HEADER.pack(_MAGIC, FORMAT, 0)
        self._disk.replace(name, header + seal_blob(self._key, blob, context=header))
        for old in self._disk.names():
            if _NAME.fullmatch(old) and old < name:
                self._disk.remove(old)

    def _unseal(self, raw: bytes) -> bytes:
        if _version(raw) > FORMAT:
            raise TooNew("a snapshot", _version(raw))
        return open_blob(self._key, raw[_HEADER.size :], context=raw[: _HEADER.size])


class Taken(NamedTuple):
    """A snapshot that was encoded and is on disk."""

    snapshot: Snapshot
    blob: bytes


def take(store: SnapshotStore, snapshot: Snapshot, encode: Callable[[], bytes]) -> Taken:
    """Encode a frozen state and store it. Blocks; runs in a worker thread, beside the rounds."""
    full = snapshot._replace(state=encode())
    blob = encode_snapshot(full)
    store.save(full.mark, blob)
    return Taken(full._replace(state=b"", sessions=[]), blob)


class Incoming:
    """A snapshot on its way in: chunks count only in order, and of one and the same snapshot."""

    def __init__(self) -> None:
        self._mark: Mark | None = None
        self._buffer = bytearray()

    def feed(self, mark: Mark, offset: int, data: bytes) -> int:
        """Take a chunk if it is the next one; return how many bytes of that snapshot are here."""
        if mark != self._mark:
            self._mark, self._buffer = mark, bytearray()
        if offset == len(self._buffer):
            self._buffer += data
        return len(self._buffer)

    def complete(self) -> bytes:
        """Hand the whole out and forget it."""
        blob, self._buffer, self._mark = bytes(self._buffer), bytearray(), None
        return blob
