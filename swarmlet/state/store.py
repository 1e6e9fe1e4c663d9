"""Tables and indexes of the replicated state.

The tables are plain dicts of immutable objects, changed only by :mod:`swarmlet.state.fsm` between
two awaits of the event loop. So a reader needs no copy and no lock: a :class:`View` is valid until
its reader's next ``await``. Cost grows with the change: every look-up that a loop needs has an
index here, kept up to date by the two methods that write each table.
"""

from collections.abc import Iterable
from typing import Final, Protocol, TypeVar

from swarmlet.model.objects import Cluster, Node, Service, Task, TaskState

_K = TypeVar("_K")

SlotKey = tuple[str, int, str]

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

    __slots__ = ("cluster", "nodes", "services", "tasks")

    def __init__(self) -> None:
        self.cluster = False
        self.nodes: set[str] = set()
        self.services: set[str] = set()
        self.tasks: dict[str, Task] = {}  # the task as it is after the change, or was when deleted

    def merge(self, other: "Change") -> None:
        """Add what another entry touched."""
        self.cluster |= other.cluster
        self.nodes |= other.nodes
        self.services |= other.services
        self.tasks |= other.tasks

    def __bool__(self) -> bool:
        return bool(self.cluster or self.nodes or self.services or self.tasks)


class Store:
    """The tables. Only :mod:`swarmlet.state.fsm` and snapshots call the writing methods."""

    def __init__(self) -> None:
        self.index = 0
        self.cluster: Cluster | None = None
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

    def put_service(self, service: Service) -> None:
        """Insert or replace a service."""
        old = self._services.get(service.id)
        if old is not None:
            del self._service_names[old.spec.name]
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
        self._globals.pop(service_id, None)
        self.change.services.add(service_id)

    def put_task(self, task: Task) -> None:
        """Insert or replace a task."""
        old = self._tasks.get(task.id)
        if old is not None:
            self._unindex(old)
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
        self.change.tasks[task_id] = old

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

    def tables(self) -> tuple[list[Node], list[Service], list[Task]]:
        """Shallow copies of the tables, in a fixed order (the snapshot's)."""
        return (
            [self._nodes[k] for k in sorted(self._nodes)],
            [self._services[k] for k in sorted(self._services)],
            [self._tasks[k] for k in sorted(self._tasks)],
        )


def _discard(index: dict[_K, dict[str, Task]], key: _K, task_id: str) -> None:
    """Take a task out of an index; an empty entry goes too: indexes must not grow for ever."""
    entry = index.get(key)
    if entry is None:
        return
    entry.pop(task_id, None)
    if not entry:
        del index[key]
