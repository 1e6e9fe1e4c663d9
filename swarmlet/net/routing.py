"""How packets get to other nodes and back: device, neighbours, routes, policy and settings."""

from collections.abc import Iterable, Mapping

from swarmlet.model.forwarding import Reach
from swarmlet.model.networks import Place, node_address
from swarmlet.net import tunnels
from swarmlet.net.facts import HostFacts
from swarmlet.net.links import Links, Vxlan
from swarmlet.net.numbers import (
    DEVICE,
    ENCRYPTED_DEVICE,
    ENTRY,
    ENTRY_SHIFT,
    FIRST_RULE,
    FIRST_TABLE,
    LAST_RULE,
    PEER_RULE,
    VNI,
    VXLAN_OVERHEAD,
    mac,
)
from swarmlet.net.records import Bridge, Records


def links(records: Records, host: HostFacts, bridges: Mapping[str, Bridge]) -> Links:
    """Everything beside the nft tables."""
    me = records.me
    own = records.peers.get(me)
    vtep = node_address(me)
    peers = {n: p for n, p in records.peers.items() if n != me}
    vteps = {n: node_address(n) for n in peers}
    encrypted = tunnels.links(records, host)
    routes = {f"{a}/32": f"dev {DEVICE} src {vtep}" for a in vteps.values()}
    routes |= {
        f"default table {FIRST_TABLE + n}": f"via {a} dev {DEVICE} onlink" for n, a in vteps.items()
    }
    routes |= _task_routes(records, vteps)
    device = Vxlan(
        vni=VNI,
        port=records.tables.data_port,
        local=own.addr if own and host.has_address else "",
        mac=mac(me),
        mtu=host.underlay_mtu - VXLAN_OVERHEAD,
    )
    sysctls = host_sysctls() | _bridges_sysctls(bridges.values())
    for name in (DEVICE, *encrypted.devices, *encrypted.tunnels):
        sysctls |= _device_sysctls(name)
    return Links(
        devices={DEVICE: device} | encrypted.devices,
        tunnels=encrypted.tunnels,
        addresses=encrypted.addresses | {f"{vtep}/32 dev {DEVICE}"},
        fdb={f"{mac(n)} dev {DEVICE}": p.addr for n, p in peers.items()} | encrypted.fdb,
        neighbours={f"{a} dev {DEVICE}": mac(n) for n, a in vteps.items()} | encrypted.neighbours,
        rules=_policy(peers) | encrypted.rules,
        routes=routes | encrypted.routes,
        sysctls=sysctls,
        accept=frozenset([host.accept_chain] if host.accept_chain else []),
        hairpin=frozenset(host.ports) if host.bridge_nf else frozenset(),
    )


def _task_routes(records: Records, vteps: Mapping[int, str]) -> dict[str, str]:
    """A route to each task of another node; to none that is lost, and so is refused at once."""
    reached = [n for n in vteps if records.reach(n) is not Reach.LOST]
    plain = _ways(records.me, reached, Place.OVERLAY, DEVICE)
    sealed = _ways(records.me, records.keyed.keys() & reached, Place.ENCRYPTED, ENCRYPTED_DEVICE)
    tasks, encrypted = records.tables.tasks, records.encrypted
    return {
        f"{address}/32": to
        for key, places in records.places.items()
        for network, address in places.items()
        if (to := (sealed if network in encrypted else plain).get(tasks[key].node))
    }


def _ways(me: int, nodes: Iterable[int], place: Place, device: str) -> dict[int, str]:
    source = node_address(me, place)
    return {n: f"via {node_address(n, place)} dev {device} onlink src {source}" for n in nodes}


def _policy(peers: Iterable[int]) -> dict[str, str]:
    """Replies to a client go back through the node that it came in by."""
    if not peers:
        return {}
    rules = {
        f"{FIRST_RULE} fwmark 0/{ENTRY:#x}": f"goto {LAST_RULE}",
        f"{LAST_RULE}": "nop",
    }
    return rules | {way_back(n): f"lookup {FIRST_TABLE + n}" for n in peers}


def way_back(number: int) -> str:
    """The rule for replies to clients that came in by a node."""
    return f"{PEER_RULE} fwmark {number << ENTRY_SHIFT:#x}/{ENTRY:#x}"


def host_sysctls() -> dict[str, str]:
    """Settings of the whole host; who leaves puts back what was there."""
    return {"net/ipv4/ip_forward": "1", "net/ipv4/conf/all/send_redirects": "0"}


def _device_sysctls(device: str) -> dict[str, str]:
    conf = f"net/ipv4/conf/{device}"
    return {
        f"{conf}/forwarding": "1",
        # Loose: an answer may leave by another device than the question came in by.
        f"{conf}/rp_filter": "2",
        f"{conf}/send_redirects": "0",
        # For this host's own connections from 127.0.0.1 to published ports.
        f"{conf}/route_localnet": "1",
        # Only what the rules see passes, and they are for IPv4.
        f"net/ipv6/conf/{device}/disable_ipv6": "1",
    }


def bridge_sysctls(device: str) -> dict[str, str]:
    """Settings of a bridge: it answers every ARP question at once, so all packets are routed."""
    conf = f"net/ipv4/conf/{device}"
    return _device_sysctls(device) | {
        f"{conf}/proxy_arp": "1",
        f"{conf}/proxy_arp_pvlan": "1",
        f"net/ipv4/neigh/{device}/proxy_delay": "0",
    }


def _bridges_sysctls(bridges: Iterable[Bridge]) -> dict[str, str]:
    settings: dict[str, str] = {}
    for bridge in bridges:
        settings |= bridge_sysctls(bridge.name)
    return settings
