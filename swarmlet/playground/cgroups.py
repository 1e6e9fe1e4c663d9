"""A cgroup for each host: every process of a host can be named, and killed, exactly.

One hierarchy is enough to hold the processes: cgroup v2 where it is mounted (alone or beside v1,
"hybrid"), else v1's ``pids``. runc makes the containers' own cgroups in every hierarchy, so
removal looks at all of them.
"""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from swarmlet.errors import FailedPrecondition

#: Seconds for killed processes to be gone. The kernel needs milliseconds; a process in the middle
#: of a slow disk write may need longer.
GONE_WITHIN: Final = 20.0


def hierarchies() -> list[tuple[Path, str]]:
    """Return mount point and type of every mounted cgroup hierarchy."""
    found: list[tuple[Path, str]] = []
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, *_ = line.split()
        if kind in {"cgroup", "cgroup2"}:
            found.append((Path(where), kind))
    return found


def holder() -> Path:
    """Return the hierarchy that holds the hosts' processes."""
    mounted = hierarchies()
    for where, kind in mounted:
        if kind == "cgroup2":
            return where
    for where, _ in mounted:
        if where.name == "pids":
            return where
    raise FailedPrecondition(
        "no cgroup hierarchy is mounted, so a host's processes cannot be held together",
        advice="mount one: mount -t cgroup2 none /sys/fs/cgroup",
    )


def make(cgroup: str) -> Path:
    """Make a cgroup in the holding hierarchy; returns its folder."""
    folder = holder() / cgroup
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def members(cgroup: str) -> set[int]:
    """Return the processes in a cgroup and below it."""
    found: set[int] = set()
    for folder in _tree(holder() / cgroup):
        with suppress(OSError):
            found.update(map(int, (folder / "cgroup.procs").read_text().split()))
    return found


def kill(cgroup: str) -> None:
    """SIGKILL every process in a cgroup and below it, and wait until they are gone.

    ``cgroup.kill`` (Linux 5.14) is atomic; without it, kill until a round finds nobody, since a
    process may fork while the list is read. One that v1 has frozen (``docker pause``) dies when it
    is let go.
    """
    deadline = time.monotonic() + GONE_WITHIN
    atomic = holder() / cgroup / "cgroup.kill"
    while members(cgroup):
        if atomic.exists():
            atomic.write_text("1")
        else:
            for pid in members(cgroup):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        _thaw(cgroup)
        if time.monotonic() > deadline:
            left = " ".join(map(str, sorted(members(cgroup))))
            raise FailedPrecondition(
                f"processes of {cgroup} do not die: {left}",
                advice="they hang in the kernel (state D in ps); try again, or reboot",
            )
        time.sleep(0.01)


def _thaw(cgroup: str) -> None:
    for root, _ in hierarchies():
        for folder in _tree(root / cgroup):
            if (folder / "freezer.state").exists():
                with suppress(OSError):
                    (folder / "freezer.state").write_text("THAWED")


def remove(cgroup: str) -> list[Path]:
    """Remove a cgroup and all below it from every hierarchy; returns what could not be removed."""
    found = [f for root, _ in hierarchies() for f in reversed(list(_tree(root / cgroup)))]
    return [folder for folder in found if not _remove_one(folder)]


def remove_if_empty(cgroup: str) -> None:
    """Remove a cgroup that holds nothing from every hierarchy."""
    for root, _ in hierarchies():
        with suppress(OSError):
            (root / cgroup).rmdir()


def _remove_one(folder: Path) -> bool:
    """Remove one folder; busy ones are tried again, as v1 keeps dead processes for a moment."""
    for _ in range(200):
        try:
            folder.rmdir()
        except FileNotFoundError:
            return True
        except OSError:
            time.sleep(0.01)
        else:
            return True
    return False


def _tree(folder: Path) -> Iterator[Path]:
    """Yield a folder and those below it, parents first."""
    for path, _, _ in os.walk(folder):
        yield Path(path)


__all__ = ["GONE_WITHIN", "hierarchies", "holder", "kill", "make", "members", "remove"]
__all__ += ["remove_if_empty"]
