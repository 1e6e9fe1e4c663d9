"""Who gets TLS state: callers that have said hello, and only so many at a time.

Anybody may connect, and nothing is known of a caller before its handshake. A TLS object costs some
60 KB, a socket that waits for its first bytes next to nothing.
"""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

import trio

from swarmlet.rpc.channel import ConnectionLost

#: Handshakes at once, some 30 MB. An honest one takes milliseconds: thousands of nodes that return
#: at the same time wait for their turn.
MAX_HANDSHAKES: Final = 512

#: Handshakes at once with one host, which may be the address of many behind a NAT.
MAX_OF_A_HOST: Final = 64

#: Seconds that a handshake keeps its place while others wait for it.
PATIENCE: Final = 1.0

#: A TLS record: a handshake's type and version, then its length (RFC 8446, 5.1).
_HEAD: Final = 5
_HANDSHAKE: Final = b"\x16\x03"
_MAX_RECORD: Final = 1 << 14


async def client_hello(sock: trio.socket.SocketType) -> None:
    """Wait until a caller's first record is there, and leave it there. Raises ConnectionLost."""
    try:
        head = await _peek(sock, _HEAD)
        size = int.from_bytes(head[3:])
        if not head.startswith(_HANDSHAKE) or not 0 < size <= _MAX_RECORD:
            raise ConnectionLost("the caller does not speak TLS")
        await _peek(sock, _HEAD + size)
    finally:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)


async def _peek(sock: trio.socket.SocketType, size: int) -> bytes:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)
    await trio.lowlevel.wait_readable(sock)
    data = await sock.recv(size, socket.MSG_PEEK)
    if len(data) < size:
        raise ConnectionLost("the caller hung up before it had said hello")
    return data


class _Holder:
    """Who has a place, since when, and when it is free again."""

    def __init__(self, scope: trio.CancelScope) -> None:
        self.scope = scope
        self.since = trio.current_time()
        self.gone = trio.Event()


class Places:
    """So many places. When all are taken, the oldest holder goes if it has had its time."""

    def __init__(self, places: int) -> None:
        self._free = trio.Semaphore(places)
        #: Oldest first, without those that were sent away.
        self._holders: dict[_Holder, None] = {}
        #: Those who hold a place or wait for one.
        self.users = 0

    @asynccontextmanager
    async def one(self, scope: trio.CancelScope) -> AsyncIterator[None]:
        """Hold a place; ``scope`` is cancelled when another has waited for it long enough."""
        self.users += 1
        try:
            await self._take()
            holder = _Holder(scope)
            self._holders[holder] = None
            try:
                yield
            finally:
                self._holders.pop(holder, None)
                self._free.release()
                holder.gone.set()
        finally:
            self.users -= 1

    async def _take(self) -> None:
        while True:
            oldest = next(iter(self._holders), None)
            until = oldest.since + PATIENCE if oldest else float("inf")
            if trio.current_time() < until:
                with trio.move_on_at(until):
                    await self._free.acquire()
                    return
            if oldest in self._holders:
                del self._holders[oldest]
                oldest.scope.cancel()
                await oldest.gone.wait()
            with suppress(trio.WouldBlock):
                self._free.acquire_nowait()
                return


class Handshakes:
    """Places for handshakes: so many in all, and few enough for each host to leave others some."""

    def __init__(self, *, places: int = MAX_HANDSHAKES, of_a_host: int = MAX_OF_A_HOST) -> None:
        self._all = Places(places)
        self._of_a_host = of_a_host
        self._hosts: dict[str, Places] = {}

    @asynccontextmanager
    async def place(self, host: str, scope: trio.CancelScope) -> AsyncIterator[None]:
        """Hold a place; ``scope`` is cancelled when another has waited for it long enough."""
        own = self._hosts.setdefault(host, Places(self._of_a_host))
        try:
            async with own.one(scope), self._all.one(scope):
                yield
        finally:
            if not own.users:
                self._hosts.pop(host, None)
