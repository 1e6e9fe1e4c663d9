"""What is read from the machine before its forwarding is planned."""

from typing import Final

import msgspec

from swarmlet.model.tunnels import TunnelKeys

#: Ethernet's, for a host whose underlay device is not known.
DEFAULT_MTU: Final = 1500


class Owner(msgspec.Struct, frozen=True):
    """What an engine gave a container at one of its networks: an IPv4 and a hardware address."""

    address: str
    mac: str


class Port(msgspec.Struct, frozen=True):
    """A port of one of our bridges: its interface's number, and the namespace of the other end.

    ``namespace`` is -1 where it has no other end, or one that is here. ``owner`` is what is plugged
    in, where known.
    """

    bridge: str
    number: int = 0
    namespace: int = -1
    owner: Owner | None = None


class OwnTunnel(msgspec.Struct, frozen=True):
    """This node's lanes. ``warming``: the one that it does not send by yet is about to be."""

    keys: TunnelKeys
    warming: bool = False


class HostFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What is read from the machine.

    ``has_address``: whether an interface bears the address that peers know this node by (not so
    behind address translation). ``underlay`` is the device that bears it, "" if none does.
    ``accept_chain`` is the iptables chain where forwarded packets must be accepted, "" if none need
    be. ``ports`` are those of our bridges, ``gateways`` the bridges' own hardware addresses.
    Without a ``tunnel`` this node cannot encrypt; ``no_tunnel`` says why.
    """

    has_address: bool = True
    underlay: str = ""
    underlay_mtu: int = DEFAULT_MTU
    bridge_nf: bool = False
    accept_chain: str = ""
    ports: dict[str, Port] = msgspec.field(default_factory=dict[str, Port])
    gateways: frozenset[str] = frozenset()
    tunnel: OwnTunnel | None = None
    no_tunnel: str = ""
