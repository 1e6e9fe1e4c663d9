"""The unix socket that the daemon's API listens on."""

import contextlib
import grp
import os
import shutil
import socket
import stat
from pathlib import Path
from typing import Final

import trio

from swarmlet.errors import FailedPrecondition

#: Clients that wait to be accepted (Linux's own bound). Past it, one that does not block is refused
#: with "try again" by connect(2).
_BACKLOG: Final = 4096

#: Owner and group only: whoever reaches the socket can start containers, that is, is root.
_MODE: Final = 0o660

#: Members of Docker's group may use the engine, so they may use this.
_GROUP: Final = "docker"


def open_unix_listener(path: Path) -> trio.SocketListener:
    """Listen on ``path``, in place of a socket that nobody serves any more.

    Raises FailedPrecondition when somebody does, or when the path is another kind of file. The
    socket gets its mode before its name, so that nobody can connect too early.
    """
    _check_free(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _bind(sock, fresh)
        fresh.rename(path)
    except BaseException:
        sock.close()
        fresh.unlink(missing_ok=True)
        raise
    return trio.SocketListener(sock)


def _bind(sock: trio.socket.SocketType, path: Path) -> None:
    bound = socket.socket(fileno=os.dup(sock.fileno()))
    with bound:
        bound.bind(str(path))
        path.chmod(_MODE)
        with contextlib.suppress(LookupError, PermissionError):
            grp.getgrnam(_GROUP)
            shutil.chown(path, group=_GROUP)
        bound.listen(_BACKLOG)


def _check_free(path: Path) -> None:
    try:
        kind = path.stat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(kind):
        raise FailedPrecondition(f"{path} exists and is not a socket", advice="move it away")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return  # its server is gone
        except OSError as exc:
            raise FailedPrecondition(f"{path} cannot be probed: {exc}") from exc
    raise FailedPrecondition(
        f"another daemon serves {path}",
        advice="stop it, or give this one a socket of its own (--socket)",
    )


def remove_socket(path: Path) -> None:
    """Remove the socket's name after serving, unless a successor serves it already."""
    with contextlib.suppress(FileNotFoundError), contextlib.suppress(FailedPrecondition):
        _check_free(path)
        path.unlink()
