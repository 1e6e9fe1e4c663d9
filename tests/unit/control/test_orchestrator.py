"""Slots, replacements and rolling updates, as short stories."""

import pytest
from swarmlet.clock import SECOND
from swarmlet.model.objects import NodeState, TaskState
from swarmlet.model.specs import Availability, Placement, RestartPolicy
from swarmlet.state.commands import DeleteService

from tests.fakes.world import World, a_node, a_service


@pytest.fixture
def world() -> World:
    world = World()
    world.nodes(*(a_node(f"n{i}") for i in range(3)))
    return world


def slots(world: World) -> list[int]:
    return [task.slot for task in world.wanted()]


def test_a_new_service_gets_one_task_in_each_slot(world: World) -> None:
    world.service(a_service(replicas=5))
    world.run()
    assert slots(world) == [1, 2, 3, 4, 5]
    assert len(world.running()) == 5


def test_scaling_down_stops_first_what_does_not_run(world: World) -> None:
    world.service(a_service(replicas=3))
    world.run()
    waiting = a_service(replicas=4)
    world.service(waiting)
    world.do(*world.orchestrate().commands)  # slot 4 exists and was never placed
    first = world.wanted()[0]
    world.report(first.id, TaskState.FAILED)
    world.settle()  # slot 1 waits for its restart delay
    world.service(a_service(replicas=2))
    world.run()
    assert slots(world) == [2, 3]


def test_scaling_down_takes_from_the_fullest_node(world: World) -> None:
    """Six tasks on n0, n1, n2; after n2 lost its two to the others, the others give."""
    world.service(a_service(replicas=6))
    world.run()
    world.nodes(a_node("n2", availability=Availability.PAUSE))
    world.service(a_service(replicas=8))
    world.run()
    world.service(a_service(replicas=6))
    world.run()
    per_node = [sum(t.node_id == f"n{i}" for t in world.wanted()) for i in range(3)]
    assert per_node == [2, 2, 2]


def test_scaling_down_prefers_the_highest_slot(world: World) -> None:
    world.service(a_service(replicas=3))
    world.run()
    world.service(a_service(replicas=2))
    world.run()
    assert slots(world) == [1, 2]


def test_no_replicas_means_no_tasks(world: World) -> None:
    world.service(a_service(replicas=2))
    world.run()
    world.service(a_service(replicas=0), updating=True)
    world.run()
    assert slots(world) == []


def test_a_failed_task_is_replaced_in_its_slot_after_the_delay(world: World) -> None:
    """The replacement is made at once, held at READY, and released when its time comes."""
    world.service(a_service(replicas=1, restart=RestartPolicy(delay=5 * SECOND)))
    world.run()
    world.report(world.wanted()[0].id, TaskState.FAILED)
    decision = world.orchestrate()
    assert decision.wake_at == world.now + 5 * SECOND
    assert decision.again == {"web": decision.wake_at}
    world.run()
    (held,) = world.wanted()
    assert (held.slot, held.desired, held.status.state) == (1, TaskState.READY, TaskState.READY)
    assert world.orchestrate().wake_at == held.not_before
    world.pass_time(5)
    world.run()
    assert world.running() == [world.task(held.id)]


def test_the_loss_of_a_node_waits_for_nothing(world: World) -> None:
    world.service(a_service(replicas=3))
    world.run()
    world.node_state("n0", NodeState.DOWN)
    world.run()
    assert slots(world) == [1, 2, 3]
    assert all(t.node_id != "n0" and t.desired is TaskState.RUNNING for t in world.wanted())


def test_a_drained_task_ends_before_its_successor_runs(world: World) -> None:
    world.service(a_service(replicas=3))
    world.run()
    world.nodes(a_node("n0", availability=Availability.DRAIN))
    world.settle()
    (moving,) = [task for task in world.wanted() if task.status.state is TaskState.ASSIGNED]
    assert (moving.desired, moving.not_before) == (TaskState.READY, 0)
    world.run()
    assert world.task(moving.id).status.state is TaskState.RUNNING


def test_a_task_that_must_move_keeps_its_slot(world: World) -> None:
    """Slot 1 was given up while it did not run; the gap is not filled by the task of slot 3."""
    world.service(a_service(replicas=3))
    world.run()
    world.report(world.wanted()[0].id, TaskState.FAILED)
    world.settle()
    world.service(a_service(replicas=2))
    world.run()
    assert slots(world) == [2, 3]
    moving = world.wanted()[1].node_id
    world.nodes(a_node(moving, availability=Availability.DRAIN))
    world.run()
    assert slots(world) == [2, 3]


def test_a_suspect_node_keeps_its_tasks(world: World) -> None:
    world.service(a_service(replicas=3))
    world.run()
    before = world.wanted()
    world.node_state("n0", NodeState.DISCONNECTED)
    world.run()
    assert world.wanted() == before


def test_a_task_without_restart_stays_ended(world: World) -> None:
    world.service(a_service(replicas=1, restart=RestartPolicy(condition="none")))
    world.run()
    world.report(world.wanted()[0].id, TaskState.COMPLETE)
    world.run()
    world.pass_time(1000)
    world.run()
    assert world.wanted() == []


def test_an_update_begins_with_what_does_not_run(world: World) -> None:
    """A crashed slot loses nothing: it gets the new template at once, without its delay."""
    world.service(a_service(replicas=3))
    world.run()
    crashed = world.wanted()[2]
    world.report(crashed.id, TaskState.FAILED)
    world.settle()
    world.service(a_service(replicas=3, image="app:2"), updating=True)
    world.settle()
    new = [task for task in world.wanted() if task.spec.container.image == "app:2"]
    assert [(t.slot, t.not_before) for t in new] == [(3, 0)]
    assert len(world.running()) == 2


def test_labels_of_a_service_restart_nothing(world: World) -> None:
    world.service(a_service(replicas=3))
    world.run()
    before = world.wanted()
    world.service(a_service(replicas=3, labels={"a": "b"}))
    world.run()
    assert world.wanted() == before


def test_a_removed_service_leaves_nothing(world: World) -> None:
    world.service(a_service(replicas=3))
    world.run()
    world.ok(DeleteService(id="web"))
    world.run()
    assert list(world.store.tasks()) == []


def test_a_global_service_runs_on_every_node_that_fits(world: World) -> None:
    placement = Placement(constraints=("node.id != n1",))
    world.service(a_service(replicas=None, placement=placement))
    world.run()
    assert [task.node_id for task in world.running()] == ["n0", "n2"]
    world.nodes(a_node("n3"))
    world.run()
    assert [task.node_id for task in world.running()] == ["n0", "n2", "n3"]


def test_a_paused_node_keeps_its_global_task_and_gets_no_new_one(world: World) -> None:
    world.service(a_service(replicas=None))
    world.run()
    world.nodes(a_node("n0", availability=Availability.PAUSE))
    world.service(a_service(replicas=None, image="app:2"), updating=True)
    world.run()
    images = {task.node_id: task.spec.container.image for task in world.running()}
    assert images == {"n0": "app:1", "n1": "app:2", "n2": "app:2"}
    world.nodes(a_node("n0"))
    world.run()
    assert {task.spec.container.image for task in world.running()} == {"app:2"}


def test_a_drained_node_loses_its_global_task(world: World) -> None:
    world.service(a_service(replicas=None))
    world.run()
    world.nodes(a_node("n0", availability=Availability.DRAIN))
    world.run()
    assert [task.node_id for task in world.wanted()] == ["n1", "n2"]


def test_a_label_that_goes_takes_the_task_with_it(world: World) -> None:
    world.nodes(a_node("n0", labels={"zone": "a"}))
    placement = Placement(constraints=("node.labels.zone == a",))
    world.service(a_service(replicas=1, placement=placement))
    world.run()
    assert [task.node_id for task in world.running()] == ["n0"]
    world.nodes(a_node("n0"), a_node("n1", labels={"zone": "A"}))
    world.run()
    assert [task.node_id for task in world.running()] == ["n1"]


def test_scaling_down_leaves_nothing_of_the_slots_that_go(world: World) -> None:
    """Neither tasks nor history: a service of 200 replicas would leave 198 containers behind."""
    world.service(a_service(replicas=4, restart=RestartPolicy(delay=0)))
    world.run()
    for task in world.running():
        world.report(task.id, TaskState.FAILED)
    world.run()
    world.service(a_service(replicas=1, restart=RestartPolicy(delay=0)))
    world.run()
    (left,) = world.running()
    assert {task.slot for task in world.store.tasks()} == {left.slot}
