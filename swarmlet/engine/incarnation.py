"""Which life of the Docker Engine is this? Tells who went down with an engine from who just ended.

The process behind the socket (SO_PEERCRED) and its start time name one life of an engine. When
systemd holds the socket the peer is systemd, so the running ``dockerd`` is looked up by name. The
kernel's boot identifier is part of the name: process numbers repeat after a reboot.
"""

import os
import struct
import time
from pathlib import Path
from typing import Final

import msgspec

from swarmlet.clock import Instant, wall_clock

#: struct ucred: pid, uid, gid.
UCRED: Final = struct.Struct("3i")

_PROC: Final = Path("/proc")


class Incarnation(msgspec.Struct, frozen=True):
    """One life of an engine. ``started_at`` is 0 where it cannot be known."""

    name: str
    started_at: Instant


def read(peer: bytes) -> Incarnation:
    """Name the engine whose socket has these peer credentials."""
    boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    pid, _, _ = UCRED.unpack(peer)
    pids = [pid] if pid > 1 else _engines()  # 1: systemd; 0: outside this process namespace
    ticks = {p: t for p in pids if (t := _start_ticks(p)) is not None}
    name = ",".join([boot, *(f"{p}@{t}" for p, t in sorted(ticks.items()))])
    if len(ticks) != 1:
        return Incarnation(name=name, started_at=Instant(0))
    (since_boot,) = ticks.values()
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - since_boot / os.sysconf("SC_CLK_TCK")
    return Incarnation(name=name, started_at=Instant(wall_clock() - int(age * 1e9)))


def _command(pid: int) -> bytes:
    """A process's name: bytes, since any process may call itself anything (prctl(2))."""
    try:
        return (_PROC / str(pid) / "comm").read_bytes().strip()
    except OSError:
        return b""


def _engines() -> list[int]:
    pids = (int(p.name) for p in _PROC.iterdir() if p.name.isdigit())
    return [pid for pid in pids if _command(pid) == b"dockerd"]


def _start_ticks(pid: int) -> int | None:
    """Field 22 of /proc/PID/stat: clock ticks from boot to the process's start."""
    try:
        stat = (_PROC / str(pid) / "stat").read_bytes()  # the name is in it: see above
    except OSError:
        return None
    return int(stat.rpartition(b")")[2].split()[19])
