"""This node's engine, for managers on other nodes: HTTP about containers of tasks, nothing else.

A manager may have a node run any task, so this guards against mistakes, not against managers. One
request a connection; after it, bytes are passed on both ways.
"""

import re
from collections.abc import Mapping
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import h11
import msgspec
import trio

from swarmlet.clock import Seconds
from swarmlet.engine import convert
from swarmlet.engine.joining import join
from swarmlet.engine.tunnel import CHUNK, EngineGate, clamp, parse_version
from swarmlet.errors import InvalidInput, NotAllowed, NotFound, SwarmletError

Json = Any  # what the engine answers

#: Seconds for a manager to say what it wants: it does so at once.
ASKED_WITHIN: Final = Seconds(10.0)

#: Longest head of a request.
HEAD_BYTES: Final = 16_384

_LOOK: Final = frozenset({"GET", "HEAD"})
_WORK: Final = frozenset({"POST"})

#: What may be asked of a container, and of a command in one, by which methods: to look at it, and
#: to work in it. Its life is its task's.
MAY_ASK: Final[Mapping[str, Mapping[str, frozenset[str]]]] = {
    "containers": {
        **dict.fromkeys(("json", "logs", "top", "stats"), _LOOK),
        "archive": _LOOK | {"PUT"},
        **dict.fromkeys(("attach", "exec", "resize", "wait"), _WORK),
    },
    "exec": {"json": frozenset({"GET"}), **dict.fromkeys(("start", "resize"), _WORK)},
}

#: An identifier that an engine gave.
IDENT: Final = re.compile("[0-9a-f]{64}")

_PATH: Final = re.compile(f"/(containers|exec)/({IDENT.pattern})/([a-z]+)")

#: What turns its connection into a raw stream.
_RAW: Final = re.compile(r"/(?:attach|start)$")

_VERSIONED: Final = re.compile(r"/v(\d{1,3}\.\d{1,5})(/.*)", re.DOTALL)


class Inspector(Protocol):
    """The part of :class:`swarmlet.engine.client.Engine` that is asked here."""

    async def inspect(self, container: str, *, fresh: bool = False) -> Json:
        """Inspect a container. Raises NotFound."""
        ...

    async def command(self, ident: str) -> Json:
        """Inspect a command in a container. Raises NotFound."""
        ...


class Door:
    """Serves managers, one connection after the other has been let in."""

    def __init__(self, engine: Inspector, gate: EngineGate) -> None:
        self._engine = engine
        self._gate = gate

    async def serve(self, stream: trio.abc.HalfCloseableStream) -> None:
        """Pass one request on, and everything after it. A refusal is an answer, too."""
        try:
            head = await _head(stream)
            method, target = _request(head)
            version, target = _split(target)
            if not target.startswith("/") or target.startswith("//") or "#" in target:
                raise InvalidInput("this is no path")
            path = urlsplit(target).path
            await self._check(method, path)
            if version is not None:
                spoken = clamp(version, await self._gate.versions())
                target = "/v{}.{}".format(*spoken) + target
            engine = await self._gate.connect()
        except SwarmletError as exc:
            await _refuse(stream, exc)
            return
        try:
            _, _, rest = head.partition(b"\r\n")
            # The first such header counts (Go, net/http): nothing after this request is one.
            once = "" if _RAW.search(path) else "Connection: close\r\n"
            line = f"{method} {target} HTTP/1.1\r\n{once}"
            await engine.send_all(line.encode("latin-1") + rest)
            await join(stream, engine)
        finally:
            await trio.aclose_forcefully(engine)

    async def _check(self, method: str, path: str) -> None:
        """Raises NotAllowed, NotFound, EngineUnavailable."""
        asked = _PATH.fullmatch(path)
        if asked is None or method not in MAY_ASK[asked[1]].get(asked[3], ()):
            raise NotAllowed(f"managers may not ask this of a node's engine: {method} {path}")
        container = asked[2]
        if asked[1] == "exec":
            container = msgspec.convert(await self._engine.command(container), _Command).ContainerID
        if not convert.container(await self._engine.inspect(container)).task_id:
            raise NotFound(f"No such container: {container}")


class _Command(msgspec.Struct):
    ContainerID: str


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


def _request(head: bytes) -> tuple[str, str]:
    """Method and target. Raises InvalidInput."""
    http = h11.Connection(h11.SERVER)
    try:
        http.receive_data(head)
        event = http.next_event()
    except h11.RemoteProtocolError as exc:
        raise InvalidInput(f"this is no request: {exc}") from exc
    if not isinstance(event, h11.Request):
        raise InvalidInput("this is no request")
    return event.method.decode("latin-1"), event.target.decode("latin-1")


def _split(target: str) -> tuple[tuple[int, int] | None, str]:
    """The API version that a target names, and the rest of it."""
    match = _VERSIONED.fullmatch(target)
    return (parse_version(match[1]), match[2]) if match else (None, target)


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
