"""What an agent keeps on disk: its assignments, so that a node that boots alone runs its tasks.

One file, replaced whole: a version byte and msgpack. It holds registry credentials, hence 0600. It
is a cache of what managers know, so a damaged file costs little: it is set aside, with a warning.
"""

from pathlib import Path
from typing import Final

import msgspec
import structlog

from swarmlet import durable
from swarmlet.model.objects import TaskStatus
from swarmlet.rpc.messages import Assignment

#: Raised when a change needs a migration; new fields with defaults do not.
VERSION: Final = 1

FILE: Final = "assignments.msgpack"

log = structlog.get_logger(__name__)


class Kept(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One task. ``seen_in``: the engine's incarnation under which its container last ran."""

    task: Assignment
    status: TaskStatus | None = None
    seen_in: str = ""


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(list[Kept])


class Storage:
    """The file in ``directory``. Both methods block: call them in a thread."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / FILE

    def load(self) -> list[Kept]:
        """Read what was saved; nothing when there is no file, or none that can be read."""
        try:
            raw = self.path.read_bytes()
        except FileNotFoundError:
            return []
        try:
            return _decode(raw)
        except (ValueError, msgspec.MsgspecError) as exc:
            aside = self.path.with_suffix(".damaged")
            self.path.replace(aside)
            log.warning(
                "assignments-damaged",
                reason=str(exc),
                set_aside=str(aside),
                consequence="tasks of this node start again once a manager answers",
            )
            return []

    def save(self, kept: list[Kept]) -> None:
        """Replace the file atomically; it is on disk when this returns. Raises DiskFailed."""
        durable.keep_file(self.path, bytes([VERSION]) + _ENCODER.encode(kept))


def _decode(raw: bytes) -> list[Kept]:
    if not raw:
        msg = "it is empty"
        raise ValueError(msg)
    if raw[0] != VERSION:
        msg = f"it is of version {raw[0]}, this swarmlet reads {VERSION}"
        raise ValueError(msg)
    return _DECODER.decode(raw[1:])
