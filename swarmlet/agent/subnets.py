"""The IPv4 subnets that a machine uses itself: those of its routes and of its own addresses.

Overlay networks keep clear of them. Read from /proc, so it costs no process and no socket.
"""

import ipaddress
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from swarmlet.model.networks import NODE_ADDRESSES, NODE_POOL
from swarmlet.net.numbers import BRIDGE_PREFIX, DEVICE, OUR_DEVICES

_ROUTES: Final = Path("/proc/net/route")
_ADDRESSES: Final = Path("/proc/net/fib_trie")

#: Its device bears such an address: of a membership that ended badly, at worst. (Below /proc, which
#: shows this process's own network, unlike /sys.)
_NODE_DEVICE: Final = Path(f"/proc/sys/net/ipv4/conf/{DEVICE}")

#: Interfaces of swarmlet's own overlays begin with these; what they route is no foreign subnet.
_OURS: Final = (BRIDGE_PREFIX, *sorted(OUR_DEVICES))

#: Anything wider is a way out, such as the two halves of the Internet that a VPN routes; an
#: overlay inside of it is what everybody has.
_WIDEST: Final = 8

#: A router with a full table says what its own networks are in fewer lines than this; and what a
#: node says of itself must stay short.
_LINES: Final = 4096
_MOST: Final = 1000

_NEVER: Final = (ipaddress.IPv4Network("127.0.0.0/8"), ipaddress.IPv4Network(NODE_POOL))


def own_subnets() -> tuple[str, ...]:
    """The subnets of this machine; none where the kernel does not say."""
    try:
        return subnets(_ROUTES.read_text("ascii"), _ADDRESSES.read_text("ascii"))
    except (OSError, UnicodeDecodeError):
        return ()


def own_addresses() -> frozenset[str]:
    """The addresses of this machine; none where the kernel does not say."""
    try:
        return frozenset(map(str, addresses(_ADDRESSES.read_text("ascii"))))
    except (OSError, UnicodeDecodeError):
        return frozenset()


def node_like_addresses() -> tuple[str, ...]:
    """Addresses of this machine that nodes have inside the overlay; none while it is a node."""
    if _NODE_DEVICE.exists():
        return ()
    try:
        return among_nodes(_ADDRESSES.read_text("ascii"))
    except (OSError, UnicodeDecodeError):
        return ()


def addresses(trie: str) -> set[ipaddress.IPv4Address]:
    """Read the addresses of ``/proc/net/fib_trie``."""
    return {one.network_address for one in _local_addresses(trie.splitlines())}


def among_nodes(trie: str) -> tuple[str, ...]:
    """Those of ``/proc/net/fib_trie`` that a node may have inside the overlay."""
    nodes = ipaddress.IPv4Network(NODE_ADDRESSES)
    return tuple(str(one) for one in sorted(addresses(trie)) if one in nodes)


def subnets(routes: str, trie: str) -> tuple[str, ...]:
    """Read ``/proc/net/route`` and ``/proc/net/fib_trie``."""
    ours: list[ipaddress.IPv4Network] = []
    found: list[ipaddress.IPv4Network] = []
    for interface, network in _routes(routes.splitlines()[1:_LINES]):
        (ours if interface.startswith(_OURS) else found).append(network)
    found += [
        own
        for own in _local_addresses(trie.splitlines())
        if not any(own.subnet_of(network) for network in ours)
    ]
    foreign = (n for n in found if not any(n.overlaps(never) for never in _NEVER))
    merged = ipaddress.collapse_addresses(foreign)
    return tuple(str(network) for network in islice(merged, _MOST))


def _routes(lines: Iterable[str]) -> Iterator[tuple[str, ipaddress.IPv4Network]]:
    for line in lines:
        fields = line.split()
        if len(fields) < 8 or fields[0] in {"lo", "*"}:
            continue
        mask = _address(fields[7])
        prefix = int(mask).bit_count()
        if prefix >= _WIDEST:
            yield fields[0], ipaddress.IPv4Network((int(_address(fields[1])), prefix))


def _address(text: str) -> ipaddress.IPv4Address:
    """The kernel prints an address as the number that its bytes are in this machine's memory."""
    return ipaddress.IPv4Address(int(text, 16).to_bytes(4, sys.byteorder))


def _local_addresses(lines: Iterable[str]) -> Iterator[ipaddress.IPv4Network]:
    """Lines ``|-- 10.0.0.2`` that are followed by ``/32 host LOCAL``."""
    last = ""
    for line in lines:
        words = line.split()
        if words[:1] == ["|--"]:
            last = words[-1]
        elif words == ["/32", "host", "LOCAL"]:
            yield ipaddress.IPv4Network(last)
