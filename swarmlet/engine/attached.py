"""Plain containers in the cluster's networks, as an engine is asked for them and shows them: pure.

A container that is created in such a network carries a label that says which of the cluster's
objects it is. One that was connected later has none, and is told by its own identifier.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from swarmlet.engine.convert import TASK_LABEL
from swarmlet.engine.networks import Endpoint

Json = Any

#: The identifier of the container in the cluster.
ATTACHED_LABEL: Final = "swarmlet.attached"

#: The name servers that a user gave; the container itself asks the node's resolver.
DNS_LABEL: Final = "swarmlet.dns"

#: States of a container whose processes are there.
_RUNS: Final = frozenset({"running", "paused"})

#: Networks that every engine has, and words that name none (``NetworkMode``).
_MODES: Final = frozenset({"", "default", "bridge", "host", "none", "nat"})


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A container that an engine has. ``places`` are its addresses by the name of the network."""

    label: str = ""
    container_id: str
    name: str
    running: bool = False
    places: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    nameservers: tuple[str, ...] = ()


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """What a user asks for in one network; ``address`` and ``aliases`` are optional."""

    network: str
    address: str = ""
    aliases: tuple[str, ...] = ()


# --- what an engine shows -----------------------------------------------------------------------


def found(listed: Mapping[str, Json]) -> Found | None:
    """One entry of ``GET /containers/json``; None for a task's."""
    labels = listed.get("Labels") or {}
    if TASK_LABEL in labels:
        return None
    networks = (listed.get("NetworkSettings") or {}).get("Networks") or {}
    return Found(
        label=labels.get(ATTACHED_LABEL, ""),
        container_id=listed["Id"],
        name=next(iter(listed.get("Names") or ["/"])).removeprefix("/"),
        running=listed.get("State") in _RUNS,
        places={name: _address(place or {}) for name, place in networks.items()},
        nameservers=nameservers(labels),
    )


def inspected(one: Found, seen: Mapping[str, Json]) -> Found:
    """What ``GET /containers/ID/json`` knows better than a list: whether it runs, and its name."""
    return replace(
        one,
        name=str(seen["Name"]).removeprefix("/"),
        running=(seen.get("State") or {}).get("Status") in _RUNS,
    )


def nameservers(labels: Mapping[str, str]) -> tuple[str, ...]:
    """The name servers that a container's user gave."""
    return tuple(filter(None, labels.get(DNS_LABEL, "").split(",")))


def _address(place: Mapping[str, Json]) -> str:
    """The address of an endpoint: one that was asked for, also while it does not run."""
    asked = (place.get("IPAMConfig") or {}).get("IPv4Address") or ""
    return str(asked or place.get("IPAddress") or "")


# --- what a user asks for -----------------------------------------------------------------------


def named(body: Mapping[str, Json]) -> list[str]:
    """The networks that the body of a create names, that of the network mode first."""
    mode, endpoints = network_mode(body), _endpoints(body)
    own = [mode] if mode in endpoints or not is_mode(mode) else []
    return list(dict.fromkeys([*own, *endpoints]))


def network_mode(body: Mapping[str, Json]) -> str:
    """The mode that a create asks for, which may be the name of a network."""
    return str(field(_host_config(body), "NetworkMode") or "")


def is_mode(name: str) -> bool:
    """Whether it is a mode or network of every engine, and never one of the cluster."""
    return name in _MODES or name.startswith("container:")


def place(body: Mapping[str, Json], network: str) -> Place:
    """What the body of a create asks for in a network that it names."""
    return asked(network, _endpoints(body).get(network))


def asked(network: str, config: Json) -> Place:
    """What an ``EndpointConfig`` asks for."""
    config = _object(config)
    ipam = _object(field(config, "IPAMConfig"))
    aliases = field(config, "Aliases")
    return Place(
        network=network,
        address=str(field(ipam, "IPv4Address") or ""),
        aliases=tuple(map(str, aliases)) if isinstance(aliases, list) else (),
    )


def hostname(body: Mapping[str, Json]) -> str:
    """The host name that a create asks for, or ""."""
    return str(field(body, "Hostname") or "")


def dns(body: Mapping[str, Json]) -> tuple[str, ...]:
    """The name servers that a create asks for."""
    servers = field(_host_config(body), "Dns")
    return tuple(map(str, servers)) if isinstance(servers, list) else ()


def create_body(
    body: Mapping[str, Json],
    *,
    ident: str,
    names: Mapping[str, str],
    endpoints: Mapping[str, Endpoint],
) -> tuple[Json, dict[str, Json]]:
    """The body for the engine, and the further networks to connect: by name, ``EndpointConfig``.

    ``names`` are all networks that the body names, as it does, and as the engine does;
    ``endpoints`` the cluster's, by the latter. One network is for the create: engines before API
    1.44 take no more.
    """
    given = _endpoints(body)
    configs = {
        name: with_address(given.get(spelled), endpoints[name].address)
        if name in endpoints
        else _object(given.get(spelled))
        for spelled, name in names.items()
    }
    labels = {
        **_object(field(body, "Labels")),
        ATTACHED_LABEL: ident,
        **({DNS_LABEL: ",".join(dns(body))} if dns(body) else {}),
    }
    host = _host_config(body)
    first = names.get(network_mode(body), next(iter(configs)))
    gateways = list(dict.fromkeys(endpoint.gateway for endpoint in endpoints.values()))
    host = replaced(host, NetworkMode=first, Dns=gateways)
    networking = replaced(
        _object(field(body, "NetworkingConfig")), EndpointsConfig={first: configs.pop(first)}
    )
    return replaced(body, Labels=labels, HostConfig=host, NetworkingConfig=networking), configs


def with_address(config: Json, address: str) -> Json:
    """An ``EndpointConfig`` at this address."""
    config = _object(config)
    ipam = _object(field(config, "IPAMConfig"))
    return replaced(config, IPAMConfig=replaced(ipam, IPv4Address=address))


def field(of: Mapping[str, Json], name: str) -> Json:
    """A field as Go's decoder finds it: spelled so, else in any case of letters."""
    if name in of:
        return of[name]
    return next((v for k, v in of.items() if k.casefold() == name.casefold()), None)


def replaced(of: Mapping[str, Json], **fields: Json) -> dict[str, Json]:
    """The object with these fields, and none of their other spellings."""
    folded = {name.casefold() for name in fields}
    return {k: v for k, v in of.items() if k.casefold() not in folded} | fields


def _host_config(body: Mapping[str, Json]) -> dict[str, Json]:
    return _object(field(body, "HostConfig"))


def _endpoints(body: Mapping[str, Json]) -> dict[str, Json]:
    return _object(field(_object(field(body, "NetworkingConfig")), "EndpointsConfig"))


def _object(value: Json) -> dict[str, Json]:
    return value if isinstance(value, dict) else {}
