"""What each decider must look at again after a change of the store: cost grows with the change."""

from swarmlet.model.objects import TaskState
from swarmlet.state.store import Change, SlotKey, View


def services(view: View, change: Change) -> set[str]:
    """Services for :mod:`.orchestrator`."""
    found = set(change.services)
    found.update(task.service_id for task in change.tasks.values())
    if change.nodes:
        found.update(service.id for service in view.global_services())
    for node_id in change.nodes:
        found.update(task.service_id for task in view.tasks_on_node(node_id))
    return found


def nodes(change: Change) -> set[str]:
    """Nodes for :mod:`.enforcer`: those that changed, and those that were given a task.

    The latter because a node may have changed between a placement and its commit.
    """
    given = {
        task.node_id
        for task in change.tasks.values()
        if task.node_id and task.wanted and task.status.state <= TaskState.ASSIGNED
    }
    return change.nodes | given


def slots(view: View, change: Change) -> set[SlotKey]:
    """Slots for :mod:`.reaper`."""
    if change.cluster:  # the history limit may have changed
        return {task.slot_key for task in view.tasks()}
    found = {task.slot_key for task in change.tasks.values()}
    for service_id in change.services:
        found.update(task.slot_key for task in view.tasks_of_service(service_id))
    for node_id in change.nodes:
        found.update(task.slot_key for task in view.tasks_on_node(node_id))
    return found


def schedule(change: Change, *, waiting: bool) -> bool:
    """Whether :mod:`.scheduler` has work: new tasks, or room somewhere while tasks wait."""
    return waiting and bool(change.nodes or change.tasks)
