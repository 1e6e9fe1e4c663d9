"""The frame of netlink: messages and attributes, from and to bytes."""

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

#: struct nlmsghdr: length, kind, flags, sequence, port of who asked.
HEADER: Final = struct.Struct("=IHHII")
_ATTRIBUTE: Final = struct.Struct("=HH")
_KIND: Final = 0x3FFF
_NESTED: Final = 0x8000


class Message(NamedTuple):
    """A message: its kind, who asked for what it tells (a process, 0 is the kernel), its body."""

    kind: int
    asker: int
    body: bytes


def messages(datagram: bytes) -> Iterator[Message]:
    """The messages of a datagram; what is cut off is left out."""
    at = 0
    while at + HEADER.size <= len(datagram):
        length, kind, _, _, asker = HEADER.unpack_from(datagram, at)
        if length < HEADER.size:
            return
        yield Message(kind, asker, datagram[at + HEADER.size : at + length])
        at += _aligned(length)


def attributes(body: bytes) -> Iterator[tuple[int, bytes]]:
    """The attributes of a message's body (behind its fixed part), or of a nested attribute."""
    at = 0
    while at + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, at)
        if length < _ATTRIBUTE.size:
            return
        yield kind & _KIND, body[at + _ATTRIBUTE.size : at + length]
        at += _aligned(length)


def attribute(kind: int, value: bytes, *, nested: bool = False) -> bytes:
    """One attribute as bytes."""
    length = _ATTRIBUTE.size + len(value)
    head = _ATTRIBUTE.pack(length, kind | _NESTED if nested else kind)
    return head + value + bytes(_aligned(length) - length)


def _aligned(length: int) -> int:
    return (length + 3) & ~3
