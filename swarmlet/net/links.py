"""What a node's kernel holds beside the nft tables, as a value; and the commands between two.

The same type holds what is wanted and what was observed. Commands are lines for ``ip -batch``
and ``bridge -batch``; every one of them may be repeated.
"""

from collections.abc import Mapping
from typing import TypeVar

import msgspec
from msgspec.structs import replace

from swarmlet.net.numbers import PROTOCOL

K = TypeVar("K")


class Vxlan(msgspec.Struct, frozen=True):
    """A VXLAN device. ``local`` "" leaves the choice of the outer source to the kernel."""

    vni: int
    port: int
    local: str
    mac: str
    mtu: int
    up: bool = True


class TunnelPeer(msgspec.Struct, frozen=True):
    """A lane of another node: where its host takes packets, and its address inside.

    ``keepalive`` are the seconds after which an idle tunnel says something, 0 for never.
    """

    endpoint: str
    address: str
    keepalive: int = 0


class Tunnel(msgspec.Struct, frozen=True):
    """A WireGuard interface. ``key`` is its own public key; ``peers`` are by theirs."""

    key: str
    port: int
    mtu: int
    up: bool = True
    peers: dict[str, TunnelPeer] = msgspec.field(default_factory=dict[str, TunnelPeer])


class Links(msgspec.Struct, frozen=True, kw_only=True):
    """Links, addresses, routes and settings.

    ``devices`` are VXLAN, ``tunnels`` WireGuard, by name. Keys of the others are as ``ip`` takes
    them: ``addresses`` have their device behind them; so have the peers' MACs of ``fdb``, which
    leads to their hosts, and the peers' overlay addresses of ``neighbours``, which leads to MACs.
    Keys of ``routes`` are a destination, with its table if that is not the main one; keys of
    ``rules`` are a preference and whom it is about; values are the rest. ``accept`` are the
    iptables chains that hold our rule, ``hairpin`` the bridge ports that may send a packet back
    where it came from.
    """

    devices: dict[str, Vxlan] = msgspec.field(default_factory=dict[str, Vxlan])
    tunnels: dict[str, Tunnel] = msgspec.field(default_factory=dict[str, Tunnel])
    addresses: frozenset[str] = frozenset()
    fdb: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    neighbours: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    rules: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    routes: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    sysctls: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    accept: frozenset[str] = frozenset()
    hairpin: frozenset[str] = frozenset()


class TunnelChange(msgspec.Struct, frozen=True, kw_only=True):
    """What must be done to a WireGuard interface: made anew first, or (``wanted`` None) removed.

    ``peers`` are those that are new or differ, ``gone`` the keys of those that must go.
    """

    name: str
    wanted: Tunnel | None
    exists: bool
    anew: bool = False
    peers: dict[str, TunnelPeer] = msgspec.field(default_factory=dict[str, TunnelPeer])
    gone: tuple[str, ...] = ()


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """Commands, in the order of their fields; ``removals`` come when the nft tables are changed.

    A route must be there before connections are sent to it, and go after them.
    """

    tunnels: list[TunnelChange] = msgspec.field(default_factory=list[TunnelChange])
    ip: list[str] = msgspec.field(default_factory=list[str])
    bridge: list[str] = msgspec.field(default_factory=list[str])
    sysctls: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    accept: list[str] = msgspec.field(default_factory=list[str])
    removals: list[str] = msgspec.field(default_factory=list[str])
    gone_tunnels: list[TunnelChange] = msgspec.field(default_factory=list[TunnelChange])
    no_accept: list[str] = msgspec.field(default_factory=list[str])


def changes(have: Links, want: Links) -> Changes:
    """Everything that must be done to get from ``have`` to ``want``."""
    tunnels, have = _tunnels(have, want)
    ip: list[str] = []
    for name, device in want.devices.items():
        commands, have = _device(name, have, device)
        ip += commands
    ip += [f"address replace {address}" for address in want.addresses - have.addresses]
    ip += [
        f"neigh replace {address} lladdr {mac} dev {device} nud permanent"
        for key, mac in _new(have.neighbours, want.neighbours)
        for address, device in (key.split(" dev "),)
    ]
    ip += [
        f"route replace {dst} {to} proto {PROTOCOL}" for dst, to in _new(have.routes, want.routes)
    ]
    # From the last: the first one's "goto" needs its target.
    for rule, to in sorted(_new(have.rules, want.rules), key=_preference, reverse=True):
        ip += [_no_rule(rule, have.rules[rule])] if rule in have.rules else []
        ip.append(f"rule add pref {rule} {to} protocol {PROTOCOL}")
    ip += [f"link set {port} type bridge_slave hairpin on" for port in want.hairpin - have.hairpin]
    stays = [key for key in have.fdb if _device_of(key) in want.devices]
    return Changes(
        tunnels=tunnels,
        ip=ip,
        bridge=[
            f"fdb replace {key} dst {host} self permanent" for key, host in _new(have.fdb, want.fdb)
        ]
        + [f"fdb del {key} self" for key in stays if key not in want.fdb],
        sysctls=dict(_new(have.sysctls, want.sysctls)),
        accept=sorted(want.accept - have.accept),
        removals=_removals(have, want),
        gone_tunnels=[
            TunnelChange(name=name, wanted=None, exists=True)
            for name in have.tunnels
            if name not in want.tunnels
        ],
        no_accept=sorted(have.accept - want.accept),
    )


def _preference(rule: tuple[str, str]) -> int:
    return int(rule[0].split()[0])


def _no_rule(rule: str, to: str) -> str:
    # All of it: by its preference alone somebody else's might be meant.
    return f"rule del pref {rule} {to} protocol {PROTOCOL}"


def _removals(have: Links, want: Links) -> list[str]:
    lines = [f"route del {dst} proto {PROTOCOL}" for dst in have.routes if dst not in want.routes]
    # From the first: once the skip is gone, nothing points at its target.
    lines += [
        _no_rule(rule, to)
        for rule, to in sorted(have.rules.items(), key=_preference)
        if rule not in want.rules
    ]
    lines += [f"link del {name}" for name in have.devices if name not in want.devices]
    # With a device everything goes that is on it.
    stay = want.devices.keys() | want.tunnels.keys()
    lines += [
        f"neigh del {key}"
        for key in have.neighbours
        if key not in want.neighbours and _device_of(key) in stay
    ]
    lines += [
        f"address del {address}"
        for address in have.addresses - want.addresses
        if _device_of(address) in stay
    ]
    return lines


def _device(name: str, have: Links, should: Vxlan) -> tuple[list[str], Links]:
    """Commands for a VXLAN device, and what is left of ``have`` after them."""
    is_ = have.devices.get(name)
    if is_ == should:
        return [], have
    # A device's identity cannot be changed; a new one starts with nothing. A new hardware address
    # takes all neighbours along, and an old number's address may be another node's by now.
    if is_ is not None and replace(is_, mtu=should.mtu, up=True) == should:
        return [f"link set {name} mtu {should.mtu} up"], have
    kind = f"type vxlan id {should.vni} dstport {should.port} nolearning ttl 64"
    kind += f" local {should.local}" if should.local else ""
    return [
        *([f"link del {name}"] if is_ else []),
        f"link add {name} address {should.mac} mtu {should.mtu} {kind}",
        f"link set {name} up",
    ], without(have, name)


def _tunnels(have: Links, want: Links) -> tuple[list[TunnelChange], Links]:
    """Changes of tunnels that shall be, and what is left of ``have`` after them."""
    changed: list[TunnelChange] = []
    for name, should in want.tunnels.items():
        is_ = have.tunnels.get(name)
        if is_ == should:
            continue
        anew = is_ is None or replace(is_, mtu=should.mtu, up=True, peers=should.peers) != should
        if anew:
            have = without(have, name)
        had = {} if is_ is None or anew else is_.peers
        changed.append(
            TunnelChange(
                name=name,
                wanted=should,
                exists=is_ is not None,
                anew=anew,
                peers={k: peer for k, peer in should.peers.items() if had.get(k) != peer},
                gone=tuple(key for key in had if key not in should.peers),
            )
        )
    return changed, have


def without(links: Links, device: str) -> Links:
    """What is left when a device goes: a new one in its place starts with nothing."""
    return replace(
        links,
        addresses=frozenset(a for a in links.addresses if _device_of(a) != device),
        fdb={k: v for k, v in links.fdb.items() if _device_of(k) != device},
        neighbours={k: v for k, v in links.neighbours.items() if _device_of(k) != device},
        routes={k: v for k, v in links.routes.items() if f"dev {device} " not in f"{v} "},
        sysctls={k: v for k, v in links.sysctls.items() if f"/{device}/" not in k},
    )


def _device_of(key: str) -> str:
    return key.rpartition(" dev ")[2]


def _new(have: Mapping[K, str], want: Mapping[K, str]) -> list[tuple[K, str]]:
    return [(key, value) for key, value in want.items() if have.get(key) != value]
