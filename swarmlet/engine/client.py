"""What swarmlet asks of the local Docker Engine, one method a call.

A caller meets the errors of :mod:`swarmlet.engine.wire`, below which HTTP is.
"""

import contextlib
import json
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple, Self
from urllib.parse import quote

import trio

from swarmlet.clock import Seconds
from swarmlet.engine import incarnation
from swarmlet.engine.incarnation import Incarnation
from swarmlet.engine.wire import FOREVER, Json, Request, Wire, engine_errors
from swarmlet.errors import EngineError, EngineUnavailable, NotFound

#: Creating and starting wait for disks and, with many at once, for each other.
CHANGE_TIMEOUT: Final = Seconds(120.0)

#: Silence in a pull. Unpacking a large layer on a slow disk says nothing for minutes.
PULL_SILENCE: Final = Seconds(600.0)

#: How much longer than the grace period a stop may take: the kill, the clean-up of the mounts.
STOP_MARGIN: Final = Seconds(60.0)


class Event(NamedTuple):
    """Something that happened to a container."""

    action: str
    container_id: str
    attributes: Mapping[str, str]


class Engine:
    """The engine behind one unix socket. ``async with`` closes its connections."""

    def __init__(self, socket_path: Path | str) -> None:
        self.socket_path = Path(socket_path)
        self._wire = Wire(self.socket_path)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close every connection."""
        await self._wire.aclose()

    @property
    def api_version(self) -> str:
        """The API version in use (``1.41``), "" before the first call."""
        return self._wire.api_version

    # --- the engine itself ----------------------------------------------------------------------

    async def ping(self) -> None:
        """Return when the engine answers a new connection."""
        await self._wire.knock(Request("GET", "/_ping", fresh=True, versioned=False))

    async def version(self) -> Json:
        """``GET /version``."""
        return await self._wire.call(Request("GET", "/version", versioned=False))

    async def info(self) -> Json:
        """``GET /info``."""
        return await self._wire.call(Request("GET", "/info"))

    async def incarnation(self) -> Incarnation:
        """Which process of the engine answers; see :mod:`swarmlet.engine.incarnation`."""
        with engine_errors("connect"):
            stream = await trio.open_unix_socket(str(self.socket_path))
            async with stream:
                raw = stream.socket.getsockopt(
                    socket.SOL_SOCKET, socket.SO_PEERCRED, incarnation.UCRED.size
                )
        return await trio.to_thread.run_sync(incarnation.read, raw)

    # --- images ---------------------------------------------------------------------------------

    async def image(self, name: str) -> Json:
        """Inspect an image. Raises NotFound."""
        return await self._wire.call(Request("GET", f"/images/{_name(name)}/json"))

    async def distribution(self, name: str, *, auth: str = "") -> str:
        """Ask the registry for the digest of ``name``; raises EngineError when none answers."""
        answer = await self._wire.call(
            Request(
                "GET", f"/distribution/{_name(name)}/json", headers=_auth(auth), read=CHANGE_TIMEOUT
            )
        )
        return str(answer["Descriptor"]["digest"])

    async def pull(
        self, name: str, *, auth: str = "", progress: Callable[[Json], None] | None = None
    ) -> str:
        """Pull an image; returns its digest (``sha256:…``) as the registry named it, "" if not.

        ``progress`` gets each message of the engine. A failure in the middle is an EngineError.
        """
        image, tag = _image_and_tag(name)
        digest = ""
        async with self._wire.stream(
            Request(
                "POST",
                "/images/create",
                query={"fromImage": image, "tag": tag},
                headers=_auth(auth),
                read=PULL_SILENCE,
                fresh=True,
            )
        ) as messages:
            async for message in messages:
                if "error" in message:
                    raise EngineError(str(message["error"]), status=500)
                said = str(message.get("status", ""))
                if said.startswith("Digest: "):
                    digest = said.removeprefix("Digest: ")
                if progress is not None:
                    progress(message)
        return digest

    # --- containers -----------------------------------------------------------------------------

    async def containers(self, *, labels: Sequence[str] = ()) -> Json:
        """List all containers, running or not, that have all these labels."""
        query = {"all": "1", "filters": json.dumps({"label": list(labels)})}
        return await self._wire.call(Request("GET", "/containers/json", query=query))

    async def create(self, name: str, body: Mapping[str, Json]) -> str:
        """Create a container; returns its identifier."""
        answer = await self._wire.call(
            Request(
                "POST", "/containers/create", query={"name": name}, body=body, read=CHANGE_TIMEOUT
            )
        )
        return str(answer["Id"])

    async def start(self, container: str) -> None:
        """Start a container. One that runs already is fine."""
        await self._wire.call(
            Request("POST", f"/containers/{container}/start", read=CHANGE_TIMEOUT)
        )

    async def inspect(self, container: str, *, fresh: bool = False) -> Json:
        """Inspect a container. ``fresh`` asks over a new connection; see :class:`.wire.Wire`."""
        return await self._wire.call(Request("GET", f"/containers/{container}/json", fresh=fresh))

    async def stop(self, container: str, *, grace: Seconds | None = None, signal: str = "") -> None:
        """Send the stop signal, and SIGKILL after ``grace``; returns when the container ended.

        Without a grace the container's own counts, which may be long: then there is no time-out.
        ``signal`` replaces the container's own stop signal; engines before API 1.42 ignore it.
        """
        query = {} if grace is None else {"t": str(_whole_seconds(grace))}
        if signal:
            query["signal"] = signal
        read = FOREVER if grace is None else Seconds(grace + STOP_MARGIN)
        await self._wire.call(
            Request("POST", f"/containers/{container}/stop", query=query, read=read)
        )

    async def kill(self, container: str, *, signal: str = "SIGKILL") -> None:
        """Send a signal to a running container."""
        await self._wire.call(
            Request("POST", f"/containers/{container}/kill", query={"signal": signal})
        )

    async def execute(self, container: str, command: Sequence[str]) -> str:
        """Begin a command in a container, as its own user; returns the command's identifier."""
        answer = await self._wire.call(
            Request("POST", f"/containers/{container}/exec", body={"Cmd": list(command)})
        )
        ident = str(answer["Id"])
        await self._wire.call(Request("POST", f"/exec/{ident}/start", body={"Detach": True}))
        return ident

    async def command(self, ident: str) -> Json:
        """Inspect a command in a container. Raises NotFound."""
        return await self._wire.call(Request("GET", f"/exec/{ident}/json"))

    async def exit_code(self, ident: str) -> int | None:
        """How a command ended; None while it runs."""
        shown = await self.command(ident)
        return None if shown["Running"] else int(shown["ExitCode"])

    async def remove(self, container: str) -> None:
        """Remove a container and its anonymous volumes, by force. One that is gone is fine."""
        with contextlib.suppress(NotFound):
            await self._wire.call(
                Request(
                    "DELETE",
                    f"/containers/{container}",
                    query={"force": "1", "v": "1"},
                    read=CHANGE_TIMEOUT,
                )
            )

    # --- networks -------------------------------------------------------------------------------

    async def networks(self, *, label: str) -> Json:
        """List the networks that have a label."""
        query = {"filters": json.dumps({"label": [label]})}
        return await self._wire.call(Request("GET", "/networks", query=query))

    async def create_network(self, body: Mapping[str, Json]) -> str:
        """Create a network; returns its identifier. One of that name is an EngineError (409)."""
        answer = await self._wire.call(
            Request("POST", "/networks/create", body=body, read=CHANGE_TIMEOUT)
        )
        return str(answer["Id"])

    async def remove_network(self, network: str) -> None:
        """Remove a network. One that is gone is fine; one that has containers is an EngineError."""
        with contextlib.suppress(NotFound):
            await self._wire.call(Request("DELETE", f"/networks/{network}", read=CHANGE_TIMEOUT))

    async def connect(self, network: str, container: str, address: str) -> None:
        """Give a container a place in a further network."""
        body = {
            "Container": container,
            "EndpointConfig": {"IPAMConfig": {"IPv4Address": address}},
        }
        await self._wire.call(
            Request("POST", f"/networks/{network}/connect", body=body, read=CHANGE_TIMEOUT)
        )

    async def disconnect(self, network: str, container: str) -> None:
        """Take a container out of a network, by force. One that is not in it is fine."""
        body = {"Container": container, "Force": True}
        with contextlib.suppress(NotFound):
            await self._wire.call(
                Request("POST", f"/networks/{network}/disconnect", body=body, read=CHANGE_TIMEOUT)
            )

    # --- events ---------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def events(
        self, *, labels: Sequence[str] = (), actions: Sequence[str] = ()
    ) -> AsyncIterator[AsyncIterator[Event]]:
        """Stream events of containers. Nothing that happens after entering is missed.

        Iteration ends by EngineUnavailable when the engine goes away.
        """
        wanted = {"type": ["container"], "label": list(labels), "event": list(actions)}
        async with (
            self._wire.stream(
                Request(
                    "GET",
                    "/events",
                    query={"filters": json.dumps({k: v for k, v in wanted.items() if v})},
                    read=FOREVER,
                    fresh=True,
                )
            ) as messages,
            contextlib.aclosing(_events(messages)) as events,
        ):
            yield events


async def _events(messages: AsyncIterator[Json]) -> AsyncGenerator[Event, None]:
    async for message in messages:
        actor = message.get("Actor") or {}
        yield Event(
            action=str(message.get("Action", "")),
            container_id=str(actor.get("ID", "")),
            attributes=actor.get("Attributes") or {},
        )
    raise EngineUnavailable("the Docker Engine ended its stream of events")


def _name(image: str) -> str:
    """Quote an image's name as a path: slashes, colons and @ stay."""
    return quote(image, safe="/:@")


def _image_and_tag(name: str) -> tuple[str, str]:
    """Split as ``/images/create`` wants it: the tag apart (else all tags come), a digest not."""
    if "@" in name:
        return name, ""
    head, colon, tag = name.rpartition(":")
    if not colon or "/" in tag:  # the colon of a registry's port
        return name, "latest"
    return head, tag


def _auth(auth: str) -> dict[str, str]:
    return {"X-Registry-Auth": auth} if auth else {}


def _whole_seconds(grace: Seconds) -> int:
    """Round up: the engine counts whole seconds, and a grace must never become none."""
    return int(-(-grace // 1))
