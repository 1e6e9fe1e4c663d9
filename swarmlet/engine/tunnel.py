"""Raw HTTP/1.1 to a Docker Engine: what the API's proxy and its few own questions need.

Calls that swarmlet makes for itself go through :mod:`swarmlet.engine.client`. A proxy must see
more than a client library shows: bytes after an upgrade, half-closed connections, trailers, raw
streams that follow a 200. So this speaks h11, one connection a request: to the local engine on its
unix socket (a connect there costs less than the book-keeping of a pool), to another node's through
its daemon.
"""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import h11
import msgspec
import trio

from swarmlet.errors import EngineError, EngineUnavailable, NotFound

#: Bytes taken from a socket at once: the size of a pipe's buffer, past which nothing gets faster.
CHUNK: Final = 65_536

#: Largest header of an engine's answer. Container stats of an archive travel in one header.
_HEADER_BYTES: Final = 1024 * 1024

#: Seconds for an engine to answer a ping: it needs a millisecond, unless it hangs.
_PING_SECONDS: Final = 2.0

#: Seconds for an answer to a small question. ``/info`` of an engine with thousands of containers
#: takes two or three.
_ANSWER_SECONDS: Final = 10.0

#: Largest answer that is read into memory (``/info`` is some 5 KiB).
_ANSWER_BYTES: Final = 4 * 1024 * 1024

Headers = list[tuple[bytes, bytes]]


class EngineAnswer(msgspec.Struct, frozen=True):
    """A whole answer of the engine."""

    status: int
    headers: Headers
    body: bytes

    def header(self, name: bytes) -> str:
        """The value of a header (named in lower case), "" when absent."""
        return next((v.decode("latin-1") for k, v in self.headers if k == name), "")


class PushbackStream(trio.abc.HalfCloseableStream):
    """A stream whose first bytes were read already, by the parser of the HTTP head before it."""

    def __init__(self, stream: trio.abc.HalfCloseableStream, first: bytes) -> None:
        self._stream = stream
        self._first = first

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """See trio.abc.ReceiveStream."""
        if not self._first:
            return await self._stream.receive_some(max_bytes)
        await trio.lowlevel.checkpoint()
        size = len(self._first) if max_bytes is None else max_bytes
        data, self._first = self._first[:size], self._first[size:]
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """See trio.abc.SendStream."""
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """See trio.abc.SendStream."""
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """See trio.abc.HalfCloseableStream."""
        await self._stream.send_eof()

    async def aclose(self) -> None:
        """See trio.abc.AsyncResource."""
        await self._stream.aclose()


class Tunnel:
    """One connection to the engine, for one request."""

    def __init__(self, stream: trio.abc.HalfCloseableStream) -> None:
        self._stream = stream
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEADER_BYTES)

    async def send(self, event: h11.Event) -> None:
        """Send a part of the request."""
        with _engine_errors():
            data = self._http.send(event)
            if data:
                await self._stream.send_all(data)

    async def next_event(self) -> h11.Event:
        """The next part of the answer: response heads, data, end of message."""
        while True:
            with _engine_errors():
                event = self._http.next_event()
                if event is h11.NEED_DATA:
                    self._http.receive_data(bytes(await self._stream.receive_some(CHUNK)))
                    continue
            if event is h11.PAUSED:  # bytes after the answer: the caller takes them with raw()
                raise EngineUnavailable("the Docker Engine sent bytes after its answer")
            if isinstance(event, h11.ConnectionClosed):
                raise EngineUnavailable("the Docker Engine closed the connection without an answer")
            return event  # type: ignore[return-value]  # both sentinels were handled

    async def accepted(self) -> None:
        """Take the head of an answer whose body is a stream. Raises NotFound, EngineError."""
        event = await self.next_event()
        if isinstance(event, h11.Response) and event.status_code < 400:
            return
        answer = await _whole(self, event)
        if answer.status == 404:
            raise NotFound(_message(answer))
        raise EngineError(_message(answer), status=answer.status)

    async def send_eof(self) -> None:
        """End our direction: to the engine, its client has gone."""
        with _engine_errors():
            await self._stream.send_eof()

    def raw(self) -> PushbackStream:
        """The connection below, with what has arrived after the answer's head."""
        return PushbackStream(self._stream, bytes(self._http.trailing_data[0]))

    async def aclose(self) -> None:
        """Close the connection; never blocks."""
        await trio.aclose_forcefully(self._stream)


@contextmanager
def _engine_errors() -> Iterator[None]:
    try:
        yield
    except (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as exc:
        raise EngineUnavailable(f"the connection to the Docker Engine broke: {exc}") from exc
    except h11.RemoteProtocolError as exc:
        raise EngineUnavailable(f"the Docker Engine does not speak HTTP: {exc}") from exc


class EngineVersions(msgspec.Struct, frozen=True):
    """API versions that an engine speaks, and its kind of builder ("1", "2" or "")."""

    oldest: tuple[int, int]
    newest: tuple[int, int]
    builder: str = ""


#: Connects to an engine. Raises EngineUnavailable.
Connect = Callable[[], Awaitable[trio.abc.HalfCloseableStream]]


def at_socket(path: str | Path) -> Connect:
    """How to connect to the engine that listens on a unix socket."""

    async def connect() -> trio.abc.HalfCloseableStream:
        try:
            return await trio.open_unix_socket(str(path))
        except OSError as exc:
            raise EngineUnavailable(
                f"cannot connect to the Docker Engine at {path}: {exc.strerror or exc}",
                advice="start it (systemctl start docker); swarmlet will find it again by itself",
            ) from exc

    return connect


class EngineGate:
    """An engine's door."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._versions: EngineVersions | None = None

    async def open(self) -> Tunnel:
        """Connect, for one request. Raises EngineUnavailable."""
        return Tunnel(await self.connect())

    async def connect(self) -> trio.abc.HalfCloseableStream:
        """Connect. Raises EngineUnavailable."""
        try:
            return await self._connect()
        except EngineUnavailable:
            self._versions = None  # whatever answers next may be another version
            raise

    async def versions(self) -> EngineVersions:
        """What the engine speaks; asked once for each life of the engine that is noticed."""
        if self._versions is None:
            ping = await self._ping()
            answer = await self.ask("GET", "/version", seconds=_ANSWER_SECONDS)
            told = msgspec.json.decode(answer.body, type=_Version)
            self._versions = EngineVersions(
                oldest=parse_version(told.MinAPIVersion),
                newest=parse_version(told.ApiVersion),
                builder=ping.header(b"builder-version"),
            )
        return self._versions

    async def get(self, target: str) -> EngineAnswer:
        """GET a small answer, from an engine that answers at all.

        Raises EngineUnavailable, or EngineError for a status >= 400.
        """
        await self._ping()
        return await self.ask("GET", target, seconds=_ANSWER_SECONDS)

    async def _ping(self) -> EngineAnswer:
        return await self.ask("GET", "/_ping", seconds=_PING_SECONDS)

    async def ask(
        self, method: str, target: str, *, seconds: float, body: bytes = b""
    ) -> EngineAnswer:
        """Ask, with JSON or nothing. Raises EngineUnavailable, or EngineError (status >= 400)."""
        with trio.move_on_after(seconds):
            answer = await self._ask(method, target, body)
            if answer.status >= 400:
                raise EngineError(_message(answer), status=answer.status)
            return answer
        raise EngineUnavailable(f"the Docker Engine did not answer within {seconds:g} s")

    async def _ask(self, method: str, target: str, body: bytes) -> EngineAnswer:
        tunnel = await self.open()
        headers = [("Host", "docker")]
        if method != "GET":
            headers.append(("Content-Length", str(len(body))))
        if body:
            headers.append(("Content-Type", "application/json"))
        try:
            await tunnel.send(h11.Request(method=method, target=target, headers=headers))
            if body:
                await tunnel.send(h11.Data(data=body))
            await tunnel.send(h11.EndOfMessage())
            return await _whole(tunnel)
        finally:
            await tunnel.aclose()


async def _whole(tunnel: Tunnel, first: h11.Event | None = None) -> EngineAnswer:
    """Read one answer into memory; ``first`` is what of it was taken already."""
    status, headers = 0, Headers()
    body = bytearray()
    while True:
        event = first or await tunnel.next_event()
        first = None
        if isinstance(event, h11.Response):
            status, headers = event.status_code, list(event.headers)
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > _ANSWER_BYTES:
                raise EngineUnavailable("the Docker Engine's answer is too long")
        elif isinstance(event, h11.EndOfMessage):
            return EngineAnswer(status, headers, bytes(body))


class _Version(msgspec.Struct):
    """The part of ``GET /version`` that is needed."""

    ApiVersion: str
    MinAPIVersion: str = "1.24"


class _Error(msgspec.Struct):
    message: str = ""


def _message(answer: EngineAnswer) -> str:
    try:
        return msgspec.json.decode(answer.body, type=_Error).message
    except msgspec.MsgspecError:
        return f"the Docker Engine answered with status {answer.status}"


def clamp(asked: tuple[int, int], engine: EngineVersions) -> tuple[int, int]:
    """The API version to ask an engine in."""
    return min(max(asked, engine.oldest), engine.newest)


def parse_version(text: str) -> tuple[int, int]:
    """``1.41`` as (1, 41). Raises ValueError."""
    major, _, minor = text.partition(".")
    return int(major), int(minor)
