"""The life of a task, driven to its end from anywhere through a model of the engine."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from swarmlet.agent.lifecycle import Action, Failure, Known, Step, step
from swarmlet.clock import Instant
from swarmlet.engine.convert import Container
from swarmlet.model.objects import DESIRED, TaskState, TaskStatus
from swarmlet.model.specs import ContainerSpec, TaskSpec
from swarmlet.rpc.messages import Assignment

OBSERVED = [s for s in TaskState if TaskState.ASSIGNED <= s <= TaskState.REJECTED]
NOW = Instant(1)

#: More steps than any way through the states has.
ENOUGH = 12


def assignment(desired: TaskState, state: TaskState = TaskState.ASSIGNED) -> Assignment:
    return Assignment(
        task_id="t",
        service_id="s",
        service_name="web",
        slot=1,
        node_id="n",
        spec=TaskSpec(container_spec=ContainerSpec(image="i")),
        desired=desired,
        state=state,
    )


containers = st.none() | st.builds(
    Container,
    id=st.just("c"),
    task_id=st.just("t"),
    state=st.sampled_from(["created", "running", "paused", "exited", "dead"]),
    exit_code=st.sampled_from([0, 1, 137, 255]),
    oom_killed=st.booleans(),
    health=st.sampled_from(["", "starting", "healthy", "unhealthy"]),
)
statuses = st.none() | st.builds(TaskStatus, state=st.sampled_from(OBSERVED), at=st.just(NOW))
known = st.builds(
    Known,
    status=statuses,
    container=containers,
    image_missing=st.booleans(),
    failure=st.none()
    | st.builds(
        Failure,
        action=st.sampled_from([Action.PULL, Action.CREATE, Action.START]),
        message=st.just("refused"),
    ),
    host_ended=st.booleans(),
    hold=st.booleans(),
    slot_busy=st.booleans(),
)
tasks = st.builds(assignment, st.sampled_from(DESIRED), st.sampled_from(OBSERVED))


def engine_does(action: Action, known: Known) -> Known:
    """What a willing engine shows after an action."""
    match action:
        case Action.PULL:
            return msgspec.structs.replace(known, image_missing=False)
        case Action.CREATE:
            made = Container(id="c", task_id="t", state="created")
            return msgspec.structs.replace(known, container=made)
        case Action.START:
            runs = Container(id="c", task_id="t", state="running", pid=7)
            return msgspec.structs.replace(known, container=runs, host_ended=False)
        case Action.STOP:
            assert known.container is not None
            over = msgspec.structs.replace(known.container, state="exited", exit_code=143)
            return msgspec.structs.replace(known, container=over)
        case Action.REMOVE:
            return msgspec.structs.replace(known, container=None)
        case Action.WAIT:
            return known


def settle(task: Assignment, known: Known) -> tuple[Known, list[Step]]:
    """Step until nothing more happens; fails when that takes too long."""
    steps: list[Step] = []
    for _ in range(ENOUGH):
        decided = step(task, known, NOW)
        steps.append(decided)
        if decided.status is not None:
            known = msgspec.structs.replace(known, status=decided.status)
        known = engine_does(decided.action, known)
        if decided == Step(Action.WAIT):
            return known, steps
    raise AssertionError(steps)


@given(tasks, known)
def test_statuses_only_move_forward(task: Assignment, before: Known) -> None:
    latest = before.state(task)
    for decided in settle(task, before)[1]:
        if decided.status is not None:
            assert decided.status.state >= latest
            latest = decided.status.state


@given(tasks, known)
def test_deciding_again_after_the_end_changes_nothing(task: Assignment, before: Known) -> None:
    after, _ = settle(task, before)
    assert step(task, after, NOW) == Step(Action.WAIT)


@given(st.sampled_from(OBSERVED), known)
def test_a_task_that_must_end_ends_from_anywhere(state: TaskState, before: Known) -> None:
    after, steps = settle(assignment(TaskState.SHUTDOWN, state), before)
    assert after.state(assignment(TaskState.SHUTDOWN, state)).ended
    assert after.container is None or not after.container.running
    assert not {s.action for s in steps} & {Action.PULL, Action.CREATE, Action.START}


@given(st.sampled_from(OBSERVED), known)
def test_a_task_that_must_go_leaves_no_container(state: TaskState, before: Known) -> None:
    task = assignment(TaskState.REMOVE, state)
    after, _ = settle(task, before)
    assert after.state(task).ended
    assert after.container is None


@given(st.sampled_from(OBSERVED), known)
def test_a_task_that_must_run_runs_or_has_ended_or_waits_for_its_health(
    state: TaskState, before: Known
) -> None:
    task = assignment(TaskState.RUNNING, state)
    before = msgspec.structs.replace(before, hold=False, slot_busy=False)
    after, _ = settle(task, before)
    waits = after.container is not None and after.container.health == "starting"
    assert waits or after.state(task) >= TaskState.RUNNING
    if after.state(task).ended:
        assert after.container is None or not after.container.running


@given(known)
def test_a_task_held_at_ready_never_starts(before: Known) -> None:
    _, steps = settle(assignment(TaskState.READY), before)
    assert Action.START not in {s.action for s in steps}


@given(tasks, known)
def test_nothing_new_begins_on_hold(task: Assignment, before: Known) -> None:
    before = msgspec.structs.replace(before, hold=True)
    _, steps = settle(task, before)
    assert not {s.action for s in steps} & {Action.PULL, Action.CREATE, Action.START}


@given(known)
def test_a_busy_slot_delays_the_start_only(before: Known) -> None:
    _, steps = settle(
        assignment(TaskState.RUNNING), msgspec.structs.replace(before, slot_busy=True)
    )
    assert Action.START not in {s.action for s in steps}


@given(tasks, known, st.integers(0, ENOUGH))
def test_a_daemon_that_restarts_anywhere_reaches_the_same_end(
    task: Assignment, before: Known, interrupted: int
) -> None:
    """Killed after any step, before or after the engine acted, with its last report unsaved."""
    before = msgspec.structs.replace(before, hold=False, slot_busy=False)
    whole, _ = settle(task, before)
    lost = before
    for _ in range(interrupted):
        decided = step(task, lost, NOW)
        lost = engine_does(decided.action, lost)
        if decided.status is not None:
            lost = msgspec.structs.replace(lost, status=decided.status)
    remembered = msgspec.structs.replace(lost, status=before.status)
    resumed, _ = settle(task, remembered)
    assert resumed.state(task).ended == whole.state(task).ended
    if whole.container is not None and whole.container.running:
        assert resumed.container is not None
        assert resumed.container.running
    else:
        assert resumed.container is None or not resumed.container.running


@given(known)
def test_an_ended_task_never_runs_again(before: Known) -> None:
    over = msgspec.structs.replace(
        before, status=TaskStatus(state=TaskState.FAILED, at=NOW), hold=False
    )
    after, steps = settle(assignment(TaskState.RUNNING), over)
    assert after.container is None or not after.container.running
    assert all(decided.status is None for decided in steps)
