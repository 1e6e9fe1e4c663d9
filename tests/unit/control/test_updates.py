"""Updates of services as short stories: pace, order, failures, pause, rollback."""

import pytest
from msgspec.structs import replace
from swarmlet.clock import SECOND
from swarmlet.model.objects import Task, TaskState, UpdateState, UpdateStatus
from swarmlet.model.specs import (
    Availability,
    HealthConfig,
    Placement,
    PortConfig,
    RestartPolicy,
    UpdateConfig,
)

from tests.fakes.world import World, a_node, a_service

OLD, NEW, BROKEN = "app:1", "app:2", "broken"
START_FIRST = UpdateConfig(parallelism=1, order="start-first")
PORT = PortConfig(target_port=80, published_port=8080, publish_mode="host", protocol="tcp")


@pytest.fixture
def world() -> World:
    world = World()
    world.nodes(*(a_node(f"n{i}") for i in range(3)))
    world.fates[BROKEN] = TaskState.FAILED
    return world


def deployed(world: World, replicas: int | None = 3, **how: object) -> None:
    world.service(a_service(replicas=replicas, **how))  # type: ignore[arg-type]
    world.run()


def image(task: Task) -> str:
    return task.spec.container.image


def images(world: World, service_id: str = "web") -> list[str]:
    """What runs, by slot."""
    running = [t for t in world.wanted(service_id) if t.status.state is TaskState.RUNNING]
    return [image(task) for task in running]


def status(world: World) -> UpdateStatus:
    found = world.found().update_status
    assert found is not None
    return found


def steps(world: World) -> list[tuple[int, int]]:
    """An update to its end: the fewest running, and the most wanted, after each step."""
    seen = []
    for _ in range(300):
        seen.append((len(world.running()), len(world.wanted())))
        if not status(world).state.in_progress:
            return seen
        before = world.store.index
        world.settle()
        seen.append((len(world.running()), len(world.wanted())))
        world.obey()
        if world.store.index == before:
            world.wait()
    raise AssertionError("the update never ends")


# --- pace -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "fewest", "most"),
    [
        (None, 3, 4),
        (UpdateConfig(parallelism=1), 3, 4),
        (UpdateConfig(parallelism=2), 2, 4),
        (UpdateConfig(parallelism=0), 0, 4),
        (UpdateConfig(parallelism=1, order="start-first"), 4, 5),
        (UpdateConfig(parallelism=3, order="start-first"), 4, 7),
        (UpdateConfig(parallelism=0, order="start-first"), 4, 8),
    ],
)
def test_parallelism_bounds_what_is_missing_or_in_excess(
    world: World, config: UpdateConfig | None, fewest: int, most: int
) -> None:
    """stop-first: so many slots below at most; start-first: none, and so many tasks too many."""
    deployed(world, 4, update=config)
    world.update(a_service(replicas=4, image=NEW, update=config))
    seen = steps(world)
    assert min(running for running, _ in seen) == fewest
    assert max(wanted for _, wanted in seen) == most
    assert images(world) == [NEW] * 4
    assert [task.slot for task in world.wanted()] == [1, 2, 3, 4]
    assert status(world).state is UpdateState.COMPLETED
    assert status(world).message == "update completed"


def test_the_delay_counts_from_when_a_slot_runs_again(world: World) -> None:
    config = UpdateConfig(parallelism=1, delay=60 * SECOND)
    deployed(world, 2)
    world.update(a_service(replicas=2, image=NEW, update=config))
    world.pass_time(100)  # what went before does not count
    world.run()
    assert images(world) == [NEW, OLD]
    assert world.orchestrate().wake_at == world.now + 60 * SECOND
    world.pass_time(59)
    world.run()
    assert images(world) == [NEW, OLD]
    world.pass_time(1)
    world.run()
    assert images(world) == [NEW, NEW]


def test_each_of_several_slots_at_a_time_has_its_own_delay(world: World) -> None:
    config = UpdateConfig(parallelism=2, delay=60 * SECOND)
    deployed(world, 4)
    world.update(a_service(replicas=4, image=NEW, update=config))
    world.run()
    assert images(world) == [NEW, NEW, OLD, OLD]
    world.pass_time(60)
    world.run()
    assert images(world) == [NEW] * 4


def test_an_update_is_complete_when_the_last_task_was_watched(world: World) -> None:
    deployed(world, 2)
    world.update(a_service(replicas=2, image=NEW, update=UpdateConfig(monitor=30 * SECOND)))
    world.run()
    assert images(world) == [NEW, NEW]
    assert status(world).state is UpdateState.UPDATING
    assert world.orchestrate().wake_at == world.now + 30 * SECOND
    world.pass_time(30)
    world.run()
    assert status(world).state is UpdateState.COMPLETED
    assert status(world).completed_at == world.now


def test_an_old_task_that_fails_meanwhile_is_replaced_by_the_new_template(world: World) -> None:
    config = UpdateConfig(parallelism=1, delay=60 * SECOND)
    deployed(world)
    world.update(a_service(image=NEW, update=config))
    world.run()
    world.report(world.wanted()[2].id, TaskState.FAILED)
    world.run()
    assert images(world) == [NEW, OLD, NEW]


def test_scaling_meanwhile_makes_new_tasks_and_does_not_disturb_the_update(world: World) -> None:
    deployed(world, 2)
    world.update(a_service(replicas=2, image=NEW))
    world.settle()
    begun = status(world).started_at
    world.pass_time(1)
    world.update(a_service(replicas=4, image=NEW))
    assert status(world).started_at == begun
    world.finish()
    assert images(world) == [NEW] * 4


# --- start first ----------------------------------------------------------------------------------


def test_start_first_stops_the_old_task_when_the_new_one_runs(world: World) -> None:
    deployed(world, 1)
    (old,) = world.wanted()
    world.update(a_service(replicas=1, image=NEW, update=START_FIRST))
    world.settle()
    new = next(task for task in world.wanted() if task.id != old.id)
    assert new.desired is TaskState.RUNNING
    assert world.task(old.id).wanted
    world.report(new.id, TaskState.STARTING)
    world.settle()
    assert world.task(old.id).wanted
    world.report(new.id, TaskState.RUNNING)
    world.settle()
    assert world.task(old.id).desired is TaskState.SHUTDOWN


def test_start_first_finds_room_beside_the_old_task(world: World) -> None:
    """One replica a node at most, on every node: the replacement takes its place all the same."""
    placement = Placement(max_replicas=1)
    deployed(world, placement=placement)
    before = {task.slot: task.node_id for task in world.wanted()}
    world.update(a_service(image=NEW, placement=placement, update=START_FIRST))
    world.finish()
    assert images(world) == [NEW] * 3
    assert {task.slot: task.node_id for task in world.wanted()} == before


def test_start_first_leaves_the_tasks_as_spread_as_they_were(world: World) -> None:
    deployed(world, 6)
    world.update(a_service(replicas=6, image=NEW, update=START_FIRST))
    world.finish()
    world.run()
    counts = [sum(t.node_id == f"n{i}" for t in world.wanted()) for i in range(3)]
    assert counts == [2, 2, 2]


def test_start_first_waits_for_a_free_port_and_says_so(world: World) -> None:
    deployed(world, ports=(PORT,))
    world.update(a_service(image=NEW, ports=(PORT,), update=START_FIRST))
    world.run()
    waiting = next(task for task in world.wanted() if image(task) == NEW)
    assert status(world).state is UpdateState.UPDATING
    assert status(world).message == (
        f"update in progress; waiting for task {waiting.id}: "
        "no suitable node (host-mode port already in use on 3 nodes)"
    )
    world.pass_time(100_000)
    world.run()
    assert status(world).state is UpdateState.UPDATING
    assert images(world) == [OLD] * 3
    world.nodes(a_node("n3"))
    world.finish()
    assert images(world) == [NEW] * 3
    assert status(world).message == "update completed"


def test_start_first_waits_for_resources_and_says_so(world: World) -> None:
    deployed(world, cpus=6)
    world.update(a_service(image=NEW, cpus=6, update=START_FIRST))
    world.run()
    assert status(world).message.endswith("no suitable node (insufficient resources on 3 nodes)")
    assert images(world) == [OLD] * 3


def test_a_global_service_starts_first_too(world: World) -> None:
    deployed(world, None)
    world.update(a_service(replicas=None, image=NEW, update=START_FIRST))
    seen = steps(world)
    assert min(running for running, _ in seen) == 3
    assert max(wanted for _, wanted in seen) == 4
    assert images(world) == [NEW] * 3


def test_a_global_service_with_host_ports_stops_first(world: World) -> None:
    """Two tasks on one node cannot bind the same port: waiting for it would never end."""
    deployed(world, None, ports=(PORT,))
    world.update(a_service(replicas=None, image=NEW, ports=(PORT,), update=START_FIRST))
    seen = steps(world)
    assert min(running for running, _ in seen) == 2
    assert images(world) == [NEW] * 3


def test_a_failed_replacement_leaves_the_old_task_alone(world: World) -> None:
    deployed(world)
    world.update(a_service(image=BROKEN, update=START_FIRST))
    assert world.finish().state is UpdateState.PAUSED
    for _ in range(5):
        world.run()
        world.pass_time(60)
    assert images(world) == [OLD] * 3
    assert len(world.wanted()) == 3


def test_a_second_update_meanwhile_replaces_the_replacement(world: World) -> None:
    deployed(world, 1)
    world.fates[NEW] = TaskState.PREPARING
    world.update(a_service(replicas=1, image=NEW, update=START_FIRST))
    world.run()
    assert sorted(map(image, world.wanted())) == [OLD, NEW]
    world.update(a_service(replicas=1, image="app:3", update=START_FIRST))
    assert world.finish().state is UpdateState.COMPLETED
    assert images(world) == ["app:3"]


def test_scaling_down_takes_the_replacement_along(world: World) -> None:
    deployed(world, 2)
    world.fates[NEW] = TaskState.PREPARING
    world.update(a_service(replicas=2, image=NEW, update=START_FIRST))
    world.run()
    world.update(a_service(replicas=0, image=NEW, update=START_FIRST))
    world.run()
    assert world.wanted() == []


# --- failures -------------------------------------------------------------------------------------


def test_a_failure_pauses_the_update_and_tells_which_task(world: World) -> None:
    deployed(world)
    world.update(a_service(image=BROKEN))
    end = world.finish()
    assert end.state is UpdateState.PAUSED
    assert not end.completed_at
    failed = next(task for task in world.store.tasks() if task.status.state is TaskState.FAILED)
    assert end.message == (f"update paused due to failure or early termination of task {failed.id}")
    for _ in range(5):  # the slot is tried again, the others are left alone
        world.run()
        world.pass_time(60)
    assert images(world) == [OLD, OLD]


def test_a_failure_after_the_monitor_is_none_of_the_update(world: World) -> None:
    deployed(world)
    config = UpdateConfig(parallelism=1, delay=60 * SECOND, monitor=10 * SECOND)
    world.update(a_service(image=NEW, update=config))
    world.run()
    world.pass_time(11)
    world.report(world.wanted()[0].id, TaskState.FAILED)
    assert world.finish().state is UpdateState.COMPLETED
    assert images(world) == [NEW] * 3


@pytest.mark.parametrize("end", [TaskState.FAILED, TaskState.COMPLETE])
def test_an_end_within_the_monitor_is_a_failure(world: World, end: TaskState) -> None:
    deployed(world)
    config = UpdateConfig(parallelism=1, delay=60 * SECOND, monitor=10 * SECOND)
    world.update(a_service(image=NEW, update=config))
    world.run()
    world.pass_time(10)
    world.report(world.wanted()[0].id, end)
    assert world.finish().state is UpdateState.PAUSED


def test_a_task_whose_work_is_done_is_no_failure(world: World) -> None:
    """It ends early, and its restart policy wants no other: that is what was asked for."""
    once = RestartPolicy(condition="none")
    deployed(world, restart=once)
    world.fates[NEW] = TaskState.COMPLETE
    world.update(a_service(image=NEW, restart=once))
    assert world.finish().state is UpdateState.COMPLETED
    assert [task.status.state for task in world.store.tasks() if image(task) == NEW] == [
        TaskState.COMPLETE
    ] * 3


@pytest.mark.parametrize(
    ("ratio", "end"),
    [(0, UpdateState.PAUSED), (0.24, UpdateState.PAUSED), (0.25, UpdateState.COMPLETED)],
)
def test_a_share_of_failures_is_allowed(world: World, ratio: float, end: UpdateState) -> None:
    deployed(world, 4)
    config = UpdateConfig(parallelism=1, max_failure_ratio=ratio)
    world.update(a_service(replicas=4, image=NEW, update=config))
    world.settle()
    world.obey()
    world.settle()
    first = next(task for task in world.wanted() if image(task) == NEW)
    world.report(first.id, TaskState.FAILED)
    assert world.finish().state is end


def test_continue_goes_on_whatever_fails(world: World) -> None:
    deployed(world, 4)
    config = UpdateConfig(parallelism=1, failure_action="continue")
    world.update(a_service(replicas=4, image=BROKEN, update=config))
    assert world.finish().state is UpdateState.COMPLETED
    assert images(world) == []


def test_a_slot_that_goes_on_failing_counts_once(world: World) -> None:
    deployed(world, 4, restart=RestartPolicy(delay=SECOND))
    config = UpdateConfig(parallelism=1, max_failure_ratio=0.3, delay=100 * SECOND)
    spec = a_service(replicas=4, image=NEW, update=config, restart=RestartPolicy(delay=SECOND))
    world.update(spec)
    for _ in range(50):
        world.settle()
        world.obey()
        for task in world.wanted():
            if task.slot == 1 and image(task) == NEW and task.status.state is TaskState.RUNNING:
                world.report(task.id, TaskState.FAILED)
        world.pass_time(1)
    assert status(world).state is UpdateState.UPDATING
    attempts = [t for t in world.store.tasks() if t.slot == 1 and image(t) == NEW]
    assert len(attempts) <= 7  # the history is short, with the one that counts in it
    world.finish()
    assert images(world)[1:] == [NEW] * 3


class Faulty(World):
    """The new template fails in the first slot, whenever it is tried."""

    def fate(self, task: Task) -> TaskState:
        broken = task.slot == 1 and image(task) == NEW
        return TaskState.FAILED if broken else super().fate(task)


def test_a_slot_that_goes_on_failing_does_not_hold_up_the_others() -> None:
    """Its delay counts from its first failure, which is not forgotten for all that came after."""
    world = Faulty()
    world.nodes(a_node("n0"))
    restart = RestartPolicy(delay=10 * SECOND)
    deployed(world, 3, restart=restart)
    config = UpdateConfig(parallelism=1, failure_action="continue", delay=100 * SECOND)
    world.update(a_service(image=NEW, update=config, restart=restart))
    begun = world.now
    assert world.finish().state is UpdateState.COMPLETED
    assert world.now < begun + 250 * SECOND
    world.run()
    assert images(world) == [NEW, NEW]


@pytest.mark.parametrize("order", ["stop-first", "start-first"])
def test_a_task_that_does_not_come_up_counts_as_failed(world: World, order: str) -> None:
    config = UpdateConfig(parallelism=1, order=order)  # type: ignore[arg-type]
    deployed(world)
    world.fates[NEW] = TaskState.PREPARING
    world.update(a_service(image=NEW, update=config))
    world.run()
    world.pass_time(9 * 60)
    world.run()
    assert status(world).state is UpdateState.UPDATING
    end = world.finish()
    assert end.state is UpdateState.PAUSED
    assert end.message.endswith(": it did not come up in time")
    assert end.started_at + 700 * SECOND > world.now
    world.run()
    assert len(world.running()) == (3 if order == "start-first" else 2)
    assert len(world.wanted()) == 3


def test_news_in_the_last_moment_counts(world: World) -> None:
    """A cluster that had no quorum for an hour does not take its own silence for the task's."""
    deployed(world)
    world.fates[NEW] = TaskState.PREPARING
    world.update(a_service(image=NEW))
    world.run()
    world.pass_time(3600)
    world.settle()
    assert status(world).state is UpdateState.UPDATING
    assert world.orchestrate().wake_at == world.now + 30 * SECOND
    world.fates[NEW] = TaskState.STARTING
    world.obey()
    world.pass_time(31)
    world.settle()
    assert status(world).state is UpdateState.UPDATING
    del world.fates[NEW]
    assert world.finish().state is UpdateState.COMPLETED


def test_a_task_that_comes_up_late_runs_on(world: World) -> None:
    """Stop-first has nothing else for the slot."""
    deployed(world)
    world.fates[NEW] = TaskState.PREPARING
    world.update(a_service(image=NEW))
    world.finish()
    del world.fates[NEW]
    world.run()
    assert images(world) == [NEW, OLD, OLD]


def test_a_slow_health_check_has_its_time(world: World) -> None:
    deployed(world)
    world.fates[NEW] = TaskState.STARTING
    service = a_service(image=NEW)
    health = HealthConfig(test=("CMD", "x"), start_period=3600 * SECOND)
    container = replace(service.spec.task_template.container, healthcheck=health)
    template = replace(service.spec.task_template, container_spec=container)
    world.update(replace(service, spec=replace(service.spec, task_template=template)))
    world.run()
    world.pass_time(3600 + 600)
    world.run()
    assert status(world).state is UpdateState.UPDATING
    world.finish()
    assert status(world).state is UpdateState.PAUSED


def test_a_task_without_a_place_is_waited_for(world: World) -> None:
    """It is not the new template that failed. The message says what is missing."""
    deployed(world)
    world.update(a_service(image=NEW, placement=Placement(constraints=("node.id == n9",))))
    world.run()
    world.pass_time(100_000)
    world.run()
    assert status(world).state is UpdateState.UPDATING
    assert status(world).message.endswith(
        "no suitable node (scheduling constraints not satisfied on 3 nodes)"
    )
    assert images(world) == [OLD, OLD]
    world.nodes(a_node("n9"))
    world.finish()
    assert status(world).state is UpdateState.COMPLETED


# --- pause and resume -----------------------------------------------------------------------------


def test_any_change_goes_on_with_a_paused_update(world: World) -> None:
    deployed(world)
    world.update(a_service(image=BROKEN))
    world.finish()
    world.fates.clear()
    world.pass_time(60)
    world.update(a_service(image=BROKEN, labels={"cause": "removed"}))
    assert status(world).state is UpdateState.UPDATING
    assert status(world).started_at == world.now
    assert world.finish().state is UpdateState.COMPLETED
    assert images(world) == [BROKEN] * 3


def test_a_task_that_was_given_up_is_replaced_when_the_update_goes_on(world: World) -> None:
    deployed(world)
    world.fates[NEW] = TaskState.PREPARING
    world.update(a_service(image=NEW))
    world.finish()
    (stuck,) = (task for task in world.wanted() if image(task) == NEW)
    world.update(a_service(image=NEW, labels={"try": "again"}))
    world.run()
    assert status(world).state is UpdateState.UPDATING
    assert world.task(stuck.id).status.state is TaskState.SHUTDOWN
    assert len(world.wanted()) == 3
    assert world.finish().state is UpdateState.PAUSED  # stuck again


def test_an_update_that_still_fails_pauses_again(world: World) -> None:
    deployed(world)
    world.update(a_service(image=BROKEN))
    world.finish()
    world.update(a_service(image=BROKEN, labels={"cause": "still there"}))
    assert world.finish().state is UpdateState.PAUSED
    assert images(world) == [OLD, OLD]


def test_the_cure_of_a_paused_update_replaces_all(world: World) -> None:
    deployed(world)
    world.update(a_service(image=BROKEN))
    world.finish()
    world.update(a_service(image=NEW))
    assert world.finish().state is UpdateState.COMPLETED
    assert images(world) == [NEW] * 3


# --- rollback -------------------------------------------------------------------------------------


def test_a_failure_can_bring_the_previous_spec_back(world: World) -> None:
    config = UpdateConfig(parallelism=1, failure_action="rollback")
    deployed(world, update=config)
    untouched = {task.id for task in world.wanted()[1:]}
    world.update(a_service(image=BROKEN, update=config))
    for _ in range(20):
        world.settle()
        world.obey()
        if status(world).state is UpdateState.ROLLBACK_STARTED:
            break
    assert status(world).message.startswith(
        "update rolled back due to failure or early termination of task "
    )
    assert world.found().spec.task_template.container.image == OLD
    assert world.found().previous_spec is None
    end = world.finish()
    assert (end.state, end.message) == (UpdateState.ROLLBACK_COMPLETED, "rollback completed")
    assert images(world) == [OLD] * 3
    assert untouched <= {task.id for task in world.wanted()}  # what was not replaced stays


def test_a_rollback_keeps_to_its_own_terms(world: World) -> None:
    update = UpdateConfig(parallelism=1, failure_action="rollback", max_failure_ratio=0.5)
    back = UpdateConfig(parallelism=2, order="start-first", monitor=77 * SECOND)
    deployed(world, 4, update=update, rollback=back)
    world.update(a_service(replicas=4, image=NEW, update=update, rollback=back))
    world.finish()
    world.roll_back()
    assert status(world).message == "manually requested rollback"
    seen = steps(world)
    assert min(running for running, _ in seen) == 4
    assert max(wanted for _, wanted in seen) == 6
    assert status(world).state is UpdateState.ROLLBACK_COMPLETED
    assert images(world) == [OLD] * 4
    began = status(world).started_at
    assert status(world).completed_at - began == 77 * SECOND


def test_a_rollback_that_fails_pauses_and_never_rolls_back(world: World) -> None:
    deployed(world, image=BROKEN)
    world.update(a_service(image=NEW))
    world.finish()
    world.roll_back()
    end = world.finish()
    assert end.state is UpdateState.ROLLBACK_PAUSED
    assert end.message.startswith("rollback paused due to failure or early termination of task ")
    assert images(world) == [NEW, NEW]


def test_a_first_spec_has_nothing_to_go_back_to(world: World) -> None:
    """After an automatic rollback neither: what failed is no way out."""
    config = UpdateConfig(parallelism=1, failure_action="rollback")
    deployed(world, update=config)
    world.update(a_service(image=BROKEN, update=config))
    world.finish()
    assert world.found().previous_spec is None
    world.service(a_service(image=BROKEN, update=config), updating=True)  # no previous spec
    assert world.finish().state is UpdateState.PAUSED


def test_a_change_of_labels_is_no_way_back(world: World) -> None:
    """The previous spec has the same template then, so going back to it would cure nothing."""
    config = UpdateConfig(parallelism=1, failure_action="rollback")
    deployed(world, update=config)
    world.fates[NEW] = TaskState.PREPARING
    world.update(a_service(image=NEW, update=config))
    world.run()
    world.update(a_service(image=NEW, update=config, labels={"a": "b"}))
    world.fates[NEW] = TaskState.FAILED
    assert world.finish().state is UpdateState.PAUSED


def test_going_back_by_hand_leaves_alone_what_was_not_replaced(world: World) -> None:
    """A new deployment of the old file is a rollback in all but name."""
    deployed(world)
    before = {task.slot: task.id for task in world.wanted()}
    world.update(a_service(image=NEW, update=UpdateConfig(parallelism=1, delay=600 * SECOND)))
    world.run()
    assert images(world) == [NEW, OLD, OLD]
    world.update(a_service(image=OLD))
    world.finish()
    assert images(world) == [OLD] * 3
    after = {task.slot: task.id for task in world.wanted()}
    assert (after[2], after[3]) == (before[2], before[3])


# --- what restarts nothing ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"labels": {"a": "b"}},
        {"update": UpdateConfig(parallelism=7)},
        {"rollback": START_FIRST},
        {"placement": Placement(constraints=("node.id != n9",))},
        {},
    ],
)
def test_what_concerns_no_container_restarts_nothing(
    world: World, change: dict[str, object]
) -> None:
    deployed(world)
    before = world.wanted()
    world.update(a_service(**change))  # type: ignore[arg-type]
    assert world.found().update_status is None
    world.run()
    assert world.wanted() == before


def test_new_constraints_move_only_who_breaks_them(world: World) -> None:
    deployed(world)
    before = {task.node_id: task.id for task in world.wanted()}
    world.update(a_service(placement=Placement(constraints=("node.id != n1",))))
    world.finish()
    after = {task.id: task.node_id for task in world.wanted()}
    assert after.keys() & before.values() == {before["n0"], before["n2"]}
    assert "n1" not in after.values()


def test_the_constraints_of_the_service_count_from_then_on(world: World) -> None:
    """Of a task that was made before them, too."""
    zone = {"zone": "a"}
    world.nodes(*(a_node(f"n{i}", labels=zone) for i in range(3)))
    deployed(world)
    world.update(a_service(placement=Placement(constraints=("node.labels.zone == a",))))
    world.run()
    world.nodes(a_node("n0", labels={"zone": "b"}))
    world.run()
    assert {task.node_id for task in world.wanted()} == {"n1", "n2"}


def test_an_update_of_global_tasks_passes_over_a_paused_node(world: World) -> None:
    deployed(world, None)
    world.nodes(a_node("n0", availability=Availability.PAUSE))
    world.update(a_service(replicas=None, image=NEW))
    assert world.finish().state is UpdateState.COMPLETED
    assert images(world) == [OLD, NEW, NEW]
    world.nodes(a_node("n0"))
    world.run()
    assert images(world) == [NEW] * 3


def test_the_message_of_an_old_wait_goes_when_it_is_over(world: World) -> None:
    deployed(world, cpus=6)
    world.update(a_service(image=NEW, cpus=6, update=UpdateConfig(order="start-first", delay=1)))
    world.run()
    assert "waiting for task" in status(world).message
    world.nodes(*(a_node(f"n{i}", cpus=16) for i in range(3)))
    world.settle()
    assert status(world).message == "update in progress"
