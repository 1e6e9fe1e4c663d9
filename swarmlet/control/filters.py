"""Which nodes may run a task, and in Docker's words why the others may not.

A pipeline in swarmkit's order (manager/scheduler/pipeline.go): a node is counted under the first
filter that it fails, so the counts of an explanation add up to the number of nodes.
"""

import enum
from collections import Counter
from collections.abc import Iterable
from typing import Final

import msgspec

from swarmlet.control.constraints import architecture, satisfied
from swarmlet.control.nodeset import Load, host_ports
from swarmlet.model.objects import Node, Task
from swarmlet.model.specs import Platform, Resources, TaskSpec


class Reason(enum.IntEnum):
    """Why a node was refused, in the order of the pipeline."""

    NOT_READY = 0
    RESOURCES = 1
    PLUGIN = 2
    CONSTRAINT = 3
    PLATFORM = 4
    HOST_PORT = 5
    MAX_REPLICAS = 6
    ENCRYPTION = 7


#: Docker's words. Those with {} end in "1 node" or "N nodes".
_WORDS: Final = {
    Reason.NOT_READY: "{} not available for new tasks",
    Reason.RESOURCES: "insufficient resources on {}",
    Reason.PLUGIN: "missing plugin on {}",
    Reason.CONSTRAINT: "scheduling constraints not satisfied on {}",
    Reason.PLATFORM: "unsupported platform on {}",
    Reason.HOST_PORT: "host-mode port already in use on {}",
    Reason.MAX_REPLICAS: "max replicas per node limit exceed",
    Reason.ENCRYPTION: "encrypted networks are not possible on {}",
}


class Needs(msgspec.Struct, frozen=True):
    """What a task asks of its node; the same for all tasks of one service and version."""

    service_id: str
    reservations: Resources
    plugins: tuple[tuple[str, str], ...]
    constraints: tuple[str, ...]
    platforms: tuple[Platform, ...]
    ports: tuple[tuple[str, int], ...]
    max_replicas: int
    encrypted: bool = False

    @classmethod
    def of(cls, task: Task, *, encrypted: bool = False) -> "Needs":
        """What this task asks; ``encrypted``: one of its networks is."""
        where = task.spec.where
        return cls(
            service_id=task.service_id,
            reservations=task.spec.reservations,
            plugins=_plugins(task.spec),
            constraints=where.constraints,
            platforms=where.platforms,
            ports=host_ports(task.ports),
            max_replicas=where.max_replicas,
            encrypted=encrypted,
        )

    def refusal(self, load: Load) -> Reason | None:
        """The first filter that the node fails; None when it may take one more of these tasks."""
        node = load.node
        if not node.schedulable:
            return Reason.NOT_READY
        if not load.has_room(self.reservations):
            return Reason.RESOURCES
        reason = self._mismatch(node)
        return self.crowded(load) if reason is None else reason

    def _mismatch(self, node: Node) -> Reason | None:
        """What the node is not, however empty it is."""
        if self.plugins and not _has_plugins(self.plugins, node):
            return Reason.PLUGIN
        if self.constraints and not satisfied(self.constraints, node):
            return Reason.CONSTRAINT
        if self.platforms and not runs_on(self.platforms, node):
            return Reason.PLATFORM
        if self.encrypted and not _encrypts(node):
            return Reason.ENCRYPTION
        return None

    def full(self, load: Load) -> Reason | None:
        """Like :meth:`refusal`, for what placing a task changes: the rest was checked before."""
        if not load.has_room(self.reservations):
            return Reason.RESOURCES
        return self.crowded(load)

    def crowded(self, load: Load) -> Reason | None:
        """Whether tasks on the node leave no place for another one, resources aside."""
        if self.ports and any(port in load.ports for port in self.ports):
            return Reason.HOST_PORT
        if self.max_replicas and load.services.get(self.service_id, 0) >= self.max_replicas:
            return Reason.MAX_REPLICAS
        return None


def explain(reasons: Iterable[Reason]) -> str:
    """Why no node was found, given why each one was refused; the commonest reason first."""
    counts = sorted(Counter(reasons).items(), key=lambda item: (-item[1], item[0]))
    parts = [
        _WORDS[reason].format("1 node" if count == 1 else f"{count} nodes")
        for reason, count in counts
    ]
    return f"no suitable node ({'; '.join(parts)})" if parts else "no suitable node"


def runs_on(platforms: tuple[Platform, ...], node: Node) -> bool:
    """Whether a node is one of these platforms; an empty field matches any, no platform all."""
    if not platforms:
        return True
    if node.description is None:
        return False
    mine = node.description.platform
    return any(
        (not wanted.os or wanted.os.casefold() == mine.os.casefold())
        and (
            not wanted.architecture
            or architecture(wanted.architecture) == architecture(mine.architecture)
        )
        for wanted in platforms
    )


def belongs(spec: TaskSpec, node: Node) -> bool:
    """Whether a task may stay where it is: what a node *is*, not how full it is."""
    return satisfied(spec.where.constraints, node) and runs_on(spec.where.platforms, node)


def _encrypts(node: Node) -> bool:
    tunnel = node.description.tunnel if node.description else None
    return tunnel is not None and tunnel.usable


def _plugins(spec: TaskSpec) -> tuple[tuple[str, str], ...]:
    """Plugins that a task needs. The engine's built-in drivers are on every node."""
    needed = {
        ("Volume", mount.volume_options.driver_config.name)
        for mount in spec.container.mounts
        if mount.volume_options and mount.volume_options.driver_config
    }
    if spec.log_driver:
        needed.add(("Log", spec.log_driver.name))
    return tuple(sorted(need for need in needed if need[1] not in {"", "local", "none"}))


def _has_plugins(needed: tuple[tuple[str, str], ...], node: Node) -> bool:
    """A node that reports no plugin of a type is not judged by it (older engines do not)."""
    plugins = node.description.plugins if node.description else ()
    known = {plugin.type for plugin in plugins}
    present = {(plugin.type, plugin.name.removesuffix(":latest")) for plugin in plugins}
    return all(
        kind not in known or (kind, name.removesuffix(":latest")) in present
        for kind, name in needed
    )
