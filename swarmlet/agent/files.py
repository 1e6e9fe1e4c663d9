"""Secrets and configs on this node: data from managers, and files of it for containers.

Nothing of it reaches a disk. Data is kept in memory while managers say so; files are on a tmpfs,
where a daemon that restarts finds them. A file is written once for all tasks that want it with the
same owner and mode, and each task has a link of its own to it::

    shared/IDENTIFIER.UID.GID.MODE     removed with the last link to it
    TASK/IDENTIFIER.UID.GID.MODE       mounted into the task's container

A container keeps what is mounted into it, whatever becomes of the links: they go as soon as no
container of the task will be started any more.
"""

import os
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
import structlog

from swarmlet.agent import memory
from swarmlet.errors import FilesFailed
from swarmlet.model.files import File, files_of
from swarmlet.rpc.messages import Assignment, Payloads

log = structlog.get_logger(__name__)

_SHARED: Final = "shared"


class Mounted(msgspec.Struct, frozen=True):
    """A file of this host, and where a container sees it."""

    source: str
    target: str


class Files:
    """The data, and the files below ``directory``, which is made when a task first needs one."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._shared = directory / _SHARED
        self._data: dict[str, bytes] = {}
        self._told = False  # managers said what this node may have

    # --- data -----------------------------------------------------------------------------------

    def take(self, payloads: Payloads) -> None:
        """Managers gave data, or say that some is needed no more."""
        self._data |= payloads.data
        for ident in payloads.gone:
            self._data.pop(ident, None)

    def keep(self, idents: Collection[str]) -> None:
        """These are all that this node may have."""
        self._data = {ident: data for ident, data in self._data.items() if ident in idents}
        self._told = True

    def awaits(self, task: Assignment) -> bool:
        """Whether managers have yet to say what a task needs: after a boot there is nothing here.

        Once they have, what is missing then is gone for good.
        """
        return not self._told and bool(self._lacking(task))

    # --- files ----------------------------------------------------------------------------------

    async def prepare(self, task: Assignment) -> list[Mounted]:
        """Make the files of a task that are not there yet. Raises FilesFailed."""
        files = files_of(task.spec.container)
        if not files:
            return []
        if lost := self._lacking(task):
            names = ", ".join(sorted({f"{file.kind} {file.name}" for file in lost}))
            raise FilesFailed(f"not found: {names}")
        await memory.make(self._directory)
        try:
            self._shared.mkdir(mode=0o700, exist_ok=True)
            (self._directory / task.task_id).mkdir(mode=0o700, exist_ok=True)
            for file in files:
                self._place(task, file)
        except OSError as exc:
            self.release(task.task_id)
            raise FilesFailed(
                f"secrets and configs cannot be written to {self._directory}: {exc.strerror}"
            ) from exc
        return [Mounted(str(self._link(task, file)), file.path) for file in files]

    def release(self, task_id: str) -> None:
        """Remove the files of a task, if it has any."""
        own = self._directory / task_id
        with suppress(FileNotFoundError):
            for link in list(own.iterdir()):
                link.unlink()
                self._unshare(self._shared / link.name)
            own.rmdir()

    def sweep(self, task_ids: Iterable[str]) -> None:
        """Remove what belongs to none of these tasks: a daemon was cut off between two steps."""
        kept = {*task_ids, _SHARED}
        with suppress(FileNotFoundError):
            for entry in list(self._directory.iterdir()):
                if entry.name not in kept:
                    self.release(entry.name)
            for file in list(self._shared.iterdir()):
                self._unshare(file)

    async def clear(self) -> None:
        """Forget everything: this node is in no cluster any more."""
        self._data, self._told = {}, False
        await memory.remove(self._directory)

    def _lacking(self, task: Assignment) -> list[File]:
        """The files of a task that are not there and cannot be made."""
        return [
            file
            for file in files_of(task.spec.container)
            if file.ident not in self._data and not self._link(task, file).exists()
        ]

    def _link(self, task: Assignment, file: File) -> Path:
        return self._directory / task.task_id / file.key

    def _place(self, task: Assignment, file: File) -> None:
        link = self._link(task, file)
        if link.exists():
            return
        shared = self._shared / file.key
        if not shared.exists():
            self._write(shared, file)
        link.hardlink_to(shared)

    def _write(self, shared: Path, file: File) -> None:
        """Whole or not at all, and nobody else's for a moment."""
        half = shared.with_name("half")
        half.unlink(missing_ok=True)
        descriptor = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as output:
            output.write(self._data[file.ident])
            os.fchown(output.fileno(), file.uid, file.gid)
            os.fchmod(output.fileno(), file.mode)
        half.rename(shared)

    def _unshare(self, shared: Path) -> None:
        with suppress(FileNotFoundError):
            if shared.stat().st_nlink == 1:
                shared.unlink()
