"""A server and a client for both sides of a network: run in containers, asked by the tests.

Standard library only: containers run it with the interpreter of the machine, mounted.

``peer.py serve`` answers HTTP at port 80 and echoes UDP at port 9000, until SIGTERM and a second
longer: as servers do that care for their clients. ``peer.py ask QUESTION...`` asks for ever and
adds a line to the file ``$ANSWERS`` for each answer: ``TIME QUESTION OUTCOME``, the outcome ``ok``
or why not.

A question is ``http:NAME:PORT``, ``udp:NAME:PORT`` or ``name:NAME``.
"""

import http.client
import os
import signal
import socket
import socketserver
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

#: Seconds for an answer.
PATIENCE = 3.0

#: Seconds between two questions.
PAUSE = 0.25

#: Seconds that a server goes on after it was told to end.
LINGER = 1.0


def ask(question: str) -> str:
    """The outcome of a question: ``ok``, or why not, in one word."""
    kind, _, rest = question.partition(":")
    host, _, port = rest.partition(":")
    try:
        if kind == "name":
            socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM)
        elif kind == "udp":
            _echoed(host, int(port))
        else:
            _fetched(host, int(port))
    except (OSError, http.client.HTTPException) as exc:
        return "-".join(f"{type(exc).__name__} {exc}".split())
    return "ok"


def _fetched(host: str, port: int) -> None:
    connection = http.client.HTTPConnection(host, port, timeout=PATIENCE)
    try:
        connection.request("GET", "/")
        if connection.getresponse().read() != b"here":
            raise http.client.HTTPException("another server answered")
    finally:
        connection.close()


def _echoed(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(PATIENCE)
        sock.connect((host, port))
        sock.send(b"echo")
        sock.recv(16)


def ask_for_ever(path: str, questions: list[str]) -> None:
    """Ask in turn, and note the outcomes."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    while True:
        for question in questions:
            began = time.monotonic()
            outcome = ask(question)
            with open(path, "a") as notes:  # noqa: PTH123 - starts faster without pathlib
                notes.write(f"{began:.2f} {question} {outcome}\n")
            time.sleep(PAUSE)


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:  # the name is the library's
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"here")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        data, sock = self.request
        sock.sendto(data, self.client_address)


def serve() -> None:
    """Answer until told to end."""
    told = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: told.set())
    servers = (
        ThreadingHTTPServer(("", 80), _Page),
        socketserver.ThreadingUDPServer(("", 9000), _Echo),
    )
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    told.wait()
    time.sleep(LINGER)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve()
    else:
        ask_for_ever(os.environ["ANSWERS"], sys.argv[2:])
