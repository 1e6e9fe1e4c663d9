"""The kernel's listing in nft's words."""

import msgspec
from swarmlet.net.listing import expected, items, seen
from swarmlet.net.ruleset import Chain, Elements, Table, digest, replacement, update

TABLE = Table(
    "ip",
    "swarmlet",
    {
        "overlay": Elements(
            "type ipv4_addr; flags interval", {"10.1.0.0/16": "", "10.2.0.1/32": ""}
        ),
        "links": Elements("type ifname", {'"swl0"': ""}),
        "entries": Elements("type ether_addr : mark", {"0a:58:64:40:00:02": "0x20000"}),
        "pub": Elements(
            "type inet_proto . inet_service : verdict", {"tcp . 8080": "goto p_tcp_8080"}
        ),
        "datagrams": Elements("type ipv4_addr; flags dynamic", {}),
    },
    {"forward": Chain(("drop",), "type filter hook forward priority -5"), "p": Chain(())},
)

LISTING = {
    "nftables": [
        {"metainfo": {"version": "1.0.6"}},
        {"table": {"name": "swarmlet"}},
        {
            "set": {
                "name": "overlay",
                "elem": ["10.2.0.1", {"prefix": {"addr": "10.1.0.0", "len": 16}}],
            }
        },
        {"set": {"name": "links", "elem": ["swl0"]}},
        {"map": {"name": "entries", "elem": [["0a:58:64:40:00:02", 0x20000]]}},
        {
            "map": {
                "name": "pub",
                "elem": [[{"concat": ["tcp", 8080]}, {"goto": {"target": "p_tcp_8080"}}]],
            }
        },
        {"set": {"name": "datagrams", "elem": [{"elem": {"val": "10.1.0.9", "expires": 1}}]}},
        {"chain": {"name": "forward", "hook": "forward", "policy": "accept"}},
        {"chain": {"name": "p"}},
        {"rule": {"chain": "forward", "comment": digest("drop")}},
    ]
}


def test_a_listing_says_what_was_planned() -> None:
    """In other words; what packets filled does not count."""
    assert seen(msgspec.json.encode(LISTING), TABLE) == expected(TABLE)
    only = {"set": {"name": "datagrams", "elem": [{"elem": {"val": "10.1.0.9", "expires": 1}}]}}
    assert items(msgspec.json.encode({"nftables": [only]})) == {"10.1.0.9"}


def test_ranges_and_hooks_are_not_changed_in_place() -> None:
    """A change of those is a replacement."""
    other = Table(
        "ip",
        "swarmlet",
        TABLE.sets | {"overlay": Elements("type ipv4_addr; flags interval", {})},
        TABLE.chains,
    )
    assert update({"ip": TABLE}, {"ip": other}) is None
    hooked = Table("ip", "swarmlet", TABLE.sets, {"forward": Chain(("drop",))})
    assert update({"ip": TABLE}, {"ip": hooked}) is None
    assert update({}, {"ip": TABLE}) is None


def test_chains_go_when_nothing_leads_to_them() -> None:
    """Elements before chains when they go, after them when they come."""
    bare = Table(
        "ip",
        "swarmlet",
        TABLE.sets | {"pub": Elements(TABLE.sets["pub"].kind, {})},
        {"forward": TABLE.chains["forward"]},
    )
    assert update({"ip": TABLE}, {"ip": bare}) == (
        "delete element ip swarmlet pub { tcp . 8080 : goto p_tcp_8080 }\n"
        "flush chain ip swarmlet p\n"
        "delete chain ip swarmlet p\n"
    )
    assert update({"ip": bare}, {"ip": TABLE}) == (
        "add chain ip swarmlet p\nadd element ip swarmlet pub { tcp . 8080 : goto p_tcp_8080 }\n"
    )
    assert replacement({"ip": TABLE}).startswith(
        "add table ip swarmlet\ndelete table ip swarmlet\n"
    )
