"""HTTP to the local Docker Engine over its unix socket: the only module that imports httpcore2.

Foreign exceptions end here: a caller meets :class:`EngineUnavailable` (no answer; trying again may
help), :class:`NotFound` (404) and :class:`EngineError` (the engine refused, in its own words).
"""

import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlencode

import httpcore2
import msgspec
import trio

from swarmlet.clock import Seconds
from swarmlet.errors import (
    ENGINE_RULES_BACK,
    EngineError,
    EngineRulesGone,
    EngineUnavailable,
    NotFound,
)

Json = Any  # what the engine answers; callers know the shape from the Engine API

#: The newest API this code was written for, and the oldest engine it works with (20.10).
NEWEST_API: Final = (1, 47)
OLDEST_API: Final = (1, 41)

#: A unix socket connects at once, or nobody listens; a full backlog clears within seconds.
CONNECT_TIMEOUT: Final = Seconds(5.0)

#: Reads of state wait for the engine's locks of one container at most.
READ_TIMEOUT: Final = Seconds(30.0)

#: What iptables says, and an engine passes on, when the engine's own chains are not there.
_RULES_GONE: Final = "No chain/target/match by that name"

#: As a read timeout: silence is no reason to give up.
FOREVER: Final = Seconds(float("inf"))

#: A request's body waits for the engine to read it.
WRITE_TIMEOUT: Final = Seconds(120.0)

#: An error's body is one sentence; more than this is not from an engine.
ERROR_LIMIT: Final = 64 * 1024

#: One line of the event stream or of a pull holds the labels of one object at most.
LINE_LIMIT: Final = 1024 * 1024

#: Connections for calls. The event stream and pulls have their own, so they never starve a stop.
CALL_CONNECTIONS: Final = 32


class Request(NamedTuple):
    """One call.

    ``read`` is the longest silence of the engine; ``fresh`` asks over a connection of its own;
    only what is not ``versioned`` can be asked before the versions are known.
    """

    method: str
    path: str
    query: Mapping[str, str] | None = None
    body: Json = None
    headers: Mapping[str, str] | None = None
    read: Seconds = READ_TIMEOUT
    fresh: bool = False
    versioned: bool = True

    def __str__(self) -> str:
        """As errors name it."""
        return f"{self.method} {self.path}"


class Wire:
    """Calls to the engine behind one unix socket, in the newest API that both sides know."""

    def __init__(self, socket_path: Path) -> None:
        self._socket_path = socket_path
        self._calls = self._pool(keep=CALL_CONNECTIONS, most=CALL_CONNECTIONS)
        # Never reuses a connection: an engine that shuts down still serves the old ones, while it
        # kills its containers. Only a new connection tells whether it means to live.
        self._fresh = self._pool(keep=0, most=None)
        self._prefix = ""
        self._negotiating = trio.Lock()

    def _pool(self, *, keep: int, most: int | None) -> httpcore2.AsyncConnectionPool:
        return httpcore2.AsyncConnectionPool(
            uds=str(self._socket_path),
            max_connections=most,
            max_keepalive_connections=keep,
            keepalive_expiry=30.0,
            # The library names a parameter differently in its base class and in this backend.
            network_backend=httpcore2.TrioBackend(),  # pyright: ignore[reportArgumentType]
        )

    async def aclose(self) -> None:
        """Close every connection."""
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CONNECT_TIMEOUT):
            await self._calls.aclose()
            await self._fresh.aclose()

    @property
    def api_version(self) -> str:
        """The API version in use (``1.41``), "" before the first call."""
        return self._prefix.removeprefix("/v")

    async def call(self, request: Request) -> Json:
        """Return the answer, None for an empty one."""
        async with self._send(request) as response:
            raw = await response.aread()
        return _json_of(raw) if raw.strip() else None

    async def knock(self, request: Request) -> None:
        """Return when the engine has begun to answer, whatever it says."""
        async with self._send(request):
            pass

    @contextlib.asynccontextmanager
    async def stream(self, request: Request) -> AsyncIterator[AsyncIterator[Json]]:
        """The objects of an answer that goes on; it has begun once this is entered."""
        async with (
            self._send(request) as response,
            contextlib.aclosing(_objects(response, str(request))) as objects,
        ):
            yield objects

    @contextlib.asynccontextmanager
    async def _send(self, request: Request) -> AsyncIterator[httpcore2.Response]:
        prefix = await self._version_prefix() if request.versioned else ""
        query = f"?{urlencode(request.query)}" if request.query else ""
        content = b"" if request.body is None else msgspec.json.encode(request.body)
        sent = {"Host": "docker", "Content-Length": str(len(content)), **(request.headers or {})}
        if request.body is not None:
            sent["Content-Type"] = "application/json"
        pool = self._fresh if request.fresh else self._calls
        with engine_errors(str(request)):
            async with pool.stream(
                request.method,
                f"http://docker{prefix}{request.path}{query}",
                headers=list(sent.items()),
                content=content,
                extensions={"timeout": _timeouts(request.read)},
            ) as response:
                if response.status >= 400:
                    raise _refusal(response.status, await _bounded(response, ERROR_LIMIT))
                yield response

    async def _version_prefix(self) -> str:
        """``/v1.NN``: what both sides know. Asked once; a replaced engine only gets newer."""
        async with self._negotiating:
            if not self._prefix:
                answer = await self.call(Request("GET", "/version", versioned=False))
                offered = tuple(int(part) for part in str(answer["ApiVersion"]).split("."))
                if offered < OLDEST_API:
                    needed = ".".join(map(str, OLDEST_API))
                    raise EngineError(
                        f"the Docker Engine offers API {answer['ApiVersion']}, "
                        f"swarmlet needs {needed} (Docker 20.10) or newer",
                        status=400,
                    )
                self._prefix = "/v{}.{}".format(*min(offered, NEWEST_API))
        return self._prefix


@contextlib.contextmanager
def engine_errors(call: str) -> Iterator[None]:
    """Map what the transport raises to EngineUnavailable."""
    try:
        yield
    except httpcore2.TimeoutException as exc:
        raise EngineUnavailable(f"the Docker Engine did not answer in time ({call})") from exc
    except (httpcore2.NetworkError, httpcore2.ProtocolError, OSError) as exc:
        words = str(exc) or type(exc).__name__
        raise EngineUnavailable(
            f"cannot reach the Docker Engine ({call}): {words}",
            advice="systemctl status docker says why it does not run",
        ) from exc


def _refusal(status: int, raw: bytes) -> EngineError | NotFound | EngineRulesGone:
    try:
        message = str(json.loads(raw)["message"])
    except (ValueError, KeyError, TypeError):
        message = raw.decode(errors="replace").strip() or f"status {status}"
    if _RULES_GONE in message:
        return EngineRulesGone(
            f"the Docker Engine's firewall rules are gone: {message}", advice=ENGINE_RULES_BACK
        )
    return NotFound(message) if status == 404 else EngineError(message, status=status)


def _timeouts(read: Seconds) -> dict[str, float | None]:
    """In httpcore's words."""
    return {
        "connect": CONNECT_TIMEOUT,
        "read": None if read == FOREVER else read,
        "write": WRITE_TIMEOUT,
        "pool": None,  # the worker bounds how many calls it makes at once
    }


async def _bounded(response: httpcore2.Response, limit: int) -> bytes:
    raw = bytearray()
    async for part in response.aiter_stream():
        raw += part
        if len(raw) > limit:
            break
    return bytes(raw)


def _json_of(raw: bytes) -> Json:
    try:
        return msgspec.json.decode(raw)
    except msgspec.DecodeError as exc:
        raise EngineUnavailable(f"the Docker Engine answered no JSON: {exc}") from exc


async def _objects(response: httpcore2.Response, call: str) -> AsyncGenerator[Json, None]:
    """A stream of JSON objects; engines end each with a newline."""
    rest = b""
    parts = response.aiter_stream().__aiter__()
    while True:
        with engine_errors(call):
            part = await anext(parts, None)
        if part is None:
            break
        *lines, rest = (rest + part).split(b"\n")
        if len(rest) > LINE_LIMIT:
            raise EngineUnavailable(f"the Docker Engine sent too long a line ({call})")
        for line in lines:
            if line.strip():
                yield _json_of(line)
    if rest.strip():
        yield _json_of(rest)
