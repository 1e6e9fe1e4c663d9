"""The numbers by which this network namespace knows others, asked of the kernel.

The end of a veth pair that is here bears the number of the namespace that the other one is in.
"""

import socket
import struct
from collections.abc import Sequence
from typing import Final

import trio

from swarmlet.errors import ForwardingFailed
from swarmlet.net.commands import Commands
from swarmlet.net.netlink import HEADER, attribute, attributes, messages

# linux/rtnetlink.h, linux/net_namespace.h
_NETLINK_ROUTE: Final = 0
_NEW_NUMBER: Final = 88
_GET_NUMBER: Final = 90
_REQUEST: Final = 1
_NUMBER: Final = 1
_DESCRIPTOR: Final = 3
#: struct rtgenmsg, padded to where attributes begin.
_GENERAL: Final = struct.pack("=Bxxx", socket.AF_UNSPEC)
_SIGNED: Final = struct.Struct("=i")

_PATIENCE: Final = 10.0

#: Of a namespace to which no link of this one leads.
UNKNOWN: Final = -1


async def numbers(commands: Commands, descriptors: Sequence[int]) -> list[int]:
    """The number of each namespace, of which an open file is given, or :data:`UNKNOWN`.

    It means that namespace for as long as the file is open. Raises ForwardingFailed.
    """
    return await trio.to_thread.run_sync(_ask, descriptors, limiter=commands.reading)


def _ask(descriptors: Sequence[int]) -> list[int]:
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_ROUTE) as sock:
            sock.settimeout(_PATIENCE)
            return [_number(sock, descriptor) for descriptor in descriptors]
    except OSError as exc:
        raise ForwardingFailed("numbers of network namespaces", str(exc)) from exc


def _number(sock: socket.socket, descriptor: int) -> int:
    body = _GENERAL + attribute(_DESCRIPTOR, _SIGNED.pack(descriptor))
    sock.send(HEADER.pack(HEADER.size + len(body), _GET_NUMBER, _REQUEST, 0, 0) + body)
    for kind, _, said in messages(sock.recv(65_536)):
        if kind == _NEW_NUMBER:
            number = dict(attributes(said[len(_GENERAL) :])).get(_NUMBER, b"")
            return int(_SIGNED.unpack(number)[0]) if len(number) == _SIGNED.size else UNKNOWN
    return UNKNOWN
