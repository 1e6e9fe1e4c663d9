"""How many TCP connections tasks have, and whether clients still use them: by connection tracking.

Every packet of a task passes its node's IP layer, so that node's table has all of its connections,
whichever way they came in.
"""

import socket
from collections.abc import Collection
from pathlib import Path
from typing import Final, NamedTuple

import trio

from swarmlet.net.commands import Commands
from swarmlet.net.flows import dump, tracking, who_answers
from swarmlet.net.netlink import attributes

# linux/netfilter/nfnetlink_conntrack.h, linux/netfilter/nf_conntrack_tcp.h
_PROTOCOL_INFO: Final = 4
_TIMEOUT: Final = 7
_TCP: Final = 1
_STATE: Final = 1
_ESTABLISHED: Final = 3

#: Seconds without a packet after which a connection is idle. A client that is slow now and then
#: must not be taken for one that left.
QUIET: Final = 3

#: Seconds that the kernel remembers a connection from its last packet on: one whose data was
#: acknowledged, and one whose was not.
_REMEMBERED: Final = tuple(
    Path("/proc/sys/net/netfilter", f"nf_conntrack_tcp_timeout_{name}")
    for name in ("established", "unacknowledged")
)


class Connections(NamedTuple):
    """Established connections to a task, and how many of them are not idle."""

    open: int = 0
    busy: int = 0


async def count(commands: Commands, addresses: Collection[str]) -> dict[str, Connections]:
    """Those to each of ``addresses``. Raises ForwardingFailed."""
    return await trio.to_thread.run_sync(_count, addresses, limiter=commands.reading)


def _count(addresses: Collection[str]) -> dict[str, Connections]:
    wanted = {socket.inet_aton(address): address for address in addresses}
    counted = dict.fromkeys(addresses, Connections())
    with tracking() as sock:
        # In whole seconds, rounded down: within the first of them it is one less.
        fresh = {int(path.read_bytes()) - 1 - n for path in _REMEMBERED for n in range(QUIET)}
        for found in dump(sock):
            address = wanted.get(who_answers(found))
            if address is not None and _is_established(found):
                used = int.from_bytes(found.get(_TIMEOUT, b""), "big") in fresh
                number, busy = counted[address]
                counted[address] = Connections(number + 1, busy + used)
    return counted


def _is_established(found: dict[int, bytes]) -> bool:
    info = dict(attributes(found.get(_PROTOCOL_INFO, b"")))
    return dict(attributes(info.get(_TCP, b""))).get(_STATE) == bytes([_ESTABLISHED])
