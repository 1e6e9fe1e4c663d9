"""Client of swarmlet's HTTP API for the command line: synchronous, over the unix socket.

The standard library's ``http.client`` is enough and costs the CLI's start-up little; trio and
httpcore2 stay on the daemon's side (docs/adr/0005-cli-on-click-and-stdlib-http.md).
"""

import errno
import http.client
import json
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode

from swarmlet.errors import NotAllowed, SwarmletError, Unavailable

#: Where the daemon listens unless told otherwise.
DEFAULT_SOCKET: Final = Path("/run/swarmlet/swarmlet.sock")

#: Seconds for an answer. Writes without a quorum fail within 2 s; joining may take longer.
TIMEOUT: Final = 60.0

#: Header of an answer that comes from a replica which may be behind; its value says why.
STALE_HEADER: Final = "Swarmlet-Stale"

#: Header of every answer that is not the engine's: which node gave it.
NODE_HEADER: Final = "Swarmlet-Node"

Json = Any  # what json.loads returns; callers know the shape from the Engine API


class DaemonUnreachable(Unavailable):
    """Nothing answers on the socket. ``why`` is the operating system's reason in plain words."""

    code = "daemon-unreachable"

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(
            f"cannot reach the swarmlet daemon on {path}",
            advice="start it (systemctl start swarmletd), or name its socket with -H unix://PATH",
        )
        self.why = why


class NoAnswer(DaemonUnreachable):
    """The daemon took the call and did not answer in time."""


class SocketDenied(NotAllowed):
    """The socket is there, this user may not open it."""

    code = "socket-denied"

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"you may not open {path}",
            advice="run it with sudo, or as a member of the socket's group",
        )
        self.why = "the daemon's socket is for root and its group: whoever opens it rules the node"


class RemoteError(SwarmletError):
    """The daemon's refusal, with the code and the exit status that it was sent with."""

    def __init__(self, status: int, message: str, *, code: str, advice: str) -> None:
        super().__init__(message, advice=advice)
        kind = _by_code(SwarmletError).get(code)
        self.status = status
        self.remote_code = code or _CODE_BY_STATUS.get(status, "failed")
        self.remote_exit_status = kind.exit_status if kind else _EXIT_BY_STATUS.get(status, 1)


#: For answers without a code: those that the daemon passes on from the local engine.
_EXIT_BY_STATUS: Final = {400: 8, 403: 7, 404: 3, 409: 4, 501: 16, 503: 6}
_CODE_BY_STATUS: Final = {
    400: "invalid",
    403: "not-allowed",
    404: "not-found",
    409: "conflict",
    501: "not-supported",
    503: "unavailable",
}

_REASONS: Final = {
    errno.ENOENT: "there is no such socket: the daemon is not running, or it listens elsewhere",
    errno.ENOTDIR: "a part of this path is a file, not a directory",
    errno.ECONNREFUSED: "nobody listens on it: the daemon has stopped without removing it",
    errno.ENOTSOCK: "this is a file, not a socket",
}


class _UnixConnection(http.client.HTTPConnection):
    """``HTTPConnection`` whose transport is a unix socket."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("swarmlet", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Client:
    """Calls to one daemon. One connection a call: the CLI makes few.

    ``on_stale`` is called with the reason whenever an answer may be behind (no quorum).
    """

    def __init__(
        self,
        path: Path = DEFAULT_SOCKET,
        *,
        timeout: float = TIMEOUT,
        on_stale: Callable[[str], None] | None = None,
    ) -> None:
        self.path = path
        self.timeout = timeout
        self.on_stale = on_stale
        self._node_id = ""

    def node_id(self) -> str:
        """This node's identifier, "" outside of a cluster: the last answer said it, or a ping does.

        ``/info`` says it too, but waits for the engine.
        """
        if not self._node_id:
            self._exchange("HEAD", "/_ping", None, {})
        return self._node_id

    def get(self, path: str, query: Mapping[str, str] | None = None) -> Json:
        """GET; returns the decoded JSON body. Raises RemoteError or DaemonUnreachable."""
        return self.call("GET", path, query=query)

    def post(
        self,
        path: str,
        body: Json = None,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Json:
        """POST a JSON body; returns the decoded JSON answer or None."""
        return self.call("POST", path, body=body, query=query, headers=headers)

    def delete(self, path: str, query: Mapping[str, str] | None = None) -> Json:
        """DELETE; returns the decoded JSON answer or None."""
        return self.call("DELETE", path, query=query)

    def call(
        self,
        method: str,
        path: str,
        *,
        body: Json = None,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Json:
        """Make one call. ``path`` is taken as it is; quote names with :func:`segment`."""
        target = f"{path}?{urlencode(query)}" if query else path
        data = None if body is None else json.dumps(body).encode()
        sent = {"Content-Type": "application/json"} if data is not None else {}
        status, stale, raw = self._exchange(method, target, data, sent | dict(headers or {}))
        if stale and self.on_stale is not None:
            self.on_stale(stale)
        if status >= 400:
            raise _refusal(status, raw)
        try:
            return json.loads(raw) if raw.strip() else None
        except ValueError as exc:
            raise DaemonUnreachable(self.path, "what answers does not speak JSON") from exc

    def _exchange(
        self, method: str, target: str, data: bytes | None, headers: Mapping[str, str]
    ) -> tuple[int, str, bytes]:
        connection = _UnixConnection(self.path, self.timeout)
        try:
            connection.request(method, target, body=data, headers=dict(headers))
            response = connection.getresponse()
            self._node_id = response.headers.get(NODE_HEADER, self._node_id)
            return response.status, response.headers.get(STALE_HEADER, ""), response.read()
        except PermissionError as exc:
            raise SocketDenied(self.path) from exc
        except TimeoutError as exc:
            raise NoAnswer(self.path, f"no answer within {self.timeout:g} s") from exc
        except (OSError, http.client.HTTPException) as exc:
            raise DaemonUnreachable(self.path, _reason(exc)) from exc
        finally:
            connection.close()


def segment(name: str) -> str:
    """Quote a name for use as one path segment."""
    return quote(name, safe="")


def filters(**wanted: list[str]) -> dict[str, str]:
    """Encode Docker's ``filters`` query parameter, in the form ``{"name": ["a"]}``."""
    return {"filters": json.dumps(wanted)}


def _reason(exc: OSError | http.client.HTTPException) -> str:
    if isinstance(exc, OSError):
        return _REASONS.get(exc.errno or 0, exc.strerror or str(exc) or type(exc).__name__)
    if isinstance(exc, http.client.RemoteDisconnected):
        return "it closed the connection without an answer: it was just stopped, or it crashed"
    return f"what answers does not speak HTTP ({type(exc).__name__})"


def _by_code(cls: type[SwarmletError]) -> dict[str, type[SwarmletError]]:
    found = {cls.code: cls}
    for sub in cls.__subclasses__():
        found |= _by_code(sub)
    return found


def _refusal(status: int, raw: bytes) -> RemoteError:
    try:
        body = json.loads(raw)
        message, code, advice = (str(body.get(k, "")) for k in ("message", "code", "advice"))
    except (ValueError, AttributeError):
        message, code, advice = raw.decode(errors="replace").strip(), "", ""
    return RemoteError(status, message or f"status {status}", code=code, advice=advice)


__all__ = [
    "DEFAULT_SOCKET",
    "STALE_HEADER",
    "Client",
    "DaemonUnreachable",
    "NoAnswer",
    "RemoteError",
    "SocketDenied",
    "filters",
    "segment",
]
