"""Choose a /24 that nothing on the machine uses yet."""

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network
from typing import Final

from swarmlet.errors import FailedPrecondition

#: Outside the pools that Docker (172.17/12, 192.168/16) and Swarm (10.0/8 from below) hand out
#: first, so that a host's own networks do not collide with the network between hosts.
POOLS: Final = (IPv4Network("10.99.0.0/16"), IPv4Network("10.199.0.0/16"))

#: Last octet of the bridge's own address: how the machine itself reaches the hosts.
GATEWAY_OCTET: Final = 254


def candidates() -> Iterator[IPv4Network]:
    """Yield the networks a playground may take, best first."""
    for pool in POOLS:
        yield from pool.subnets(new_prefix=24)


def choose(taken: Iterable[IPv4Network]) -> IPv4Network:
    """Return the first candidate that overlaps nothing taken.

    A default route, or one as wide as a whole private range (a VPN's), takes nothing: ours is
    more specific and wins.
    """
    narrow = [net for net in taken if net.prefixlen > 8]
    for net in candidates():
        if not any(net.overlaps(other) for other in narrow):
            return net
    raise FailedPrecondition(
        f"no free network is left in {' or '.join(map(str, POOLS))}",
        advice="take down a playground you no longer need: swarmlet playground down --name NAME",
    )


def gateway(network: IPv4Network) -> IPv4Address:
    """Return the bridge's address."""
    return network[GATEWAY_OCTET]


def host_address(network: IPv4Network, index: int) -> IPv4Address:
    """Return the address of the host with this index, counted from 0."""
    return network[index + 1]


__all__ = ["GATEWAY_OCTET", "POOLS", "candidates", "choose", "gateway", "host_address"]
