"""What netlink says, in bytes as the kernel sends them."""

import struct
import sys

import pytest
from swarmlet.net.netlink import HEADER, attribute, attributes, messages
from swarmlet.net.watch import Indexes, LinkNews, News, RuleNews

OURS, OTHERS = 100, 200
NFT = 10 << 8


def message(kind: int, body: bytes, asker: int = 0) -> bytes:
    return HEADER.pack(HEADER.size + len(body), kind, 0, 0, asker) + body


def nft(kind: int, *parts: bytes) -> bytes:
    return message(NFT | kind, bytes(4) + b"".join(parts))


def text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def generation(pid: int) -> bytes:
    return nft(15, attribute(1, bytes(4)), attribute(2, pid.to_bytes(4, "big")))


@pytest.mark.parametrize(
    ("change", "pid", "news"),
    [
        (nft(7, text(1, "swarmlet"), text(2, "forward")), OTHERS, News.RULES),
        (nft(7, text(1, "swarmlet"), text(2, "forward")), OURS, News.NONE),
        (nft(7, text(1, "docker"), text(2, "forward")), OTHERS, News.NONE),
        (
            nft(4, text(1, "filter"), attribute(2, bytes(8)), text(3, "DOCKER-USER")),
            OTHERS,
            News.LINKS,
        ),
        (nft(7, text(1, "filter"), text(2, "DOCKER")), OTHERS, News.NONE),
    ],
)
def test_foreign_rules_are_news(change: bytes, pid: int, news: News) -> None:
    """In our tables, and in the one iptables chain that concerns us; not what we do ourselves."""
    reader = RuleNews(lambda asker: asker == OURS)
    assert reader.read(change + generation(pid)) == news
    assert reader.read(generation(OTHERS)) == News.NONE


def test_a_transaction_may_come_in_pieces() -> None:
    """Who made it is said at the end."""
    reader = RuleNews(lambda asker: asker == OURS)
    assert reader.read(nft(7, text(1, "swarmlet"))) == News.NONE
    assert reader.read(generation(OTHERS)) == News.RULES


def link(name: str, master: int = 0, index: int = 99) -> bytes:
    parts = [text(3, name)]
    parts += [attribute(10, master.to_bytes(4, sys.byteorder))] if master else []
    return struct.pack("=BBHiII", 0, 0, 1, index, 0, 0) + b"".join(parts)


def address(index: int) -> bytes:
    return struct.pack("=BBBBI", 2, 32, 0, 0, index)


def neighbour(index: int) -> bytes:
    return struct.pack("=BBHI", 2, 0, 0, index) + bytes(4)


def setting(index: int) -> bytes:
    """Of an interface, of all (-1), or of those to come (-2)."""
    number = index.to_bytes(4, sys.byteorder, signed=True)
    return bytes(4) + attribute(1, number) + attribute(3, bytes(4))


@pytest.mark.parametrize(
    ("kind", "body", "concerns"),
    [
        (16, link("swl0"), True),
        (16, link("swlw1"), True),
        (17, link("sl-red"), True),
        (16, link("veth1", master=8), True),
        (16, link("veth1", master=9), False),
        (16, link("eth0"), False),
        (16, link("eth0", index=5), True),
        (20, address(5), True),
        (20, address(6), False),
        (21, address(7), True),
        (25, bytes(5) + b"\x5e" + bytes(6), True),
        (25, bytes(5) + b"\x02" + bytes(6), False),
        (29, neighbour(7), True),
        (29, neighbour(8), False),
        (80, setting(7), True),
        (80, setting(8), True),
        (80, setting(9), False),
        (80, setting(-1), True),
        (80, setting(-2), False),
        (33, bytes(12) + attribute(6, (7002).to_bytes(4, sys.byteorder)), True),
        (33, bytes(12) + attribute(6, (2002).to_bytes(4, sys.byteorder)), True),
        (33, bytes(12) + attribute(6, (100).to_bytes(4, sys.byteorder)), False),
    ],
)
def test_foreign_links_are_news(kind: int, body: bytes, concerns: bool) -> None:
    """Ours, ports of our bridges, and what we put on them."""
    indexes = Indexes(frozenset({7}), frozenset({8}), 5)
    reader = LinkNews(lambda asker: asker == OURS, lambda: indexes)
    assert reader.read(message(kind, body, OTHERS)) is concerns
    assert not reader.read(message(kind, body, OURS))


def test_attributes_survive_the_way() -> None:
    """Padding and nesting are the kernel's; a message that is cut off ends the reading."""
    body = attribute(1, b"abc") + attribute(2, b"", nested=True) + attribute(3, b"wxyz")
    assert list(attributes(body)) == [(1, b"abc"), (2, b""), (3, b"wxyz")]
    both = message(5, body) + message(6, b"")
    assert [m.kind for m in messages(both)] == [5, 6]
    assert list(messages(both[:-9])) == list(messages(message(5, body)))
    assert list(attributes(b"\0\0\0\0")) == []
