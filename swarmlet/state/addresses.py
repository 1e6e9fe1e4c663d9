"""Who has which address of a network: an account that cannot leak, kept by the tables' writes.

An address belongs to a service (its virtual address), to a task from its placement until it has
ended, or to a plain container while it is attached. Given back, it rests, and addresses are handed
out in a ring: the next one is the one that was free for longest, or nearly so. Only a container
that asks for one address gets it while it rests, or beside the pool. No clock here: time is that of
the log's entries.
"""

import ipaddress
from typing import Final

import msgspec

from swarmlet.clock import SECOND, Instant

#: Nobody may still believe in an address's last owner when it gets a new one: resolvers keep an
#: answer for 5 s at most, and a node that missed the news for this long is lost.
REST: Final = 10 * SECOND


class Rested(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a snapshot keeps of a pool, besides the owners: where the ring stands, and who rests."""

    network_id: str
    cursor: int
    resting: tuple[tuple[int, Instant], ...]


class Pool:
    """The addresses of one network. Addresses are texts outside, offsets in the subnet inside."""

    def __init__(self, subnet: str, pool: str, reserved: tuple[str, ...]) -> None:
        network, part = ipaddress.IPv4Network(subnet), ipaddress.IPv4Network(pool or subnet)
        self._base = int(network.network_address)
        self._first = max(int(part.network_address) - self._base, 1)
        self._last = min(int(part.broadcast_address) - self._base, network.num_addresses - 2)
        self._hosts = network.num_addresses - 2
        self._reserved = {int(ipaddress.IPv4Address(a)) - self._base for a in reserved if a}
        self._owners: dict[int, str] = {}
        self._resting: dict[int, Instant] = {}  # in the order of their release
        self._cursor = self._first

    @property
    def owners(self) -> dict[str, str]:
        """Who has which address."""
        return {self._text(offset): owner for offset, owner in self._owners.items()}

    def free(self, now: Instant) -> int:
        """How many addresses could be given now. Changes nothing: a leader's loops ask it."""
        resting = {offset for offset, since in self._resting.items() if _rests(since, now)}
        taken = self._owners.keys() | resting | self._reserved
        return self._last - self._first + 1 - sum(self._first <= o <= self._last for o in taken)

    def take(self, owner: str, now: Instant) -> str:
        """Give the next free address to ``owner``; "" when there is none."""
        self._forget_rested(now)
        count = self._last - self._first + 1
        for step in range(count):
            offset = self._first + (self._cursor - self._first + step) % count
            if self._is_free(offset):
                self._owners[offset] = owner
                self._cursor = offset + 1
                return self._text(offset)
        return ""

    def has(self, address: str) -> bool:
        """Whether an address is of the subnet, and nobody's by definition (a gateway's)."""
        offset = self._offset(address)
        return 1 <= offset <= self._hosts and offset not in self._reserved

    def owner(self, address: str) -> str:
        """Who has an address, or ""."""
        return self._owners.get(self._offset(address), "")

    def hold(self, owner: str, address: str) -> None:
        """Note that ``owner`` has an address."""
        offset = self._offset(address)
        self._owners[offset] = owner
        self._resting.pop(offset, None)

    def release(self, owner: str, address: str, now: Instant) -> None:
        """Take an address back, unless somebody else has it."""
        offset = self._offset(address)
        if self._owners.get(offset) == owner:
            del self._owners[offset]
            self._resting[offset] = now

    def freeze(self, network_id: str) -> Rested:
        """What :meth:`thaw` needs."""
        return Rested(network_id, self._cursor, tuple(self._resting.items()))

    def thaw(self, rested: Rested) -> None:
        """Undo :meth:`freeze`; the owners come from their own objects."""
        self._cursor = rested.cursor
        self._resting = dict(rested.resting)

    def _is_free(self, offset: int) -> bool:
        return not (offset in self._owners or offset in self._resting or offset in self._reserved)

    def _forget_rested(self, now: Instant) -> None:
        for offset, since in list(self._resting.items()):
            if _rests(since, now):
                break
            del self._resting[offset]

    def _offset(self, address: str) -> int:
        return int(ipaddress.IPv4Address(address)) - self._base

    def _text(self, offset: int) -> str:
        return str(ipaddress.IPv4Address(self._base + offset))


def _rests(since: Instant, now: Instant) -> bool:
    """Whether an address still rests; a time to come is that of a clock that was wrong."""
    return since <= now < since + REST


def first_free_subnet(pools: tuple[str, ...], size: int, taken: list[str]) -> str:
    """The first subnet of ``size`` bits in the pools that overlaps none of ``taken``, or ""."""
    others = sorted(map(ipaddress.IPv4Network, taken))
    for pool in map(ipaddress.IPv4Network, pools):
        if pool.prefixlen > size:
            continue
        step, at = 1 << (32 - size), int(pool.network_address)
        while at + step - 1 <= int(pool.broadcast_address):
            candidate = ipaddress.IPv4Network((at, size))
            hit = next((other for other in others if other.overlaps(candidate)), None)
            if hit is None:
                return str(candidate)
            # Past all of what is in the way: a pool may have 65,536 subnets, a route covers many.
            end = max(int(hit.broadcast_address), at + step - 1) + 1
            at = -(-(end - int(pool.network_address)) // step) * step + int(pool.network_address)
    return ""
