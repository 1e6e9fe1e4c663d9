"""Client of swarmlet's HTTP API for the command line: synchronous, over the unix socket.

The standard library's ``http.client`` is enough and costs the CLI's start-up nothing; trio and
httpcore2 stay on the daemon's side.
"""

import http.client
import json
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode

from swarmlet.errors import SwarmletError, Unavailable

#: Where the daemon listens unless told otherwise.
DEFAULT_SOCKET: Final = Path("/run/swarmlet/swarmlet.sock")

#: Seconds for an answer. Writes without a quorum fail within 2 s; joining may take longer.
TIMEOUT: Final = 60.0

Json = Any  # what json.loads returns; callers know the shape from the Engine API


class DaemonUnreachable(Unavailable):
    """Nothing answers on the socket."""

    code = "daemon-unreachable"

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            f"cannot reach the swarmlet daemon on {path}: {reason}",
            advice="start it (systemctl start swarmletd), or name its socket with -H",
        )


class _UnixConnection(http.client.HTTPConnection):
    """``HTTPConnection`` whose transport is a unix socket."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("swarmlet", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _by_code(cls: type[SwarmletError]) -> dict[str, type[SwarmletError]]:
    found = {cls.code: cls}
    for sub in cls.__subclasses__():
        found |= _by_code(sub)
    return found


class RemoteError(SwarmletError):
    """The daemon's refusal, with the status and the exit status it was sent with."""

    def __init__(self, status: int, message: str, *, code: str, advice: str) -> None:
        super().__init__(message, advice=advice)
        kind = _by_code(SwarmletError).get(code)
        self.status = status
        self.remote_code = code or "failed"
        self.remote_exit_status = kind.exit_status if kind else _EXIT_BY_STATUS.get(status, 1)


_EXIT_BY_STATUS: Final = {400: 8, 403: 7, 404: 3, 409: 4, 501: 16, 503: 6}


class Client:
    """Calls to one daemon. One connection a call: the CLI makes few."""

    def __init__(self, path: Path = DEFAULT_SOCKET, *, timeout: float = TIMEOUT) -> None:
        self.path = path
        self.timeout = timeout

    def get(self, path: str, query: Mapping[str, str] | None = None) -> Json:
        """GET; returns the decoded JSON body. Raises RemoteError or DaemonUnreachable."""
        return self.call("GET", path, query=query)

    def post(self, path: str, body: Json = None, query: Mapping[str, str] | None = None) -> Json:
        """POST a JSON body; returns the decoded JSON answer or None."""
        return self.call("POST", path, body=body, query=query)

    def delete(self, path: str, query: Mapping[str, str] | None = None) -> Json:
        """DELETE; returns the decoded JSON answer or None."""
        return self.call("DELETE", path, query=query)

    def call(
        self, method: str, path: str, *, body: Json = None, query: Mapping[str, str] | None = None
    ) -> Json:
        """Make one call. ``path`` is taken as it is; quote names with :func:`segment`."""
        target = f"{path}?{urlencode(query)}" if query else path
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} if data is not None else {}
        connection = _UnixConnection(self.path, self.timeout)
        try:
            connection.request(method, target, body=data, headers=headers)
            response = connection.getresponse()
            raw = response.read()
        except TimeoutError as exc:
            raise DaemonUnreachable(self.path, f"no answer within {self.timeout:g} s") from exc
        except (OSError, http.client.HTTPException) as exc:
            raise DaemonUnreachable(self.path, str(exc) or type(exc).__name__) from exc
        finally:
            connection.close()
        if response.status >= 400:
            raise _refusal(response.status, raw)
        return json.loads(raw) if raw.strip() else None


def segment(name: str) -> str:
    """Quote a name for use as one path segment."""
    return quote(name, safe="")


def filters(**wanted: list[str]) -> dict[str, str]:
    """Encode Docker's ``filters`` query parameter, in the form ``{"name": ["a"]}``."""
    return {"filters": json.dumps(wanted)}


def _refusal(status: int, raw: bytes) -> RemoteError:
    try:
        body = json.loads(raw)
        message, code, advice = (str(body.get(k, "")) for k in ("message", "code", "advice"))
    except (ValueError, AttributeError):
        message, code, advice = raw.decode(errors="replace").strip(), "", ""
    return RemoteError(status, message or f"status {status}", code=code, advice=advice)


__all__ = ["DEFAULT_SOCKET", "Client", "DaemonUnreachable", "RemoteError", "filters", "segment"]
