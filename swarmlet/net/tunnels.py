"""Encrypted networks: VXLAN inside WireGuard, and no way beside it.

Their packets have a VXLAN device of their own. It sends to other nodes' addresses inside of
tunnels, to which no other way leads; replies to the node that a client came in by have policy rules
of their own, which refuse what finds no route. Rules that stop what would leave, or comes, any
other way are in :mod:`swarmlet.net.filtering`.
"""

from collections.abc import Iterator
from typing import Final

from swarmlet.model.networks import LANE_POOL, Place, node_address
from swarmlet.model.tunnels import LANES, is_key, lane_ports
from swarmlet.net.facts import HostFacts, OwnTunnel
from swarmlet.net.links import Links, Tunnel, TunnelPeer, Vxlan
from swarmlet.net.numbers import (
    ENCRYPTED,
    ENCRYPTED_DEVICE,
    ENCRYPTED_PEER_RULE,
    ENCRYPTED_VNI,
    ENCRYPTION_OVERHEAD,
    ENTRY,
    ENTRY_SHIFT,
    FIRST_ENCRYPTED_RULE,
    FIRST_ENCRYPTED_TABLE,
    LANE_DEVICES,
    LAST_ENCRYPTED_RULE,
    REFUSING_RULE,
    VXLAN_OVERHEAD,
    mac,
)
from swarmlet.net.records import Records

_LANE_PLACES: Final = (Place.FIRST_LANE, Place.SECOND_LANE)

#: Seconds: tunnels in use, and of a lane that is about to be used, are kept ready, so that the
#: first packet waits for no handshake (WireGuard forgets one after 180). And an interface that is
#: new, as its host has booted, greets the others at once: they would go on with the old tunnel, and
#: were seen to do so for 27.
KEEPALIVE: Final = 20

#: Where a packet to another node's tunnel goes that finds no tunnel.
_NOWHERE: Final = f"unreachable {LANE_POOL}"


def is_needed(records: Records) -> bool:
    """Whether packets of encrypted networks may have to go to other nodes, or come from them."""
    tasks, services = records.tables.tasks, records.tables.services
    for key, places in records.places.items():
        if places.keys() & records.encrypted:
            task = tasks[key]
            service = services.get(task.service_id)
            if task.node != records.me or (service is not None and service.ports):
                return True
    return False


def troubles(records: Records, host: HostFacts) -> Iterator[str]:
    """Why tasks of encrypted networks are not reached, one sentence for each node."""
    if not records.encrypted:
        return
    if host.tunnel is None and host.no_tunnel:
        yield f"encrypted networks reach no other node from here: {host.no_tunnel}"
        return
    if host.tunnel is None:
        return
    tasks = records.tables.tasks
    hosting = {
        tasks[key].node
        for key, places in records.places.items()
        if places.keys() & records.encrypted
    }
    for number in sorted(hosting - {records.me} - records.keyed.keys()):
        peer = records.peers.get(number)
        name = (peer.hostname or peer.id) if peer else str(number)
        yield f"node {name} has no key: its tasks in encrypted networks are not reached from here"


def links(records: Records, host: HostFacts) -> Links:
    """What is there for encrypted networks, beside their bridges."""
    if not records.encrypted:
        return Links()
    own = host.tunnel
    if own is None or not is_needed(records):
        return Links(routes={_NOWHERE: ""})
    vtep = node_address(records.me, Place.ENCRYPTED)
    vteps = {n: node_address(n, Place.ENCRYPTED) for n in records.keyed}
    device = ENCRYPTED_DEVICE
    routes = {_NOWHERE: ""}
    routes |= {f"{a}/32": f"dev {device} src {vtep}" for a in vteps.values()}
    routes |= {
        f"default table {FIRST_ENCRYPTED_TABLE + n}": f"via {a} dev {device} onlink"
        for n, a in vteps.items()
    }
    tunnels = dict(_tunnels(records, host, own))
    mine = node_address(records.me, _LANE_PLACES[own.keys.lane])
    by = LANE_DEVICES[own.keys.lane]
    for n, lane in _their_lanes(records):
        routes[f"{node_address(n, _LANE_PLACES[lane])}/32"] = f"dev {by} src {mine}"
    return Links(
        devices={
            device: Vxlan(
                vni=ENCRYPTED_VNI,
                port=records.tables.data_port,
                local="",
                mac=mac(records.me),
                mtu=host.underlay_mtu - ENCRYPTION_OVERHEAD - VXLAN_OVERHEAD,
            )
        },
        tunnels=tunnels,
        addresses=frozenset([f"{vtep}/32 dev {device}"])
        | {
            f"{node_address(records.me, _LANE_PLACES[lane])}/32 dev {LANE_DEVICES[lane]}"
            for lane in LANES
            if LANE_DEVICES[lane] in tunnels
        },
        fdb={
            f"{mac(n)} dev {device}": node_address(n, _LANE_PLACES[peer.tunnel.lane])
            for n, peer in records.keyed.items()
            if peer.tunnel
        },
        neighbours={f"{a} dev {device}": mac(n) for n, a in vteps.items()},
        rules=_policy(records),
        routes=routes,
    )


def _tunnels(records: Records, host: HostFacts, own: OwnTunnel) -> Iterator[tuple[str, Tunnel]]:
    """An interface for each lane of this node, which knows both lanes of the others."""
    ports = lane_ports(records.tables.data_port)
    for lane, key in enumerate(own.keys.lanes):
        if not key:
            continue
        awake = own.warming or lane == own.keys.lane
        yield (
            LANE_DEVICES[lane],
            Tunnel(
                key=key,
                port=ports[lane],
                mtu=host.underlay_mtu - ENCRYPTION_OVERHEAD,
                peers={
                    peer.tunnel.lanes[theirs]: TunnelPeer(
                        endpoint=f"{peer.addr}:{ports[theirs]}",
                        address=node_address(n, _LANE_PLACES[theirs]),
                        keepalive=KEEPALIVE if awake and theirs == peer.tunnel.lane else 0,
                    )
                    for n, theirs in _their_lanes(records)
                    for peer in (records.keyed[n],)
                    if peer.tunnel
                },
            ),
        )


def _their_lanes(records: Records) -> Iterator[tuple[int, int]]:
    for n, peer in records.keyed.items():
        for lane in LANES:
            if peer.tunnel and is_key(peer.tunnel.lanes[lane]):
                yield n, lane


def _policy(records: Records) -> dict[str, str]:
    """Replies to a client of another node: through that node, encrypted, or not at all."""
    mask = ENTRY | ENCRYPTED
    rules = {
        f"{FIRST_ENCRYPTED_RULE} fwmark 0/{ENCRYPTED:#x}": f"goto {LAST_ENCRYPTED_RULE}",
        f"{REFUSING_RULE} fwmark {ENCRYPTED:#x}/{ENCRYPTED:#x}": "unreachable",
        f"{LAST_ENCRYPTED_RULE}": "nop",
    }
    return rules | {
        f"{ENCRYPTED_PEER_RULE} fwmark {n << ENTRY_SHIFT | ENCRYPTED:#x}/{mask:#x}": "lookup "
        f"{FIRST_ENCRYPTED_TABLE + n}"
        for n in records.keyed
    }
