"""A stand-in for swarmletd that a playground can start: answers pings, pretends to form a cluster.

The cluster is a folder beside the hosts' run folders: one file a node. Run as a program with the
options of ``swarmlet daemon``, or use :class:`Handler` in a test's own server.
"""

import argparse
import json
import signal
import socketserver
import sys
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any


class Handler(BaseHTTPRequestHandler):
    """Serves one fake daemon; a test sets ``nodes``, the server carries its own ``hostname``."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/_ping":
            self._answer(200, "OK")
        elif self.path == "/swarm":
            self._answer(
                200, {"JoinTokens": {"Manager": "manager-token", "Worker": "worker-token"}}
            )
        else:
            self._answer(200, [json.loads(p.read_text()) for p in sorted(self._nodes().iterdir())])

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        role = "worker" if body.get("JoinToken") == "worker-token" else "manager"
        name = self._host().name
        node: dict[str, Any] = {
            "Description": {"Hostname": name},
            "Spec": {"Role": role},
            "Status": {"State": "ready", "Addr": body["AdvertiseAddr"]},
        }
        if role == "manager":
            node["ManagerStatus"] = {"Reachability": "reachable"}
        self._nodes().mkdir(exist_ok=True)
        (self._nodes() / name).write_text(json.dumps(node))
        self._answer(200, "id")

    def _host(self) -> Path:
        return Path(str(self.server.server_address)).parent

    def _nodes(self) -> Path:
        return self._host().parent / "fake-nodes"

    def _answer(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        """Say nothing."""

    def address_string(self) -> str:
        return "unix"


class Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


def main() -> None:
    parser = argparse.ArgumentParser()
    for option in ("state-dir", "socket", "engine-socket", "advertise-addr", "log-format"):
        parser.add_argument(f"--{option}", required=True)
    parser.add_argument("--config")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    sys.stdout.write(f"fake daemon of {options.advertise_addr}\n")
    with Server(options.socket, Handler) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
