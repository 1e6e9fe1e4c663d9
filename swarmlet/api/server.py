"""The daemon's API: version negotiation, routing, errors; what is not ours goes to the engine."""

import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import unquote_to_bytes

import trio
from msgspec.structs import replace

from swarmlet import __version__
from swarmlet.api import wording
from swarmlet.api.backend import Backend
from swarmlet.api.calls import (
    BODY_BYTES,
    BODY_SECONDS,
    Answer,
    Call,
    error_answer,
    parse_query,
)
from swarmlet.api.elsewhere import Elsewhere, Place
from swarmlet.api.exchange import Exchange
from swarmlet.api.freshness import stale_reason
from swarmlet.api.http1 import Limits, Server
from swarmlet.api.proxy import Proxy
from swarmlet.api.routes import Route, find, is_ours
from swarmlet.api.sockets import open_unix_listener, remove_socket
from swarmlet.api.versions import NEWEST, Version, check_version, dotted, split_version
from swarmlet.engine.tunnel import EngineGate, Headers, at_socket, clamp
from swarmlet.errors import InvalidInput, NotFound, SwarmletError, first_error

#: Seconds for an engine to take down a command: it waits for its locks of one container.
COMMAND_SECONDS: Final = 30.0

#: Header values that HTTP cannot carry.
_NOT_PRINTABLE: Final = re.compile(r"[^\x20-\x7e]+")


class Api:
    """Answers exchanges: the handler of :class:`swarmlet.api.http1.Server`."""

    def __init__(
        self, backend: Backend, engine_socket: str | Path, *, limits: Limits | None = None
    ) -> None:
        self._backend = backend
        self._engine = EngineGate(at_socket(engine_socket))
        self._server = f"swarmlet/{__version__} ({platform.system().lower()})".encode()
        patches = {b"api-version": dotted(NEWEST).encode()}
        self._proxy = Proxy(patches=patches)
        self._elsewhere = Elsewhere(backend)
        self.http = Server(self, limits=limits)

    async def __call__(self, exchange: Exchange) -> None:
        """Answer one exchange."""
        try:
            with plain_errors():
                await self._dispatch(exchange)
        except SwarmletError as exc:
            if exchange.started:
                raise
            await self._respond(exchange, error_answer(exc))

    async def _dispatch(self, exchange: Exchange) -> None:
        path, _, query = exchange.request.target.partition(b"?")
        asked, path = split_version(path)
        version = check_version(asked)
        segments = _segments(path)
        found = find(exchange.request.method, segments)
        if found is None and not is_ours(segments):
            place = self._elsewhere.place(segments)
            if place is not None and place.node_id:
                await self._ask_elsewhere(exchange, place, version, query)
            else:
                path = place.path.encode() if place else path
                await self._forward(exchange, version, path, query)
            return
        if found is None:
            raise NotFound(wording.PAGE_NOT_FOUND)
        route, params = found
        call = Call(
            backend=self._backend,
            engine=self._engine,
            exchange=exchange,
            version=version,
            params=params,
            query=parse_query(query),
        )
        answer = await route.handler(call)
        if answer is None:  # the engine's after all; its body was read to find that out
            await self._forward(exchange, version, path, query, await call.raw_body())
        else:
            await self._respond(exchange, self._marked(route, call, answer))

    async def _forward(
        self,
        exchange: Exchange,
        version: Version,
        path: bytes,
        query: bytes,
        body: bytes | None = None,
    ) -> None:
        spoken = clamp(version, await self._engine.versions())
        target = b"/v" + dotted(spoken).encode() + path + (b"?" + query if query else b"")
        await self._proxy.forward(exchange, self._engine, target, body)

    async def _ask_elsewhere(
        self, exchange: Exchange, place: Place, version: Version, query: bytes
    ) -> None:
        """Pass a call on to another node's engine, which is asked in a version that it speaks."""
        engine = await self._backend.engine_of(place.node_id)
        target = f"/v{dotted(version)}{place.path}".encode() + (b"?" + query if query else b"")
        if not (exchange.request.method == "POST" and place.makes_command):
            await self._proxy.forward(exchange, engine, target)
            return
        body = await exchange.read_body(limit=BODY_BYTES, seconds=BODY_SECONDS)
        answer = await engine.ask("POST", target.decode(), seconds=COMMAND_SECONDS, body=body)
        self._elsewhere.remember(answer.body, place.node_id)
        await self._respond(exchange, Answer(answer.body, answer.status))

    def _marked(self, route: Route, call: Call, answer: Answer) -> Answer:
        """Say when an answer from the replica may be behind."""
        doubts = [stale_reason(self._backend), *call.doubts]
        reason = next(filter(None, doubts), "")
        if not reason or not route.from_replica:
            return answer
        text = _NOT_PRINTABLE.sub(" ", reason).replace('"', "'").encode()
        stale = [(b"Swarmlet-Stale", text), (b"Warning", b'110 swarmlet "' + text + b'"')]
        return replace(answer, headers=[*answer.headers, *stale])

    async def _respond(self, exchange: Exchange, answer: Answer) -> None:
        body = answer.encoded()
        own: Headers = [
            (b"Api-Version", dotted(NEWEST).encode()),
            (b"Docker-Experimental", b"false"),
            (b"Ostype", platform.system().lower().encode()),
            (b"Server", self._server),
        ]
        node_id = self._backend.local().node_id
        if node_id:
            own.append((b"Swarmlet-Node", node_id.encode()))
        if body and not any(name.lower() == b"content-type" for name, _ in answer.headers):
            own.append((b"Content-Type", b"application/json"))
        if answer.stream is None:
            await exchange.respond(answer.status, [*own, *answer.headers], body)
            return
        await exchange.start(answer.status, [*own, *answer.headers])
        if exchange.request.method != "HEAD":
            await answer.stream()
        await exchange.end()


def _segments(path: bytes) -> tuple[str, ...]:
    """A path's segments, decoded after they were split: a name may hold a slash."""
    try:
        return tuple(unquote_to_bytes(part).decode() for part in path.split(b"/")[1:])
    except UnicodeDecodeError as exc:
        raise InvalidInput("the path is not valid UTF-8") from exc


@contextmanager
def plain_errors() -> Iterator[None]:
    """Take our error out of the group that a nursery of the daemon wrapped it in."""
    try:
        yield
    except ExceptionGroup as group:
        _, others = group.split(SwarmletError)
        found = first_error(group)
        if found is None or others is not None:
            raise
        raise found from group


async def serve_unix(
    path: Path, api: Api, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Serve ``api`` on a unix socket until cancelled, then drain. Started when it listens."""
    listener = open_unix_listener(path)
    try:
        await api.http.serve(listener, task_status=task_status)
    finally:
        remove_socket(path)
