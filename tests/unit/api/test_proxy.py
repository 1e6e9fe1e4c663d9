"""The proxy, between a client in memory and an engine on a real unix socket."""

from pathlib import Path

import h11
import pytest
import trio
import trio.testing
from swarmlet.api.server import Api

from tests.fakes.backend import FakeBackend
from tests.fakes.engine import FakeEngine, Visit, fake_engine
from tests.unit.api.http_client import Client, Reply, ask, connected


def last(engine: FakeEngine) -> Visit:
    return engine.visits[-1]


async def test_the_version_is_the_lower_of_the_asked_and_the_engines(
    api: Api, engine: FakeEngine
) -> None:
    for target in ("/v1.44/containers/json?all=1&filters=%7B%7D", "/containers/json?all=1"):
        reply = await ask(api, "GET", target)
        query = target.partition("?")[2]
        assert last(engine).target == f"/v1.41/containers/json?{query}"
        assert reply.headers["api-version"] == "1.47"


async def test_an_unknown_path_status_and_header_are_passed_on(
    api: Api, engine: FakeEngine
) -> None:
    async def odd(visit: Visit) -> None:
        await visit.answer(418, b"teapot", headers=[("X-Odd", "yes"), ("Content-Type", "x/y")])

    engine.scripts["/v1.41/plugins/a%2Fb/odd"] = odd
    reply = await ask(api, "PATCH", "/v1.43/plugins/a%2Fb/odd", X_Mine="1", Connection="X-Hop")
    assert (reply.status, reply.body) == (418, b"teapot")
    assert reply.headers["x-odd"] == "yes"
    assert last(engine).headers[b"x-mine"] == b"1"
    assert b"connection" not in last(engine).headers


async def test_a_head_keeps_its_headers(api: Api, engine: FakeEngine) -> None:
    async def stat(visit: Visit) -> None:
        await visit.answer(200, b"12345", headers=[("X-Docker-Container-Path-Stat", "e30=")])

    engine.scripts["/v1.41/containers/c/archive"] = stat
    reply = await ask(api, "HEAD", "/v1.41/containers/c/archive?path=/")
    assert reply.headers["x-docker-container-path-stat"] == "e30="
    assert reply.headers["content-length"] == "5"


async def test_an_upload_is_streamed(api: Api, engine: FakeEngine) -> None:
    """The engine has a piece before the next one is sent, and its answer begins before the end."""

    async def build(visit: Visit) -> None:
        await visit.send(h11.Response(status_code=200, headers=[("Api-Version", "1.41")]))
        while chunk := await visit.read_chunk():
            await visit.send(h11.Data(data=chunk.upper()))
        await visit.send(h11.EndOfMessage(headers=[("X-Trailer", "t")]))

    engine.scripts["/v1.41/build"] = build
    async with connected(api.http) as client:
        head = [("Host", "x"), ("Transfer-Encoding", "chunked")]
        await client.send(h11.Request(method="POST", target="/build", headers=head))
        assert isinstance(await client.event(), h11.Response)
        for piece in (b"one", b"two"):
            await client.send(h11.Data(data=piece))
            event = await client.event()
            assert isinstance(event, h11.Data)
            assert bytes(event.data) == piece.upper()
        await client.send(h11.EndOfMessage())
        end = await client.event()
        assert isinstance(end, h11.EndOfMessage)
        assert list(end.headers) == [(b"x-trailer", b"t")]


async def test_an_engine_that_refuses_an_upload_early_is_heard(
    api: Api, engine: FakeEngine
) -> None:
    async def refuse(visit: Visit) -> None:
        await visit.answer(400, b"no")

    engine.scripts["/v1.41/images/load"] = refuse
    async with connected(api.http) as client:
        head = [("Host", "x"), ("Content-Length", "10000000")]
        await client.send(h11.Request(method="POST", target="/images/load", headers=head))
        await client.send(h11.Data(data=b"x" * 1000))
        reply = await client.reply()
    assert (reply.status, reply.body) == (400, b"no")


async def test_a_slow_reader_holds_the_engine_back(api: Api, engine: FakeEngine) -> None:
    sent = 0

    async def flood(visit: Visit) -> None:
        nonlocal sent
        await visit.send(h11.Response(status_code=200, headers=[]))
        while True:
            await visit.send(h11.Data(data=b"x" * 65_536))
            sent += 65_536

    engine.scripts["/v1.41/containers/c/logs"] = flood
    near, far = trio.testing.lockstep_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(api.http.serve_stream, far)
        await near.send_all(b"GET /containers/c/logs HTTP/1.1\r\nHost: x\r\n\r\n")
        await near.receive_some(1)
        before = -1
        while before != sent:  # until nothing moves any more
            before = sent
            for _ in range(100):
                await trio.lowlevel.checkpoint()
        assert sent < 10_000_000
        nursery.cancel_scope.cancel()


async def attach(visit: Visit) -> None:
    """Send back in capitals what comes; after its end say what came, and end."""
    stream = await visit.hijack(
        b"HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\n"
        b"Connection: Upgrade\r\nUpgrade: tcp\r\n\r\nWELCOME"
        if b"upgrade" in visit.headers
        else b"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.raw-stream\r\n\r\nWELCOME"
    )
    total = 0
    while data := await stream.receive_some(100):
        total += len(data)
        await stream.send_all(bytes(data).upper())
    await stream.send_all(b"[%d]" % total)


async def hijacked(client: Client, *, upgrade: bool, early: bytes = b"") -> tuple[Reply, bytes]:
    """Attach; send, end one side, read the rest. Returns the head and all bytes after it."""
    asked = b"Connection: Upgrade\r\nUpgrade: tcp\r\n" if upgrade else b""
    body = b'{"Tty":true}'
    head = b"POST /v1.47/exec/e/start HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n%s\r\n"
    await client.stream.send_all(head % (len(body), asked) + body + early)
    received = bytearray()
    while b"WELCOME" not in received:
        received += await client.stream.receive_some(1000)
    await client.stream.send_all(b"late")
    while b"LATE" not in received:
        received += await client.stream.receive_some(1000)
    await client.stream.send_eof()
    while data := await client.stream.receive_some(1000):
        received += data
    raw_head, _, rest = bytes(received).partition(b"\r\n\r\n")
    lines = raw_head.decode().split("\r\n")
    status = int(lines[0].split()[1])
    fields = [(name.encode(), value.encode()) for name, value in _fields(lines[1:])]
    kind = h11.InformationalResponse if status == 101 else h11.Response
    return Reply(kind(status_code=status, headers=fields), b""), rest


def _fields(lines: list[str]) -> list[tuple[str, str]]:
    parts = [line.partition(": ") for line in lines]
    return [(name, value) for name, _, value in parts]


@pytest.mark.parametrize("upgrade", [True, False])
async def test_a_hijack_joins_both_connections_and_passes_each_end_on(
    api: Api, engine: FakeEngine, upgrade: bool
) -> None:
    engine.scripts["/v1.41/exec/e/start"] = attach
    async with connected(api.http) as client:
        reply, rest = await hijacked(client, upgrade=upgrade, early=b"early")
    assert reply.status == (101 if upgrade else 200)
    assert reply.headers["content-type"] == "application/vnd.docker.raw-stream"
    assert reply.headers["api-version"] == "1.47"
    assert rest == b"WELCOMEEARLYLATE[9]"
    assert last(engine).body == b'{"Tty":true}'


async def test_h2c_is_an_upgrade_like_any_other(api: Api, engine: FakeEngine) -> None:
    async def session(visit: Visit) -> None:
        assert visit.headers[b"upgrade"] == b"h2c"
        stream = await visit.hijack(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
        )
        await stream.send_all(b"PRI")

    engine.scripts["/v1.41/session"] = session
    async with connected(api.http) as client:
        reply = await client.ask("POST", "/v1.41/session", Connection="Upgrade", Upgrade="h2c")
        assert reply.status == 101
        assert reply.headers["upgrade"] == "h2c"
        first = client.http.trailing_data[0] or await client.stream.receive_some(10)
        assert first == b"PRI"


async def test_a_refused_upgrade_is_an_ordinary_answer(api: Api, engine: FakeEngine) -> None:
    async def conflict(visit: Visit) -> None:
        await visit.read_body()
        await visit.answer(409, b'{"message":"container is paused"}')

    engine.scripts["/v1.41/containers/c/attach"] = conflict
    async with connected(api.http) as client:
        reply = await client.ask(
            "POST", "/v1.41/containers/c/attach", Connection="Upgrade", Upgrade="tcp"
        )
        assert reply.message == "container is paused"
        assert (await client.ask("GET", "/_ping")).status == 200  # the connection goes on


async def test_a_client_that_leaves_ends_the_engines_stream(api: Api, engine: FakeEngine) -> None:
    ended = trio.Event()

    async def events(visit: Visit) -> None:
        await visit.send(h11.Response(status_code=200, headers=[]))
        assert await visit.stream.receive_some(1) == b""
        ended.set()

    engine.scripts["/v1.41/events"] = events
    async with connected(api.http) as client:
        await client.send(h11.Request(method="GET", target="/events", headers=[("Host", "x")]))
        await client.send(h11.EndOfMessage())
        await client.event()
        await client.stream.aclose()
        await ended.wait()
    assert api.http.statistics().clients_gone == 1


async def test_the_engine_learns_that_the_client_of_a_post_has_ended(
    api: Api, engine: FakeEngine
) -> None:
    """``docker wait`` that was killed must not hold connections until its container ends."""

    async def wait(visit: Visit) -> None:
        await visit.read_body()
        await visit.send(h11.Response(status_code=200, headers=[]))
        assert await visit.stream.receive_some(1) == b""
        await visit.send(h11.Data(data=b"gone"), h11.EndOfMessage())

    engine.scripts["/v1.41/containers/c/wait"] = wait
    async with connected(api.http) as client:
        head = h11.Request(method="POST", target="/containers/c/wait", headers=[("Host", "x")])
        await client.send(head, h11.EndOfMessage())
        await client.stream.send_eof()
        assert (await client.reply()).body == b"gone"


async def test_an_answer_that_the_engine_cuts_is_cut_for_the_client(
    api: Api, engine: FakeEngine
) -> None:
    async def die(visit: Visit) -> None:
        await visit.stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")

    engine.scripts["/v1.41/containers/json"] = die
    async with connected(api.http) as client:
        with pytest.raises(h11.RemoteProtocolError):
            await client.ask("GET", "/containers/json")
    assert api.http.statistics().broken_handlers == 0


async def test_no_engine_is_a_503_that_says_so_and_ends_when_it_is_back(tmp_path: Path) -> None:
    path = tmp_path / "engine.sock"
    api = Api(FakeBackend(), path)
    reply = await ask(api, "GET", "/containers/json")
    assert reply.status == 503
    assert "Docker Engine" in reply.message
    assert reply.json == {
        "message": reply.message,
        "code": "engine-unavailable",
        "advice": "start it (systemctl start docker); swarmlet will find it again by itself",
    }
    async with fake_engine(path) as engine:
        assert (await ask(api, "GET", "/containers/json")).status == 404
        assert last(engine).target == "/v1.41/containers/json"


async def test_a_network_of_the_engine_is_created_there_with_its_body(
    api: Api, engine: FakeEngine
) -> None:
    async def created(visit: Visit) -> None:
        await visit.read_body()
        await visit.answer(201, visit.body)

    engine.scripts["/v1.41/networks/create"] = created
    body = {"Name": "n", "Driver": "bridge"}
    reply = await ask(api, "POST", "/v1.47/networks/create", body)
    assert (reply.status, reply.json) == (201, body)
