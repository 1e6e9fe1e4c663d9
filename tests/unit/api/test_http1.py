"""The HTTP server by itself, over streams in memory."""

import contextlib

import h11
import pytest
import structlog
import trio
import trio.testing
from swarmlet.api.exchange import Exchange, RequestTooLarge, RequestTooSlow
from swarmlet.api.http1 import Limits, Server

from tests.unit.api.http_client import Client, connected


async def echo(exchange: Exchange) -> None:
    """Answer with method, target and body."""
    body = await exchange.read_body(limit=1000, seconds=5)
    head = f"{exchange.request.method} ".encode() + exchange.request.target
    await exchange.respond(200, [], head + b" " + body)


async def exchange_bytes(server: Server, *pieces: bytes) -> bytes:
    """Send these pieces one by one, end, and return everything that comes back."""
    near, far = trio.testing.memory_stream_pair()
    received = bytearray()

    async def send() -> None:
        with contextlib.suppress(trio.BrokenResourceError):  # refused before it had all
            for piece in pieces:
                await near.send_all(piece)
                await trio.testing.wait_all_tasks_blocked()
            await near.send_eof()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve_stream, far)
        nursery.start_soon(send)
        while data := await near.receive_some(65_536):
            received += data
    return bytes(received)


def replies(data: bytes, methods: list[bytes]) -> list[tuple[int, bytes]]:
    """The answers in ``data``."""
    found = []
    for method in methods:
        http = h11.Connection(h11.CLIENT)
        http.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
        http.send(h11.EndOfMessage())
        http.receive_data(data)
        body, status = b"", 0
        while not isinstance(event := http.next_event(), h11.EndOfMessage):
            if isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
        found.append((status, body))
        data = http.trailing_data[0]
    assert data == b""
    return found


POST = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"


async def test_a_request_may_come_byte_by_byte() -> None:
    pieces = [POST[i : i + 1] for i in range(len(POST))]
    assert replies(await exchange_bytes(Server(echo), *pieces), [b"POST"]) == [
        (200, b"POST /a hello")
    ]


async def test_pipelined_requests_are_answered_in_order() -> None:
    data = POST + b"GET /b HTTP/1.1\r\nHost: x\r\n\r\n" + POST
    assert replies(await exchange_bytes(Server(echo), data), [b"POST", b"GET", b"POST"]) == [
        (200, b"POST /a hello"),
        (200, b"GET /b "),
        (200, b"POST /a hello"),
    ]


async def test_a_connection_is_kept_between_requests() -> None:
    server = Server(echo)
    async with connected(server) as client:
        for number in range(3):
            assert (await client.ask("GET", f"/{number}")).body == f"GET /{number} ".encode()
    assert server.statistics().requests == 3
    assert server.statistics().accepted == 1


async def test_a_chunked_body_is_decoded() -> None:
    head = b"POST /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    data = head + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    assert replies(await exchange_bytes(Server(echo), data), [b"POST"]) == [(200, b"POST /c abcde")]


async def test_head_gets_the_length_and_no_body() -> None:
    async with connected(Server(echo)) as client:
        reply = await client.ask("HEAD", "/x")
        assert reply.headers["content-length"] == str(len("HEAD /x "))
        assert reply.body == b""
        assert (await client.ask("GET", "/y")).body == b"GET /y "


async def test_http_1_0_closes_after_the_answer() -> None:
    data = await exchange_bytes(Server(echo), b"GET /old HTTP/1.0\r\n\r\n")
    assert data.endswith(b"GET /old ")
    assert b"connection: close" in data.lower()


async def test_100_continue_is_sent_only_when_the_body_is_read() -> None:
    head = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"

    async def refuse(exchange: Exchange) -> None:
        await exchange.respond(401, [])

    read = await exchange_bytes(Server(echo), head, b"hello")
    assert read.startswith(b"HTTP/1.1 100")
    assert b"POST /a hello" in read
    unread = await exchange_bytes(Server(refuse), head)
    assert unread.startswith(b"HTTP/1.1 401")


async def test_a_streamed_answer_is_chunked() -> None:
    async def stream(exchange: Exchange) -> None:
        await exchange.start(200, [])
        for piece in (b"one", b"two"):
            await exchange.send(piece)
        await exchange.end()

    async with connected(Server(stream)) as client:
        reply = await client.ask("GET", "/")
        assert reply.headers["transfer-encoding"] == "chunked"
        assert reply.body == b"onetwo"
        assert (await client.ask("GET", "/")).body == b"onetwo"


async def test_an_upgrade_hands_over_the_connection_with_the_bytes_after_the_head() -> None:
    async def upgrade(exchange: Exchange) -> None:
        stream = await exchange.take_over(101, [(b"Connection", b"Upgrade"), (b"Upgrade", b"tcp")])
        while data := await stream.receive_some(10):
            await stream.send_all(bytes(data).upper())
        await stream.send_all(b"END")

    head = b"POST /x HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
    data = await exchange_bytes(Server(upgrade), head + b"early", b"late")
    assert data.startswith(b"HTTP/1.1 101")
    assert data.endswith(b"EARLYLATEEND")


async def test_a_raw_stream_follows_a_200_without_upgrade() -> None:
    async def raw(exchange: Exchange) -> None:
        stream = await exchange.take_over(200, [(b"Content-Type", b"x/raw")])
        await stream.send_all(bytes(await stream.receive_some(10)))

    data = await exchange_bytes(Server(raw), b"POST / HTTP/1.1\r\nHost: x\r\n\r\nhi")
    assert data == b"HTTP/1.1 200 OK\r\nContent-Type: x/raw\r\n\r\nhi"


# --- limits ---


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"NONSENSE\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"GET / HTTP/1.1\r\nHost: x\r\nBad Header: y\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 2000 + b"\r\n\r\n", 431),
    ],
)
async def test_what_is_not_http_is_refused(data: bytes, status: int) -> None:
    server = Server(echo, limits=Limits(header_bytes=1000))
    answered = await exchange_bytes(server, data[:1500], data[1500:])
    assert replies(answered, [b"POST"])[0][0] == status
    assert server.statistics().bad_requests == 1


async def test_headers_that_do_not_come_are_timed_out(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with connected(Server(echo)) as client:
        await client.stream.send_all(b"GET / HT")
        client.http.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
        assert (await client.reply()).status == 408


async def test_an_idle_connection_is_closed(autojump_clock: trio.testing.MockClock) -> None:
    async with connected(Server(echo)) as client:
        await client.ask("GET", "/")
        assert isinstance(await client.event(), h11.ConnectionClosed)
    assert trio.current_time() >= Limits().idle_seconds


async def test_a_client_that_does_not_read_its_answer_is_dropped(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def large(exchange: Exchange) -> None:
        await exchange.respond(200, [], b"x" * 1_000_000)

    server = Server(large)
    near, far = trio.testing.lockstep_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve_stream, far)
        await near.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert server.statistics().clients_gone == 1
    assert server.statistics().connections == 0


async def test_a_slow_or_long_body_is_refused(autojump_clock: trio.testing.MockClock) -> None:
    seen: list[type] = []

    async def reader(exchange: Exchange) -> None:
        try:
            await exchange.read_body(limit=10, seconds=5)
        except (RequestTooLarge, RequestTooSlow) as exc:
            seen.append(type(exc))
            await exchange.respond(exc.http_status, [])

    head = h11.Request(method="POST", target="/", headers=[("Host", "x"), ("Content-Length", "99")])
    for body in (b"y" * 50, b"y"):
        async with connected(Server(reader)) as client:
            await client.send(head, h11.Data(data=body))
            await client.reply()
    assert seen == [RequestTooLarge, RequestTooSlow]


async def test_too_many_connections_are_told_so() -> None:
    server = Server(echo, limits=Limits(connections=1))
    async with connected(server) as first:
        await first.ask("GET", "/")
        async with connected(server) as second:
            second.http.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
            assert (await second.reply()).status == 503
        assert (await first.ask("GET", "/")).status == 200
    assert server.statistics().refused == 1


async def test_many_refusals_are_few_lines_of_the_log(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Whoever floods the socket must not flood the log as well; the count tells how many."""
    server = Server(echo, limits=Limits(connections=0))
    with structlog.testing.capture_logs() as logs:
        for _ in range(100):
            await exchange_bytes(server, b"")
        await trio.sleep(60)
        await exchange_bytes(server, b"")
    assert [entry["refused"] for entry in logs] == [1, 101]


@pytest.mark.parametrize(
    ("descriptors", "connections"), [(64, 64), (1024, 256), (20_000, 4096), (1 << 30, 4096)]
)
def test_connections_are_as_many_as_the_process_can_hold(
    descriptors: int, connections: int
) -> None:
    """A proxied one takes two descriptors; half of them are for Raft, agents and the engine."""
    assert Limits.within(descriptors).connections == connections


async def test_a_long_unread_body_ends_the_connection_a_short_one_does_not() -> None:
    async def ignore(exchange: Exchange) -> None:
        await exchange.respond(200, [])

    server = Server(ignore, limits=Limits(leftover_bytes=100))
    async with connected(server) as client:
        await client.ask("POST", "/", b"z" * 50)
        await client.ask("POST", "/", b"z" * 5000)
        assert isinstance(await client.event(), h11.ConnectionClosed)


# --- isolation, drain ---


async def test_a_broken_handler_is_a_500_with_a_number_that_the_log_has() -> None:
    async def broken(exchange: Exchange) -> None:
        raise ZeroDivisionError(exchange.request.target)

    server = Server(broken)
    with structlog.testing.capture_logs() as logs:
        async with connected(server) as client:
            reply = await client.ask("GET", "/")
    assert reply.status == 500
    assert "request 1" in reply.message
    assert logs[0]["request"] == 1
    async with connected(server) as client:  # the next connection is served
        assert (await client.ask("GET", "/")).status == 500
    assert server.statistics().broken_handlers == 2


async def test_a_handler_that_breaks_in_the_middle_cuts_its_answer() -> None:
    async def broken(exchange: Exchange) -> None:
        await exchange.start(200, [])
        await exchange.send(b"half")
        raise ZeroDivisionError

    with structlog.testing.capture_logs():
        async with connected(Server(broken)) as client:
            await client.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
            with pytest.raises(h11.RemoteProtocolError):
                await client.reply()


async def test_a_connection_that_cannot_be_answered_ends_alone() -> None:
    """Its handler broke h11's state, so that not even the 500 can be sent."""

    async def broken(exchange: Exchange) -> None:
        if exchange.request.target == b"/broken":
            await exchange.end()
        await exchange.respond(200, [])

    server = Server(broken)
    listener = MemoryListener()
    with structlog.testing.capture_logs() as logs:
        async with trio.open_nursery() as nursery:
            scope = await nursery.start(_serve, server, listener)
            other = Client(await listener.connect())
            await other.ask("GET", "/")
            client = Client(await listener.connect())
            await client.send(h11.Request(method="GET", target="/broken", headers=[("Host", "x")]))
            assert await client.stream.receive_some(1) == b""
            assert (await other.ask("GET", "/")).status == 200
            scope.cancel()
    assert [entry["event"] for entry in logs] == ["handler-failed", "connection-failed"]
    assert server.statistics().broken_connections == 1
    assert server.statistics().connections == 0


async def test_drain_lets_a_request_finish_and_closes_idle_connections(
    autojump_clock: trio.testing.MockClock,
) -> None:
    proceed = trio.Event()
    arrived = trio.Event()

    async def slow(exchange: Exchange) -> None:
        arrived.set()
        await proceed.wait()
        await exchange.respond(200, [], b"done")

    server = Server(slow)
    listener = MemoryListener()
    async with trio.open_nursery() as nursery:
        scope = await nursery.start(_serve, server, listener)
        idle, busy = Client(await listener.connect()), Client(await listener.connect())
        await busy.send(
            h11.Request(method="GET", target="/", headers=[("Host", "x")]), h11.EndOfMessage()
        )
        await arrived.wait()
        scope.cancel()
        assert await idle.stream.receive_some(1) == b""
        proceed.set()
        reply = await busy.reply()
    assert reply.body == b"done"
    assert reply.headers["connection"] == "close"
    assert trio.current_time() < Limits().drain_seconds


async def test_drain_cuts_what_does_not_end(autojump_clock: trio.testing.MockClock) -> None:
    async def endless(exchange: Exchange) -> None:
        await exchange.start(200, [])
        await exchange.send(b"x")
        await trio.sleep_forever()

    server = Server(endless)
    listener = MemoryListener()
    async with trio.open_nursery() as nursery:
        scope = await nursery.start(_serve, server, listener)
        client = Client(await listener.connect())
        await client.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
        await client.event()
        scope.cancel()
    assert trio.current_time() == pytest.approx(Limits().drain_seconds)
    assert server.statistics().connections == 0


async def _serve(
    server: Server, listener: "MemoryListener", *, task_status: trio.TaskStatus[trio.CancelScope]
) -> None:
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            await nursery.start(server.serve, listener)
            task_status.started(scope)


class MemoryListener(trio.abc.Listener[trio.SocketStream]):
    """Accepts what :meth:`connect` makes."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[trio.SocketStream](8)

    async def connect(self) -> trio.abc.HalfCloseableStream:
        near, far = trio.testing.memory_stream_pair()
        await self._send.send(far)  # type: ignore[arg-type]  # a stream, if not of a socket
        await trio.testing.wait_all_tasks_blocked()
        return near

    async def accept(self) -> trio.SocketStream:
        return await self._receive.receive()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
        self._receive.close()
        self._send.close()
