"""Tables and indexes of the replicated state.

The tables are plain dicts of immutable objects, changed only by :mod:`swarmlet.state.fsm` between
two awaits of the event loop. So a reader needs no copy and no lock: a :class:`View` is valid until
its reader's next ``await``. Cost grows with the change: every look-up that a loop needs has an
index here, kept up to date by the two methods that write each table.
"""

from collections.abc import Iterable
from typing import Final, Protocol, TypeVar

from swarmlet.clock import Instant
from swarmlet.model.forwarding import Attachment
from swarmlet.model.objects import (
    AttachedContainer,
    Cluster,
    Config,
    Network,
    Node,
    Secret,
    Service,
    Task,
    TaskState,
)
from swarmlet.model.specs import PortConfig
from swarmlet.state.addresses import Pool, Rested
from swarmlet.state.tables import Lookup, Named

_K = TypeVar("_K")
_V = TypeVar("_V")

SlotKey = tuple[str, int, str]

#: A published port: protocol and number.
PortKey = tuple[str, int]

_NONE: Final[dict[str, Task]] = {}


class View(Protocol):
    """The read-only face of the store. Do not keep it across an ``await``."""

    @property
    def index(self) -> int:
        """Raft index of the last applied entry."""
        ...

    @property
    def cluster(self) -> Cluster | None:
        """The cluster object; None before the first entry of a new cluster."""
        ...

    def node(self, node_id: str) -> Node | None:
        """The node of that identifier."""
        ...

    def nodes(self) -> Iterable[Node]:
        """All nodes."""
        ...

    def service(self, service_id: str) -> Service | None:
        """The service of that identifier."""
        ...

    def service_named(self, name: str) -> Service | None:
        """The service of that name."""
        ...

    def services(self) -> Iterable[Service]:
        """All services."""
        ...

    def global_services(self) -> Iterable[Service]:
        """Services that want one task on each node."""
        ...

    def network(self, network_id: str) -> Network | None:
        """The network of that identifier."""
        ...

    def network_named(self, name: str) -> Network | None:
        """The network of that name."""
        ...

    def networks(self) -> Iterable[Network]:
        """All networks."""
        ...

    def services_in(self, network_id: str) -> Iterable[Service]:
        """Services whose tasks join a network."""
        ...

    def address_owners(self, network_id: str) -> dict[str, str]:
        """Who has which address of a network: identifiers of services, tasks and containers."""
        ...

    def free_addresses(self, network_id: str, now: Instant) -> int:
        """How many addresses of a network could be given now."""
        ...

    def container(self, ident: str) -> AttachedContainer | None:
        """The attached container of that identifier."""
        ...

    def containers_on_node(self, node_id: str) -> Iterable[AttachedContainer]:
        """The attached containers of a node."""
        ...

    def publisher(self, key: PortKey) -> Service | None:
        """The service that has a published port on all nodes."""
        ...

    @property
    def secrets(self) -> Lookup[Secret]:
        """All secrets."""
        ...

    @property
    def configs(self) -> Lookup[Config]:
        """All configs."""
        ...

    def task(self, task_id: str) -> Task | None:
        """The task of that identifier."""
        ...

    def tasks(self) -> Iterable[Task]:
        """All tasks."""
        ...

    def tasks_of_service(self, service_id: str) -> Iterable[Task]:
        """Tasks of a service, ended ones included; also of a service that was removed."""
        ...

    def wanted_tasks(self, service_id: str) -> Iterable[Task]:
        """Those tasks of a service that fill its slots, see :attr:`Task.wanted`."""
        ...

    def tasks_on_node(self, node_id: str) -> Iterable[Task]:
        """Tasks assigned to a node, ended ones included."""
        ...

    def tasks_in_slot(self, key: SlotKey) -> Iterable[Task]:
        """All attempts at one slot, see :attr:`Task.slot_key`."""
        ...

    def unassigned(self) -> Iterable[Task]:
        """Tasks that wait for the scheduler."""
        ...


class Change:
    """What one applied entry touched: identifiers, by table. Watchers accumulate these."""

    __slots__ = ("cluster", "containers", "networks", "nodes", "services", "tasks")

    def __init__(self) -> None:
        self.cluster = False
        self.containers: set[str] = set()
        self.networks: set[str] = set()
        self.nodes: set[str] = set()
        self.services: set[str] = set()
        self.tasks: dict[str, Task] = {}  # the task as it is after the change, or was when deleted

    def merge(self, other: "Change") -> None:
        """Add what another entry touched."""
        self.cluster |= other.cluster
        self.containers |= other.containers
        self.networks |= other.networks
        self.nodes |= other.nodes
        self.services |= other.services
        self.tasks |= other.tasks

    def __bool__(self) -> bool:
        return any(getattr(self, table) for table in self.__slots__)


def everything(view: View) -> Change:
    """A change that touches all there is: where a loop begins."""
    change = Change()
    change.cluster = True
    change.networks.update(network.id for network in view.networks())
    for node in view.nodes():
        change.nodes.add(node.id)
        change.containers.update(one.id for one in view.containers_on_node(node.id))
    change.services.update(service.id for service in view.services())
    change.tasks.update((task.id, task) for task in view.tasks())
    return change


class Store:
    """The tables. Only :mod:`swarmlet.state.fsm` and snapshots call the writing methods."""

    def __init__(self) -> None:
        self.index = 0
        #: Time of the entry that is applied; what is given back rests from then on.
        self.at = Instant(0)
        self.cluster: Cluster | None = None
        self.secrets: Named[Secret] = Named()
        self.configs: Named[Config] = Named()
        self._networks: dict[str, Network] = {}
        self._network_names: dict[str, str] = {}
        self._pools: dict[str, Pool] = {}
        self._members: dict[str, dict[str, Service]] = {}
        self._published: dict[PortKey, str] = {}
        self._containers: dict[str, AttachedContainer] = {}
        self._containers_by_node: dict[str, dict[str, AttachedContainer]] = {}
        self._nodes: dict[str, Node] = {}
        self._services: dict[str, Service] = {}
        self._tasks: dict[str, Task] = {}
        self._service_names: dict[str, str] = {}
        self._by_service: dict[str, dict[str, Task]] = {}
        self._globals: dict[str, Service] = {}
        self._wanted: dict[str, dict[str, Task]] = {}
        self._by_node: dict[str, dict[str, Task]] = {}
        self._by_slot: dict[SlotKey, dict[str, Task]] = {}
        self._unassigned: dict[str, Task] = {}
        self.change = Change()

    def node(self, node_id: str) -> Node | None:
        """See :class:`View`."""
        return self._nodes.get(node_id)

    def nodes(self) -> Iterable[Node]:
        """See :class:`View`."""
        return self._nodes.values()

    def service(self, service_id: str) -> Service | None:
        """See :class:`View`."""
        return self._services.get(service_id)

    def service_named(self, name: str) -> Service | None:
        """See :class:`View`."""
        found = self._service_names.get(name)
        return None if found is None else self._services[found]

    def services(self) -> Iterable[Service]:
        """See :class:`View`."""
        return self._services.values()

    def global_services(self) -> Iterable[Service]:
        """See :class:`View`."""
        return self._globals.values()

    def network(self, network_id: str) -> Network | None:
        """See :class:`View`."""
        return self._networks.get(network_id)

    def network_named(self, name: str) -> Network | None:
        """See :class:`View`."""
        found = self._network_names.get(name)
        return None if found is None else self._networks[found]

    def networks(self) -> Iterable[Network]:
        """See :class:`View`."""
        return self._networks.values()

    def services_in(self, network_id: str) -> Iterable[Service]:
        """See :class:`View`."""
        return self._members.get(network_id, {}).values()

    def address_owners(self, network_id: str) -> dict[str, str]:
        """See :class:`View`."""
        pool = self._pools.get(network_id)
        return {} if pool is None else pool.owners

    def free_addresses(self, network_id: str, now: Instant) -> int:
        """See :class:`View`."""
        pool = self._pools.get(network_id)
        return 0 if pool is None else pool.free(now)

    def container(self, ident: str) -> AttachedContainer | None:
        """See :class:`View`."""
        return self._containers.get(ident)

    def containers_on_node(self, node_id: str) -> Iterable[AttachedContainer]:
        """See :class:`View`."""
        return self._containers_by_node.get(node_id, {}).values()

    def publisher(self, key: PortKey) -> Service | None:
        """See :class:`View`."""
        found = self._published.get(key)
        return None if found is None else self._services[found]

    def task(self, task_id: str) -> Task | None:
        """See :class:`View`."""
        return self._tasks.get(task_id)

    def tasks(self) -> Iterable[Task]:
        """See :class:`View`."""
        return self._tasks.values()

    def tasks_of_service(self, service_id: str) -> Iterable[Task]:
        """See :class:`View`."""
        return self._by_service.get(service_id, _NONE).values()

    def wanted_tasks(self, service_id: str) -> Iterable[Task]:
        """See :class:`View`."""
        return self._wanted.get(service_id, _NONE).values()

    def tasks_on_node(self, node_id: str) -> Iterable[Task]:
        """See :class:`View`."""
        return self._by_node.get(node_id, _NONE).values()

    def tasks_in_slot(self, key: SlotKey) -> Iterable[Task]:
        """See :class:`View`."""
        return self._by_slot.get(key, _NONE).values()

    def unassigned(self) -> Iterable[Task]:
        """See :class:`View`."""
        return self._unassigned.values()

    def put_cluster(self, cluster: Cluster) -> None:
        """Replace the cluster object."""
        self.cluster = cluster
        self.change.cluster = True

    def put_node(self, node: Node) -> None:
        """Insert or replace a node."""
        self._nodes[node.id] = node
        self.change.nodes.add(node.id)

    def delete_node(self, node_id: str) -> None:
        """Remove a node; its tasks stay."""
        del self._nodes[node_id]
        self.change.nodes.add(node_id)

    def put_network(self, network: Network) -> None:
        """Insert a network. Its range of addresses never changes."""
        self._networks[network.id] = network
        self._network_names[network.spec.name] = network.id
        reserved = (network.gateway, *network.spec.addresses.auxiliary_addresses.values())
        self._pools[network.id] = Pool(network.subnet, network.pool, reserved)
        self.change.networks.add(network.id)

    def delete_network(self, network_id: str) -> None:
        """Remove a network that nobody uses."""
        old = self._networks.pop(network_id)
        del self._network_names[old.spec.name]
        del self._pools[network_id]
        self.change.networks.add(network_id)

    def take_address(self, network_id: str, owner: str) -> str:
        """Give an address of a network to a service or task; "" when there is none."""
        pool = self._pools.get(network_id)
        return "" if pool is None else pool.take(owner, self.at)

    def is_given(self, network_id: str, address: str) -> bool:
        """Whether an address is one that somebody can have there, taken or not."""
        pool = self._pools.get(network_id)
        return pool is not None and pool.has(address)

    def address_owner(self, network_id: str, address: str) -> str:
        """Who has an address of a network; "" while nobody has."""
        pool = self._pools.get(network_id)
        return "" if pool is None else pool.owner(address)

    def give_back(self, owner: str, attachments: Iterable[Attachment]) -> None:
        """Take back the addresses that ``owner`` has there."""
        for attachment in attachments:
            pool = self._pools.get(attachment.network_id)
            if pool is not None and attachment.address:
                pool.release(owner, attachment.address, self.at)

    def _hold(self, owner: str, attachments: Iterable[Attachment]) -> None:
        for attachment in attachments:
            pool = self._pools.get(attachment.network_id)
            if pool is not None and attachment.address:
                pool.hold(owner, attachment.address)

    def rested(self) -> list[Rested]:
        """What a snapshot keeps of the networks' addresses, beside the objects."""
        return [self._pools[k].freeze(k) for k in sorted(self._pools)]

    def rest(self, rested: Iterable[Rested]) -> None:
        """Take over what a snapshot kept."""
        for one in rested:
            self._pools[one.network_id].thaw(one)

    def put_service(self, service: Service) -> None:
        """Insert or replace a service."""
        old = self._services.get(service.id)
        if old is not None:
            del self._service_names[old.spec.name]
            self._unindex_service(old, kept=service.attachments)
        self._hold(service.id, service.attachments)
        for attachment in service.attachments:
            self._members.setdefault(attachment.network_id, {})[service.id] = service
        for key in ingress_ports(service.ports):
            self._published[key] = service.id
        self._services[service.id] = service
        self._service_names[service.spec.name] = service.id
        self._globals.pop(service.id, None)
        if service.spec.is_global:
            self._globals[service.id] = service
        self.change.services.add(service.id)

    def delete_service(self, service_id: str) -> None:
        """Remove a service; its tasks stay."""
        old = self._services.pop(service_id)
        del self._service_names[old.spec.name]
        self._unindex_service(old)
        self._globals.pop(service_id, None)
        self.change.services.add(service_id)

    def _unindex_service(self, old: Service, *, kept: tuple[Attachment, ...] = ()) -> None:
        addresses = {attachment.address for attachment in kept}
        self.give_back(old.id, (a for a in old.attachments if a.address not in addresses))
        for attachment in old.attachments:
            _discard(self._members, attachment.network_id, old.id)
        for key in ingress_ports(old.ports):
            del self._published[key]

    def put_task(self, task: Task) -> None:
        """Insert or replace a task. It has its addresses until it has ended."""
        old = self._tasks.get(task.id)
        if old is not None:
            self._unindex(old)
        if not task.status.state.ended:
            self._hold(task.id, task.attachments)
        elif old is not None and not old.status.state.ended:
            self.give_back(task.id, old.attachments)
        self._tasks[task.id] = task
        self._by_service.setdefault(task.service_id, {})[task.id] = task
        self._by_slot.setdefault(task.slot_key, {})[task.id] = task
        if task.node_id:
            self._by_node.setdefault(task.node_id, {})[task.id] = task
        if task.wanted:
            self._wanted.setdefault(task.service_id, {})[task.id] = task
            if task.status.state <= TaskState.PENDING:
                self._unassigned[task.id] = task
        self.change.tasks[task.id] = task

    def delete_task(self, task_id: str) -> None:
        """Remove a task."""
        old = self._tasks.pop(task_id)
        self._unindex(old)
        if not old.status.state.ended:
            self.give_back(task_id, old.attachments)
        self.change.tasks[task_id] = old

    def put_container(self, container: AttachedContainer) -> None:
        """Insert or replace an attached container; it stays on its node."""
        old = self._containers.get(container.id)
        if old is not None:
            kept = {a.address for a in container.attachments}
            self.give_back(old.id, (a for a in old.attachments if a.address not in kept))
        self._hold(container.id, container.attachments)
        self._containers[container.id] = container
        self._containers_by_node.setdefault(container.node_id, {})[container.id] = container
        self.change.containers.add(container.id)

    def delete_container(self, ident: str) -> None:
        """Forget an attached container."""
        old = self._containers.pop(ident)
        self.give_back(ident, old.attachments)
        _discard(self._containers_by_node, old.node_id, ident)
        self.change.containers.add(ident)

    def take_change(self) -> Change:
        """What was touched since the last call."""
        change, self.change = self.change, Change()
        return change

    def _unindex(self, task: Task) -> None:
        _discard(self._by_service, task.service_id, task.id)
        _discard(self._by_slot, task.slot_key, task.id)
        _discard(self._by_node, task.node_id, task.id)
        _discard(self._wanted, task.service_id, task.id)
        self._unassigned.pop(task.id, None)

    def attached(self) -> list[AttachedContainer]:
        """All attached containers, in the snapshot's order."""
        return [self._containers[k] for k in sorted(self._containers)]

    def tables(self) -> tuple[list[Node], list[Service], list[Task], list[Network]]:
        """Shallow copies of the tables, in a fixed order (the snapshot's)."""
        return (
            [self._nodes[k] for k in sorted(self._nodes)],
            [self._services[k] for k in sorted(self._services)],
            [self._tasks[k] for k in sorted(self._tasks)],
            [self._networks[k] for k in sorted(self._networks)],
        )


def ingress_ports(ports: tuple[PortConfig, ...]) -> list[PortKey]:
    """The ports that are published on every node."""
    return [
        (port.protocol or "tcp", port.published_port)
        for port in ports
        if port.publish_mode != "host" and port.published_port
    ]


def _discard(index: dict[_K, dict[str, _V]], key: _K, task_id: str) -> None:
    """Take an object out of an index; an empty entry goes too: indexes must not grow for ever."""
    entry = index.get(key)
    if entry is None:
        return
    entry.pop(task_id, None)
    if not entry:
        del index[key]
