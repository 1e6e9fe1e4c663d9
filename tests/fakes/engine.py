"""A Docker Engine for tests: a real unix socket, h11, and scripted answers."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import h11
import msgspec
import trio
from swarmlet.engine.tunnel import PushbackStream

VERSION = {
    "Version": "20.10.24",
    "ApiVersion": "1.41",
    "MinAPIVersion": "1.12",
    "Components": [{"Name": "Engine", "Version": "20.10.24", "Details": {"ApiVersion": "1.41"}}],
}

INFO = {"ID": "ENGINE", "Name": "host1", "Containers": 3, "Swarm": {"LocalNodeState": "inactive"}}


class Visit:
    """One request at the engine, and the means to answer it."""

    def __init__(self, stream: trio.SocketStream, http: h11.Connection, head: h11.Request) -> None:
        self.stream = stream
        self.http = http
        self.method = head.method.decode()
        self.target = head.target.decode()
        self.headers = dict(head.headers)
        self.body = b""

    async def read_chunk(self) -> bytes:
        """The next piece of the body, b"" at its end."""
        while True:
            event = self.http.next_event()
            if event is h11.NEED_DATA:
                self.http.receive_data(bytes(await self.stream.receive_some(65_536)))
            elif isinstance(event, h11.Data):
                self.body += bytes(event.data)
                return bytes(event.data)
            else:
                return b""

    async def read_body(self) -> bytes:
        """The whole body."""
        while await self.read_chunk():
            pass
        return self.body

    async def send(self, *events: h11.Event) -> None:
        """Send parts of the answer."""
        for event in events:
            await self.stream.send_all(self.http.send(event) or b"")

    async def answer(
        self, status: int, body: bytes = b"", *, headers: list[tuple[str, str]] | None = None
    ) -> None:
        """Send a whole answer."""
        framing = [("Content-Length", str(len(body))), ("Connection", "close")]
        head = h11.Response(
            status_code=status, headers=[("Api-Version", "1.41"), *framing, *(headers or [])]
        )
        data = [h11.Data(data=body)] if body and self.method != "HEAD" else []
        await self.send(head, *data, h11.EndOfMessage())

    async def hijack(self, raw_head: bytes) -> PushbackStream:
        """Answer with these bytes and take the connection."""
        await self.read_body()
        first = bytes(self.http.trailing_data[0])
        await self.stream.send_all(raw_head)
        return PushbackStream(self.stream, first)


Script = Callable[[Visit], Awaitable[None]]


class FakeEngine:
    """Answers ``/version``, ``/_ping`` and ``/info``; the rest as ``scripts`` say, by path."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.visits: list[Visit] = []
        self.scripts: dict[str, Script] = {}

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled."""
        sock = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
        await sock.bind(str(self.path))
        sock.listen(64)
        task_status.started()
        await trio.serve_listeners(self._connection, [trio.SocketListener(sock)])

    async def _connection(self, stream: trio.SocketStream) -> None:
        http = h11.Connection(h11.SERVER)
        async with stream:
            while (event := http.next_event()) is h11.NEED_DATA:
                http.receive_data(bytes(await stream.receive_some(65_536)))
            if isinstance(event, h11.Request):
                visit = Visit(stream, http, event)
                self.visits.append(visit)
                with suppress(trio.BrokenResourceError):
                    await self._answer(visit)

    async def _answer(self, visit: Visit) -> None:
        path = visit.target.partition("?")[0]
        if path in self.scripts:
            await self.scripts[path](visit)
        elif path == "/version":
            await visit.answer(200, msgspec.json.encode(VERSION))
        elif path == "/_ping":
            await visit.answer(200, b"OK", headers=[("Builder-Version", "2")])
        elif path == "/info":
            await visit.answer(200, msgspec.json.encode(INFO))
        else:
            await visit.read_body()
            await visit.answer(404, b'{"message":"page not found"}')


@asynccontextmanager
async def fake_engine(path: Path) -> AsyncIterator[FakeEngine]:
    """An engine that serves ``path`` while the block runs."""
    engine = FakeEngine(path)
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.serve)
        yield engine
        nursery.cancel_scope.cancel()
