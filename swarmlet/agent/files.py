"""Secrets and configs on this node: data from managers, and files of it for containers.

Nothing of it reaches a disk. Data is kept in memory while managers say so; files are on a tmpfs,
where a daemon that restarts finds them. A file is written once for all tasks that want it with the
same owner and mode, and each task has a link of its own to it::

    shared/IDENTIFIER.UID.GID.MODE     removed with the last link to it
    TASK/IDENTIFIER.UID.GID.MODE       mounted into the task's container

What is made from a template is the task's alone, and not shared.

A container keeps what is mounted into it, whatever becomes of the links: they go as soon as no
container of the task will be started any more.
"""

import os
from collections.abc import Awaitable, Callable, Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
import structlog

from swarmlet.agent import memory
from swarmlet.errors import PreparationFailed
from swarmlet.model.expansion import Facts
from swarmlet.model.files import File, files_of
from swarmlet.model.specs import ContainerSpec
from swarmlet.model.templates import LOOKUPS, BadTemplate, Lookup, Scope, Template
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
        self._templates: set[str] = set()
        self._told = False  # managers said what this node may have

    # --- data -----------------------------------------------------------------------------------

    def take(self, payloads: Payloads) -> None:
        """Managers gave data, or say that some is needed no more."""
        self._data |= payloads.data
        self._templates |= {*payloads.templates}
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

    async def prepare(
        self, task: Assignment, facts_of: Callable[[Assignment], Awaitable[Facts]]
    ) -> list[Mounted]:
        """Make the files of a task that are not there yet.

        Raises PreparationFailed, and what ``facts_of`` raises, which templates need.
        """
        files = files_of(task.spec.container)
        if not files:
            return []
        facts = None
        if any(file.ident in self._templates for file in files):
            facts = await facts_of(task)
        await memory.make(self._directory)
        if lost := self._lacking(task):
            names = ", ".join(sorted({f"{file.kind} {file.name}" for file in lost}))
            raise PreparationFailed(f"not found: {names}")
        try:
            self._shared.mkdir(mode=0o700, exist_ok=True)
            (self._directory / task.task_id).mkdir(mode=0o700, exist_ok=True)
            for file in files:
                self._place(task, file, facts)
        except OSError as exc:
            self.release(task.task_id)
            raise PreparationFailed(
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
        self._data, self._templates, self._told = {}, set(), False
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

    def _place(self, task: Assignment, file: File, facts: Facts | None) -> None:
        link = self._link(task, file)
        if link.exists():
            return
        if facts is not None and file.ident in self._templates:
            self._write(link, file, self._filled(task, file, facts))
            return
        shared = self._shared / file.key
        if not shared.exists():
            self._write(shared, file, self._data[file.ident])
        link.hardlink_to(shared)

    def _filled(self, task: Assignment, file: File, facts: Facts) -> bytes:
        """A template, filled in. Raises PreparationFailed."""
        try:
            template = Template(_text(self._data[file.ident]), LOOKUPS)
            filled = template.fill(Scope(facts.fields, self._lookups(task.spec.container)))
        except BadTemplate as exc:
            self.release(task.task_id)
            raise PreparationFailed(f"{file.kind} {file.name}: {exc}") from exc
        return filled.encode(errors="surrogateescape")

    def _lookups(self, container: ContainerSpec) -> dict[str, Lookup]:
        """What a template can ask for: variables, and the task's other files, as they are."""
        split = (entry.partition("=") for entry in reversed(container.env))
        variables = {name: value for name, _, value in split}
        secrets = {one.file.name: one.secret_id for one in container.secrets if one.file}
        configs = {one.file.name: one.config_id for one in container.configs if one.file}
        return {
            "env": lambda name: variables.get(name, ""),
            "secret": lambda target: self._found(secrets.get(target)),
            "config": lambda target: self._found(configs.get(target)),
        }

    def _found(self, ident: str | None) -> str | None:
        return _text(self._data[ident]) if ident in self._data else None

    def _write(self, place: Path, file: File, data: bytes) -> None:
        """Whole or not at all, and nobody else's for a moment."""
        half = self._shared / "half"
        half.unlink(missing_ok=True)
        descriptor = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as output:
            output.write(data)
            os.fchown(output.fileno(), file.uid, file.gid)
            os.fchmod(output.fileno(), file.mode)
        half.rename(place)

    def _unshare(self, shared: Path) -> None:
        with suppress(FileNotFoundError):
            if shared.stat().st_nlink == 1:
                shared.unlink()


def _text(data: bytes) -> str:
    """Data as a template sees it; bytes that are no text pass through it."""
    return data.decode(errors="surrogateescape")
