"""A directory whose files are in memory only: on a tmpfs that is there, or one that is mounted."""

import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Final

import trio

from swarmlet.errors import PreparationFailed

#: File systems that have no disk.
_IN_MEMORY: Final = frozenset({"tmpfs", "ramfs"})

_MOUNT: Final = ("mount", "-t", "tmpfs", "-o", "nodev,nosuid,noexec,mode=0700", "tmpfs")


def is_in_memory(path: Path) -> bool:
    """Whether what is written at a path, which is there, reaches no disk."""
    device = path.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        if fields.split()[2] == wanted:
            return rest.split()[0] in _IN_MEMORY
    return False


async def make(directory: Path) -> None:
    """Make the directory, for root only, if it is not there. Raises PreparationFailed."""
    try:
        if not _made(directory):
            await trio.run_process([*_MOUNT, str(directory)], capture_stderr=True)
    except subprocess.CalledProcessError as exc:
        raise PreparationFailed(
            f"{directory} cannot be kept in memory: {exc.stderr.decode(errors='replace').strip()}"
        ) from exc
    except OSError as exc:
        raise PreparationFailed(f"{directory} cannot be made: {exc.strerror}") from exc


def _made(directory: Path) -> bool:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return is_in_memory(directory)


async def remove(directory: Path) -> None:
    """Remove the directory and what is in it; what a container sees of it stays with that."""
    if _emptied(directory):
        await trio.run_process(
            ["umount", "-l", str(directory)], check=False, capture_stderr=True, capture_stdout=True
        )
        _emptied(directory)


def _emptied(directory: Path) -> bool:
    """Remove what can be; whether a mount is left, which :func:`make` made."""
    shutil.rmtree(directory, ignore_errors=True)
    with suppress(FileNotFoundError):
        return directory.is_mount()
    return False
