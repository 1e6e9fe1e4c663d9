"""Which tasks the store may forget: history beyond the limit, and what was removed.

Never a task that may still run, but for one whose node is down or gone: when that node comes back
it is told all that it should run, and stops the rest.
"""

from collections.abc import Iterable

from swarmlet.clock import Instant
from swarmlet.control import restart, updater
from swarmlet.control.decision import Decision, Id, decision, earlier
from swarmlet.model.defaults import HISTORY_LIMIT, history_limit, restart_policy
from swarmlet.model.objects import NodeState, Service, Task, TaskState
from swarmlet.state.commands import AnyCommand, ChangeTasks, DeleteTasks, TaskChange
from swarmlet.state.store import SlotKey, View


def decide(view: View, slots: Iterable[SlotKey], now: Instant) -> Decision:
    """Forget what may go of these slots (:attr:`Task.slot_key`)."""
    limit = HISTORY_LIMIT if view.cluster is None else history_limit(view.cluster.spec)
    gone: list[str] = []
    orphans: list[TaskChange] = []
    again: dict[Id, Instant] = {}
    for key in sorted(set(slots)):
        tasks = list(view.tasks_in_slot(key))
        service = view.service(key[0])
        if service is None:
            orphans += [
                TaskChange(id=task.id, desired=TaskState.REMOVE)
                for task in tasks
                if task.desired < TaskState.REMOVE and not task.status.state.ended
            ]
            gone += [task.id for task in tasks if _may_go(view, task)]
            continue
        surplus, later = _history(view, service, tasks, limit, now)
        gone += surplus
        if later is not None:
            again[key] = later
    commands: list[AnyCommand] = []
    if orphans:
        commands.append(ChangeTasks(changes=tuple(orphans)))
    if gone:
        commands.append(DeleteTasks(ids=tuple(gone)))
    return decision(commands, again)


def _may_go(view: View, task: Task) -> bool:
    """Whether a task that nobody will ask for again can be forgotten."""
    state = task.status.state
    if state.ended:
        return True
    if task.desired < TaskState.REMOVE:
        return False
    node = view.node(task.node_id)
    return state < TaskState.ASSIGNED or node is None or node.status.state is NodeState.DOWN


def _history(
    view: View, service: Service, tasks: list[Task], limit: int, now: Instant
) -> tuple[list[str], Instant | None]:
    """Surplus tasks of one slot, and when some that are kept for the guard may go."""
    gone = [t.id for t in tasks if t.desired >= TaskState.REMOVE and _may_go(view, t)]
    ended = sorted(
        (t for t in tasks if t.status.state.ended and t.desired < TaskState.REMOVE),
        key=lambda task: (task.created_at, task.id),
        reverse=True,
    )
    keep = _keep(service, limit)
    lone = not any(task.wanted for task in tasks)
    needed = updater.needed(service, tasks, now)
    wake_at: Instant | None = None
    for place, task in enumerate(ended):
        if place == 0 and lone and restart.ended_by_itself(task):
            continue  # it tells the restart policy whether the slot may be filled again
        if task is needed:
            continue  # it tells the updater what became of the slot
        orphan = view.node(task.node_id) is None and task.node_id != ""
        if (keep is None or place < keep) and not orphan:
            continue
        guarded_until = Instant(task.created_at + restart.GUARD_PERIOD)
        if place < restart.GUARD_STARTS and now < guarded_until and not orphan:
            wake_at = earlier(wake_at, guarded_until)
            continue
        gone.append(task.id)
    return gone, wake_at


def _keep(service: Service, limit: int) -> int | None:
    """How many ended tasks of a slot stay; None for all (a negative limit, as in Docker)."""
    if limit < 0:
        return None
    attempts = restart_policy(service.spec.task_template).attempts
    return max(limit, attempts + 1 if attempts else 0)
