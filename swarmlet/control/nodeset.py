"""How full each node is: what the scheduler ranks by, kept up to date change by change.

A :class:`NodeSet` is a function of the store alone: built from a view or led along by changes, it
is the same (tests/property). So it can be thrown away at any time, and a new leader builds its own.
"""

from collections.abc import Mapping
from typing import Final, TypeVar

from swarmlet.clock import Instant
from swarmlet.model.objects import Node, Task, TaskState
from swarmlet.model.specs import PortConfig, Resources
from swarmlet.state.store import Change, View

_K = TypeVar("_K")

Port = tuple[str, int]

_NO_RESOURCES: Final = Resources()
_FAILED: Final = frozenset({TaskState.FAILED, TaskState.REJECTED})


class Load:
    """One node and what its tasks take.

    ``tasks`` and ``services`` count the tasks that are wanted there; resources and ports are held
    until a task has ended, wanted or not. ``failures`` are by service and version, then by task.
    """

    __slots__ = ("cpus", "failures", "generic", "memory", "node", "ports", "services", "tasks")

    def __init__(self, node: Node) -> None:
        self.node = node
        self.tasks = 0
        self.services: dict[str, int] = {}
        self.cpus = 0
        self.memory = 0
        self.generic: dict[str, int] = {}
        self.ports: dict[Port, int] = {}
        self.failures: dict[tuple[str, int], dict[str, Instant]] = {}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Load) and all(
            getattr(self, name) == getattr(other, name) for name in self.__slots__
        )

    __hash__ = None  # type: ignore[assignment]  # mutable

    def has_room(self, needed: Resources) -> bool:
        """Whether these reservations fit beside the present ones. Nothing asked always fits."""
        about = self.node.description
        has = about.resources if about else _NO_RESOURCES
        if needed.nano_cpus and needed.nano_cpus > has.nano_cpus - self.cpus:
            return False
        if needed.memory_bytes and needed.memory_bytes > has.memory_bytes - self.memory:
            return False
        if not needed.generic_resources:
            return True
        owned = amounts(has)
        return all(
            count <= owned.get(kind, 0) - self.generic.get(kind, 0)
            for kind, count in amounts(needed).items()
        )

    def take(self, task: Task, sign: int = 1) -> None:
        """Count a wanted task that holds its resources; ``sign`` -1 takes it back."""
        self.count(task, sign)
        self.hold(task, sign)

    def count(self, task: Task, sign: int) -> None:
        """Count a wanted task."""
        self.tasks += sign
        _add(self.services, task.service_id, sign)

    def hold(self, task: Task, sign: int) -> None:
        """Reserve what a task holds until it has ended."""
        needed = task.spec.reservations
        self.cpus += sign * needed.nano_cpus
        self.memory += sign * needed.memory_bytes
        for kind, amount in amounts(needed).items():
            _add(self.generic, kind, sign * amount)
        for port in host_ports(task.ports):
            _add(self.ports, port, sign)

    def recent_failures(self, service: str, spec_version: int, since: Instant) -> int:
        """Tasks of a service and version that failed here since then."""
        times = self.failures.get((service, spec_version))
        return sum(at >= since for at in times.values()) if times else 0


class NodeSet:
    """The load of every node."""

    def __init__(self) -> None:
        self.loads: dict[str, Load] = {}
        self._counted: dict[str, Task] = {}

    @classmethod
    def of(cls, view: View) -> "NodeSet":
        """Build it from scratch."""
        nodes = cls()
        nodes.reset(view)
        return nodes

    def reset(self, view: View) -> None:
        """Start anew, when changes may have been missed."""
        self.loads = {node.id: Load(node) for node in view.nodes()}
        self._counted = {}
        for task in view.tasks():
            self._add(task)

    def update(self, view: View, change: Change) -> None:
        """Follow what an entry touched. Cost grows with the change."""
        for task_id in change.tasks:
            self._remove(task_id)
        for node_id in change.nodes:
            self._refresh(view, node_id)
        for task_id in change.tasks:
            task = view.task(task_id)
            if task is not None:
                self._add(task)

    def _refresh(self, view: View, node_id: str) -> None:
        node, load = view.node(node_id), self.loads.get(node_id)
        if node is None:
            self.loads.pop(node_id, None)
        elif load is not None:
            load.node = node
        else:
            self.loads[node_id] = Load(node)
            for task in view.tasks_on_node(node_id):
                self._add(task)

    def _add(self, task: Task) -> None:
        self._remove(task.id)  # a new node and a change of its task come together
        if task.node_id in self.loads and _counts(task):
            self._counted[task.id] = task
            _apply(self.loads[task.node_id], task, 1)

    def _remove(self, task_id: str) -> None:
        task = self._counted.pop(task_id, None)
        load = self.loads.get(task.node_id) if task is not None else None
        if task is not None and load is not None:
            _apply(load, task, -1)


def host_ports(ports: tuple[PortConfig, ...]) -> tuple[Port, ...]:
    """The ports that a task binds on its node itself."""
    return tuple(
        (port.protocol or "tcp", port.published_port)
        for port in ports
        if port.publish_mode == "host" and port.published_port
    )


def amounts(resources: Resources) -> Mapping[str, int]:
    """Generic resources by kind: discrete ones are counted, each named one is one."""
    found: dict[str, int] = {}
    for one in resources.generic_resources:
        if one.discrete_resource_spec is not None:
            _add(found, one.discrete_resource_spec.kind, one.discrete_resource_spec.value)
        if one.named_resource_spec is not None:
            _add(found, one.named_resource_spec.kind, 1)
    return found


def _counts(task: Task) -> bool:
    """Whether a task says anything about its node: it sits there, or it failed there."""
    state = task.status.state
    return (state >= TaskState.ASSIGNED and not state.ended) or state in _FAILED


def _apply(load: Load, task: Task, sign: int) -> None:
    if task.status.state in _FAILED:
        _note_failure(load, task, sign)
        return
    load.hold(task, sign)
    if task.wanted:
        load.count(task, sign)


def _note_failure(load: Load, task: Task, sign: int) -> None:
    key = (task.service_id, task.spec_version)
    if sign > 0:
        load.failures.setdefault(key, {})[task.id] = task.status.at
        return
    times = load.failures.get(key, {})
    times.pop(task.id, None)
    if not times:
        load.failures.pop(key, None)


def _add(counts: dict[_K, int], key: _K, amount: int) -> None:
    """Add to a counter; what falls to zero goes, so that equal loads are equal."""
    left = counts.get(key, 0) + amount
    if left:
        counts[key] = left
    else:
        counts.pop(key, None)
