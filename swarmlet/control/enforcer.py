"""Tasks that may not stay where they are: drained, dead or removed nodes, labels that changed.

A paused node keeps its tasks, and so does a suspect one (DISCONNECTED): it may yet come back. After
a day nobody waits any more for what ran on a dead one: its tasks are ORPHANED, and what they held
(addresses above all) is free again.
"""

from collections.abc import Iterable
from typing import Final

from swarmlet.clock import SECOND, Instant, Nanos
from swarmlet.control.decision import Decision, Id, changing, decision, shut_down
from swarmlet.control.filters import belongs
from swarmlet.control.template import Template
from swarmlet.model.objects import Node, NodeState, Task, TaskState, TaskStatus
from swarmlet.model.specs import Availability, TaskSpec
from swarmlet.state.commands import TaskChange
from swarmlet.state.store import View

#: How long the tasks of a node that is down may still run there (swarmkit's nodeDownPeriod).
ORPHANED_AFTER: Final = Nanos(24 * 3600 * SECOND)


def decide(view: View, nodes: Iterable[str], now: Instant) -> Decision:
    """Ask the tasks to stop that must leave these nodes; give up those that cannot be asked."""
    changes: list[TaskChange] = []
    again: dict[Id, Instant] = {}
    for node_id in sorted(set(nodes)):
        changes += [shut_down(task.id) for task in _leaving(view, node_id)]
        given_up_at = _given_up_at(view, node_id)
        if given_up_at is None:
            continue
        if now < given_up_at:
            again[node_id] = given_up_at
        else:
            gone = TaskStatus(state=TaskState.ORPHANED, at=now, message="its node is down for long")
            changes += [TaskChange(id=task.id, status=gone) for task in _living(view, node_id)]
    return decision(changing(changes), again)


def _given_up_at(view: View, node_id: str) -> Instant | None:
    """When nobody waits any more for the tasks of a node that is down."""
    node = view.node(node_id)
    if node is None or node.status.state is not NodeState.DOWN or not _living(view, node_id):
        return None
    return Instant(node.status.since + ORPHANED_AFTER)


def _living(view: View, node_id: str) -> list[Task]:
    return [task for task in view.tasks_on_node(node_id) if not task.status.state.ended]


def keeps_tasks(node: Node | None) -> bool:
    """Whether tasks on a node may stay there at all."""
    return (
        node is not None
        and node.status.state is not NodeState.DOWN
        and node.spec.availability is not Availability.DRAIN
    )


def _leaving(view: View, node_id: str) -> list[Task]:
    """Wanted tasks on a node that must go. Resources are not looked at: they were reserved."""
    node = view.node(node_id)
    stays = keeps_tasks(node)
    return [
        task
        for task in view.tasks_on_node(node_id)
        if task.wanted
        and not (stays and node is not None and belongs(_placed_by(view, task), node))
    ]


def _placed_by(view: View, task: Task) -> TaskSpec:
    """The spec whose constraints count: they may have changed without a need for a new task."""
    service = view.service(task.service_id)
    if service is None or task.spec_version == service.spec_version:
        return task.spec
    return Template(view, service).placed_by(task)
