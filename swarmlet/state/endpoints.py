"""Addresses, ports and numbers, given by the state machine with the command that needs them.

So they are unique whatever managers do at the same time, nothing waits for an allocator, and
nothing can leak: the account follows from the objects (docs/adr/0010).
"""

import ipaddress
from typing import Final

from msgspec.structs import replace

from swarmlet.errors import AlreadyExists, FailedPrecondition, InvalidInput, NotFound
from swarmlet.model.forwarding import Attachment
from swarmlet.model.networks import (
    DEFAULT_CONTROL_PORT,
    DEFAULT_DATA_PORT,
    DEFAULT_POOLS,
    INGRESS,
    NODE_POOL,
    overlapping,
)
from swarmlet.model.objects import Network, Service, Task, TaskState, TaskStatus
from swarmlet.model.specs import NetworkAttachment, PortConfig, ServiceSpec
from swarmlet.model.tunnels import lane_ports
from swarmlet.state.addresses import first_free_subnet
from swarmlet.state.commands import Refusal
from swarmlet.state.store import PortKey, Store, View

#: Published ports that the cluster chooses (swarmkit's range).
FIRST_PORT: Final = 30_000
LAST_PORT: Final = 32_767

#: Numbers that fit in the 12 bits of a packet's mark.
LAST_NUMBER: Final = 4095


# --- nodes --------------------------------------------------------------------------------------


def free_number(store: Store) -> int:
    """The lowest number that no node has; 0 when there is none: such a node has no overlay."""
    taken = {node.number for node in store.nodes()}
    return next((n for n in range(1, LAST_NUMBER + 1) if n not in taken), 0)


# --- networks -----------------------------------------------------------------------------------


def settle_network(store: Store, network: Network, avoid: tuple[str, ...]) -> Network | Refusal:
    """The network with a subnet, a gateway and a pool of addresses."""
    name = network.spec.name
    if store.network(network.id) is not None or store.network_named(name) is not None:
        return Refusal(AlreadyExists.code, f"network with name {name} already exists")
    if network.spec.ingress and any(other.spec.ingress for other in store.networks()):
        return Refusal(AlreadyExists.code, "ingress network is already present")
    wanted = network.spec.addresses
    taken = [other.subnet for other in store.networks()]
    cluster = store.cluster
    if wanted.subnet:
        subnet = str(ipaddress.IPv4Network(wanted.subnet))
        for others, whose in ((taken, _owner_of_subnet), ([NODE_POOL], _the_nodes)):
            if hit := overlapping(subnet, others):
                return Refusal(
                    FailedPrecondition.code,
                    f"subnet {subnet} overlaps {hit} of {whose(store, hit)}",
                )
    else:
        pools = (cluster.address_pools if cluster else ()) or DEFAULT_POOLS
        size = cluster.subnet_size if cluster else 24
        subnet = first_free_subnet(pools, size, [*taken, *avoid, NODE_POOL])
        if not subnet:
            return Refusal(
                FailedPrecondition.code,
                f"no free /{size} is left in {', '.join(pools)} for network {name}",
            )
    gateway = wanted.gateway or str(ipaddress.IPv4Network(subnet)[1])
    return replace(network, subnet=subnet, gateway=gateway, pool=wanted.ip_range or subnet)


def _owner_of_subnet(store: View, subnet: str) -> str:
    owners = (n.spec.name for n in store.networks() if n.subnet == subnet)
    return f"network {next(owners, '?')}"


def _the_nodes(_store: View, _subnet: str) -> str:
    return "the nodes' own overlay addresses"


def network_in_use(store: Store, network_id: str) -> Refusal | None:
    """Why a network cannot be removed."""
    network = store.network(network_id)
    if network is None:
        return Refusal(NotFound.code, f"network {network_id} not found")
    services = sorted(service.spec.name for service in store.services_in(network_id))
    owners = store.address_owners(network_id).values()
    tasks = sorted(task.name for owner in owners if (task := store.task(owner)) is not None)
    containers = sorted(
        f"{container.name} on node {hostname(store, container.node_id)}"
        for owner in owners
        if (container := store.container(owner)) is not None
    )
    for kind, users in (("service", services), ("task", tasks), ("container", containers)):
        if users:
            more = f" and {len(users) - 1} more" if len(users) > 1 else ""
            return Refusal(
                FailedPrecondition.code,
                "rpc error: code = FailedPrecondition desc = "
                f"network {network.spec.name} is in use by {kind} {users[0]}{more}",
            )
    return None


def hostname(store: View, node_id: str) -> str:
    """What a user calls a node."""
    node = store.node(node_id)
    return (node.hostname if node else "") or node_id


# --- services -----------------------------------------------------------------------------------

#: What a service gets: a virtual address in each network, and its published ports.
Endpoint = tuple[tuple[Attachment, ...], tuple[PortConfig, ...]]


def give(store: Store, new: Service, old: Service | None) -> Endpoint | Refusal:
    """Virtual addresses and published ports of a service; it keeps those that it has."""
    ports = _ports(store, new, old)
    if isinstance(ports, Refusal):
        return ports
    wanted = _networks(store, new.spec, ports)
    if isinstance(wanted, Refusal):
        return wanted
    dnsrr = new.spec.endpoint_spec is not None and new.spec.endpoint_spec.mode == "dnsrr"
    had = {a.network_id: a.address for a in old.attachments} if old else {}
    if dnsrr:
        return tuple(Attachment(network.id, "", aliases) for network, aliases in wanted), ports
    for network, _ in wanted:
        if not had.get(network.id) and not store.free_addresses(network.id, store.at):
            return Refusal(FailedPrecondition.code, no_address(network))
    attachments = tuple(
        Attachment(
            network.id, had.get(network.id) or store.take_address(network.id, new.id), aliases
        )
        for network, aliases in wanted
    )
    return attachments, ports


def no_address(network: Network) -> str:
    """Why something waits for an address."""
    return f"network {network.spec.name} has no free address in {network.pool}"


def networks_of(spec: ServiceSpec) -> tuple[NetworkAttachment, ...]:
    """The networks that a spec names: the template's count, as in swarmkit."""
    return spec.task_template.networks or spec.networks


def _networks(
    store: Store, spec: ServiceSpec, ports: tuple[PortConfig, ...]
) -> list[tuple[Network, tuple[str, ...]]] | Refusal:
    found: dict[str, tuple[Network, tuple[str, ...]]] = {}
    for attachment in networks_of(spec):
        target = attachment.target
        network = store.network(target) or store.network_named(target)
        if network is None:
            return Refusal(NotFound.code, f"network {target} not found")
        if network.spec.ingress:
            return Refusal(
                InvalidInput.code,
                "Service cannot be explicitly attached to the ingress network "
                f'"{network.spec.name}"',
            )
        found[network.id] = (network, attachment.aliases)
    if not found and any(port.publish_mode != "host" for port in ports):
        ingress = next((n for n in store.networks() if n.spec.ingress), None)
        if ingress is None:
            return Refusal(
                FailedPrecondition.code,
                f"there is no {INGRESS} network, which published ports need if their service has "
                f"no network of its own (swarmlet network create --ingress {INGRESS} makes it)",
            )
        found[ingress.id] = (ingress, ())
    return list(found.values())


def _ports(store: Store, new: Service, old: Service | None) -> tuple[PortConfig, ...] | Refusal:
    """The spec's ports, numbers chosen where it leaves them open."""
    had = _chosen(old) if old is not None else {}
    given: list[PortConfig] = []
    mine: set[PortKey] = {
        (p.protocol or "tcp", p.published_port) for p in new.spec.ports if p.published_port
    }
    for port in new.spec.ports:
        protocol = port.protocol or "tcp"
        if port.published_port:
            if port.publish_mode != "host" and (whose := _reserved(store).get(_key(port))):
                return Refusal(
                    InvalidInput.code,
                    "rpc error: code = InvalidArgument desc = "
                    f"port '{port.published_port}' is {whose}: publish another",
                )
            other = _in_the_way(store, new.id, port)
            if other is not None:
                return _port_taken(port, other)
            given.append(port)
            continue
        if port.publish_mode == "host":
            given.append(port)  # the engine chooses
            continue
        kept = had.get((protocol, port.target_port), 0)
        number = kept if kept and (protocol, kept) not in mine else 0
        number = number or _free_port(store, protocol, mine)
        if not number:
            return Refusal(
                FailedPrecondition.code,
                f"no free port is left between {FIRST_PORT} and {LAST_PORT}",
            )
        mine.add((protocol, number))
        given.append(replace(port, published_port=number))
    return tuple(given)


def _key(port: PortConfig) -> PortKey:
    return (port.protocol or "tcp", port.published_port)


def _reserved(store: Store) -> dict[PortKey, str]:
    """The ports that the nodes themselves live by, and whose they are."""
    listens = {node.manager_addr.rpartition(":")[2] for node in store.nodes()} - {""}
    control = {DEFAULT_CONTROL_PORT, *(int(port) for port in listens if port.isdigit())}
    data = store.cluster.data_port if store.cluster else DEFAULT_DATA_PORT
    return {
        **{("tcp", port): "the port on which the nodes talk to each other" for port in control},
        ("udp", data): "the port of the data path between nodes",
        **{
            ("udp", port): "a port of the data path of encrypted networks"
            for port in lane_ports(data)
        },
    }


def _chosen(old: Service) -> dict[PortKey, int]:
    """The numbers that were chosen for a service, by protocol and target."""
    return {
        (given.protocol or "tcp", given.target_port): given.published_port
        for asked, given in zip(old.spec.ports, old.ports, strict=False)
        if not asked.published_port and asked.publish_mode != "host"
    }


def _in_the_way(store: Store, service_id: str, port: PortConfig) -> Service | None:
    """Another service that has this number: on all nodes, or on those of its tasks."""
    key = (port.protocol or "tcp", port.published_port)
    owner = store.publisher(key)
    if owner is not None and owner.id != service_id:
        return owner
    if port.publish_mode == "host":
        return None  # two services may have a host port, on nodes of their own
    return next(
        (
            other
            for other in store.services()
            if other.id != service_id
            and any(
                p.publish_mode == "host" and (p.protocol or "tcp", p.published_port) == key
                for p in other.spec.ports
            )
        ),
        None,
    )


def _port_taken(port: PortConfig, other: Service) -> Refusal:
    everywhere = any(p.publish_mode != "host" and _key(p) == _key(port) for p in other.ports)
    mode = "ingress" if everywhere else "host-published"
    return Refusal(
        InvalidInput.code,
        f"rpc error: code = InvalidArgument desc = port '{port.published_port}' is already in use "
        f"by service '{other.spec.name}' ({other.id}) as {mode} port",
    )


def _free_port(store: Store, protocol: str, mine: set[PortKey]) -> int:
    return next(
        (
            number
            for number in range(FIRST_PORT, LAST_PORT + 1)
            if (protocol, number) not in mine and store.publisher((protocol, number)) is None
        ),
        0,
    )


# --- tasks --------------------------------------------------------------------------------------


def of_task(service: Service) -> tuple[Attachment, ...]:
    """The networks of a new task, no addresses yet."""
    return tuple(replace(a, address="") for a in service.attachments)


def address(store: Store, task: Task) -> tuple[Attachment, ...] | TaskStatus:
    """A task's attachments with addresses; or, when a network is full, the status that says so."""
    for attachment in task.attachments:
        if not attachment.address and not store.free_addresses(attachment.network_id, store.at):
            return _waits(store, task, attachment.network_id)
    return tuple(
        replace(a, address=a.address or store.take_address(a.network_id, task.id))
        for a in task.attachments
    )


def _waits(store: Store, task: Task, network_id: str) -> TaskStatus:
    network = store.network(network_id)
    text = no_address(network) if network else f"network {network_id} is gone"
    if task.status.err == text:
        return task.status  # said once: a new time would wake the scheduler for nothing
    return TaskStatus(
        state=TaskState.PENDING, at=store.at, message="pending task scheduling", err=text
    )
