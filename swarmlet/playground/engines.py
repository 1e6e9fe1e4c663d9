"""The few calls a playground makes to an engine or a daemon: is it there, take this image."""

import http.client
import json
import socket
import tarfile
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Final
from urllib.parse import urlencode

from swarmlet.errors import EngineError, EngineUnavailable, InvalidInput

#: Seconds for an engine to take an image.
LOAD_TIMEOUT: Final = 600.0


def _connect(path: Path, timeout: float) -> http.client.HTTPConnection:
    """Return an HTTP connection over a unix socket: one that is connected already is used."""
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    channel.settimeout(timeout)
    try:
        channel.connect(str(path))
    except OSError:
        channel.close()
        raise
    connection = http.client.HTTPConnection("localhost")
    connection.sock = channel
    return connection


def answers(path: Path, *, timeout: float = 2.0) -> bool:
    """Say whether ``GET /_ping`` on a socket gives 200."""
    try:
        with closing(_connect(path, timeout)) as connection:
            connection.request("GET", "/_ping")
            return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False


def is_saved_image(tar: Path) -> bool:
    """Say whether a tar file is what ``docker save`` writes, and not a root file system."""
    try:
        with tarfile.open(tar) as archive:
            return any(member.name == "manifest.json" for member in archive)
    except (OSError, tarfile.TarError) as exc:
        raise InvalidInput(
            f"{tar} cannot be read as a tar file: {exc}",
            advice="make one with docker save IMAGE -o FILE",
        ) from exc


def load(path: Path, tar: Path) -> list[str]:
    """Load a ``docker save`` archive into an engine; returns the names it holds."""
    lines = _send(path, "/images/load?quiet=1", tar)
    said = [str(line.get("stream", "")).strip() for line in lines]
    return [text.split(": ", 1)[1] for text in said if text.startswith("Loaded image")]


def import_root(path: Path, tar: Path, reference: str) -> list[str]:
    """Make an image out of a root file system; returns its name."""
    name, _, tag = reference.rpartition(":") if ":" in reference else (reference, "", "latest")
    _send(path, f"/images/create?{urlencode({'fromSrc': '-', 'repo': name, 'tag': tag})}", tar)
    return [f"{name}:{tag}"]


def _send(path: Path, target: str, tar: Path) -> list[dict[str, object]]:
    """POST a tar file; the engine answers 200 and then JSON lines, a failure among them."""
    headers = {"Content-Type": "application/x-tar", "Content-Length": str(tar.stat().st_size)}
    try:
        with closing(_connect(path, LOAD_TIMEOUT)) as connection, tar.open("rb") as body:
            connection.request("POST", target, body=body, headers=headers)
            response = connection.getresponse()
            text = response.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as exc:
        raise EngineUnavailable(f"the engine on {path} did not take {tar}: {exc}") from exc
    lines = list(_json_lines(text.splitlines()))
    failed = [line for line in lines if "error" in line or response.status >= 400]
    if failed:
        reason = failed[0].get("error") or failed[0].get("message")
        raise EngineError(f"the engine refused {tar}: {reason}", status=response.status)
    return lines


def _json_lines(lines: Iterable[str]) -> Iterable[dict[str, object]]:
    for line in lines:
        if line.startswith("{"):
            decoded: dict[str, object] = json.loads(line)
            yield decoded


__all__ = ["LOAD_TIMEOUT", "answers", "import_root", "is_saved_image", "load"]
