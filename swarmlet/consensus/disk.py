"""The disk edge of consensus: five verbs, each durable when it returns, every OSError a DiskFailed.

After one failed write or sync nothing more is written: the kernel may have dropped the dirty pages
and report success the next time, so an fsync that failed must never be tried again.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Protocol

from swarmlet import durable
from swarmlet.errors import DiskFailed

#: A log is extended by zeros well ahead of the writing, so that fdatasync has no new file size to
#: commit (half the latency on ext4). Small at first: a member that keeps
#: restarting must not eat the disk.
FIRST_GROWTH: Final = 256 << 10
FULL_GROWTH: Final = 4 << 20


class Disk(Protocol):
    """A flat directory of files. The simulator and the fault tests have their own."""

    def names(self) -> list[str]:
        """Return the files there are, sorted."""
        ...

    def read(self, name: str) -> bytes:
        """Return a whole file, zeros written ahead included."""
        ...

    def append(self, name: str, data: bytes) -> None:
        """Write behind what this object wrote to ``name`` before, durably."""
        ...

    def replace(self, name: str, data: bytes) -> None:
        """Create or replace a file: wholly or, after a crash, not at all."""
        ...

    def remove(self, name: str) -> None:
        """Delete a file. It may come back after a crash."""
        ...


class _OpenLog:
    """A file being appended to: ``end`` of the data, ``size`` with the zeros behind it."""

    __slots__ = ("end", "fd", "size")

    def __init__(self, fd: int, end: int) -> None:
        self.fd = fd
        self.end = self.size = end


class FileDisk:
    """Real files in one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._logs: dict[str, _OpenLog] = {}
        self._failed: DiskFailed | None = None
        with self._failing("open"):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            for leftover in directory.glob("*" + durable.TEMPORARY):
                leftover.unlink()
            self._settle()

    def names(self) -> list[str]:
        """Return the files there are, sorted."""
        with self._failing("list"):
            return sorted(path.name for path in self.directory.iterdir() if path.is_file())

    def read(self, name: str) -> bytes:
        """Return a whole file."""
        with self._failing(f"read {name}"):
            return (self.directory / name).read_bytes()

    def append(self, name: str, data: bytes) -> None:
        """Write and sync once; the file must have been made by ``replace`` through this object."""
        with self._failing(f"append to {name}"):
            log = self._logs.get(name) or self._open(name)
            if log.end + len(data) > log.size:
                self._grow(log, len(data))
            _write_at(log.fd, data, log.end)
            os.fdatasync(log.fd)
            log.end += len(data)

    def replace(self, name: str, data: bytes) -> None:
        """Write aside, sync, rename, sync the directory."""
        with self._failing(f"write {name}"):
            self._close(name)
            durable.replace_file(self.directory / name, data)

    def remove(self, name: str) -> None:
        """Unlink a file."""
        with self._failing(f"remove {name}"):
            self._close(name)
            (self.directory / name).unlink(missing_ok=True)

    def close(self) -> None:
        """Close what is open."""
        for name in list(self._logs):
            self._close(name)

    def _open(self, name: str) -> _OpenLog:
        fd = os.open(self.directory / name, os.O_RDWR)
        log = self._logs[name] = _OpenLog(fd, os.fstat(fd).st_size)
        return log

    def _grow(self, log: _OpenLog, needed: int) -> None:
        grown = max(needed, min(FULL_GROWTH, max(FIRST_GROWTH, log.size)))
        _write_at(log.fd, bytes(grown), log.size)
        os.fsync(log.fd)
        log.size += grown

    def _close(self, name: str) -> None:
        log = self._logs.pop(name, None)
        if log is not None:
            os.close(log.fd)

    def _settle(self) -> None:
        """Make durable what a killed process wrote: it is about to be read, and relied on."""
        for path in self.directory.iterdir():
            fd = os.open(path, os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        durable.sync_directory(self.directory)

    @contextmanager
    def _failing(self, what: str) -> Iterator[None]:
        """Map OSError once, here, and refuse everything after the first one."""
        if self._failed is not None:
            raise self._failed
        try:
            yield
        except OSError as exc:
            self._failed = DiskFailed(
                f"cannot {what} in {self.directory}: {exc.strerror or exc}",
                advice=durable.way_out(exc),
            )
            raise self._failed from exc


def _write_at(fd: int, data: bytes, offset: int) -> None:
    left = memoryview(data)
    while left:
        written = os.pwrite(fd, left, offset)
        left, offset = left[written:], offset + written
