"""Hears of changes that others make to the kernel's tables, as they are made.

Two netlink sockets: one for nftables, one for links and routes. Each message says which process
(or thread) asked for the change, so our own changes are no news. What is read here is a hint to
look, never the truth; if the kernel has more to say than the socket holds, that is a hint, too.
"""

import enum
import errno
import sys
from collections.abc import Callable
from typing import Final, NamedTuple

import trio

from swarmlet.net.netlink import attributes, messages
from swarmlet.net.numbers import (
    BRIDGE_PREFIX,
    ENGINE_CHAIN,
    FIRST_ENCRYPTED_RULE,
    LAST_RULE,
    OUR_DEVICES,
    PROTOCOL,
    TABLE,
)

# linux/netlink.h, linux/rtnetlink.h, linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h
_AF_NETLINK: Final = 16
_NETLINK_ROUTE: Final = 0
_NETLINK_NETFILTER: Final = 12
_GROUP_NFTABLES: Final = 7
#: RTNLGRP_LINK, NEIGH, IPV4_IFADDR, IPV4_ROUTE, IPV4_RULE, IPV4_NETCONF.
_ROUTE_GROUPS: Final = (1, 3, 5, 7, 8, 24)
_NFT_SUBSYSTEM: Final = 10
_NFT_MSG_NEWGEN: Final = 15
_NFTA_GEN_PROC_PID: Final = 2
_RTM_LINK: Final = (16, 17)
_RTM_ADDR: Final = (20, 21)
_RTM_ROUTE: Final = (24, 25)
_RTM_NEIGH: Final = (28, 29)
_RTM_RULE: Final = (32, 33)
_RTM_NETCONF: Final = 80
_NETCONFA_IFINDEX: Final = 1
_NETCONF_ALL: Final = -1
_FRA_PRIORITY: Final = 6
_IFLA_IFNAME: Final = 3
_IFLA_MASTER: Final = 10

#: One datagram of the kernel: it makes them no longer than that.
_DATAGRAM: Final = 65_536

#: iptables (nft) keeps its chains in a table of this name.
_IPTABLES_TABLE: Final = "filter"


class News(enum.Flag):
    """Where somebody changed something."""

    NONE = 0
    RULES = enum.auto()
    LINKS = enum.auto()


async def watch_rules(tell: Callable[[News], None], *, ours: Callable[[int], bool]) -> None:
    """Tell of changes to our nft tables, and to the iptables chain that lets our packets pass."""
    reader = RuleNews(ours)
    with _socket(_NETLINK_NETFILTER) as sock:
        await sock.bind((0, _mask(_GROUP_NFTABLES)))
        while True:
            datagram = await _datagram(sock)
            tell(reader.read(datagram) if datagram else News.RULES | News.LINKS)


async def watch_links(
    tell: Callable[[News], None],
    *,
    ours: Callable[[int], bool],
    indexes: "Callable[[], Indexes]",
) -> None:
    """Tell of changes to our links, addresses, routes and neighbours, and ports of our bridges.

    And to the device that carries packets to other nodes. Of settings the kernel tells few
    (``forwarding``, ``rp_filter``, ``proxy_arp``), and not who changed them.
    """
    reader = LinkNews(ours, indexes)
    with _socket(_NETLINK_ROUTE) as sock:
        await sock.bind((0, _mask(*_ROUTE_GROUPS)))
        while True:
            datagram = await _datagram(sock)
            if not datagram or reader.read(datagram):
                tell(News.LINKS)


def _socket(protocol: int) -> trio.socket.SocketType:
    return trio.socket.socket(_AF_NETLINK, trio.socket.SOCK_RAW, protocol)


def _mask(*groups: int) -> int:
    return sum(1 << (group - 1) for group in groups)


async def _datagram(sock: trio.socket.SocketType) -> bytes:
    """What the kernel says; nothing where it had to leave something out."""
    try:
        return await sock.recv(_DATAGRAM)
    except OSError as exc:
        if exc.errno != errno.ENOBUFS:
            raise
        return b""


class RuleNews:
    """Reads nftables messages. A transaction's last message says who made it."""

    def __init__(self, ours: Callable[[int], bool]) -> None:
        self._ours = ours
        self._touched = News.NONE

    def read(self, datagram: bytes) -> News:
        """What others changed by the transactions that end in this datagram."""
        news = News.NONE
        for kind, _, body in messages(datagram):
            if kind >> 8 != _NFT_SUBSYSTEM:
                continue
            said = dict(attributes(body[4:]))
            if kind & 0xFF != _NFT_MSG_NEWGEN:
                self._touched |= _concerns(said)
                continue
            pid = int.from_bytes(said.get(_NFTA_GEN_PROC_PID, b""), "big")
            if not self._ours(pid):
                news |= self._touched
            self._touched = News.NONE
        return news


def _concerns(said: dict[int, bytes]) -> News:
    """In every message the first attribute is the table; in those of rules the second the chain."""
    table = _text(said.get(1, b""))
    if table == TABLE:
        return News.RULES
    if table != _IPTABLES_TABLE:
        return News.NONE
    # A chain's own message has its number in between.
    names = {_text(said.get(key, b"")) for key in (2, 3)}
    return News.LINKS if ENGINE_CHAIN in names else News.NONE


class Indexes(NamedTuple):
    """Interface numbers: of our devices, of our bridges, of what carries VXLAN (0 if not there)."""

    devices: frozenset[int] = frozenset()
    bridges: frozenset[int] = frozenset()
    underlay: int = 0


class LinkNews:
    """Reads rtnetlink messages."""

    def __init__(self, ours: Callable[[int], bool], indexes: Callable[[], Indexes]) -> None:
        self._ours = ours
        self._indexes = indexes

    def read(self, datagram: bytes) -> bool:
        """Whether others changed something that concerns us."""
        return any(
            self._concerns(kind, body)
            for kind, pid, body in messages(datagram)
            if not self._ours(pid)
        )

    def _concerns(self, kind: int, body: bytes) -> bool:
        indexes, index = self._indexes(), int.from_bytes(body[4:8], sys.byteorder)
        found = False
        if kind in _RTM_LINK:
            # Of the underlay: what fits through it may be something else now.
            found = index == indexes.underlay or _is_ours(dict(attributes(body[16:])), indexes)
        elif kind in _RTM_ROUTE:
            found = body[5] == PROTOCOL
        elif kind in _RTM_RULE:
            pref = dict(attributes(body[12:])).get(_FRA_PRIORITY, b"")
            found = FIRST_ENCRYPTED_RULE <= int.from_bytes(pref, sys.byteorder) <= LAST_RULE
        elif kind == _RTM_NETCONF:
            of = dict(attributes(body[4:])).get(_NETCONFA_IFINDEX, b"")
            which = int.from_bytes(of, sys.byteorder, signed=True)
            found = which in {_NETCONF_ALL, *indexes.devices, *indexes.bridges}
        elif kind in _RTM_ADDR:
            found = index in {*indexes.devices, indexes.underlay}
        elif kind in _RTM_NEIGH:
            # Neighbours of bridges come and go by themselves.
            found = index in indexes.devices
        return found


def _is_ours(said: dict[int, bytes], indexes: Indexes) -> bool:
    """Whether a link is a device of ours, a bridge of ours, or a port of one."""
    name = _text(said.get(_IFLA_IFNAME, b""))
    master = int.from_bytes(said.get(_IFLA_MASTER, b""), sys.byteorder)
    return name in OUR_DEVICES or name.startswith(BRIDGE_PREFIX) or master in indexes.bridges


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")
