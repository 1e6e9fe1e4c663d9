"""Echo requests and replies as bytes (RFC 792)."""

import struct
from typing import Final, NamedTuple

IP_HEADER: Final = 20
HEADER: Final = struct.Struct("!BBHHH")

_REQUEST: Final = 8
_REPLY: Final = 0


class Echo(NamedTuple):
    """A question or its answer: the asker's number, the question's, the packet's size."""

    answer: bool
    ident: int
    number: int
    size: int


def request(ident: int, number: int, *, size: int) -> bytes:
    """A question that makes an IP packet of ``size`` bytes."""
    payload = bytes(max(0, size - IP_HEADER - HEADER.size))
    blank = HEADER.pack(_REQUEST, 0, 0, ident, number)
    return HEADER.pack(_REQUEST, 0, _checksum(blank + payload), ident, number) + payload


def echo(packet: bytes) -> Echo | None:
    """Read an IP packet; None if it is no echo, nor a question for one."""
    if not packet:
        return None
    start = (packet[0] & 15) * 4
    if len(packet) < start + HEADER.size:
        return None
    kind, _, _, ident, number = HEADER.unpack_from(packet, start)
    if kind not in {_REQUEST, _REPLY}:
        return None
    return Echo(kind == _REPLY, ident, number, len(packet))


def _checksum(data: bytes) -> int:
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
