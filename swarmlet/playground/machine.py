"""Running commands on this machine, and reading what of a playground exists on it."""

import fcntl
import json
import os
import subprocess
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from ipaddress import IPv4Network
from pathlib import Path
from typing import Final

from swarmlet.errors import SwarmletError
from swarmlet.playground.layout import Roots, Site

#: No command that a playground runs for itself takes longer on a machine that works.
COMMAND_TIMEOUT: Final = 30.0


class CommandFailed(SwarmletError):
    """A command that a playground is made with failed."""

    code = "playground-command"

    def __init__(self, argv: Sequence[str], said: str) -> None:
        super().__init__(
            f"{' '.join(argv)}: {said.strip() or 'failed without a word'}",
            advice="see docs/playground.md; swarmlet playground down removes what was made",
        )


def run(argv: Sequence[str], *, stdin: str = "") -> str:
    """Run a command to its end; returns its output, raises CommandFailed."""
    try:
        done = subprocess.run(
            argv, input=stdin, capture_output=True, text=True, check=False, timeout=COMMAND_TIMEOUT
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise CommandFailed(argv, str(exc)) from exc
    if done.returncode:
        raise CommandFailed(argv, done.stderr or done.stdout)
    return done.stdout


def run_quietly(argv: Sequence[str]) -> bool:
    """Run a command that may fail because there is nothing to do; says whether it succeeded."""
    try:
        run(argv)
    except CommandFailed:
        return False
    return True


def launch(
    argv: Sequence[str],
    *,
    log: Path,
    env: Mapping[str, str],
    cwd: Path,
    pass_fds: Collection[int] = (),
) -> None:
    """Start a program that outlives us, in a session of its own, as a child of init."""
    with log.open("ab") as output:
        subprocess.run(
            ["setsid", "--fork", *argv],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=dict(env),
            cwd=cwd,
            pass_fds=pass_fds,
            check=True,
            timeout=COMMAND_TIMEOUT,
        )


def links(site: Site) -> list[str]:
    """Return this playground's links in the root namespace."""
    found = sorted(p.name for p in Path("/sys/class/net").iterdir())
    return [name for name in found if name.startswith(site.link_prefix)]


def link_is_up(link: str) -> bool:
    """Say whether a link exists and is switched on (flag IFF_UP)."""
    try:
        return bool(int(Path(f"/sys/class/net/{link}/flags").read_text(), 16) & 1)
    except OSError:
        return False


def namespaces(site: Site) -> list[str]:
    """Return the names of this playground's network namespaces."""
    folder = Path("/run/netns")
    found = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    return [name for name in found if site.netns_pattern.fullmatch(name)]


def networks_in_use() -> list[IPv4Network]:
    """Return the networks of this machine's addresses and routes."""
    routes: list[dict[str, str]] = json.loads(run(["ip", "-j", "-4", "route", "show"]))
    links: list[dict[str, list[dict[str, str]]]] = json.loads(run(["ip", "-j", "-4", "addr"]))
    infos = [info for link in links for info in link.get("addr_info", [])]
    return [
        *[IPv4Network(route["dst"]) for route in routes if route["dst"] != "default"],
        *[IPv4Network(f"{i['local']}/{i['prefixlen']}", strict=False) for i in infos],
    ]


def mounts_below(folder: Path) -> list[Path]:
    """Return the mount points below a folder, deepest first."""
    found: list[Path] = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        where = Path(line.split()[4].replace("\\040", " "))
        if where.is_relative_to(folder):
            found.append(where)
    return sorted(found, key=lambda path: len(path.parts), reverse=True)


def pid_in(pidfile: Path, alive: set[int]) -> int | None:
    """Return the process a pid file names, if it is among those alive."""
    try:
        pid = int(pidfile.read_text())
    except (OSError, ValueError):
        return None
    return pid if pid in alive else None


def is_written(pidfile: Path) -> bool:
    """Say whether a pid file has its content: a shell creates it first and fills it then."""
    try:
        return pidfile.stat().st_size > 0
    except FileNotFoundError:
        return False


def tail(log: Path, *, lines: int = 12) -> list[str]:
    """Return the last lines of a log; none when there is no log."""
    try:
        return log.read_text(errors="replace").splitlines()[-lines:]
    except OSError:
        return []


@contextmanager
def locked(roots: Roots) -> Iterator[None]:
    """Hold the lock of all playgrounds: names and networks are taken one at a time."""
    descriptor = _lock_folder(roots.run)
    try:
        yield
    finally:
        os.close(descriptor)


def _lock_folder(folder: Path) -> int:
    """Lock a folder, as the last playground removes it and no lock file may be left behind."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = -1
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if folder.stat().st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        except FileNotFoundError:
            pass  # removed while we waited: lock the new one
        if descriptor >= 0:
            os.close(descriptor)


__all__ = [
    "CommandFailed",
    "is_written",
    "launch",
    "link_is_up",
    "links",
    "locked",
    "mounts_below",
    "namespaces",
    "networks_in_use",
    "pid_in",
    "run",
    "run_quietly",
    "tail",
]
