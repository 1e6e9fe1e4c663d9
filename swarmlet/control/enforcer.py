"""Tasks that may not stay where they are: drained, dead or removed nodes, labels that changed.

A paused node keeps its tasks, and so does a suspect one (DISCONNECTED): it may yet come back.
"""

from collections.abc import Iterable

from swarmlet.clock import Instant
from swarmlet.control.decision import Decision, changing, shut_down
from swarmlet.control.filters import belongs
from swarmlet.control.template import Template
from swarmlet.model.objects import Node, NodeState, Task
from swarmlet.model.specs import Availability, TaskSpec
from swarmlet.state.store import View


def decide(view: View, nodes: Iterable[str], now: Instant) -> Decision:
    """Ask the tasks to stop that must leave these nodes."""
    del now  # all deciders are called alike
    return Decision(
        changing(
            [
                shut_down(task.id)
                for node_id in sorted(set(nodes))
                for task in _leaving(view, node_id)
            ]
        )
    )


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
