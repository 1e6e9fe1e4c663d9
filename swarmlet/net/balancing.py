"""Which backend a new connection gets: nft statements for weighted and for sticky balancing."""

import functools
import hashlib
import math
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

#: Slots of sticky balancing. A backend's share is exact to about half a slot. Another size moves
#: most clients to another backend, so there are only two.
SLOTS: Final = 251
MANY_SLOTS: Final = 2039
FEW_BACKENDS: Final = 50

#: The same on all nodes: a client meets the same backend whichever node it comes in by.
SEED: Final = 0x5A5A


class Backend(NamedTuple):
    """A task's address and its share of new connections."""

    address: str
    weight: int


@functools.lru_cache(maxsize=4096)
def redirect(backends: tuple[Backend, ...], *, sticky: bool, port: int = 0) -> str:
    """The nft statement that sends a connection to one of ``backends``; ``port`` 0 keeps its port.

    Cached: of many services only few change at a time.
    """
    if len(backends) == 1:
        return f"dnat to {backends[0].address}" + (f":{port}" if port else "")
    if sticky:
        slots = rendezvous(backends)
        choice = f"jhash ip saddr mod {len(slots)} seed {SEED:#x}"
        ranges = runs(slots)
    else:
        backends = reduced(backends)
        choice = f"numgen random mod {sum(b.weight for b in backends)}"
        ranges = shares(backends)
    suffix = f" . {port}" if port else ""
    family = "ip " if port else ""
    elements = ", ".join(
        f"{first if first == last else f'{first}-{last}'} : {address}{suffix}"
        for first, last, address in ranges
    )
    return f"dnat {family}to {choice} map {{ {elements} }}"


def reduced(backends: Sequence[Backend]) -> tuple[Backend, ...]:
    """The same shares in the smallest whole numbers."""
    divisor = math.gcd(*(b.weight for b in backends))
    return tuple(Backend(b.address, b.weight // divisor) for b in backends)


def shares(backends: Sequence[Backend]) -> Iterator[tuple[int, int, str]]:
    """Ranges of numbers, as long as each backend's weight: first, last, address."""
    at = 0
    for backend in backends:
        yield at, at + backend.weight - 1, backend.address
        at += backend.weight


def rendezvous(backends: Sequence[Backend]) -> list[str]:
    """Which address each slot has, by weighted rendezvous hashing.

    When one of ten leaves, only its slots move.
    """
    count = SLOTS if len(backends) <= FEW_BACKENDS else MANY_SLOTS
    best = [math.inf] * count
    slots = [""] * count
    for backend in backends:
        for slot, draw in enumerate(_draws(backend.address, count)):
            score = draw / backend.weight
            if score < best[slot]:
                best[slot], slots[slot] = score, backend.address
    return slots


@functools.lru_cache(maxsize=8192)
def _draws(address: str, count: int) -> tuple[float, ...]:
    """An exponentially distributed number for each slot: the smallest, divided by weight, wins."""
    return tuple(
        -math.log((int.from_bytes(digest[at : at + 4], "big") + 0.5) / 2**32)
        for digest in (hashlib.shake_128(f"{address}/{count}".encode()).digest(4 * count),)
        for at in range(0, 4 * count, 4)
    )


def runs(slots: Sequence[str]) -> Iterator[tuple[int, int, str]]:
    """Neighbouring slots of the same address as one range: first, last, address."""
    first = 0
    for at in range(1, len(slots) + 1):
        if at == len(slots) or slots[at] != slots[first]:
            yield first, at - 1, slots[first]
            first = at
