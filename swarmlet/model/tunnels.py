"""A node's keys for the packets of encrypted networks, and where it takes such packets.

A node has two lanes, each of them a WireGuard interface with a key and a UDP port of its own. It
sends by one of them; both receive, so that a key can be replaced without losing a packet.
"""

import base64
import binascii
import functools
from typing import Final

import msgspec

#: The lanes' UDP ports, as distances from that of the data path. Not the next numbers: network
#: cards give 4790 (VXLAN-GPE) and 4791 (RoCE) to other engines than the kernel's.
LANE_PORTS: Final = (4, 5)

LANES: Final = range(2)

#: Bytes of a key (Curve25519).
KEY_BYTES: Final = 32


class TunnelKeys(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """The public keys of a node's lanes, "" for a lane that is not there; base64, as ``wg`` has it.

    ``lane`` is the one by which the node sends, and wants to be sent to.
    """

    lanes: tuple[str, str] = ("", "")
    lane: int = 0

    @property
    def usable(self) -> bool:
        """Whether packets can be exchanged with this node; what others say may be anything."""
        return self.lane in LANES and is_key(self.lanes[self.lane])


def lane_ports(data_port: int) -> tuple[int, int]:
    """The UDP ports of the lanes."""
    first, second = (data_port + distance for distance in LANE_PORTS)
    return first, second


@functools.lru_cache(maxsize=16_384)
def is_key(text: str) -> bool:
    """Whether it is a key in its one proper spelling, and so may be put into a command."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return False
    return len(raw) == KEY_BYTES and base64.b64encode(raw).decode() == text
