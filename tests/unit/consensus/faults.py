"""Disks for tests: one in memory, one that fails when told to."""

import errno
from collections.abc import Mapping

from swarmlet.errors import DiskFailed

KEY = bytes(range(32))


class MemoryDisk:
    """Files that are durable at once."""

    def __init__(self, files: Mapping[str, bytes] | None = None) -> None:
        self.files: dict[str, bytes] = dict(files or {})

    def names(self) -> list[str]:
        return sorted(self.files)

    def read(self, name: str) -> bytes:
        return self.files[name]

    def append(self, name: str, data: bytes) -> None:
        self.files[name] += data

    def replace(self, name: str, data: bytes) -> None:
        self.files[name] = data

    def remove(self, name: str) -> None:
        self.files.pop(name, None)


class FullDisk(MemoryDisk):
    """Out of space after ``room`` bytes."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def append(self, name: str, data: bytes) -> None:
        self._use(data)
        super().append(name, data)

    def replace(self, name: str, data: bytes) -> None:
        self._use(data)
        super().replace(name, data)

    def _use(self, data: bytes) -> None:
        self.room -= len(data)
        if self.room < 0:
            raise DiskFailed(f"no space: {errno.ENOSPC}")
