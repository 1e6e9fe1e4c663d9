"""The cluster's records, checked and sorted for planning."""

import functools
import ipaddress
from collections.abc import Iterable, Iterator

import msgspec

from swarmlet.model.forwarding import NetworkRecord, PeerRecord, Reach, Tables, TaskRecord
from swarmlet.model.networks import is_address
from swarmlet.model.tunnels import is_key
from swarmlet.net.facts import OwnTunnel
from swarmlet.net.numbers import ENCRYPTION_OVERHEAD, VXLAN_OVERHEAD, bridge_name


class Bridge(msgspec.Struct, frozen=True):
    """A bridge that this node needs, since a task of it is in that network."""

    network_id: str
    name: str
    subnet: str
    gateway: str
    mtu: int


@functools.lru_cache(maxsize=4096)
def _subnet(text: str) -> ipaddress.IPv4Network | None:
    try:
        return ipaddress.IPv4Network(text)
    except ValueError:
        return None


def within(address: str, subnets: Iterable[str]) -> bool:
    """Whether an address is in one of these."""
    return is_address(address) and any(
        ipaddress.IPv4Address(address) in network
        for subnet in subnets
        if (network := _subnet(subnet))
    )


def bridge_of(network: NetworkRecord, underlay_mtu: int) -> Bridge:
    """A network's bridge, on every node alike but for what fits through its underlay."""
    overhead = VXLAN_OVERHEAD + (ENCRYPTION_OVERHEAD if network.encrypted else 0)
    return Bridge(
        network_id=network.id,
        name=bridge_name(network.id),
        subnet=network.subnet,
        gateway=network.gateway,
        mtu=underlay_mtu - overhead,
    )


class Records:
    """What does not make sense is left out, and named in ``problems``."""

    def __init__(self, tables: Tables, own: OwnTunnel | None = None) -> None:
        self.tables = tables
        self.me = tables.me
        self.problems: list[str] = []
        self.peers = {
            peer.number: peer
            for _, peer in sorted(tables.peers.items())
            if 0 < peer.number < 4096 and is_address(peer.addr)
        }
        self.networks = dict(self._networks())
        #: Networks whose packets between nodes are encrypted, and nodes they can be exchanged with.
        self.encrypted = frozenset(n for n, it in self.networks.items() if it.encrypted)
        self.keyed = dict(self._keyed(own)) if self.encrypted and own else {}
        #: Addresses of each task, by network; tasks in the order of their identifiers.
        self.places: dict[str, dict[str, str]] = {}
        #: The task that an address belongs to.
        self.owners: dict[str, TaskRecord] = {}
        self._place_tasks()
        #: Tasks of this node.
        self.local = [tables.tasks[i] for i in self.places if tables.tasks[i].node == self.me]

    def _networks(self) -> Iterator[tuple[str, NetworkRecord]]:
        seen: list[tuple[ipaddress.IPv4Network, NetworkRecord]] = []
        for key, network in sorted(self.tables.networks.items()):
            subnet = _subnet(network.subnet)
            if subnet is None or not is_address(network.gateway) or not key.isalnum():
                self.problems.append(f"network {network.name}: no usable subnet")
                continue
            clash = next((other for it, other in seen if it.overlaps(subnet)), None)
            if clash is not None:
                self.problems.append(f"network {network.name}: overlaps network {clash.name}")
                continue
            seen.append((subnet, network))
            yield key, network

    def _keyed(self, own: OwnTunnel) -> Iterator[tuple[int, PeerRecord]]:
        taken = {key: "this node" for key in own.keys.lanes if key}
        for number, peer in sorted(self.peers.items()):
            tunnel = peer.tunnel
            if number == self.me or tunnel is None or not tunnel.usable:
                continue
            name = peer.hostname or peer.id
            for key in filter(is_key, tunnel.lanes):
                if key in taken:
                    self.problems.append(f"node {name}: its key is that of {taken[key]}")
                    break
                taken[key] = f"node {name}"
            else:
                yield number, peer

    def _place_tasks(self) -> None:
        tasks, networks = self.tables.tasks, self.networks
        for key in sorted(tasks):
            task = tasks[key]
            places: dict[str, str] = {}
            for place in task.attachments:
                address = place.address
                if place.network_id not in networks or not is_address(address):
                    continue
                owner = self.owners.setdefault(address, task)
                if owner is task:
                    places[place.network_id] = address
                else:
                    self.problems.append(f"{address}: both of {owner.name} and of {task.name}")
            if places:
                self.places[key] = places

    def reach(self, number: int) -> Reach:
        """What is thought of a node; this one knows better of itself."""
        if number == self.me:
            return Reach.READY
        peer = self.peers.get(number)
        return Reach.LOST if peer is None else peer.reach

    def passes(self, task: TaskRecord, network: str) -> bool:
        """Whether packets of a network can be exchanged with the node of a task."""
        return network not in self.encrypted or task.node == self.me or task.node in self.keyed

    def bridges(self, underlay_mtu: int) -> dict[str, Bridge]:
        """The bridges that tasks of this node need."""
        needed = sorted({n for task in self.local for n in self.places[task.id]})
        return {n: bridge_of(self.networks[n], underlay_mtu) for n in needed}

    def sources(self) -> dict[str, frozenset[str]]:
        """For each address of a task of this node, all addresses of that task.

        A task in several networks answers by its default route, with the address it was asked by.
        """
        return {
            address: addresses
            for task in self.local
            for addresses in (frozenset(self.places[task.id].values()),)
            for address in addresses
        }
