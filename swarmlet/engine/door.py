"""This node's engine, for managers on other nodes: HTTP about containers of tasks, nothing else.

A manager may have a node run any task, so this guards against mistakes, not against managers. One
request a connection; after it, bytes are passed on both ways.
"""

import re
from collections.abc import Mapping
from typing import Final, Protocol
from urllib.parse import urlsplit

import h11
import msgspec
import trio

from swarmlet.clock import Seconds
from swarmlet.engine.convert import TASK_LABEL
from swarmlet.engine.joining import join
from swarmlet.engine.tunnel import CHUNK, Connect
from swarmlet.errors import InvalidInput, NotAllowed, NotFound, SwarmletError

#: Seconds for a manager to say what it wants: it does so at once.
ASKED_WITHIN: Final = Seconds(10.0)

#: Longest head of a request.
HEAD_BYTES: Final = 16_384

#: What may be asked of a container.
_ALLOWED: Final = re.compile(r"GET /containers/([0-9a-f]{64})/logs")


class Inspector(Protocol):
    """The part of :class:`swarmlet.engine.client.Engine` that is asked here."""

    async def inspect(self, container: str, *, fresh: bool = False) -> Mapping[str, object]:
        """Inspect a container. Raises NotFound."""
        ...


class Door:
    """Serves managers, one connection after the other has been let in."""

    def __init__(self, engine: Inspector, connect: Connect) -> None:
        self._engine = engine
        self._connect = connect

    async def serve(self, stream: trio.abc.HalfCloseableStream) -> None:
        """Pass one request on, and everything after it. A refusal is an answer, too."""
        try:
            head = await _head(stream)
            await self._check(_request(head))
            engine = await self._connect()
        except SwarmletError as exc:
            await _refuse(stream, exc)
            return
        try:
            await engine.send_all(head)
            await join(stream, engine)
        finally:
            await trio.aclose_forcefully(engine)

    async def _check(self, request: str) -> None:
        """Raises NotAllowed, NotFound, EngineUnavailable."""
        allowed = _ALLOWED.fullmatch(request)
        if allowed is None:
            raise NotAllowed(f"managers may not ask this of a node's engine: {request}")
        container = await self._engine.inspect(allowed[1])
        config = msgspec.convert(container, _Container).Config
        if TASK_LABEL not in (config.Labels or {}):
            raise NotFound(f"No such container: {allowed[1]}")


class _Config(msgspec.Struct):
    Labels: dict[str, str] | None = None


class _Container(msgspec.Struct):
    Config: _Config


async def _head(stream: trio.abc.ReceiveStream) -> bytes:
    """What comes first, up to the end of a request's head at least. Raises InvalidInput."""
    head = bytearray()
    with trio.move_on_after(ASKED_WITHIN):
        while b"\r\n\r\n" not in head:
            data = await stream.receive_some(CHUNK)
            head += data
            if not data or len(head) > HEAD_BYTES:
                break
        else:
            return bytes(head)
    raise InvalidInput("this is no request")


def _request(head: bytes) -> str:
    """Method and path without the version. Raises InvalidInput."""
    http = h11.Connection(h11.SERVER)
    try:
        http.receive_data(head)
        event = http.next_event()
    except h11.RemoteProtocolError as exc:
        raise InvalidInput(f"this is no request: {exc}") from exc
    if not isinstance(event, h11.Request):
        raise InvalidInput("this is no request")
    path = urlsplit(event.target.decode("ascii", "replace")).path
    return f"{event.method.decode()} {re.sub(r'^/v[0-9.]+/', '/', path)}"


async def _refuse(stream: trio.abc.SendStream, exc: SwarmletError) -> None:
    http = h11.Connection(h11.SERVER)
    body = msgspec.json.encode({"message": exc.message})
    headers = [("Content-Length", str(len(body))), ("Connection", "close")]
    answer = [
        h11.Response(status_code=exc.http_status, headers=headers),
        h11.Data(data=body),
        h11.EndOfMessage(),
    ]
    await stream.send_all(b"".join(http.send(event) or b"" for event in answer))
