"""A small HTTP client on any stream, and ways to put a server at its other end."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import h11
import msgspec
import trio
import trio.testing
from swarmlet.api.http1 import Server
from swarmlet.api.server import Api


class Reply:
    """An answer."""

    def __init__(self, head: h11.Response | h11.InformationalResponse, body: bytes) -> None:
        self.status = head.status_code
        self.headers = {k.decode(): v.decode() for k, v in head.headers}
        self.body = body

    @property
    def json(self) -> object:
        return msgspec.json.decode(self.body)

    @property
    def message(self) -> str:
        decoded = self.json
        assert isinstance(decoded, dict)
        return str(decoded["message"])


class Client:
    """One connection."""

    def __init__(self, stream: trio.abc.HalfCloseableStream) -> None:
        self.stream = stream
        self.http = h11.Connection(h11.CLIENT)

    async def event(self) -> object:
        while (event := self.http.next_event()) is h11.NEED_DATA:
            try:
                self.http.receive_data(bytes(await self.stream.receive_some(65_536)))
            except trio.BrokenResourceError:
                self.http.receive_data(b"")
        return event

    async def send(self, *events: h11.Event) -> None:
        for event in events:
            data = self.http.send(event)
            if data:
                await self.stream.send_all(data)

    async def reply(self) -> Reply:
        """The next answer; 101 has no body."""
        head = await self.event()
        assert isinstance(head, h11.Response | h11.InformationalResponse), head
        body = b""
        if isinstance(head, h11.Response):
            while isinstance(event := await self.event(), h11.Data):
                body += bytes(event.data)
            assert isinstance(event, h11.EndOfMessage), event
        return Reply(head, body)

    async def ask(self, method: str, target: str, body: object = None, **headers: str) -> Reply:
        """One request and its answer. A body that is not bytes goes as JSON."""
        data = (
            b"" if body is None else body if isinstance(body, bytes) else msgspec.json.encode(body)
        )
        named = [(key.replace("_", "-"), value) for key, value in headers.items()]
        length = [("Content-Length", str(len(data)))] if data or method == "POST" else []
        head = h11.Request(method=method, target=target, headers=[("Host", "x"), *length, *named])
        await self.send(head, *([h11.Data(data=data)] if data else []), h11.EndOfMessage())
        reply = await self.reply()
        if self.http.our_state is h11.DONE and self.http.their_state is h11.DONE:
            self.http.start_next_cycle()
        return reply


@asynccontextmanager
async def connected(server: Server) -> AsyncIterator[Client]:
    """A client of a server, through memory."""
    near, far = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve_stream, far)
        yield Client(near)
        await near.aclose()


async def ask(api: Api, method: str, target: str, body: object = None, **headers: str) -> Reply:
    """One call on a connection of its own."""
    async with connected(api.http) as client:
        return await client.ask(method, target, body, **headers)
