"""A stand-in for the Docker Engine: a real unix socket, h11, and faults on request.

It does what an engine does for the calls that swarmlet makes: states of containers, events, error
bodies. Faults: ``slow``, ``refuse``, ``drop`` for calls that match, ``cut`` for the event stream.
"""

import contextlib
import itertools
import json
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import h11
import trio

Json = dict[str, Any]
Matches = Callable[[str, str], bool]

NEVER = "0001-01-01T00:00:00Z"
_VERSION = re.compile(r"^/v1\.\d+")


class Refusal(Exception):
    """An error answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Dropped(Exception):
    """Close the connection in the middle of a call."""


class FakeEngine:
    """State of one engine. Tests read ``calls`` and ``containers`` and steer with the methods."""

    def __init__(self, socket_path: Path, *, images: tuple[str, ...] = ("busybox:lab",)) -> None:
        self.socket_path = socket_path
        self.api_version = "1.41"
        self.images = set(images)
        self.registry: dict[str, str] = {}  # name -> "" to deliver, else the registry's error
        self.containers: dict[str, Json] = {}
        self.networks: dict[str, Json] = {}
        self.calls: list[tuple[str, str]] = []
        self.auths: list[str] = []
        self.most_at_once = 0
        self._at_once = 0
        self._ids = itertools.count(1)
        self._pids = itertools.count(1000)
        self._watchers: set[trio.MemorySendChannel[Json]] = set()
        self._faults: list[tuple[Matches, Callable[[], Any]]] = []
        self._clock = itertools.count(1)

    # --- steering -------------------------------------------------------------------------------

    @contextlib.contextmanager
    def fault(self, what: str, effect: Callable[[], Any]) -> Any:
        """While inside, ``effect`` (which may raise or return an awaitable) precedes such calls."""
        pattern = re.compile(what)
        entry = (lambda method, path: bool(pattern.search(f"{method} {path}")), effect)
        self._faults.append(entry)
        try:
            yield
        finally:
            self._faults.remove(entry)

    def cut_streams(self) -> None:
        """End every stream of events, as an engine that goes away."""
        for watcher in list(self._watchers):
            watcher.close()
        self._watchers.clear()

    def end(self, container_id: str, code: int, *, oom: bool = False, silent: bool = False) -> None:
        """A container ends by itself; ``silent``: nobody is told."""
        container = self.containers[container_id]
        container["State"] |= {
            "Status": "exited",
            "Running": False,
            "Pid": 0,
            "ExitCode": code,
            "OOMKilled": oom,
            "FinishedAt": self._now(),
        }
        if not silent:
            self._emit("die", container, exitCode=str(code))

    def rename(self, container_id: str, name: str) -> None:
        self.containers[container_id]["Name"] = f"/{name}"
        self._emit("rename", self.containers[container_id])

    def health(self, container_id: str, status: str) -> None:
        container = self.containers[container_id]
        container["State"]["Health"] = {"Status": status}
        self._emit(f"health_status: {status}", container)

    def count(self, pattern: str) -> int:
        return sum(bool(re.search(pattern, f"{m} {p}")) for m, p in self.calls)

    def of(self, task_id: str) -> Json:
        """The container of a task."""
        (found,) = (
            c
            for c in self.containers.values()
            if c["Config"]["Labels"].get("swarmlet.task") == task_id
        )
        return found

    # --- serving --------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator["FakeEngine"]:
        sock = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
        await sock.bind(str(self.socket_path))
        sock.listen(128)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(  # noqa: ASYNC113 - the socket listens already
                trio.serve_listeners, self._connection, [trio.SocketListener(sock)]
            )
            yield self
            nursery.cancel_scope.cancel()
        self.socket_path.unlink()

    async def _connection(self, stream: trio.SocketStream) -> None:
        wire = h11.Connection(h11.SERVER)
        with contextlib.suppress(trio.BrokenResourceError, Dropped):
            while await self._call(wire, stream):
                wire.start_next_cycle()
        await trio.aclose_forcefully(stream)

    async def _call(self, wire: h11.Connection, stream: trio.SocketStream) -> bool:
        request, body = None, b""
        while True:
            event = wire.next_event()
            if event is h11.NEED_DATA:
                try:
                    wire.receive_data(await stream.receive_some(65536))
                except trio.BrokenResourceError:
                    return False
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                break
            else:
                return False
        assert request is not None
        split = urlsplit(request.target.decode())
        path = _VERSION.sub("", unquote(split.path))
        query = {k: v[0] for k, v in parse_qs(split.query).items()}
        method = request.method.decode()
        self.calls.append((method, path))
        self.auths += [v.decode() for k, v in request.headers if k == b"x-registry-auth"]
        if path == "/events":
            await self._events(wire, stream, query)
            return False
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            status, answer = await self._answer(method, path, query, body)
        finally:
            self._at_once -= 1
        await self._respond(wire, stream, status, answer)
        return wire.our_state is h11.DONE and wire.their_state is h11.DONE

    async def _answer(self, method: str, path: str, query: Json, body: bytes) -> tuple[int, bytes]:
        try:
            for matches, effect in list(self._faults):
                if matches(method, path):
                    result = effect()
                    if result is not None:
                        await result
            answer = self._handle(method, path, query, json.loads(body) if body else {})
        except Refusal as refusal:
            return refusal.status, json.dumps({"message": refusal.message}).encode()
        if isinstance(answer, bytes):
            return 200, answer
        return (204, b"") if answer is None else (200, json.dumps(answer).encode())

    async def _respond(
        self, wire: h11.Connection, stream: trio.SocketStream, status: int, answer: bytes
    ) -> None:
        headers = [] if status == 204 else [("Content-Length", str(len(answer)))]
        raw = wire.send(h11.Response(status_code=status, headers=headers)) or b""
        raw += (wire.send(h11.Data(data=answer)) or b"") if answer else b""
        raw += wire.send(h11.EndOfMessage()) or b""
        await stream.send_all(raw)

    async def _events(self, wire: h11.Connection, stream: trio.SocketStream, query: Json) -> None:
        wanted = json.loads(query.get("filters", "{}"))
        send, receive = trio.open_memory_channel[Json](1000)
        self._watchers.add(send)
        headers = [("Transfer-Encoding", "chunked")]
        await stream.send_all(wire.send(h11.Response(status_code=200, headers=headers)) or b"")
        with contextlib.suppress(trio.BrokenResourceError):
            async for event in receive:
                action = event["Action"].partition(":")[0]
                if action in wanted.get("event", [action]):
                    line = json.dumps(event).encode() + b"\n"
                    await stream.send_all(wire.send(h11.Data(data=line)) or b"")

    # --- what an engine does --------------------------------------------------------------------

    def _handle(  # noqa: PLR0911 - a table of routes
        self, method: str, path: str, query: Json, body: Json
    ) -> Any:
        if path == "/_ping":
            return b"OK"
        if path == "/version":
            return {"ApiVersion": self.api_version, "Version": "20.10"}
        if path == "/containers/json":
            return self._list(query)
        if path == "/containers/create":
            return self._create(query["name"], body)
        if path == "/images/create":
            return self._pull(query)
        if path.startswith("/networks"):
            return self._of_networks(method, path, query, body)
        if path.startswith("/images/"):
            name = path.removeprefix("/images/").removesuffix("/json")
            if name not in self.images:
                raise Refusal(404, f"No such image: {name}")
            return {"Id": f"sha256:{name}", "RepoDigests": []}
        return self._of_container(method, path)

    def _of_networks(self, method: str, path: str, query: Json, body: Json) -> Any:
        _, _, name, verb, *_ = [*path.split("/"), "", ""]
        match method, name, verb:
            case "GET", "", _:
                wanted = json.loads(query.get("filters", "{}")).get("label", [])
                return [n for n in self.networks.values() if all(_has(n, w) for w in wanted)]
            case "POST", "create", _:
                if any(n["Name"] == body["Name"] for n in self.networks.values()):
                    raise Refusal(409, f"network with name {body['Name']} already exists")
                taken = [n["IPAM"]["Config"] for n in self.networks.values() if "IPAM" in n]
                if body["IPAM"]["Config"] in taken:
                    raise Refusal(403, "Pool overlaps with other one on this address space")
                network_id = f"{next(self._ids):064x}"
                self.networks[network_id] = {**body, "Id": network_id}
                return {"Id": network_id}
            case "POST", _, "connect":
                container = self._find(body["Container"])
                self._plug(container, name, body["EndpointConfig"])
            case "POST", _, "disconnect":
                container = self._find(body["Container"])
                network = self._network(name)
                if container["NetworkSettings"]["Networks"].pop(network["Name"], None) is None:
                    raise Refusal(404, f"container is not connected to network {name}")
            case "DELETE", _, _:
                if self.networks.pop(name, None) is None:
                    raise Refusal(404, f"network {name} not found")
            case _:
                raise Refusal(400, f"{method} {path}")
        return None

    def _plug(self, container: Json, network_id: str, endpoint: Json) -> None:
        network = self._network(network_id)
        places = container["NetworkSettings"]["Networks"]
        places[network["Name"]] = {"NetworkID": network["Id"], **endpoint}

    def _network(self, name: str) -> Json:
        """The network of that identifier or name."""
        found = (n for n in self.networks.values() if name in (n["Id"], n["Name"]))
        network = next(found, None)
        if network is None:
            raise Refusal(404, f"network {name} not found")
        return network

    def _of_container(self, method: str, path: str) -> Any:
        _, _, name, *verb = path.split("/")
        container = self._find(name)
        match method, verb:
            case "GET", ["json"]:
                return container
            case "POST", ["start"]:
                return self._start(container)
            case "POST", ["stop"]:
                self._stopped(container, 143)
            case "POST", ["kill"]:
                self._stopped(container, 137)
            case "DELETE", []:
                self._remove(container)
            case _:
                raise Refusal(400, f"{method} {path}")
        return None

    def _list(self, query: Json) -> list[Json]:
        wanted = json.loads(query.get("filters", "{}")).get("label", [])
        return [
            {
                "Id": c["Id"],
                "Names": [c["Name"]],
                "Labels": c["Config"]["Labels"],
                "State": c["State"]["Status"],
                "NetworkSettings": c["NetworkSettings"],
            }
            for c in self.containers.values()
            if all(label in c["Config"]["Labels"] for label in wanted)
        ]

    def _create(self, name: str, body: Json) -> Json:
        if body["Image"] not in self.images:
            raise Refusal(404, f"No such image: {body['Image']}")
        if any(c["Name"] == f"/{name}" for c in self.containers.values()):
            raise Refusal(409, f'Conflict. The container name "/{name}" is already in use')
        container_id = f"{next(self._ids):064x}"
        self.containers[container_id] = {
            "Id": container_id,
            "Name": f"/{name}",
            "Config": {"Labels": body.get("Labels", {}), "Healthcheck": body.get("Healthcheck")},
            "HostConfig": body.get("HostConfig", {}),
            "NetworkSettings": {"Networks": {}},
            "State": {
                "Status": "created", "Running": False, "Pid": 0, "ExitCode": 0, "Error": "",
                "OOMKilled": False, "StartedAt": NEVER, "FinishedAt": NEVER,
            },
        }  # fmt: skip
        places = (body.get("NetworkingConfig") or {}).get("EndpointsConfig") or {}
        for network_id, endpoint in places.items():
            self._plug(self.containers[container_id], network_id, endpoint)
        return {"Id": container_id}

    def _start(self, container: Json) -> None:
        container["State"] |= {
            "Status": "running",
            "Running": True,
            "Pid": next(self._pids),
            "ExitCode": 0,
            "StartedAt": self._now(),
        }
        if container["Config"]["Healthcheck"]:
            container["State"]["Health"] = {"Status": "starting"}
        self._emit("start", container)

    def _stopped(self, container: Json, code: int) -> None:
        if container["State"]["Running"]:
            self.end(container["Id"], code)

    def _remove(self, container: Json) -> None:
        self._stopped(container, 137)
        del self.containers[container["Id"]]
        self._emit("destroy", container)

    def _pull(self, query: Json) -> bytes:
        name = query["fromImage"] + (f":{query['tag']}" if query.get("tag") else "")
        error = self.registry.get(name)
        if error is None:
            raise Refusal(404, f"pull access denied for {name}")
        if error:
            return (json.dumps({"status": "…"}) + "\n" + json.dumps({"error": error})).encode()
        self.images.add(name)
        return json.dumps({"status": "Digest: sha256:0"}).encode()

    def _find(self, name: str) -> Json:
        for container in self.containers.values():
            if name in (container["Id"], container["Name"][1:]):
                return container
        raise Refusal(404, f"No such container: {name}")

    def _now(self) -> str:
        return f"2026-01-01T00:00:00.{next(self._clock):09d}Z"

    def _emit(self, action: str, container: Json, **attributes: str) -> None:
        event = {
            "Type": "container",
            "Action": action,
            "Actor": {
                "ID": container["Id"],
                "Attributes": container["Config"]["Labels"] | attributes,
            },
        }
        for watcher in list(self._watchers):
            watcher.send_nowait(event)


def _has(network: Json, wanted: str) -> bool:
    """Whether a network has a label, ``name`` or ``name=value``."""
    name, equals, value = wanted.partition("=")
    labels = network.get("Labels") or {}
    return labels.get(name) == value if equals else name in labels
