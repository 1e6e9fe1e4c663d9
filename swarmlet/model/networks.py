"""What a user asks for of a network, as the Engine API spells it, and the numbers around it.

Source: Engine API v1.41 to v1.47, ``NetworkCreate``. Subnets and addresses are IPv4 texts.
"""

import enum
import functools
import ipaddress
from typing import Final

import msgspec

from swarmlet.model.specs import Labels, Spec

#: Where subnets are taken from when a user names none (Docker's default).
DEFAULT_POOLS: Final = ("10.0.0.0/8",)
DEFAULT_SUBNET_SIZE: Final = 24

#: TCP port on which the nodes talk to each other.
DEFAULT_CONTROL_PORT: Final = 2377

#: UDP port of the data path between nodes (VXLAN, RFC 7348).
DEFAULT_DATA_PORT: Final = 4789

#: Addresses of the nodes themselves inside the overlay (RFC 6598: not a customer's).
NODE_POOL: Final = "100.64.0.0/16"

#: The part of it that nodes have: 4,096 numbers in each :class:`Place`.
NODE_ADDRESSES: Final = "100.64.0.0/18"

#: The network of published ports whose service is in no other network.
INGRESS: Final = "ingress"

#: Option of a network whose packets are encrypted between nodes; present means yes, as in Docker.
ENCRYPTED: Final = "encrypted"


class IpamConfig(Spec, frozen=True):
    """One range of addresses. ``ip_range`` is the part of ``subnet`` that tasks get."""

    subnet: str = ""
    ip_range: str = ""
    gateway: str = ""
    auxiliary_addresses: dict[str, str] = msgspec.field(default_factory=dict)


class Ipam(Spec, frozen=True):
    """How addresses are managed; managers do that themselves, whatever the driver."""

    driver: str = ""
    options: dict[str, str] = msgspec.field(default_factory=dict)
    config: tuple[IpamConfig, ...] = ()


class NetworkSpec(Spec, frozen=True):
    """A network as a user asks for it."""

    name: str = ""
    labels: Labels = msgspec.field(default_factory=dict[str, str])
    driver: str = ""
    options: dict[str, str] = msgspec.field(default_factory=dict)
    scope: str = ""
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    ipam: Ipam | None = msgspec.field(default=None, name="IPAM")
    enable_ipv6: bool = msgspec.field(default=False, name="EnableIPv6")
    config_only: bool = False

    @property
    def addresses(self) -> IpamConfig:
        """The range of addresses that was asked for, or an empty one."""
        return self.ipam.config[0] if self.ipam and self.ipam.config else IpamConfig()

    @property
    def encrypted(self) -> bool:
        """Whether packets between nodes must be encrypted."""
        return ENCRYPTED in self.options


class Place(enum.IntEnum):
    """What an address of a node is for; each has 4,096 of the pool's, one for each number."""

    OVERLAY = 0
    ENCRYPTED = 1  # in the overlay of encrypted networks
    FIRST_LANE = 2  # in the tunnels that carry those
    SECOND_LANE = 3


#: All addresses of nodes inside tunnels.
LANE_POOL: Final = "100.64.32.0/19"


def node_address(number: int, place: Place = Place.OVERLAY) -> str:
    """The address of a node inside the overlay (its VTEP), or another one that it has."""
    return str(ipaddress.IPv4Address(_FIRST_ADDRESS + place * 4096 + number))


_FIRST_ADDRESS: Final = int(ipaddress.IPv4Network(NODE_POOL)[0])


def overlapping(subnet: str, others: list[str]) -> str:
    """The first of ``others`` that overlaps ``subnet``, or nothing."""
    network = ipaddress.IPv4Network(subnet)
    return next((o for o in others if network.overlaps(ipaddress.IPv4Network(o))), "")


@functools.lru_cache(maxsize=65_536)
def is_address(text: str) -> bool:
    """Whether it is one of IPv4, and so may be put into a command."""
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True
