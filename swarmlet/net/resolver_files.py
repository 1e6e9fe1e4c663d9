"""The files through which the agent and the resolver's process talk, in one directory.

The agent replaces the table, a file with all that the resolver needs; the resolver's process says
in its record who it is. Neither is synced to disk: both are worthless after a power cut, and a torn
one is noticed.
"""

import os
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from swarmlet.model.forwarding import Tables

TABLE: Final = "names.table"
RECORD: Final = "resolver.json"

#: Raised when an older resolver would misread the file; new fields with defaults do not need it.
FORMAT: Final = 1

#: DNS (RFC 1035); another one is for tests.
PORT: Final = 53

_CHECKSUM: Final = 4


class NameTable(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the resolver answers, where, and whom it asks for the rest.

    ``listen`` are the gateway addresses of the networks of this node. ``nameservers``, by task, are
    those that a service names (``DNSConfig``); other tasks get the host's.
    """

    tables: Tables
    listen: tuple[str, ...] = ()
    nameservers: dict[str, tuple[str, ...]] = msgspec.field(
        default_factory=dict[str, tuple[str, ...]]
    )
    port: int = PORT


class Record(msgspec.Struct, frozen=True):
    """A process: its number, started at this tick of this boot, which tells it from later ones.

    ``version`` is that of the daemon that started it. Not of its code: code that was upgraded under
    a daemon would look wrong to it for ever.
    """

    pid: int
    started: int
    boot: str
    version: str


class Damaged(ValueError):
    """The table cannot be used. The message says why."""


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(NameTable)
_RECORD_DECODER: Final = msgspec.json.Decoder(Record)


def encode(table: NameTable) -> bytes:
    """Format, checksum, msgpack."""
    body = _ENCODER.encode(table)
    return bytes([FORMAT]) + zlib.crc32(body).to_bytes(_CHECKSUM, "big") + body


def decode(raw: bytes) -> NameTable:
    """Read back; raises Damaged."""
    if not raw or raw[0] != FORMAT:
        said = f"it is of format {raw[0]}, this resolver reads {FORMAT}" if raw else "it is empty"
        raise Damaged(said)
    body = raw[1 + _CHECKSUM :]
    if zlib.crc32(body).to_bytes(_CHECKSUM, "big") != raw[1 : 1 + _CHECKSUM]:
        said = "its checksum is wrong"
        raise Damaged(said)
    try:
        return _DECODER.decode(body)
    except (msgspec.MsgspecError, ValueError) as exc:
        raise Damaged(str(exc)) from exc


def replace(path: Path, data: bytes) -> None:
    """Replace a file whole, readable by its owner only.

    Not :func:`swarmlet.durable.replace_file`: tables come in bursts, and no disk needs to have one.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
        new.replace(path)
    except OSError:
        with suppress(OSError):
            new.unlink(missing_ok=True)
        raise


class Watched:
    """A file that is looked at for changes.

    By stat, not inotify: two calls each look cost microseconds, work on every file system, and need
    none of the 128 inotify instances that all containers of the same user share.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, int, int] | None = None

    def changed(self) -> bool:
        """Whether it is another file than at the last call; one that is gone has not changed."""
        try:
            now = self.path.stat()
        except OSError:
            return False
        sign = (now.st_ino, now.st_mtime_ns, now.st_size)
        changed, self._seen = sign != self._seen, sign
        return changed


def encode_record(record: Record) -> bytes:
    """JSON, as people read it too."""
    return msgspec.json.encode(record) + b"\n"


def this_process(version: str) -> Record:
    """The record of the process that asks."""
    pid = os.getpid()
    return Record(pid, _started(pid), _boot(), version)


def read_record(path: Path) -> Record | None:
    """The record in a file, of a process that runs; None if there is no such process."""
    try:
        record = _RECORD_DECODER.decode(path.read_bytes())
        alive = record.boot == _boot() and record.started == _started(record.pid)
    except (OSError, ValueError, msgspec.MsgspecError):
        return None
    return record if alive else None


def _started(pid: int) -> int:
    """The tick in which a process started: the field 22 of its stat (proc_pid_stat(5))."""
    state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    if state in "ZX":
        msg = f"process {pid} has ended"
        raise ProcessLookupError(msg)
    return int(fields[18])


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
