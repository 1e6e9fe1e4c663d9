#!/usr/bin/env python3
"""Decisions a second of the scheduler, in memory; swarmkit's benchmark is the model.

One service with a spec version on N nodes, all tasks waiting; the node set is built outside of the
measured time (a leader keeps it), encoding and Raft are not part of it either.
"""

import argparse
import json
import statistics
import sys
import time

from swarmlet.clock import SECOND, Instant
from swarmlet.control import scheduler
from swarmlet.control.nodeset import NodeSet
from swarmlet.model.objects import Node, NodeDescription, NodeState, NodeStatus, Service
from swarmlet.model.specs import (
    Availability,
    ContainerSpec,
    NodeSpec,
    Placement,
    PlacementPreference,
    Platform,
    Replicated,
    ResourceRequirements,
    Resources,
    Role,
    ServiceMode,
    ServiceSpec,
    SpreadOver,
    TaskSpec,
)
from swarmlet.state import fsm
from swarmlet.state.commands import AnyCommand, Batch, CreateTasks, NewTask, PutNode, PutService
from swarmlet.state.store import Store

NOW = Instant(1_700_000_000 * SECOND)

TEMPLATES = {
    "plain": TaskSpec(container_spec=ContainerSpec(image="a")),
    "reservations+constraint": TaskSpec(
        container_spec=ContainerSpec(image="a"),
        resources=ResourceRequirements(reservations=Resources(nano_cpus=SECOND // 100)),
        placement=Placement(constraints=("node.labels.disk == ssd",)),
    ),
    "spread": TaskSpec(
        container_spec=ContainerSpec(image="a"),
        placement=Placement(
            preferences=(
                PlacementPreference(spread=SpreadOver(spread_descriptor="node.labels.zone")),
            )
        ),
    ),
}


def cluster(nodes: int, tasks: int, template: TaskSpec) -> Store:
    """A store with a service whose tasks all wait."""
    store = Store()
    spec = ServiceSpec(
        name="bench",
        task_template=template,
        mode=ServiceMode(replicated=Replicated(replicas=tasks)),
    )
    commands: list[AnyCommand] = [PutNode(node=_node(i), expect=0) for i in range(nodes)]
    commands.append(PutService(service=Service(id="s", spec=spec), expect=0))
    fsm.apply(store, Batch(1, NOW, tuple(commands)), 1)
    new = tuple(NewTask(id=f"task{i:020}", slot=i + 1) for i in range(tasks))
    create = CreateTasks(service_id="s", spec_version=1, tasks=new)
    fsm.apply(store, Batch(1, NOW, (create,)), 2)
    return store


def _node(number: int) -> Node:
    labels = {"disk": "ssd", "zone": f"z{number % 3}"}
    return Node(
        id=f"node{number:021}",
        spec=NodeSpec(role=Role.WORKER, availability=Availability.ACTIVE, labels=labels),
        role=Role.WORKER,
        status=NodeStatus(state=NodeState.READY),
        description=NodeDescription(
            hostname=f"h{number}", platform=Platform(), resources=Resources(nano_cpus=64 * SECOND)
        ),
    )


def measure(nodes: int, tasks: int, template: TaskSpec) -> float:
    """Decisions a second."""
    store = cluster(nodes, tasks, template)
    node_set = NodeSet.of(store)
    start = time.perf_counter()
    decision = scheduler.decide(store, NOW, nodes=node_set)
    seconds = time.perf_counter() - start
    assert len(decision.commands) == 1
    return tasks / seconds


def main() -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    rows = []
    for nodes, tasks in ((1_000, 10_000), (5_000, 50_000)):
        for name, template in TEMPLATES.items():
            rates = [measure(nodes, tasks, template) for _ in range(options.repeat)]
            rows.append(
                {
                    "nodes": nodes,
                    "tasks": tasks,
                    "template": name,
                    "median": round(statistics.median(rates)),
                    "worst": round(min(rates)),
                    "best": round(max(rates)),
                }
            )
    if options.json:
        sys.stdout.write(json.dumps(rows) + "\n")
        return
    for row in rows:
        sys.stdout.write(
            "{nodes:>5} nodes {tasks:>6} tasks  {template:<24}"
            "{median:>8}/s  [{worst} - {best}]\n".format(**row)
        )


if __name__ == "__main__":
    main()
