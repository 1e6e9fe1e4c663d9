"""What a node's kernel holds beside the nft tables, as a value; and the commands between two.

The same type holds what is wanted and what was observed. Commands are lines for ``ip -batch``
and ``bridge -batch``; every one of them may be repeated.
"""

from collections.abc import Mapping
from typing import TypeVar

import msgspec
from msgspec.structs import replace

from swarmlet.net.numbers import DEVICE, PROTOCOL

K = TypeVar("K")


class Vxlan(msgspec.Struct, frozen=True):
    """The VXLAN device. ``local`` "" leaves the choice of the outer source to the kernel."""

    vni: int
    port: int
    local: str
    mac: str
    mtu: int
    up: bool = True


class Links(msgspec.Struct, frozen=True, kw_only=True):
    """Links, addresses, routes and settings.

    ``addresses`` are those of the VXLAN device; ``fdb`` leads from a peer's MAC to its host,
    ``neighbours`` from a peer's overlay address to its MAC. Keys of ``routes`` are a destination,
    with its table if that is not the main one; keys of ``rules`` are their preference; values are
    the rest as ``ip`` takes it. ``accept`` are the iptables chains that hold our rule, ``hairpin``
    the bridge ports that may send a packet back where it came from.
    """

    device: Vxlan | None = None
    addresses: frozenset[str] = frozenset()
    fdb: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    neighbours: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    rules: dict[int, str] = msgspec.field(default_factory=dict[int, str])
    routes: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    sysctls: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    accept: frozenset[str] = frozenset()
    hairpin: frozenset[str] = frozenset()


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """Commands, in the order of their fields; ``removals`` come when the nft tables are changed.

    A route must be there before connections are sent to it, and go after them.
    """

    ip: list[str] = msgspec.field(default_factory=list[str])
    bridge: list[str] = msgspec.field(default_factory=list[str])
    sysctls: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    accept: list[str] = msgspec.field(default_factory=list[str])
    removals: list[str] = msgspec.field(default_factory=list[str])
    no_accept: list[str] = msgspec.field(default_factory=list[str])


def changes(have: Links, want: Links) -> Changes:
    """Everything that must be done to get from ``have`` to ``want``."""
    device, have = _device(have, want)
    ip = device + [f"address replace {a}/32 dev {DEVICE}" for a in want.addresses - have.addresses]
    ip += [
        f"neigh replace {address} lladdr {mac} dev {DEVICE} nud permanent"
        for address, mac in _new(have.neighbours, want.neighbours)
    ]
    ip += [
        f"route replace {dst} {to} proto {PROTOCOL}" for dst, to in _new(have.routes, want.routes)
    ]
    # From the last: the first one's "goto" needs its target.
    for pref, body in sorted(_new(have.rules, want.rules), reverse=True):
        ip += [f"rule del pref {pref}"] if pref in have.rules else []
        ip.append(f"rule add pref {pref} {body} protocol {PROTOCOL}")
    ip += [f"link set {port} type bridge_slave hairpin on" for port in want.hairpin - have.hairpin]
    return Changes(
        ip=ip,
        bridge=[
            f"fdb replace {mac} dev {DEVICE} dst {host} self permanent"
            for mac, host in _new(have.fdb, want.fdb)
        ]
        + [f"fdb del {mac} dev {DEVICE} self" for mac in have.fdb if mac not in want.fdb],
        sysctls=dict(_new(have.sysctls, want.sysctls)),
        accept=sorted(want.accept - have.accept),
        removals=_removals(have, want),
        no_accept=sorted(have.accept - want.accept),
    )


def _removals(have: Links, want: Links) -> list[str]:
    lines = [f"route del {dst} proto {PROTOCOL}" for dst in have.routes if dst not in want.routes]
    # From the first: once the skip is gone, nothing points at its target.
    lines += [f"rule del pref {pref}" for pref in sorted(have.rules) if pref not in want.rules]
    if want.device is None:
        return lines + ([f"link del {DEVICE}"] if have.device else [])
    lines += [
        f"neigh del {address} dev {DEVICE}"
        for address in have.neighbours
        if address not in want.neighbours
    ]
    lines += [f"address del {a}/32 dev {DEVICE}" for a in have.addresses - want.addresses]
    return lines


def _device(have: Links, want: Links) -> tuple[list[str], Links]:
    """Commands for the VXLAN device, and what is left of ``have`` after them."""
    is_, should = have.device, want.device
    if should is None or is_ == should:
        return [], have
    if is_ is not None and replace(is_, mtu=should.mtu, up=True) == should:
        return [f"link set {DEVICE} mtu {should.mtu} up"], have
    # A device's identity cannot be changed; a new one starts with nothing. A new hardware address
    # takes all neighbours along, and an old number's address may be another node's by now.
    bare = replace(
        have,
        addresses=frozenset(),
        fdb={},
        neighbours={},
        routes={},
        sysctls={k: v for k, v in have.sysctls.items() if f"/{DEVICE}/" not in k},
    )
    kind = f"type vxlan id {should.vni} dstport {should.port} nolearning ttl 64"
    kind += f" local {should.local}" if should.local else ""
    return [
        *([f"link del {DEVICE}"] if is_ else []),
        f"link add {DEVICE} address {should.mac} mtu {should.mtu} {kind}",
        f"link set {DEVICE} up",
    ], bare


def _new(have: Mapping[K, str], want: Mapping[K, str]) -> list[tuple[K, str]]:
    return [(key, value) for key, value in want.items() if have.get(key) != value]
