"""One HTTP request and the answer to it, as handlers see them."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

import h11
import trio

from swarmlet.engine.tunnel import CHUNK, Headers, PushbackStream
from swarmlet.errors import InvalidInput

#: Bytes of further requests that are kept while one is answered; a client that sends more waits.
_PIPELINED_BYTES: Final = 65_536


class ClientGone(Exception):
    """The client closed its connection, or does not read its answer: nobody is left to tell."""


class AnswerCut(Exception):
    """An answer ended in its middle, and not by our fault: its client must see that it is cut."""


class RequestTooLarge(InvalidInput):
    """The body is longer than its endpoint allows."""

    code, http_status = "too-large", 413


class RequestTooSlow(InvalidInput):
    """The rest of the request did not come in time."""

    code, http_status = "too-slow", 408


@contextmanager
def client_errors() -> Iterator[None]:
    """Map what a broken client connection raises."""
    try:
        yield
    except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
        raise ClientGone from exc


class Wire:
    """A client's connection: h11's state and the stream below it."""

    def __init__(self, stream: trio.abc.HalfCloseableStream, *, header_bytes: int) -> None:
        self.stream = stream
        self.http = h11.Connection(h11.SERVER, max_incomplete_event_size=header_bytes)
        self.taken_over = False

    async def receive(self) -> bool:
        """Take what the client sends next; False at its end."""
        if self.http.they_are_waiting_for_100_continue:
            await self.send(h11.InformationalResponse(status_code=100, headers=[]))
        with client_errors():
            data = bytes(await self.stream.receive_some(CHUNK))
        self.http.receive_data(data)
        return bool(data)

    async def next_event(self) -> h11.Event | type[h11.PAUSED]:
        """The next part of the request. Raises h11.RemoteProtocolError."""
        while True:
            event = self.http.next_event()
            if event is not h11.NEED_DATA:
                return event  # type: ignore[return-value]  # the other sentinel was handled
            await self.receive()

    async def send(self, *events: h11.Event) -> None:
        """Send parts of the answer, in one write."""
        data = b"".join(part for event in events if (part := self.http.send(event)))
        if data:
            with client_errors():
                await self.stream.send_all(data)

    @property
    def buffered(self) -> bytes:
        """What was received and not parsed yet."""
        return bytes(self.http.trailing_data[0])


class Request:
    """The head of a request. Header names are in lower case."""

    def __init__(self, event: h11.Request) -> None:
        self.method = event.method.decode("ascii")
        self.target = event.target
        self.headers: Headers = list(event.headers)

    def header(self, name: bytes) -> str:
        """The value of a header (named in lower case), "" when absent."""
        return next((v.decode("latin-1") for k, v in self.headers if k == name), "")

    @property
    def upgrade(self) -> str:
        """The protocol that the client asks to switch to, or ""."""
        words = self.header(b"connection").lower().replace(",", " ").split()
        return self.header(b"upgrade") if "upgrade" in words else ""


class Exchange:
    """A request with its body, and the ways to answer it.

    Either one :meth:`respond`; or :meth:`start`, any number of :meth:`send`, :meth:`end`; or
    :meth:`take_over`, after which the connection belongs to the handler.
    """

    def __init__(
        self, wire: Wire, request: Request, *, send_seconds: float, draining: trio.Event
    ) -> None:
        self.request = request
        self.started = False
        self.closing = False
        self._draining = draining
        self._wire = wire
        self._send_seconds = send_seconds
        self._whole: bytes | None = None

    async def receive_body(self) -> bytes:
        """The next piece of the request's body, b"" at its end."""
        if self._wire.http.their_state is not h11.SEND_BODY:
            return b""
        event = await self._wire.next_event()
        return bytes(event.data) if isinstance(event, h11.Data) else b""

    async def read_body(self, *, limit: int, seconds: float) -> bytes:
        """The whole body; the same again when called again. Raises RequestTooLarge or -Slow."""
        if self._whole is not None:
            return self._whole
        body = bytearray()
        with trio.move_on_after(seconds):
            while chunk := await self.receive_body():
                body += chunk
                if len(body) > limit:
                    raise RequestTooLarge(f"the request's body is longer than {limit} bytes")
            self._whole = bytes(body)
            return self._whole
        raise RequestTooSlow(f"the request's body did not arrive within {seconds:g} s")

    async def respond(self, status: int, headers: Headers, body: bytes = b"") -> None:
        """Answer at once. A client that does not read its answer in time is dropped."""
        # Not with 204: that has no body by definition (RFC 9110, 8.6).
        length = [] if status == 204 else [(b"content-length", str(len(body)).encode())]
        events: list[h11.Event] = [self._head(status, [*headers, *length])]
        if body and self.request.method != "HEAD":
            events.append(h11.Data(data=body))
        with trio.move_on_after(self._send_seconds):
            await self._wire.send(*events, h11.EndOfMessage())
            return
        raise ClientGone

    async def inform(self, status: int, headers: Headers) -> None:
        """Send an interim answer (1xx)."""
        await self._wire.send(h11.InformationalResponse(status_code=status, headers=headers))

    async def start(self, status: int, headers: Headers) -> None:
        """Begin a streamed answer."""
        await self._wire.send(self._head(status, headers))

    async def send(self, data: bytes) -> None:
        """Send a piece of a streamed answer; waits for a slow reader."""
        await self._wire.send(h11.Data(data=data))

    async def end(self, trailers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        """End a streamed answer."""
        await self._wire.send(h11.EndOfMessage(headers=list(trailers)))

    async def take_over(self, status: int, headers: Headers) -> PushbackStream:
        """Answer with 101 (only if the client asked to upgrade) or a raw stream after another head.

        The request's body must have been read. Returns the connection, from its next byte on.
        """
        self.started = True
        self._wire.taken_over = True
        first = self._wire.buffered
        if status == 101:
            head = self._wire.http.send(
                h11.InformationalResponse(status_code=101, headers=headers, reason=b"UPGRADED")
            )
        else:  # past h11, which would frame the body
            lines = [b"HTTP/1.1 %d OK" % status, *(b"%s: %s" % pair for pair in headers)]
            head = b"\r\n".join([*lines, b"", b""])
        with client_errors():
            await self._wire.stream.send_all(head or b"")
        return PushbackStream(self._wire.stream, first)

    async def wait_gone(self) -> None:
        """Return when the client has closed its end. The request's body must have been read.

        What it sends meanwhile is its next request and waits, as the client will past a bound.
        """
        while await self._wire.receive():
            if len(self._wire.buffered) > _PIPELINED_BYTES:
                await trio.sleep_forever()

    def _head(self, status: int, headers: Headers) -> h11.Response:
        self.started = True
        if self.closing or self._draining.is_set():
            headers = [*headers, (b"connection", b"close")]
        return h11.Response(status_code=status, headers=headers)
