"""HTTP/1.1 server on trio and h11 (docs/adr/0003-own-http-server.md).

One task a connection. A handler gets an :class:`Exchange`; whatever it raises, or what answering
for it raises, ends its connection and nothing else. Cancelling :meth:`Server.serve` drains: no new
connections or requests, running ones get a deadline.
"""

import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

import h11
import msgspec
import structlog
import trio

from swarmlet.api.exchange import AnswerCut, ClientGone, Exchange, Request, Wire

_log: Final = structlog.get_logger("swarmlet.api")

Handler = Callable[[Exchange], Awaitable[None]]

#: Seconds between two lines of the log on refused connections.
_REFUSALS_TOLD: Final = 30.0

_JSON: Final = (b"content-type", b"application/json")


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds on what clients can make the daemon do."""

    #: All headers of a request. ``docker build`` sends all stored credentials in one, some 2 KiB
    #: each; Go's servers allow 1 MiB, nginx 32 KiB.
    header_bytes: int = 256 * 1024
    #: Connections at once; see :meth:`within`.
    connections: int = 256
    #: From a request's first byte to the end of its headers: local clients need a millisecond, a
    #: client on a machine that swaps may need seconds.
    header_seconds: float = 10.0
    #: Between requests. Clients keep connections in pools and make new ones for the asking.
    idle_seconds: float = 120.0
    #: For a client to read an answer that is ready. Paused clients (^Z) must not hold memory.
    send_seconds: float = 30.0
    #: Unread rest of a body that is skipped to keep a connection usable; Go's server skips 256 KiB.
    leftover_bytes: int = 256 * 1024
    #: For that rest to arrive, and for the last bytes of a connection to be taken.
    linger_seconds: float = 1.0
    #: From cancellation to the cut of what still runs. Writes end within 2 s (no quorum), streams
    #: never do; systemd would kill after 90 s.
    drain_seconds: float = 5.0

    @classmethod
    def within(cls, descriptors: int) -> "Limits":
        """For a process with so many descriptors.

        A proxied connection takes two, and half of all are for Raft, agents and the engine. More
        than 4096 clients of one machine are a loop that forgot to close.
        """
        return cls(connections=min(max(descriptors // 4, 64), 4096))


class Statistics(msgspec.Struct, frozen=True, kw_only=True):
    """Counters of a server."""

    connections: int
    idle: int
    accepted: int
    refused: int
    requests: int
    bad_requests: int
    broken_handlers: int
    broken_connections: int
    clients_gone: int


class _Counters:
    """What :class:`Statistics` shows."""

    def __init__(self) -> None:
        self.accepted = self.refused = self.requests = 0
        self.bad_requests = self.clients_gone = 0
        self.broken_handlers = self.broken_connections = 0


class Server:
    """Serves one handler on any number of streams."""

    def __init__(self, handler: Handler, *, limits: Limits | None = None) -> None:
        self._handler = handler
        self._limits = limits or Limits()
        self._count = _Counters()
        self._open = 0
        self._idle: set[trio.CancelScope] = set()
        self._draining = trio.Event()
        self._refusals_told_at = float("-inf")

    def statistics(self) -> Statistics:
        """A snapshot of the counters."""
        return Statistics(connections=self._open, idle=len(self._idle), **vars(self._count))

    async def serve(
        self,
        listener: trio.abc.Listener[trio.SocketStream],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Accept connections until cancelled; then drain. Closes the listener."""
        async with trio.open_nursery() as nursery:
            connections = await nursery.start(self._connections)
            try:
                task_status.started()
                await trio.serve_listeners(
                    self.serve_stream, [listener], handler_nursery=connections
                )
            finally:
                self._drain()

    def _drain(self) -> None:
        self._draining.set()
        for scope in self._idle:
            scope.cancel()

    async def _connections(self, *, task_status: trio.TaskStatus[trio.Nursery]) -> None:
        """Hold the connections' tasks: shielded, so that they outlive the accept loop."""
        with trio.CancelScope(shield=True) as shield:
            async with trio.open_nursery() as nursery:
                task_status.started(nursery)
                await self._draining.wait()
                shield.deadline = trio.current_time() + self._limits.drain_seconds

    async def serve_stream(self, stream: trio.abc.HalfCloseableStream) -> None:
        """Serve one connection to its end, and close it."""
        self._count.accepted += 1
        self._open += 1
        wire = Wire(stream, header_bytes=self._limits.header_bytes)
        try:
            if self._open > self._limits.connections:
                await self._refuse(wire)
            else:
                await self._requests(wire)
        except ClientGone:
            self._count.clients_gone += 1
        except Exception as exc:  # noqa: BLE001 - raised, it would cancel all connections
            # Beyond its handler: a wire whose state forbids even the 500, or a bug in here.
            self._count.broken_connections += 1
            _log.error("connection-failed", exc_info=exc)
        finally:
            self._open -= 1
            # Bounded within: linger_seconds, and cancellation cuts it short.
            await self._close(wire)  # noqa: ASYNC102

    async def _refuse(self, wire: Wire) -> None:
        """Say that there are too many connections, at once: waiting would cost a descriptor."""
        self._count.refused += 1
        now = trio.current_time()
        if now - self._refusals_told_at >= _REFUSALS_TOLD:
            self._refusals_told_at = now
            _log.warning("connections-refused", open=self._open, refused=self._count.refused)
        await self._complain(wire, 503, "too many connections to the swarmlet daemon")

    async def _requests(self, wire: Wire) -> None:
        while True:
            request = await self._next_request(wire)
            if request is None or not await self._answer(wire, request):
                return
            wire.http.start_next_cycle()

    async def _next_request(self, wire: Wire) -> Request | None:
        """Wait for a request's head; None when the connection is over."""
        if not wire.buffered and not await self._wait_first_byte(wire):
            return None
        try:
            with trio.move_on_after(self._limits.header_seconds):
                event = await wire.next_event()
                return Request(event) if isinstance(event, h11.Request) else None
            await self._complain(wire, 408, "the request's headers did not arrive in time")
        except h11.RemoteProtocolError as exc:
            await self._complain(wire, exc.error_status_hint, f"malformed request: {exc}")
        return None

    async def _wait_first_byte(self, wire: Wire) -> bool:
        """Wait while the connection is idle; False when it ends, times out or the server drains."""
        if self._draining.is_set():
            return False
        with trio.move_on_after(self._limits.idle_seconds) as scope:
            self._idle.add(scope)
            try:
                return await wire.receive()
            finally:
                self._idle.discard(scope)
        return False

    async def _complain(self, wire: Wire, status: int, message: str) -> None:
        """Answer what cannot be handed to the handler; the connection ends after it."""
        self._count.bad_requests += 1
        if wire.http.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
            return
        body = msgspec.json.encode({"message": message})
        headers = [_JSON, (b"connection", b"close"), (b"content-length", b"%d" % len(body))]
        with trio.move_on_after(self._limits.linger_seconds):
            await wire.send(
                h11.Response(status_code=status, headers=headers),
                h11.Data(data=body),
                h11.EndOfMessage(),
            )

    async def _answer(self, wire: Wire, request: Request) -> bool:
        """Run the handler; whether the connection can take another request."""
        self._count.requests += 1
        number = self._count.requests
        exchange = Exchange(
            wire, request, send_seconds=self._limits.send_seconds, draining=self._draining
        )
        try:
            await self._handler(exchange)
        except ClientGone:
            raise
        except AnswerCut as exc:
            _log.warning("answer-cut", request=number, reason=str(exc))
            return False
        except h11.RemoteProtocolError as exc:
            await self._complain(wire, exc.error_status_hint, f"malformed request: {exc}")
            return False
        except Exception as exc:  # noqa: BLE001 - isolation of handlers
            await self._broken(exchange, number, exc)
            return False
        if wire.taken_over or self._draining.is_set():
            return False
        return await self._reusable(wire)

    async def _broken(self, exchange: Exchange, number: int, exc: Exception) -> None:
        """A handler failed: log it, tell the client which log line is its own, go on serving."""
        self._count.broken_handlers += 1
        request = exchange.request
        _log.error(
            "handler-failed",
            request=number,
            method=request.method,
            target=request.target.decode("latin-1"),
            exc_info=exc,
        )
        if not exchange.started:
            exchange.closing = True
            text = f"internal error in request {number}; the daemon's log says more"
            await exchange.respond(500, [_JSON], msgspec.json.encode({"message": text}))

    async def _reusable(self, wire: Wire) -> bool:
        """Skip what is left of the request's body, if it is little."""
        if wire.http.our_state is not h11.DONE:
            return False
        if wire.http.they_are_waiting_for_100_continue:
            return False
        skipped = 0
        with trio.move_on_after(self._limits.linger_seconds):
            while wire.http.their_state is h11.SEND_BODY and skipped < self._limits.leftover_bytes:
                event = await self._body_event(wire)
                skipped += len(event.data) if isinstance(event, h11.Data) else 0
        return wire.http.their_state is h11.DONE

    async def _body_event(self, wire: Wire) -> object:
        try:
            return await wire.next_event()
        except h11.RemoteProtocolError:  # the body was malformed, and is of no interest any more
            return None

    async def _close(self, wire: Wire) -> None:
        """Let the last bytes be read before the connection goes: a reset would lose them."""
        with trio.move_on_after(self._limits.linger_seconds) as linger:
            linger.shield = True
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await wire.stream.send_eof()
        await trio.aclose_forcefully(wire.stream)
