"""Is a network's spec sound, and are a cluster's address pools? All problems at once.

The words are Docker's where it has words for it (swarmkit's controlapi, the CLI's own checks).
"""

import ipaddress
from collections.abc import Iterator
from itertools import chain, combinations
from typing import Final

from swarmlet.model.ids import is_service_name
from swarmlet.model.networks import (
    DEFAULT_POOLS,
    DEFAULT_SUBNET_SIZE,
    ENCRYPTED,
    IpamConfig,
    NetworkSpec,
)
from swarmlet.model.problems import NOT_YET, Problem, Problems, label_problems, only_if

__all__ = ["network_problems", "network_warnings", "pool_problems"]

#: Networks of every engine: these names are taken everywhere.
PREDEFINED: Final = frozenset({"bridge", "host", "none", "default"})

#: Prefix lengths of subnets. Wider than the private 10.0.0.0/8 is a typing error; a /30 would
#: leave one address beside the gateway's.
WIDEST: Final = 8
NARROWEST: Final = 29

#: This network, loopback, link-local, multicast, reserved (RFC 6890).
_NOT_OF_HOSTS: Final = tuple(
    map(
        ipaddress.IPv4Network,
        ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4"),
    )
)

#: Ports that the data path may use (Docker's range).
_DATA_PORTS: Final = range(1024, 49_152)


def network_problems(spec: NetworkSpec) -> list[Problem]:
    """Everything that is wrong with a network's spec."""
    return list(
        chain(
            _name(spec.name),
            label_problems("Labels", spec.labels),
            only_if(
                spec.driver not in {"", "overlay"},
                "Driver",
                f'"{spec.driver}" networks of the swarm are {NOT_YET}: the driver must be overlay',
            ),
            only_if(spec.scope not in {"", "swarm"}, "Scope", f'"{spec.scope}" is no overlay'),
            only_if(spec.enable_ipv6, "EnableIPv6", f"IPv6 in overlay networks is {NOT_YET}"),
            only_if(spec.config_only, "ConfigOnly", f"config-only networks are {NOT_YET}"),
            _ipam(spec),
        )
    )


def _name(name: str) -> Problems:
    if not name:
        yield Problem("Name", "name must be provided")
    elif not is_service_name(name):
        yield Problem("Name", "name must be valid as a DNS name component")


def network_warnings(spec: NetworkSpec) -> list[str]:
    """Settings that are kept, and have no effect."""
    options = [f"Options.{name}" for name in sorted(spec.options) if name != ENCRYPTED]
    options += [f"IPAM.Options.{name}" for name in sorted(spec.ipam.options if spec.ipam else ())]
    return [f"{option} has no effect in swarmlet" for option in options]


# --- addresses ----------------------------------------------------------------------------------


def _ipam(spec: NetworkSpec) -> Problems:
    ipam = spec.ipam
    if ipam is None:
        return
    yield from only_if(
        ipam.driver not in {"", "default"},
        "IPAM.Driver",
        f'"{ipam.driver}": IPAM drivers are {NOT_YET}',
    )
    yield from only_if(
        len(ipam.config) > 1, "IPAM.Config", f"several subnets in one network are {NOT_YET}"
    )
    for i, config in enumerate(ipam.config[:1]):
        yield from _range(f"IPAM.Config[{i}]", config)


def _range(at: str, config: IpamConfig) -> Problems:
    if not config.subnet:
        inside = config.gateway or config.ip_range or config.auxiliary_addresses
        yield from only_if(bool(inside), f"{at}.Subnet", "ipam configuration: invalid subnet ")
        return
    try:
        subnet = _network(config.subnet)
    except ValueError as exc:
        yield Problem(f"{at}.Subnet", f"ipam configuration: invalid subnet {config.subnet}{exc}")
        return
    if not WIDEST <= subnet.prefixlen <= NARROWEST:
        text = f"subnet {subnet} must be between a /{WIDEST} and a /{NARROWEST}"
        yield Problem(f"{at}.Subnet", text)
        return  # there may not even be room for a gateway
    yield from _of_hosts(f"{at}.Subnet", subnet)
    yield from _part(f"{at}.IPRange", subnet, config.ip_range)
    if config.gateway:
        yield from _address(f"{at}.Gateway", subnet, "gateway", config.gateway)
    for name, address in sorted(config.auxiliary_addresses.items()):
        path = f"{at}.AuxiliaryAddresses.{name}"
        yield from _address(path, subnet, "auxiliary address", address)
        yield from only_if(
            address == (config.gateway or str(subnet[1])), path, f"{address} is the gateway"
        )


def _of_hosts(path: str, subnet: ipaddress.IPv4Network) -> Problems:
    for special in _NOT_OF_HOSTS:
        yield from only_if(
            special.overlaps(subnet),
            path,
            f"subnet {subnet} overlaps {special}, which is not for addresses of hosts",
        )


def _network(text: str) -> ipaddress.IPv4Network:
    """Read ``10.0.0.0/24``. Raises ValueError with the end of a sentence that began with it."""
    try:
        interface = ipaddress.ip_interface(text)
    except ValueError:
        raise ValueError from None
    if not isinstance(interface, ipaddress.IPv4Interface):
        raise ValueError(f": IPv6 is {NOT_YET}")  # noqa: TRY004 - the value is wrong, not its type
    if "/" not in text:
        raise ValueError(": it needs a length, such as /24")
    if interface.ip != interface.network.network_address:
        raise ValueError(f": it should be {interface.network}")
    if text != str(interface.network):
        raise ValueError(f": it should be written {interface.network}")
    return interface.network


def _part(path: str, subnet: ipaddress.IPv4Network, text: str) -> Problems:
    if not text:
        return
    try:
        part = _network(text)
    except ValueError as exc:
        yield Problem(path, f"ipam configuration: invalid range {text}{exc}")
        return
    yield from only_if(
        not part.subnet_of(subnet),
        path,
        f"ipam configuration: subnet {subnet} does not contain range {text}",
    )


def _address(path: str, subnet: ipaddress.IPv4Network, what: str, text: str) -> Problems:
    try:
        address = ipaddress.IPv4Address(text)
    except ValueError:
        yield Problem(path, f"ipam configuration: invalid {what} {text}")
        return
    usable = subnet.network_address < address < subnet.broadcast_address
    yield from only_if(
        not usable, path, f"ipam configuration: subnet {subnet} does not contain {what} {text}"
    )


# --- the cluster's pools ------------------------------------------------------------------------


def pool_problems(pools: tuple[str, ...], size: int, port: int) -> list[Problem]:
    """What is wrong with the settings of ``swarm init`` for networks; 0 means the default."""
    return list(chain(_pools(pools, size), _data_port(port)))


def _pools(pools: tuple[str, ...], size: int) -> Problems:
    yield from only_if(
        not 0 <= size <= NARROWEST, "SubnetSize", f"subnet size is out of range: {size}"
    )
    length = size or DEFAULT_SUBNET_SIZE
    read: list[ipaddress.IPv4Network] = []
    for pool in pools or DEFAULT_POOLS:
        try:
            network = _network(pool)
        except ValueError as exc:
            yield Problem("DefaultAddrPool", f"invalid CIDR address: {pool}{exc}")
            continue
        yield from only_if(
            network.prefixlen > length,
            "DefaultAddrPool",
            f'invalid CIDR: "{pool}". Subnet size is too small for pool: {length}',
        )
        yield from _of_hosts("DefaultAddrPool", network)
        read.append(network)
    for one, other in _overlaps(read):
        yield Problem("DefaultAddrPool", f"address pools {one} and {other} overlap")


def _overlaps(
    networks: list[ipaddress.IPv4Network],
) -> Iterator[tuple[ipaddress.IPv4Network, ipaddress.IPv4Network]]:
    return ((one, other) for one, other in combinations(networks, 2) if one.overlaps(other))


def _data_port(port: int) -> Problems:
    yield from only_if(
        port != 0 and port not in _DATA_PORTS,
        "DataPathPort",
        f"Datapath port should be between {_DATA_PORTS[0]} and {_DATA_PORTS[-1]}",
    )
