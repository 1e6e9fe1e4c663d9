"""Names and numbers that the node's forwarding takes from the host, all in one place.

Each may collide with other software of the host, so each is chosen where others are rare, and
none may change once clusters run: nodes of two versions must understand each other's packets.
"""

from typing import Final

#: The VXLAN device of a node, for all networks that are not encrypted.
DEVICE: Final = "swl0"
BRIDGE_PREFIX: Final = "sl-"

#: The VXLAN device for all encrypted networks, and the WireGuard interfaces that carry its packets.
ENCRYPTED_DEVICE: Final = "swl1"
LANE_DEVICES: Final = ("swlw0", "swlw1")
OUR_DEVICES: Final = frozenset({DEVICE, ENCRYPTED_DEVICE, *LANE_DEVICES})

#: VXLAN network identifiers.
VNI: Final = 7001
ENCRYPTED_VNI: Final = 7002

#: What VXLAN adds to a packet (outer IPv4, UDP, VXLAN, inner Ethernet header), and what WireGuard
#: adds to that.
VXLAN_OVERHEAD: Final = 50
ENCRYPTION_OVERHEAD: Final = 80

#: ``proto`` of our routes and rules: no entry of rt_protos has it, so what bears it is ours.
PROTOCOL: Final = 94

#: Policy rules: one that skips the next for packets that carry no peer's number, one for each peer,
#: all of one preference, and the target of the skip. Others' rules must have no room in between:
#: packets would skip those as well. Each peer has a table; peers' numbers end at 4095.
FIRST_RULE: Final = 7000
PEER_RULE: Final = 7001
LAST_RULE: Final = 7002
FIRST_TABLE: Final = 7000

#: The same for the replies of encrypted networks, whose rules come first and let none of them fall
#: through: behind those for peers there is one that refuses.
FIRST_ENCRYPTED_RULE: Final = 2000
ENCRYPTED_PEER_RULE: Final = 2001
REFUSING_RULE: Final = 2002
LAST_ENCRYPTED_RULE: Final = 2003
FIRST_ENCRYPTED_TABLE: Final = 12_000

#: nft tables ``ip swarmlet`` and ``bridge swarmlet``.
TABLE: Final = "swarmlet"

#: Bits of packet marks and connection marks.
#: Connection: let through by us (an iptables rule accepts by it).
ACCEPTED: Final = 0x1000_0000
#: Connection: to a published port.
PUBLISHED: Final = 0x2000_0000
#: Connection: to a published port that has no backend.
EMPTY: Final = 0x4000_0000
#: Packet: redirected inside a bridge (bridge-nf-call-iptables); connections use the bit for EMPTY.
REDIRECTED: Final = 0x4000_0000
#: Both: the node that a client's connection came in by.
ENTRY: Final = 0x0FFF_0000
ENTRY_SHIFT: Final = 16
#: Packet: of an encrypted network, on its way back to the node that its client came in by.
ENCRYPTED: Final = 0x8000_0000

#: iptables chains where forwarded packets can be accepted, best first.
ENGINE_CHAIN: Final = "DOCKER-USER"
ACCEPT_CHAINS: Final = (ENGINE_CHAIN, "FORWARD")


def mac(number: int) -> str:
    """The hardware address of a node's VXLAN devices."""
    return f"0a:58:64:40:{number >> 8:02x}:{number & 255:02x}"


def bridge_name(network_id: str) -> str:
    """The name of a network's bridge: 15 characters at most, as the kernel wants it."""
    return BRIDGE_PREFIX + network_id[:12]
