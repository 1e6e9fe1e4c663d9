"""A plan in words, and how a kernel differs from it, for people: both pure."""

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Any

import msgspec
from msgspec.structs import replace

from swarmlet.model.forwarding import Tables
from swarmlet.model.networks import node_address
from swarmlet.net.links import Links, Tunnel
from swarmlet.net.listing import Seen, expected
from swarmlet.net.numbers import FIRST_TABLE, mac
from swarmlet.net.plan import Plan
from swarmlet.net.routing import way_back

Json = dict[str, Any]


class Observed(msgspec.Struct, frozen=True):
    """What was found on the host. A table that is not there is not in ``rules``."""

    links: Links
    rules: dict[str, Seen]
    bridges: frozenset[str]


def dump(plan: Plan) -> str:
    """The whole plan as text: the same plan gives the same text."""
    return "\n".join(_dump(plan)) + "\n"


def as_json(plan: Plan) -> Json:
    """The whole plan for programs; the records that it was made from are left out."""
    bare = replace(plan, tables=Tables(me=plan.tables.me, data_port=plan.tables.data_port))
    built: Json = msgspec.to_builtins(bare, str_keys=True, order="deterministic")
    return built


def differences(plan: Plan, observed: Observed) -> list[str]:
    """Each thing in which the host is not as planned, by name."""
    names = _names(plan.tables)
    return [
        *_missing_bridges(plan, observed),
        *_link_differences(plan.links, observed, names),
        *_rule_differences(plan, observed.rules, names),
    ]


def standing(plan: Plan, bridges: AbstractSet[str], ports: AbstractSet[str]) -> Plan:
    """A plan without what it only awaits: bridges and ports come and go with their tasks."""
    awaited = {bridge.name for bridge in plan.bridges.values()} - bridges
    sysctls = {
        key: value
        for key, value in plan.links.sysctls.items()
        if awaited.isdisjoint(key.split("/"))
    }
    return replace(
        plan,
        bridges={key: one for key, one in plan.bridges.items() if one.name in bridges},
        links=replace(plan.links, sysctls=sysctls, hairpin=plan.links.hairpin & ports),
    )


def _dump(plan: Plan) -> Iterator[str]:
    names = _names(plan.tables)
    links = plan.links
    yield f"node {plan.tables.me}"
    for problem in plan.problems:
        yield f"  left out: {problem}"
    yield "\nbridges"
    for bridge in plan.bridges.values():
        network = plan.tables.networks[bridge.network_id].name
        yield (
            f"  {bridge.name}: network {network}, {bridge.subnet}, "
            f"gateway {bridge.gateway}, mtu {bridge.mtu}"
        )
    yield "\nlinks"
    for name, device in links.devices.items():
        yield (
            f"  {name}: vxlan {device.vni}, udp port {device.port}, "
            f"from {device.local or 'any'}, {device.mac}, mtu {device.mtu}"
        )
    for name, tunnel in links.tunnels.items():
        yield f"  {name}: wireguard {tunnel.key}, udp port {tunnel.port}, mtu {tunnel.mtu}"
        for key, peer in sorted(tunnel.peers.items(), key=lambda item: item[1].address):
            alive = f", keepalive {peer.keepalive} s" if peer.keepalive else ""
            yield f"    peer {key} at {peer.endpoint}, {peer.address}{alive}"
    yield from (f"  address {address}" for address in sorted(links.addresses))
    yield from (f"  fdb {m} at {host}{_of(names, m)}" for m, host in sorted(links.fdb.items()))
    yield from (
        f"  neighbour {a} is {m}{_of(names, a)}" for a, m in sorted(links.neighbours.items())
    )
    rules = sorted(links.rules.items())
    yield from (f"  rule {rule}: {to}{_of(names, rule)}" for rule, to in rules)
    yield from (f"  route {d} {to}{_of(names, d)}" for d, to in sorted(links.routes.items()))
    yield from (f"  iptables {chain}: accept what we let through" for chain in sorted(links.accept))
    yield from (f"  port {port}: hairpin" for port in sorted(links.hairpin))
    yield "\nsettings"
    yield from (f"  {key} = {value}" for key, value in sorted(links.sysctls.items()))
    yield "\nbackends"
    for frontend, backends in sorted(plan.balanced.items()):
        shares = ", ".join(
            f"{b.address}{f' x{b.weight}' if b.weight != 1 else ''}" for b in backends
        )
        yield f"  {frontend}{_of(names, frontend)} -> {shares or 'refused'}"
    for key, table in plan.rules.items():
        yield f"\ntable {key} {table.name}"
        for name, elements in table.sets.items():
            items = sorted(f"{k} : {v}" if v else k for k, v in elements.items.items())
            yield f"  {name} = {{ {', '.join(items)} }}"
        for name, chain in table.chains.items():
            yield f"  chain {name}{f' ({chain.hook})' if chain.hook else ''}"
            yield from (f"    {rule}" for rule in chain.rules)


def _missing_bridges(plan: Plan, observed: Observed) -> Iterator[str]:
    for bridge in plan.bridges.values():
        if bridge.name not in observed.bridges:
            network = plan.tables.networks[bridge.network_id].name
            yield f"bridge {bridge.name} (network {network}) is missing"


def _link_differences(want: Links, observed: Observed, names: Mapping[str, str]) -> Iterator[str]:
    have = observed.links
    yield from _devices(have.devices, want.devices)
    yield from _devices(*map(_bare, (have.tunnels, want.tunnels)))
    for name in want.tunnels.keys() & have.tunnels.keys():
        peers = _peers(have.tunnels[name]), _peers(want.tunnels[name])
        yield from _unequal(f"peer of {name}", *peers, names=names)
    yield from _odd("address", have.addresses, want.addresses)
    yield from _unequal("fdb entry", have.fdb, want.fdb, names)
    yield from _unequal("neighbour", have.neighbours, want.neighbours, names)
    yield from _unequal("rule", have.rules, want.rules, names)
    yield from _unequal("route", have.routes, want.routes, names)
    # A setting that does not exist is that of a device which is missing, and named as such.
    wanted = {key: value for key, value in want.sysctls.items() if key in have.sysctls}
    yield from _unequal("setting", have.sysctls, wanted, names, extra=False)
    yield from _odd("accepting rule in iptables chain", have.accept, want.accept)
    yield from (f"port {port} has no hairpin" for port in sorted(want.hairpin - have.hairpin))


def _devices(
    have: Mapping[str, msgspec.Struct], want: Mapping[str, msgspec.Struct]
) -> Iterator[str]:
    for name in sorted(have.keys() | want.keys()):
        if name not in want:
            yield f"device {name} should not be there"
        elif name not in have:
            yield f"device {name} is missing"
        elif have[name] != want[name]:
            yield f"device {name} differs: {_unlike(have[name], want[name])}"


def _bare(tunnels: Mapping[str, Tunnel]) -> dict[str, Tunnel]:
    return {name: replace(tunnel, peers={}) for name, tunnel in tunnels.items()}


def _peers(tunnel: Tunnel) -> dict[str, str]:
    """Not where they are: WireGuard follows a peer to where its packets come from."""
    return {k: f"{p.address} keepalive {p.keepalive}" for k, p in tunnel.peers.items()}


def _rule_differences(
    plan: Plan, seen: Mapping[str, Seen], names: Mapping[str, str]
) -> Iterator[str]:
    for key, table in plan.rules.items():
        if key not in seen:
            yield f"nft table {table.ref} is missing"
            continue
        have, want = seen[key], expected(table)
        yield from _odd(f"nft {key} set", frozenset(have.sets), frozenset(want.sets))
        yield from _odd(f"nft {key} chain", frozenset(have.chains), frozenset(want.chains))
        for name in want.sets.keys() & have.sets.keys():
            yield from _unequal(f"nft {key} {name}:", have.sets[name], want.sets[name], names)
        for name in want.chains.keys() & have.chains.keys():
            if have.chains[name] != want.chains[name]:
                yield f"nft {key} chain {name}: rules were changed"
        for name in want.hooks - have.hooks:
            if name in have.chains:
                yield f"nft {key} chain {name}: its hook was changed"


def _unlike(have: msgspec.Struct, want: msgspec.Struct) -> str:
    pairs = zip(
        msgspec.structs.asdict(have).items(), msgspec.structs.asdict(want).items(), strict=True
    )
    return ", ".join(f"{k} is {a}, not {b}" for (k, a), (_, b) in pairs if a != b)


def _odd(what: str, have: frozenset[str], want: frozenset[str]) -> Iterator[str]:
    yield from (f"{what} {item} is missing" for item in sorted(want - have))
    yield from (f"{what} {item} should not be there" for item in sorted(have - want))


def _unequal(
    what: str,
    have: Mapping[str, str],
    want: Mapping[str, str],
    names: Mapping[str, str],
    *,
    extra: bool = True,
) -> Iterator[str]:
    for key in sorted(want.keys() - have.keys()):
        yield f"{what} {key}{_of(names, key)} is missing"
    for key in sorted(have.keys() - want.keys()) if extra else ():
        yield f"{what} {key}{_of(names, key)} should not be there"
    for key in sorted(want.keys() & have.keys()):
        if want[key] != have[key]:
            yield f"{what} {key}{_of(names, key)} is {have[key] or 'empty'}, not {want[key]}"


def _of(names: Mapping[str, str], key: str) -> str:
    name = names.get(key.split(" ", maxsplit=1)[0].removesuffix("/32"), "") or names.get(key, "")
    return f" ({name})" if name else ""


def _names(tables: Tables) -> dict[str, str]:
    """Whose an address, a port or a way back is."""
    names: dict[str, str] = {}
    for peer in tables.peers.values():
        node = f"node {peer.hostname or peer.addr}"
        names |= {mac(peer.number): node, node_address(peer.number): node}
        back = f"replies by {node}"
        names |= {
            way_back(peer.number): back,
            f"default table {FIRST_TABLE + peer.number}": back,
        }
    for task in tables.tasks.values():
        kind = "container" if task.is_plain else "task"
        names |= {place.address: f"{kind} {task.name}" for place in task.attachments}
    for service in tables.services.values():
        names |= {place.address: f"service {service.name}" for place in service.attachments}
        at = f"{service.publish_address} . " if service.publish_address else ""
        names |= {
            f"{at}{port.protocol} . {port.published}": f"service {service.name}"
            for port in service.ports
        }
    names.pop("", None)
    return names
