"""An overlay network as the engine sees it: a bridge whose packets our rules forward."""

from typing import Any, Final, NamedTuple

from swarmlet.model.forwarding import NetworkRecord

Json = dict[str, Any]

#: Marks the engine's copy of a cluster's network; its value is the network's identifier.
NETWORK_LABEL: Final = "com.docker.swarm.network.id"


class Endpoint(NamedTuple):
    """A container's place in a network of the engine. ``network`` is the engine's identifier.

    ``name`` is the cluster's name of the network.
    """

    network: str
    address: str
    gateway: str
    name: str


def network_body(record: NetworkRecord, *, bridge: str, mtu: int) -> Json:
    """Body of ``POST /networks/create``."""
    return {
        "Name": record.name,
        "Driver": "bridge",
        "CheckDuplicate": True,
        "IPAM": {"Config": [{"Subnet": record.subnet, "Gateway": record.gateway}]},
        "Attachable": record.attachable,
        "Labels": {NETWORK_LABEL: record.id},
        "Options": {
            "com.docker.network.bridge.name": bridge,
            "com.docker.network.driver.mtu": str(mtu),
            # Who may reach whom is for our own rules to say, at every node alike.
            "com.docker.network.bridge.enable_ip_masquerade": "false",
            # Engines from 28 on drop what comes to a container from outside its bridge.
            "com.docker.network.bridge.gateway_mode_ipv4": "nat-unprotected",
        },
    }


def fits(found: Json, record: NetworkRecord, bridge: str) -> bool:
    """Whether the engine's network is the one that :func:`network_body` asks for."""
    pools = (found.get("IPAM") or {}).get("Config") or [{}]
    options = found.get("Options") or {}
    return (
        (found.get("Labels") or {}).get(NETWORK_LABEL) == record.id
        and pools[0].get("Subnet") == record.subnet
        and pools[0].get("Gateway") == record.gateway
        and options.get("com.docker.network.bridge.name") == bridge
    )


def plugged(container: Json) -> dict[str, tuple[str, str]]:
    """What the engine gave a container, by its networks' identifiers: IPv4 and hardware addresses.

    Of a container as it is listed or inspected. What is not plugged into a network is left out.
    """
    networks = (container.get("NetworkSettings") or {}).get("Networks") or {}
    return {
        str(place["NetworkID"]): (str(place["IPAddress"]), str(place["MacAddress"]).lower())
        for place in networks.values()
        if place and place.get("NetworkID") and place.get("IPAddress") and place.get("MacAddress")
    }


def process(inspected: Json) -> int:
    """The process of a container, 0 if it has none."""
    state = inspected.get("State") or {}
    return int(state.get("Pid") or 0) if state.get("Running") else 0
