"""Services to tasks: one wanted task in each slot, replaced when the template changes.

A replicated service has as many slots as replicas; a global one has a slot on each node that fits.
Everything is derived from the tasks in the view, so a new leader carries on wherever the old one
stopped. Three rules carry the module:

* A slot has one wanted task; while an earlier attempt may still run on a living node, its successor
  is held at READY. Only a start-first update has two: the old one that runs, and beside it its
  replacement, until that runs.
* A slot without a wanted task gets one when its restart policy says so (:mod:`.restart`).
* An update (:mod:`.updater`) takes as many slots at a time as its parallelism allows, and counts
  every slot that does not run; a task that does not run loses nothing and is replaced at once.
"""

import heapq
from collections.abc import Callable, Iterable

from swarmlet.clock import Instant
from swarmlet.control import restart
from swarmlet.control.decision import Decision, Id, decision
from swarmlet.control.enforcer import keeps_tasks
from swarmlet.control.filters import belongs
from swarmlet.control.nodeset import host_ports
from swarmlet.control.plan import Plan, runs
from swarmlet.model.objects import Node, Task
from swarmlet.model.specs import Availability
from swarmlet.state.commands import AnyCommand
from swarmlet.state.store import View


def decide(
    view: View, services: Iterable[str], now: Instant, new_id: Callable[[], str]
) -> Decision:
    """Bring the tasks of these services closer to their specs."""
    commands: list[AnyCommand] = []
    again: dict[Id, Instant] = {}
    for service_id in sorted(set(services)):
        service = view.service(service_id)
        if service is None:
            continue  # removed: the state machine asked its tasks to go
        if service.spec.is_global:
            plan: Plan = _Global(view, service, now, new_id)
        elif service.spec.mode.replicated_job or service.spec.mode.global_job:
            continue
        else:
            plan = _Replicated(view, service, now, new_id)
        plan.make()
        commands += plan.commands()
        if plan.wake_at is not None:
            again[service_id] = plan.wake_at
    return decision(commands, again)


class _Replicated(Plan):
    """So many slots, numbered from 1. After scaling down, numbers may have gaps."""

    def shape(self) -> None:
        """See :class:`.plan.Plan`."""
        missing = self.service.spec.replicas - len(self.tasks)
        if missing < 0:
            for task in _surplus(self.tasks.values(), -missing):
                self.remove(task.slot_key)
        elif missing:
            for slot in self._empty_slots(missing):
                self.fill((self.service.id, slot, ""))

    def _empty_slots(self, count: int) -> list[int]:
        """So many slots to fill.

        First those whose task had to leave its node, then those whose task ended by itself (their
        restart policy decides), then the lowest free numbers.
        """
        left, ended = self._histories()
        replicas = self.service.spec.replicas
        order = [*sorted(left), *sorted(slot for slot in ended if slot <= replicas)]
        taken = {key[1] for key in self.tasks} | set(order)
        number = 0
        while len(order) < count:
            number += 1
            if number not in taken:
                order.append(number)
        return order[:count]

    def _histories(self) -> tuple[set[int], set[int]]:
        """Empty slots whose latest task (had to leave its node, ended by itself)."""
        latest: dict[int, Task] = {}
        for task in self.view.tasks_of_service(self.service.id):
            if task.slot_key not in self.tasks:
                other = latest.get(task.slot, task)
                latest[task.slot] = restart.newest((other, task)) or task
        left = {
            slot
            for slot, task in latest.items()
            if not task.status.state.ended and not keeps_tasks(self.view.node(task.node_id))
        }
        ended = {slot for slot, task in latest.items() if restart.ended_by_itself(task)}
        return left, ended


class _Global(Plan):
    """One slot on each node that fits, number 0. A paused node keeps its task and gets no new."""

    def shape(self) -> None:
        """See :class:`.plan.Plan`."""
        for task in list(self.tasks.values()):
            node = self.view.node(task.node_id)
            if node is None or not keeps_tasks(node) or not self._suits(node):
                self.drop(task.slot_key)
        for node in sorted(self.view.nodes(), key=lambda node: node.id):
            key = (self.service.id, 0, node.id)
            if key not in self.tasks and node.schedulable and self._suits(node):
                self.fill(key)

    def updatable(self, task: Task) -> bool:
        """See :class:`.plan.Plan`. A paused node is left out of the update, as in swarmkit."""
        node = self.view.node(task.node_id)
        return node is not None and node.spec.availability is Availability.ACTIVE

    def replaceable(self, task: Task) -> bool:
        """See :class:`.plan.Plan`."""
        node = self.view.node(task.node_id)
        return node is not None and node.schedulable

    def keeps_running(self, task: Task) -> bool:
        """See :class:`.plan.Plan`. Two tasks on one node cannot bind the same port of it."""
        return not set(host_ports(task.ports)) & set(host_ports(self.service.spec.ports))

    def _suits(self, node: Node) -> bool:
        return belongs(self.service.spec.task_template, node)


def _surplus(tasks: Iterable[Task], count: int) -> list[Task]:
    """Tasks to stop when scaling down: what does not run, then from the fullest nodes."""
    ordered = sorted(tasks, key=lambda task: task.slot, reverse=True)
    idle = [task for task in ordered if not runs(task)][:count]
    return idle + _from_fullest([task for task in ordered if runs(task)], count - len(idle))


def _from_fullest(tasks: list[Task], count: int) -> list[Task]:
    """So many of these tasks (highest slots first), each from the node that has most of them."""
    by_node: dict[str, list[Task]] = {}
    for task in reversed(tasks):
        by_node.setdefault(task.node_id, []).append(task)
    heap = [(-len(mine), -mine[-1].slot, node_id) for node_id, mine in by_node.items()]
    heapq.heapify(heap)
    chosen = []
    for _ in range(min(count, len(tasks))):
        node_id = heap[0][2]
        mine = by_node[node_id]
        chosen.append(mine.pop())
        if mine:
            heapq.heapreplace(heap, (-len(mine), -mine[-1].slot, node_id))
        else:
            heapq.heappop(heap)
    return chosen
