"""Who is in the sets and maps that :mod:`swarmlet.net.filtering` names."""

from collections.abc import Iterable, Iterator, Mapping

from swarmlet.model.forwarding import Reach
from swarmlet.net.facts import HostFacts
from swarmlet.net.filtering import FROM_PEER, FROM_PLAIN, FROM_TASK, FROM_TUNNEL
from swarmlet.net.numbers import (
    DEVICE,
    ENCRYPTED_DEVICE,
    ENTRY_SHIFT,
    LANE_DEVICES,
    bridge_name,
    mac,
)
from swarmlet.net.records import Bridge, Records
from swarmlet.net.ruleset import Elements


def _set(kind: str, items: Iterable[str]) -> Elements:
    return Elements(f"type {kind}", dict.fromkeys(items, ""))


def _ranges(kind: str, items: Iterable[str]) -> Elements:
    return Elements(f"type {kind}; flags interval", dict.fromkeys(items, ""))


def ip_sets(
    records: Records, bridges: Mapping[str, Bridge], sources: Mapping[str, frozenset[str]]
) -> dict[str, Elements]:
    """Those of table ``ip swarmlet``, but for virtual addresses and ports."""
    found = _ip_sets(records, bridges, sources)
    return found | _encrypted_sets(records, bridges) if records.encrypted else found


def _encrypted_sets(records: Records, bridges: Mapping[str, Bridge]) -> dict[str, Elements]:
    """What is encrypted, and by which links it may leave."""
    names = [bridge.name for bridge in bridges.values()]
    return {
        "encrypted": _ranges(
            "ipv4_addr", (records.networks[n].subnet for n in sorted(records.encrypted))
        ),
        "inside": _set("ifname", (f'"{name}"' for name in ["lo", ENCRYPTED_DEVICE, *names])),
    }


def _ip_sets(
    records: Records, bridges: Mapping[str, Bridge], sources: Mapping[str, frozenset[str]]
) -> dict[str, Elements]:
    subnets = [network.subnet for network in records.networks.values()]
    names = [f'"{bridge.name}"' for bridge in bridges.values()]
    macs = [n for n in records.peers if n != records.me]
    tasks = records.tables.tasks
    sealed = records.encrypted
    lost = {n for n in records.peers if records.reach(n) is Reach.LOST}
    known = records.peers.keys() | {records.me}
    return {
        "overlay": _ranges("ipv4_addr", subnets),
        "pairs": _ranges("ipv4_addr . ipv4_addr", (f"{s} . {s}" for s in subnets)),
        "internal": _ranges(
            "ipv4_addr", (n.subnet for n in records.networks.values() if n.internal)
        ),
        "peers": _set("ipv4_addr", (peer.addr for peer in records.peers.values())),
        "zones": Elements("typeof ether saddr : ct original zone", {mac(n): str(n) for n in macs}),
        "entries": Elements(
            "type ether_addr : mark", {mac(n): f"{n << ENTRY_SHIFT:#x}" for n in macs}
        ),
        "bridges": _set("ifname", names),
        "doors": Elements(
            "type ifname : verdict",
            _doors(records) | dict.fromkeys(names, f"goto {FROM_TASK}"),
        ),
        "live": _set(
            "ipv4_addr",
            (
                address
                for key, places in records.places.items()
                if (node := tasks[key].node) in known
                and node not in lost
                and key not in records.tables.halted
                for network, address in places.items()
                if network not in sealed or records.passes(tasks[key], network)
            ),
        ),
        "selves": _set(
            "ipv4_addr . ipv4_addr", (f"{a} . {b}" for a, all_ in sources.items() for b in all_)
        ),
        # Filled by the rules: where UDP flows go. Most backends have none.
        "datagrams": Elements("type ipv4_addr; size 65535; flags dynamic", {}),
        "sources": _set("ifname . ipv4_addr", _sources(records)),
    }


def _doors(records: Records) -> dict[str, str]:
    """Where packets of other nodes come in."""
    if not records.encrypted:
        return {f'"{DEVICE}"': f"goto {FROM_PEER}"}
    tunnels = {f'"{name}"': f"goto {FROM_TUNNEL}" for name in LANE_DEVICES}
    return tunnels | {
        f'"{DEVICE}"': f"goto {FROM_PLAIN}",
        f'"{ENCRYPTED_DEVICE}"': f"goto {FROM_PEER}",
    }


def _sources(records: Records) -> Iterator[str]:
    """Which source addresses a bridge may bring: all of every task that is plugged into it."""
    for task in records.local:
        places = records.places[task.id]
        for network in places:
            for address in places.values():
                yield f'"{bridge_name(network)}" . {address}'


def bridge_sets(
    records: Records, host: HostFacts, sources: Mapping[str, frozenset[str]]
) -> dict[str, Elements]:
    """Whose a port is, and what it may bring; and what the others may not, or may."""
    owners = {name: port.owner for name, port in sorted(host.ports.items()) if port.owner}
    taken = {owner.address for owner in owners.values()}
    return {
        "overlay": _ranges("ipv4_addr", (n.subnet for n in records.networks.values())),
        "owned": _set("ifname", (f'"{name}"' for name in owners)),
        "pins": _set(
            "ifname . ipv4_addr",
            (
                f'"{name}" . {address}'
                for name, owner in owners.items()
                for address in sorted(sources.get(owner.address, {owner.address}))
            ),
        ),
        "macs": _set("ifname . ether_addr", (f'"{n}" . {o.mac}' for n, o in owners.items())),
        "taken": _set("ether_addr", (owner.mac for owner in owners.values())),
        "gateways": _set("ether_addr", sorted(host.gateways)),
        "unclaimed": _set("ipv4_addr", (one for one in sources if one not in taken)),
    }
