"""What a playground needs of the machine, and one error that names all that is missing."""

import os
import shutil
from collections.abc import Callable, Iterable
from typing import Final

from swarmlet.errors import FailedPrecondition
from swarmlet.playground import machine

#: Program and the Debian package it comes from.
PROGRAMS: Final = {
    "dockerd": "docker.io",
    "containerd": "containerd",
    "iptables": "iptables",
    "ip": "iproute2",
    "nft": "nftables",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "setsid": "util-linux",
}


class CannotRunHere(FailedPrecondition):
    """This machine or this user cannot run a playground."""

    code = "playground-unsupported"


def missing_programs(which: Callable[[str], str | None] = shutil.which) -> list[str]:
    """Return the programs that are not installed."""
    return [name for name in PROGRAMS if which(name) is None]


def refusal(uid: int, programs: Iterable[str], *, namespaces: bool) -> CannotRunHere | None:
    """Return the one error for all that is missing, or None."""
    programs = list(programs)
    lacks: list[str] = []
    fixes: list[str] = []
    if uid != 0:
        lacks.append(f"root (you are uid {uid})")
        fixes.append("run it with sudo")
    if programs:
        lacks.append(f"the programs {', '.join(programs)}")
        packages = dict.fromkeys(PROGRAMS[name] for name in programs)
        fixes.append(f"apt-get install {' '.join(packages)} (or scripts/install)")
    if uid == 0 and not namespaces:
        lacks.append("the right to make network and mount namespaces")
        fixes.append("run it on a machine or VM, or in a privileged container")
    if not lacks:
        return None
    return CannotRunHere(
        f"a playground cannot run here, it needs {' and '.join(lacks)}",
        advice="; ".join(fixes),
    )


def check() -> None:
    """Raise CannotRunHere unless a playground can run on this machine."""
    uid, programs = os.geteuid(), missing_programs()
    namespaces = uid != 0 or machine.run_quietly(["unshare", "--net", "--mount", "--uts", "true"])
    error = refusal(uid, programs, namespaces=namespaces)
    if error is not None:
        raise error


def check_root() -> None:
    """Raise CannotRunHere for anyone but root: nothing here can be changed without."""
    if os.geteuid() != 0:
        raise CannotRunHere(
            f"a playground needs root (you are uid {os.geteuid()})", advice="run it with sudo"
        )


__all__ = ["PROGRAMS", "CannotRunHere", "check", "check_root", "missing_programs", "refusal"]
