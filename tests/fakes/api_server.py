"""A daemon's API on a unix socket, in a thread: answers what it is told, remembers what it got."""

import json
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

Json = Any
Answer = tuple[int, Json]


class Request:
    """What a client sent."""

    def __init__(self, method: str, target: str, body: Json, headers: dict[str, str]) -> None:
        parts = urlsplit(target)
        self.method = method
        self.path = unquote(parts.path)
        self.query = dict(parse_qsl(parts.query))
        self.body = body
        self.headers = headers

    @property
    def filters(self) -> Json:
        return json.loads(self.query.get("filters", "{}"))

    def __repr__(self) -> str:
        return f"{self.method} {self.path}"


Responder = Json | Callable[[Request], Json]


class FakeApi:
    """Routes of ``METHOD /path`` to answers: JSON, an :class:`Answer`, or a function of Request."""

    def __init__(self) -> None:
        self.routes: dict[str, Responder] = {}
        self.requests: list[Request] = []
        self.headers: dict[str, str] = {}

    def on(self, route: str, answer: Responder) -> None:
        self.routes[route] = answer

    def refuse(self, route: str, status: int, message: str, **more: str) -> None:
        self.routes[route] = (status, {"message": message, **more})

    def sent(self, route: str) -> list[Request]:
        """Requests of a route, in order."""
        return [r for r in self.requests if repr(r) == route]

    def answer(self, request: Request) -> Answer:
        self.requests.append(request)
        found = self.routes.get(repr(request), (404, {"message": f"{request} not found"}))
        if callable(found):
            found = found(request)
        return found if isinstance(found, tuple) else (200, found)


class _UnixServer(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64  # as many as a client may ask at once

    def handle_error(self, *args: object) -> None:
        """A client that hangs up is no news."""


@contextmanager
def serve(api: FakeApi, path: Path) -> Iterator[FakeApi]:
    """Serve an API on a unix socket while the context lasts."""

    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            raw = self.rfile.read(length) if length else b""
            body = json.loads(raw) if raw else None
            request = Request(self.command, self.path, body, dict(self.headers))
            status, answer = api.answer(request)
            data = b"" if answer is None else json.dumps(answer).encode()
            self.send_response(status)
            for name, value in api.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        do_GET = do_HEAD = do_POST = do_DELETE = _serve  # noqa: N815 - the names that http.server looks for

        def address_string(self) -> str:
            return "unix"

        def log_message(self, *args: object) -> None:
            pass

    server = _UnixServer(str(path), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
