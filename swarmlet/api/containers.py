"""Containers as far as they concern the cluster: which of its networks they join and leave.

Plain containers are the engine's. One that joins an overlay network gets its address there from the
managers, before the engine hears of it (:mod:`swarmlet.agent.attachments`).
"""

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, urlencode

import msgspec

from swarmlet.api import network_shapes, networks, wording
from swarmlet.api.calls import Answer, Call
from swarmlet.api.engine_networks import EngineNetworks
from swarmlet.api.versions import dotted
from swarmlet.control import forwarding
from swarmlet.engine import attached, host_ports
from swarmlet.engine.convert import TASK_LABEL
from swarmlet.engine.networks import Endpoint
from swarmlet.engine.tunnel import EngineAnswer, clamp
from swarmlet.errors import (
    EngineError,
    EngineUnavailable,
    InvalidInput,
    NotAllowed,
    NotFound,
    PortTaken,
    SwarmletError,
)
from swarmlet.model.forwarding import Attachment, NetworkRecord
from swarmlet.model.objects import AttachedContainer, Network

Json = Any

#: Seconds for an engine to create a container or to change one: it waits for disks.
_CHANGE_SECONDS: Final = 120.0


async def create(call: Call) -> Answer | None:
    """``POST /containers/create``: the engine's, unless it names a network of the cluster."""
    body = await _body(call)
    named = attached.named(body)
    found = {name: await _overlay(call, name) for name in named if not attached.is_mode(name)}
    ours = {name: record for name, record in found.items() if record is not None}
    if not ours:
        return None
    mode = attached.network_mode(body)
    if mode in {"host", "none"} or mode.startswith("container:"):
        raise InvalidInput(f"network mode {mode} excludes network {next(iter(ours))}")
    for record in ours.values():
        _demand_attachable(record)
    places = {r.id: attached.place(body, name) for name, r in ours.items()}
    container = AttachedContainer(
        id=call.backend.new_id(),
        node_id=call.backend.local().node_id,
        name=call.query.get("name", "").removeprefix("/"),
        hostname=attached.hostname(body),
        attachments=tuple(Attachment(i, p.address, p.aliases) for i, p in places.items()),
    )
    names = {name: ours[name].name if name in ours else name for name in named}
    records = {record.id: record for record in ours.values()}
    async with call.backend.attaching(container, attached.dns(body)) as endpoints:
        given = dict(zip([records[i].name for i in places], endpoints, strict=True))
        return await _create(call, body, container.id, names, given)


async def _create(
    call: Call,
    body: Mapping[str, Json],
    ident: str,
    names: Mapping[str, str],
    endpoints: Mapping[str, Endpoint],
) -> Answer:
    """Have the engine create the container. Raises EngineError when there is none then."""
    own, further = attached.create_body(body, ident=ident, names=names, endpoints=endpoints)
    answer = await _ask(call, "POST", f"/containers/create?{urlencode(call.query)}", own)
    container_id = quote(str(msgspec.json.decode(answer.body)["Id"]), safe="")
    try:
        for name, config in further.items():
            connected = {"Container": container_id, "EndpointConfig": config}
            await _ask(call, "POST", f"/networks/{quote(name, safe='')}/connect", connected)
    except SwarmletError:
        await _ask(call, "DELETE", f"/containers/{container_id}?force=1&v=1")
        raise
    return Answer(answer.body, answer.status)


async def start(call: Call) -> Answer | None:
    """``POST /containers/{id}/start`` and ``/restart``: the engine's, unless a service has a port.

    The engine does not see that: a service's ports are rules of the kernel, and no sockets. Refused
    at the start, as the Docker Engine does, since a container that rests keeps nobody from a port.
    """
    services = [service for service in call.backend.publishing() if service.ports]
    if not services:
        return None
    try:
        seen = await _inspect(call, {"Container": call.params["id"]})
    except (EngineError, NotFound):
        return None  # it will say so itself
    taken = host_ports.taken(seen.get("HostConfig") or {}, services)
    if taken is None:
        return None
    wanted, service = taken
    if seen["HostConfig"].get("AutoRemove"):
        # A client that ran it waits for its removal, also when it did not start.
        await _ask(call, "DELETE", f"/containers/{quote(seen['Id'])}?v=1")
    name = str(seen["Name"]).removeprefix("/")
    raise PortTaken(
        f"{wording.PORT_TAKEN.format(container=name, at=wanted)}: service {service.name} publishes "
        f"it on {service.publish_address or 'every node'}",
        advice="publish another port, or at an address of this host that the service is not at; or "
        f"take it from the service: docker service update --publish-rm {service.name}",
    )


async def connect(call: Call) -> Answer | None:
    """``POST /networks/{id}/connect``."""
    record = await _overlay(call, call.params["id"])
    if record is None:
        return None
    _demand_attachable(record)
    body = await _body(call)
    seen = await _inspect(call, body)
    labels = seen["Config"].get("Labels") or {}
    name = str(seen["Name"]).removeprefix("/")
    if TASK_LABEL in labels:
        raise _of_a_service(name, "--network-add", record.name)
    if record.name in (seen["NetworkSettings"].get("Networks") or {}):
        raise NotAllowed(wording.ALREADY_IN_NETWORK.format(container=name, network=record.name))
    config = attached.field(body, "EndpointConfig")
    place = attached.asked(record.name, config)
    hostname = str(seen["Config"].get("Hostname") or "")
    container = AttachedContainer(
        id=call.backend.identify(labels, seen["Id"]),
        node_id=call.backend.local().node_id,
        name=name,
        container_id=seen["Id"],
        hostname="" if seen["Id"].startswith(hostname) else hostname,
        attachments=(Attachment(record.id, place.address, place.aliases),),
    )
    async with call.backend.attaching(container, attached.nameservers(labels)) as [endpoint]:
        changed = {
            "Container": seen["Id"],
            "EndpointConfig": attached.with_address(config, endpoint.address),
        }
        await _ask(call, "POST", f"/networks/{endpoint.network}/connect", changed)
    return Answer()


async def disconnect(call: Call) -> Answer | None:
    """``POST /networks/{id}/disconnect``."""
    record = await _overlay(call, call.params["id"])
    if record is None:
        return None
    body = await _body(call)
    seen = await _inspect(call, body)
    labels = seen["Config"].get("Labels") or {}
    if TASK_LABEL in labels:
        raise _of_a_service(str(seen["Name"]).removeprefix("/"), "--network-rm", record.name)
    network = quote(record.name, safe="")
    changed = attached.replaced(body, Container=seen["Id"])
    await _ask(call, "POST", f"/networks/{network}/disconnect", changed)
    await call.backend.detach(call.backend.identify(labels, seen["Id"]), record.id)
    return Answer()


def _of_a_service(name: str, flag: str, network: str) -> NotAllowed:
    return NotAllowed(
        f"container {name} is a task's: its networks are those of its service",
        advice=f"swarmlet service update {flag} {network} SERVICE",
    )


def _demand_attachable(network: NetworkRecord) -> None:
    if not network.attachable:
        raise NotAllowed(wording.NOT_ATTACHABLE.format(name=network.name))


async def _overlay(call: Call, wanted: str) -> NetworkRecord | None:
    """The network of the cluster that a user means; None for one of the engine's."""
    found = await networks.find(call, wanted)
    if isinstance(found, Network):
        return forwarding.network(found)
    if call.backend.local().state == "inactive" or await _is_of_engine(call, wanted):
        return None
    # On a worker, which may not have heard of it yet. A copy may be of one that is gone.
    return await call.backend.overlay(wanted)


async def _is_of_engine(call: Call, wanted: str) -> bool:
    try:
        theirs = await EngineNetworks(call).named(wanted)
    except EngineUnavailable:
        return True  # it will say so itself
    return theirs is not None and not network_shapes.is_copy(theirs)


async def _inspect(call: Call, body: Mapping[str, Json]) -> Json:
    """The container that a body names, as the engine shows it. Raises EngineError."""
    wanted = str(attached.field(body, "Container") or "")
    if not wanted:
        raise InvalidInput("Container: the name of a container is needed")
    return msgspec.json.decode((await _ask(call, "GET", f"/containers/{quote(wanted)}/json")).body)


async def _body(call: Call) -> dict[str, Json]:
    """The body as it came; what is wrong with one that is no object, the engine says."""
    try:
        body = msgspec.json.decode(await call.raw_body())
        msgspec.json.encode(body)  # halves of characters, which JSON's escapes can spell
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}


async def _ask(call: Call, method: str, path: str, body: Json = None) -> EngineAnswer:
    """Ask the engine in the client's version. Raises EngineError, EngineUnavailable."""
    spoken = dotted(clamp(call.version, await call.engine.versions()))
    data = b"" if body is None else msgspec.json.encode(body)
    return await call.engine.ask(method, f"/v{spoken}{path}", seconds=_CHANGE_SECONDS, body=data)
