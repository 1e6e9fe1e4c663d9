"""Calls to the local Docker Engine over its unix socket: the only module that imports httpcore2.

Foreign exceptions end here: a caller meets :class:`EngineUnavailable` (no answer; trying again may
help), :class:`NotFound` (404) and :class:`EngineError` (the engine refused, in its own words).
"""

import contextlib
import json
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, Self
from urllib.parse import quote, urlencode

import httpcore2
import msgspec
import trio

from swarmlet.clock import Seconds
from swarmlet.engine import incarnation
from swarmlet.engine.incarnation import Incarnation
from swarmlet.errors import EngineError, EngineUnavailable, NotFound

Json = Any  # what the engine answers; callers know the shape from the Engine API

#: The newest API this code was written for, and the oldest engine it works with (20.10).
NEWEST_API: Final = (1, 47)
OLDEST_API: Final = (1, 41)

#: A unix socket connects at once, or nobody listens; a full backlog clears within seconds.
CONNECT_TIMEOUT: Final = Seconds(5.0)

#: Reads of state wait for the engine's locks of one container at most.
READ_TIMEOUT: Final = Seconds(30.0)

#: Creating and starting wait for disks and, with many at once, for each other.
CHANGE_TIMEOUT: Final = Seconds(120.0)

#: Silence in a pull. Unpacking a large layer on a slow disk says nothing for minutes.
PULL_SILENCE: Final = Seconds(600.0)

#: How much longer than the grace period a stop may take: the kill, the clean-up of the mounts.
STOP_MARGIN: Final = Seconds(60.0)

#: An error's body is one sentence; more than this is not from an engine.
ERROR_LIMIT: Final = 64 * 1024

#: One line of the event stream or of a pull holds the labels of one object at most.
LINE_LIMIT: Final = 1024 * 1024

#: Connections for calls. The event stream and pulls have their own, so they never starve a stop.
CALL_CONNECTIONS: Final = 32


class Event(NamedTuple):
    """Something that happened to a container."""

    action: str
    container_id: str
    attributes: Mapping[str, str]


class _Wire(NamedTuple):
    """Timeouts of one call, in httpcore's words."""

    read: float
    connect: float = CONNECT_TIMEOUT

    def extensions(self) -> dict[str, dict[str, float | None]]:
        read = None if self.read == float("inf") else self.read
        return {
            "timeout": {
                "connect": self.connect,
                "read": read,
                "write": CHANGE_TIMEOUT,
                "pool": None,  # the worker bounds how many calls it makes at once
            }
        }


_READ: Final = _Wire(read=READ_TIMEOUT)


class Engine:
    """The engine behind one unix socket. ``async with`` closes its connections."""

    def __init__(self, socket_path: Path | str) -> None:
        self.socket_path = Path(socket_path)
        self._calls = self._pool(keep=CALL_CONNECTIONS, most=CALL_CONNECTIONS)
        # Never reuses a connection: an engine that shuts down still serves the old ones, while it
        # kills its containers. Only a new connection tells whether it means to live.
        self._fresh = self._pool(keep=0, most=None)
        self._prefix = ""
        self._negotiating = trio.Lock()

    def _pool(self, *, keep: int, most: int | None) -> httpcore2.AsyncConnectionPool:
        return httpcore2.AsyncConnectionPool(
            uds=str(self.socket_path),
            max_connections=most,
            max_keepalive_connections=keep,
            keepalive_expiry=30.0,
            # The library names a parameter differently in its base class and in this backend.
            network_backend=httpcore2.TrioBackend(),  # pyright: ignore[reportArgumentType]
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close every connection."""
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CONNECT_TIMEOUT):
            await self._calls.aclose()
            await self._fresh.aclose()

    # --- the engine itself ----------------------------------------------------------------------

    async def ping(self) -> None:
        """Return when the engine answers a new connection."""
        async with self._send("GET", "/_ping", fresh=True, versioned=False):
            pass

    async def version(self) -> Json:
        """``GET /version``."""
        async with self._send("GET", "/version", versioned=False) as response:
            return await _decoded(response)

    async def info(self) -> Json:
        """``GET /info``."""
        return await self._json("GET", "/info")

    async def incarnation(self) -> Incarnation:
        """Which process of the engine answers; see :mod:`swarmlet.engine.incarnation`."""
        with engine_errors("connect"):
            stream = await trio.open_unix_socket(str(self.socket_path))
            async with stream:
                raw = stream.socket.getsockopt(
                    socket.SOL_SOCKET, socket.SO_PEERCRED, incarnation.UCRED.size
                )
        return await trio.to_thread.run_sync(incarnation.read, raw)

    # --- images ---------------------------------------------------------------------------------

    async def image(self, name: str) -> Json:
        """Inspect an image. Raises NotFound."""
        return await self._json("GET", f"/images/{_name(name)}/json")

    async def distribution(self, name: str, *, auth: str = "") -> str:
        """Ask the registry for the digest of ``name``; raises EngineError when none answers."""
        async with self._send(
            "GET",
            f"/distribution/{_name(name)}/json",
            headers=_auth(auth),
            wire=_Wire(read=CHANGE_TIMEOUT),
        ) as response:
            answer = await _decoded(response)
        return str(answer["Descriptor"]["digest"])

    async def pull(
        self, name: str, *, auth: str = "", progress: Callable[[Json], None] | None = None
    ) -> str:
        """Pull an image; returns its digest (``sha256:…``) as the registry named it, "" if not.

        ``progress`` gets each message of the engine. A failure in the middle is an EngineError.
        """
        image, tag = _image_and_tag(name)
        digest = ""
        async with (
            self._send(
                "POST",
                "/images/create",
                query={"fromImage": image, "tag": tag},
                headers=_auth(auth),
                fresh=True,
                wire=_Wire(read=PULL_SILENCE),
            ) as response,
            contextlib.aclosing(_lines(response, "pull")) as lines,
        ):
            async for line in lines:
                message = _json_of(line)
                if "error" in message:
                    raise EngineError(str(message["error"]), status=500)
                said = str(message.get("status", ""))
                if said.startswith("Digest: "):
                    digest = said.removeprefix("Digest: ")
                if progress is not None:
                    progress(message)
        return digest

    # --- containers -----------------------------------------------------------------------------

    async def containers(self, *, labels: Sequence[str] = ()) -> Json:
        """List all containers, running or not, that have all these labels."""
        query = {"all": "1", "filters": json.dumps({"label": list(labels)})}
        return await self._json("GET", "/containers/json", query=query)

    async def create(self, name: str, body: Mapping[str, Json]) -> str:
        """Create a container; returns its identifier."""
        answer = await self._json(
            "POST", "/containers/create", query={"name": name}, body=body, read=CHANGE_TIMEOUT
        )
        return str(answer["Id"])

    async def start(self, container: str) -> None:
        """Start a container. One that runs already is fine."""
        await self._json("POST", f"/containers/{container}/start", read=CHANGE_TIMEOUT)

    async def inspect(self, container: str, *, fresh: bool = False) -> Json:
        """Inspect a container. ``fresh`` asks over a new connection; see ``_fresh``."""
        return await self._json("GET", f"/containers/{container}/json", fresh=fresh)

    async def stop(self, container: str, *, grace: Seconds | None = None, signal: str = "") -> None:
        """Send the stop signal, and SIGKILL after ``grace``; returns when the container ended.

        Without a grace the container's own counts, which may be long: then there is no time-out.
        ``signal`` replaces the container's own stop signal; engines before API 1.42 ignore it.
        """
        query = {} if grace is None else {"t": str(_whole_seconds(grace))}
        if signal:
            query["signal"] = signal
        read = Seconds(float("inf") if grace is None else grace + STOP_MARGIN)
        await self._json("POST", f"/containers/{container}/stop", query=query, read=read)

    async def kill(self, container: str, *, signal: str = "SIGKILL") -> None:
        """Send a signal to a running container."""
        await self._json("POST", f"/containers/{container}/kill", query={"signal": signal})

    async def remove(self, container: str) -> None:
        """Remove a container and its anonymous volumes, by force. One that is gone is fine."""
        with contextlib.suppress(NotFound):
            await self._json(
                "DELETE",
                f"/containers/{container}",
                query={"force": "1", "v": "1"},
                read=CHANGE_TIMEOUT,
            )

    # --- events ---------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def events(
        self, *, labels: Sequence[str] = (), actions: Sequence[str] = ()
    ) -> AsyncIterator[AsyncIterator[Event]]:
        """Stream events of containers. Nothing that happens after entering is missed.

        Iteration ends by EngineUnavailable when the engine goes away.
        """
        wanted = {"type": ["container"], "label": list(labels), "event": list(actions)}
        async with (
            self._send(
                "GET",
                "/events",
                query={"filters": json.dumps({k: v for k, v in wanted.items() if v})},
                fresh=True,
                wire=_Wire(read=float("inf")),
            ) as response,
            contextlib.aclosing(_events(response)) as events,
        ):
            yield events

    # --- the wire -------------------------------------------------------------------------------

    async def _json(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Json = None,
        read: Seconds = READ_TIMEOUT,
        fresh: bool = False,
    ) -> Json:
        async with self._send(
            method, path, query=query, body=body, fresh=fresh, wire=_Wire(read=read)
        ) as response:
            return await _decoded(response)

    @contextlib.asynccontextmanager
    async def _send(  # noqa: PLR0913 - one place knows the wire; its callers name what they need
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Json = None,
        headers: Mapping[str, str] | None = None,
        fresh: bool = False,
        versioned: bool = True,
        wire: _Wire = _READ,
    ) -> AsyncIterator[httpcore2.Response]:
        prefix = await self._version_prefix() if versioned else ""
        target = f"http://docker{prefix}{path}" + (f"?{urlencode(query)}" if query else "")
        content = b"" if body is None else msgspec.json.encode(body)
        sent = {"Host": "docker", "Content-Length": str(len(content)), **(headers or {})}
        if body is not None:
            sent["Content-Type"] = "application/json"
        pool = self._fresh if fresh else self._calls
        with engine_errors(f"{method} {path}"):
            async with pool.stream(
                method,
                target,
                headers=list(sent.items()),
                content=content,
                extensions=wire.extensions(),
            ) as response:
                if response.status >= 400:
                    raise _refusal(response.status, await _bounded(response, ERROR_LIMIT))
                yield response

    async def _version_prefix(self) -> str:
        """``/v1.NN``: what both sides know. Asked once; a replaced engine only gets newer."""
        async with self._negotiating:
            if not self._prefix:
                answer = await self.version()
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

    @property
    def api_version(self) -> str:
        """The API version in use (``1.41``), "" before the first call."""
        return self._prefix.removeprefix("/v")


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


def _refusal(status: int, raw: bytes) -> EngineError | NotFound:
    try:
        message = str(json.loads(raw)["message"])
    except (ValueError, KeyError, TypeError):
        message = raw.decode(errors="replace").strip() or f"status {status}"
    return NotFound(message) if status == 404 else EngineError(message, status=status)


async def _bounded(response: httpcore2.Response, limit: int) -> bytes:
    raw = bytearray()
    async for part in response.aiter_stream():
        raw += part
        if len(raw) > limit:
            break
    return bytes(raw)


async def _decoded(response: httpcore2.Response) -> Json:
    raw = await response.aread()
    return _json_of(raw) if raw.strip() else None


def _json_of(raw: bytes) -> Json:
    try:
        return msgspec.json.decode(raw)
    except msgspec.DecodeError as exc:
        raise EngineUnavailable(f"the Docker Engine answered no JSON: {exc}") from exc


async def _lines(response: httpcore2.Response, call: str) -> AsyncGenerator[bytes, None]:
    """Lines of a stream of JSON objects; engines end each with a newline."""
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
                yield line
    if rest.strip():
        yield rest


async def _events(response: httpcore2.Response) -> AsyncGenerator[Event, None]:
    async with contextlib.aclosing(_lines(response, "events")) as lines:
        async for line in lines:
            message = _json_of(line)
            actor = message.get("Actor") or {}
            yield Event(  # noqa: ASYNC119 - its only caller closes it
                action=str(message.get("Action", "")),
                container_id=str(actor.get("ID", "")),
                attributes=actor.get("Attributes") or {},
            )
    raise EngineUnavailable("the Docker Engine ended its stream of events")


def _name(image: str) -> str:
    """Quote an image's name as a path: slashes, colons and @ stay."""
    return quote(image, safe="/:@")


def _image_and_tag(name: str) -> tuple[str, str]:
    """Split as ``/images/create`` wants it: the tag apart (else all tags come), a digest not."""
    if "@" in name:
        return name, ""
    head, colon, tag = name.rpartition(":")
    if not colon or "/" in tag:  # the colon of a registry's port
        return name, "latest"
    return head, tag


def _auth(auth: str) -> dict[str, str]:
    return {"X-Registry-Auth": auth} if auth else {}


def _whole_seconds(grace: Seconds) -> int:
    """Round up: the engine counts whole seconds, and a grace must never become none."""
    return int(-(-grace // 1))
