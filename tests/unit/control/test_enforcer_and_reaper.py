"""Who may stay, and who may be forgotten."""

import pytest
from swarmlet.clock import SECOND, Instant
from swarmlet.control import dirty, enforcer
from swarmlet.control.decision import Alarms, Decision
from swarmlet.model.objects import Cluster, JoinTokens, NodeState, RootCa, TaskState
from swarmlet.model.specs import (
    Availability,
    ClusterSpec,
    OrchestrationConfig,
    Placement,
    Platform,
    RestartPolicy,
)
from swarmlet.state.commands import DeleteNode, DeleteService, PutCluster
from swarmlet.state.store import Change

from tests.fakes.world import START, World, a_node, a_service


@pytest.fixture
def world() -> World:
    world = World()
    world.nodes(*(a_node(f"n{i}", labels={"zone": "a"}) for i in range(2)))
    placement = Placement(constraints=("node.labels.zone == a",), platforms=(Platform(os="linux"),))
    world.service(a_service(replicas=2, placement=placement))
    world.run()
    return world


def leaving(world: World, node_id: str = "n0") -> int:
    decision = enforcer.decide(world.store, [node_id], world.now)
    return sum(len(getattr(command, "changes", ())) for command in decision.commands)


def test_a_node_that_fits_keeps_its_tasks(world: World) -> None:
    assert leaving(world) == 0
    world.nodes(a_node("n0", labels={"zone": "A", "more": "b"}))
    assert leaving(world) == 0


@pytest.mark.parametrize("state", [NodeState.DISCONNECTED, NodeState.UNKNOWN])
def test_a_node_in_doubt_keeps_its_tasks(world: World, state: NodeState) -> None:
    world.node_state("n0", state)
    assert leaving(world) == 0


def test_a_dead_node_keeps_none(world: World) -> None:
    world.node_state("n0", NodeState.DOWN)
    assert leaving(world) == 1
    assert leaving(world, "n1") == 0


def test_a_day_later_nobody_waits_for_what_a_dead_node_ran(world: World) -> None:
    """What its tasks held is free then, though it may never come back nor be removed."""
    down_at = world.now
    world.node_state("n0", NodeState.DOWN)
    world.run()
    (task,) = [t for t in world.store.tasks_on_node("n0") if not t.status.state.ended]
    decision = enforcer.decide(world.store, ["n0"], world.now)
    assert decision.commands == ()
    assert decision.again == {"n0": down_at + enforcer.ORPHANED_AFTER}
    world.now = Instant(down_at + enforcer.ORPHANED_AFTER)
    world.run()
    assert world.task(task.id).status.state is TaskState.ORPHANED
    assert enforcer.decide(world.store, ["n0"], world.now) == Decision()


@pytest.mark.parametrize(
    ("availability", "expected"), [(Availability.DRAIN, 1), (Availability.PAUSE, 0)]
)
def test_availability(world: World, availability: Availability, expected: int) -> None:
    world.nodes(a_node("n0", labels={"zone": "a"}, availability=availability))
    assert leaving(world) == expected


def test_a_label_or_platform_that_changed(world: World) -> None:
    world.nodes(a_node("n0", labels={"zone": "b"}))
    assert leaving(world) == 1
    world.nodes(a_node("n1", labels={"zone": "a"}, platform=Platform(os="windows")))
    assert leaving(world, "n1") == 1


def test_less_memory_than_was_reserved_evicts_nobody() -> None:
    world = World()
    world.nodes(a_node("n0", cpus=4))
    world.service(a_service(replicas=1, cpus=3))
    world.run()
    world.nodes(a_node("n0", cpus=1))
    assert leaving(world) == 0


# --- history --------------------------------------------------------------------------------------


def limit(world: World, number: int) -> None:
    old = world.store.cluster
    cluster = Cluster(
        id="c",
        spec=ClusterSpec(orchestration=OrchestrationConfig(task_history_retention_limit=number)),
        root_ca=RootCa(cert="", key=""),
        tokens=JoinTokens(worker="", manager=""),
    )
    world.ok(PutCluster(cluster=cluster, expect=old.version if old else 0))


def crash(world: World, times: int) -> None:
    for _ in range(times):
        world.pass_time(10)
        world.run()
        for task in world.running():
            world.report(task.id, TaskState.FAILED)
        world.run()
    world.pass_time(10)
    world.run()


def history(world: World) -> int:
    return sum(not task.wanted for task in world.store.tasks())


@pytest.mark.parametrize(("kept", "expected"), [(5, 5), (2, 2), (0, 0), (-1, 8)])
def test_history_limit(kept: int, expected: int) -> None:
    world = World()
    limit(world, kept)
    world.nodes(a_node("n0"))
    world.service(a_service(replicas=1))
    crash(world, 8)
    assert history(world) == expected


def test_history_covers_max_attempts() -> None:
    """The restart policy counts ended tasks: they must be there."""
    world = World()
    limit(world, 1)
    world.nodes(a_node("n0"))
    world.service(a_service(replicas=1, restart=RestartPolicy(max_attempts=3)))
    crash(world, 10)
    assert world.wanted() == []
    assert history(world) == 4


def test_without_history_a_finished_task_is_still_not_started_again() -> None:
    world = World()
    limit(world, 0)
    world.nodes(a_node("n0"))
    world.service(a_service(replicas=1, restart=RestartPolicy(condition="none")))
    world.run()
    world.report(world.wanted()[0].id, TaskState.COMPLETE)
    for _ in range(3):
        world.run()
        world.pass_time(10)
    assert (world.wanted(), history(world)) == ([], 1)


def test_quick_attempts_stay_for_the_guard_and_go_later() -> None:
    world = World()
    limit(world, 1)
    world.nodes(a_node("n0"))
    world.service(a_service(replicas=1, restart=RestartPolicy(delay=0)))
    for _ in range(4):
        world.run()
        world.report(world.wanted()[0].id, TaskState.FAILED)
    world.run()
    assert history(world) == 4
    decision = world.reap()
    assert decision.wake_at == START + 3 * SECOND
    world.pass_time(3)
    world.run()
    assert history(world) == 1


def test_a_removed_service_waits_for_its_living_tasks(world: World) -> None:
    world.ok(DeleteService(id="web"))
    world.settle()
    assert len(list(world.store.tasks())) == 2
    first, second = world.store.tasks()
    world.report(first.id, TaskState.SHUTDOWN)
    world.settle()
    assert [task.id for task in world.store.tasks()] == [second.id]


def test_a_dead_node_does_not_keep_a_removed_service(world: World) -> None:
    world.node_state("n0", NodeState.DOWN)
    world.node_state("n1", NodeState.DOWN)
    world.ok(DeleteService(id="web"))
    world.settle()
    assert list(world.store.tasks()) == []


def test_tasks_of_a_removed_node_go(world: World) -> None:
    node = world.store.node("n0")
    assert node is not None
    world.ok(DeleteNode(id="n0", expect=node.version))
    world.run()
    assert {task.node_id for task in world.store.tasks()} == {"n1"}
    assert len(world.running()) == 2


# --- what is dirty --------------------------------------------------------------------------------


def test_a_node_makes_dirty_what_depends_on_it(world: World) -> None:
    world.service(a_service("everywhere", replicas=None))
    world.service(a_service("nowhere", replicas=0))
    world.store.take_change()
    world.node_state("n0", NodeState.DOWN)
    change = world.store.take_change()
    assert dirty.services(world.store, change) == {"web", "everywhere"}
    assert dirty.nodes(change) == {"n0"}
    assert len(dirty.slots(world.store, change)) == 1
    assert dirty.schedule(change, waiting=True)
    assert not dirty.schedule(change, waiting=False)


def test_a_placement_makes_its_node_dirty_a_report_does_not(world: World) -> None:
    """The node may have been drained between the decision and its commit."""
    world.service(a_service("more", replicas=1))
    world.store.take_change()
    world.settle()
    (placed,) = world.wanted("more")
    assert dirty.nodes(world.store.take_change()) == {placed.node_id}
    world.obey()
    assert dirty.nodes(world.store.take_change()) == set()


def test_a_service_makes_its_slots_dirty(world: World) -> None:
    world.store.take_change()
    world.service(a_service(replicas=2, image="app:2"))
    change = world.store.take_change()
    assert dirty.services(world.store, change) == {"web"}
    assert dirty.slots(world.store, change) == {("web", 1, ""), ("web", 2, "")}


def test_a_cluster_setting_makes_every_slot_dirty(world: World) -> None:
    change = Change()
    change.cluster = True
    assert len(dirty.slots(world.store, change)) == 2


def test_alarms_remember_what_the_last_decision_did_not_look_at() -> None:
    alarms = Alarms()
    soon, late = START, Instant(START + 2 * SECOND)
    alarms.note(["a", "b"], Decision(again={"a": late, "b": soon}, wake_at=soon))
    alarms.note(["c"], Decision())
    assert alarms.wake_at == soon
    assert alarms.due(soon) == {"b"}
    alarms.note(["b"], Decision())
    assert alarms.wake_at == late
