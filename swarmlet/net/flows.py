"""Connection tracking by netlink: delete redirected flows that lead where they no more should.

Not by the program ``conntrack``: it asks the kernel to walk its whole table for each address, which
takes ten milliseconds where the table has the usual quarter of a million buckets.
"""

import errno
import os
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

import trio

from swarmlet.errors import ForwardingFailed
from swarmlet.net.commands import Commands
from swarmlet.net.netlink import HEADER, attribute, attributes, messages

# linux/netfilter/nfnetlink_conntrack.h, linux/netlink.h
_NETLINK_NETFILTER: Final = 12
_GET: Final = 1 << 8 | 1
_DELETE: Final = 1 << 8 | 2
_ERROR: Final = 2
_DONE: Final = 3
_REQUEST: Final = 1
_ACK: Final = 4
_DUMP: Final = 0x300
_ORIGINAL: Final = 1
_REPLY: Final = 2
_ID: Final = 12
_ZONE: Final = 18
_TUPLE_IP: Final = 1
_TUPLE_PROTOCOL: Final = 2
_IP_SOURCE: Final = 1
_IP_DESTINATION: Final = 2
_PROTOCOL_NUMBER: Final = 1

#: struct nfgenmsg: IPv4.
_IPV4: Final = struct.pack("=BBH", socket.AF_INET, 0, 0)

#: Seconds: the kernel answers at once.
_PATIENCE: Final = 10.0


class Flow(NamedTuple):
    """A redirected flow: who answers, by which protocol, and how the kernel knows it."""

    answers: str
    protocol: int
    key: bytes


async def forget(commands: Commands, stale: Callable[[Flow], bool]) -> int:
    """Delete the redirected flows that are ``stale``; return how many.

    The kernel chooses a backend when a flow begins, and a busy UDP client's flow never ends. The
    next packet of a flow that was deleted begins a new one.
    """
    return await trio.to_thread.run_sync(_forget, stale, limiter=commands.limiter)


@contextmanager
def tracking() -> Iterator[socket.socket]:
    """A socket to the kernel's connection tracking; what fails there is a ForwardingFailed."""
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as sock:
            sock.settimeout(_PATIENCE)
            yield sock
    except OSError as exc:
        raise ForwardingFailed("connection tracking", str(exc)) from exc


def dump(sock: socket.socket) -> Iterator[dict[int, bytes]]:
    """The attributes of each IPv4 flow. Raises OSError."""
    _ask(sock, _GET, _REQUEST | _DUMP)
    while True:
        for message in messages(sock.recv(65_536)):
            if message.kind == _DONE:
                return
            if message.kind == _ERROR:
                code = -int.from_bytes(message.body[:4], "little", signed=True)
                raise OSError(code, os.strerror(code))
            yield dict(attributes(message.body[len(_IPV4) :]))


def who_answers(found: dict[int, bytes]) -> bytes:
    """The address that a flow's replies come from, 4 bytes; b"" for another family."""
    reply = dict(attributes(found.get(_REPLY, b"")))
    address = dict(attributes(reply.get(_TUPLE_IP, b""))).get(_IP_SOURCE, b"")
    return address if len(address) == 4 else b""


def _forget(stale: Callable[[Flow], bool]) -> int:
    with tracking() as sock:
        redirected = filter(None, map(_flow, dump(sock)))
        gone = [flow for flow in redirected if stale(flow)]
        for flow in gone:
            _ask(sock, _DELETE, _REQUEST | _ACK, flow.key)
            _acknowledged(sock)
        return len(gone)


def _ask(sock: socket.socket, kind: int, flags: int, body: bytes = b"") -> None:
    length = HEADER.size + len(_IPV4) + len(body)
    sock.send(HEADER.pack(length, kind, flags, 0, 0) + _IPV4 + body)


def _acknowledged(sock: socket.socket) -> None:
    for message in messages(sock.recv(65_536)):
        if message.kind == _ERROR:
            code = -int.from_bytes(message.body[:4], "little", signed=True)
            # It may have ended by itself meanwhile.
            if code not in {0, errno.ENOENT}:
                raise OSError(code, os.strerror(code))


def _flow(found: dict[int, bytes]) -> Flow | None:
    """A flow, if it was redirected."""
    original = dict(attributes(found.get(_ORIGINAL, b"")))
    asked = dict(attributes(original.get(_TUPLE_IP, b""))).get(_IP_DESTINATION, b"")
    answers = who_answers(found)
    if asked == answers or not answers:
        return None
    protocol = dict(attributes(original.get(_TUPLE_PROTOCOL, b""))).get(_PROTOCOL_NUMBER, b"")
    key = attribute(_ORIGINAL, found[_ORIGINAL], nested=True)
    for kind in (_ID, _ZONE):
        if kind in found:
            key += attribute(kind, found[kind])
    return Flow(socket.inet_ntoa(answers), int.from_bytes(protocol, "big"), key)
