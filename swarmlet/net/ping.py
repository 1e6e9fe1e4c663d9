"""Whether packets pass between nodes: echo requests through the VXLAN device."""

import socket
from collections.abc import Sequence
from typing import Final, NamedTuple

import trio

from swarmlet.clock import Rng
from swarmlet.model.checks import Passage
from swarmlet.net import icmp
from swarmlet.net.numbers import DEVICE

#: Nodes that are asked at the same time.
AT_ONCE: Final = 32

#: A node is asked so often, and so many seconds are given to each answer: a second in all, in
#: which one lost packet, or a path that has to be learnt first, does no harm.
TRIES: Final = 3
ANSWER_WITHIN: Final = 0.35

#: Bytes of a packet that passes wherever any does.
SMALL: Final = 64

#: From linux/in.h: set "don't fragment", and heed no limit that was learnt before.
_IP_MTU_DISCOVER: Final = 10
_IP_PMTUDISC_PROBE: Final = 3

_LARGEST: Final = 65_535


class Passages(NamedTuple):
    """For each address: how packets pass there and back, and which came in from there meanwhile."""

    both_ways: dict[str, Passage]
    heard: dict[str, Passage]


async def passages(
    addresses: Sequence[str], *, mtu: int, rng: Rng, device: str = DEVICE
) -> Passages:
    """How packets of ``mtu`` bytes, unfragmented, and small ones pass to each address and back."""
    try:
        sock = trio.socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    except PermissionError:
        untried = dict.fromkeys(addresses, Passage.UNTRIED)
        return Passages(untried, untried)
    with sock:
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
        except OSError:
            none = dict.fromkeys(addresses, Passage.NONE)
            return Passages(none, none)
        sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_PROBE)
        pinger = _Pinger(sock, mtu=mtu, ident=rng.getrandbits(16))
        return await pinger.ask_all(addresses)


class _Pinger:
    """One socket for all; an answer is told by its number, which is that of the address."""

    def __init__(self, sock: trio.socket.SocketType, *, mtu: int, ident: int) -> None:
        self._socket = sock
        self._mtu = mtu
        self._ident = ident
        self._found: dict[str, Passage] = {}
        self._heard: dict[str, Passage] = {}
        self._full: dict[str, trio.Event] = {}
        self._limit = trio.CapacityLimiter(AT_ONCE)

    async def ask_all(self, addresses: Sequence[str]) -> Passages:
        self._found = dict.fromkeys(addresses, Passage.NONE)
        self._heard = dict.fromkeys(addresses, Passage.NONE)
        self._full = {address: trio.Event() for address in addresses}
        async with trio.open_nursery() as listening:
            listening.start_soon(self._listen)
            async with trio.open_nursery() as asking:
                for number, address in enumerate(addresses):
                    asking.start_soon(self._ask, address, number & 0xFFFF)
            listening.cancel_scope.cancel()
        return Passages(self._found, self._heard)

    async def _ask(self, address: str, number: int) -> None:
        async with self._limit:
            for _ in range(TRIES):
                await self._send(address, number, SMALL)
                await self._send(address, number, self._mtu)
                with trio.move_on_after(ANSWER_WITHIN):
                    await self._full[address].wait()
                    return

    async def _send(self, address: str, number: int, size: int) -> None:
        packet = icmp.request(self._ident, number, size=size)
        try:
            await self._socket.sendto(packet, (address, 0))
        except OSError:
            return  # no way there, or too big for our own link: no answer comes

    async def _listen(self) -> None:
        while True:
            try:
                packet, (address, _) = await self._socket.recvfrom(_LARGEST)
            except OSError:
                continue  # an error that an earlier packet met
            echo = icmp.echo(packet)
            if echo is None or address not in self._found:
                continue
            if not echo.answer:
                _note(self._heard, address, full=echo.size > SMALL)
            elif echo.ident == self._ident:
                full = echo.size >= self._mtu
                _note(self._found, address, full=full)
                if full:
                    self._full[address].set()


def _note(found: dict[str, Passage], address: str, *, full: bool) -> None:
    if full:
        found[address] = Passage.WELL
    elif found[address] is Passage.NONE:
        found[address] = Passage.SMALL
