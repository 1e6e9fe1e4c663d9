"""Files that are replaced whole: after a crash the old one or the new one is there, never a half.

Both calls block until the disk has it; inside trio they belong in a thread, unless the caller must
not go on without.
"""

import errno
import os
from pathlib import Path
from typing import Final

from swarmlet.errors import DiskFailed

#: What a replacement is called until it is complete. Only a crash leaves one behind.
TEMPORARY: Final = ".tmp"

#: Keys, credentials and what seals them: nobody else may even read them.
OWNER_ONLY: Final = 0o600


def replace_file(path: Path, data: bytes, *, mode: int = OWNER_ONLY) -> None:
    """Write aside, sync, rename, sync the directory. Raises OSError."""
    aside = path.with_name(path.name + TEMPORARY)
    # A leftover is removed, not reused: its mode may be another.
    aside.unlink(missing_ok=True)
    with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    aside.rename(path)
    sync_directory(path.parent)


def save_file(path: Path, data: bytes) -> None:
    """As :func:`replace_file`; a disk that does not take it is a DiskFailed that names the file."""
    try:
        replace_file(path, data)
    except OSError as exc:
        raise DiskFailed(
            f"{path} cannot be written: {exc.strerror or exc}", advice=way_out(exc)
        ) from exc


def keep_file(path: Path, data: bytes) -> None:
    """As :func:`save_file`, in a directory of our own that is made when it is first needed."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    save_file(path, data)


def way_out(exc: OSError) -> str:
    """What to do about a disk that failed."""
    if exc.errno in {errno.ENOSPC, errno.EDQUOT}:
        return "free space on that disk; then repeat it, or start the daemon again if it stopped"
    return "check the disk; if it is lost, remove this node and let it join again"


def sync_directory(path: Path) -> None:
    """Make durable which files there are. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
