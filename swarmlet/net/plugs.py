"""What is plugged into a bridge: the addresses at the other end of a veth pair.

The kernel tells them across network namespaces, so a port of a bridge is known to belong to a task
without asking the engine.
"""

import socket
import struct
from collections.abc import Iterable
from typing import Final, NamedTuple

import trio

from swarmlet.errors import ForwardingFailed
from swarmlet.net.commands import Commands
from swarmlet.net.netlink import HEADER, attribute, attributes, messages

# linux/netlink.h, linux/rtnetlink.h, linux/if_addr.h
_NETLINK_ROUTE: Final = 0
_SOL_NETLINK: Final = 270
_STRICT: Final = 12
_GET_ADDRESSES: Final = 22
_REQUEST_DUMP: Final = 0x301
_ERROR: Final = 2
_DONE: Final = 3
_IFA_LOCAL: Final = 2
_IFA_NAMESPACE: Final = 10
#: struct ifaddrmsg: family, prefix length, flags, scope, interface.
_ADDRESS: Final = struct.Struct("=BBBBI")

_PATIENCE: Final = 10.0


class Plug(NamedTuple):
    """A port of a bridge, and its peer: the number of a namespace, and an interface in it."""

    port: str
    number: int
    namespace: int
    peer: int


class Plugs:
    """Remembers what it saw first: a task that may set its own addresses shall not choose others.

    By the interface's number, which the kernel does not use twice.
    """

    def __init__(self, commands: Commands) -> None:
        self._commands = commands
        self._first: dict[int, frozenset[str]] = {}

    async def addresses(self, plugs: Iterable[Plug]) -> dict[str, frozenset[str]]:
        """The addresses of what is plugged into each port, where the kernel tells them."""
        plugs = list(plugs)
        fresh = [plug for plug in plugs if plug.number not in self._first]
        if fresh:
            found = await trio.to_thread.run_sync(_ask, fresh, limiter=self._commands.limiter)
            self._first |= found
        # Forget ports that are gone.
        self._first = {p.number: self._first[p.number] for p in plugs if p.number in self._first}
        return {p.port: self._first[p.number] for p in plugs if p.number in self._first}


def _ask(plugs: list[Plug]) -> dict[int, frozenset[str]]:
    found: dict[int, frozenset[str]] = {}
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_ROUTE) as sock:
            sock.settimeout(_PATIENCE)
            # Without it the kernel does not look at the namespace in the question.
            sock.setsockopt(_SOL_NETLINK, _STRICT, 1)
            for plug in plugs:
                if addresses := _at(sock, plug):
                    found[plug.number] = addresses
    except OSError as exc:
        raise ForwardingFailed("addresses of bridge ports", str(exc)) from exc
    return found


def _at(sock: socket.socket, plug: Plug) -> frozenset[str]:
    """None of them if the namespace is gone, or nothing is set up in it yet."""
    body = _ADDRESS.pack(socket.AF_INET, 0, 0, 0, 0)
    body += attribute(_IFA_NAMESPACE, struct.pack("=i", plug.namespace))
    sock.send(HEADER.pack(HEADER.size + len(body), _GET_ADDRESSES, _REQUEST_DUMP, 0, 0) + body)
    found: set[str] = set()
    while True:
        for kind, _, said in messages(sock.recv(65_536)):
            if kind in {_ERROR, _DONE}:
                return frozenset(found)
            if _ADDRESS.unpack_from(said)[4] == plug.peer:
                local = dict(attributes(said[_ADDRESS.size :])).get(_IFA_LOCAL, b"")
                found |= {socket.inet_ntoa(local)} if len(local) == 4 else set()
