"""Restart policy: what the last attempts say about the next one."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from swarmlet.clock import SECOND, Instant, Nanos
from swarmlet.control.restart import GUARD_PERIOD, GUARD_STARTS, next_start
from swarmlet.model.defaults import Restart
from swarmlet.model.objects import Task, TaskState, TaskStatus
from swarmlet.model.specs import TaskSpec

NOW = Instant(1_000 * SECOND)


def policy(
    condition: str = "any", *, delay: float = 5, attempts: int = 0, window: float = 0
) -> Restart:
    return Restart(condition, Nanos(int(delay * SECOND)), attempts, Nanos(int(window * SECOND)))


def attempt(
    state: TaskState, *, created: float, ended: float | None = None, spec_version: int = 1
) -> Task:
    end = created + 1 if ended is None else ended
    return Task(
        id=f"t{created:09.3f}",
        created_at=Instant(int(created * SECOND)),
        service_id="s",
        service_name="web",
        slot=1,
        spec=TaskSpec(),
        spec_version=spec_version,
        status=TaskStatus(state=state, at=Instant(int(end * SECOND))),
        desired=TaskState.SHUTDOWN,
    )


def decide(rules: Restart, attempts: Sequence[Task], *, spec_version: int = 1) -> Instant | None:
    return next_start(rules, attempts, spec_version=spec_version, now=NOW)


@pytest.mark.parametrize(
    ("condition", "state", "again"),
    [
        ("any", TaskState.COMPLETE, True),
        ("any", TaskState.FAILED, True),
        ("any", TaskState.REJECTED, True),
        ("on-failure", TaskState.COMPLETE, False),
        ("on-failure", TaskState.FAILED, True),
        ("on-failure", TaskState.REJECTED, True),
        ("none", TaskState.COMPLETE, False),
        ("none", TaskState.FAILED, False),
        ("none", TaskState.SHUTDOWN, True),
        ("none", TaskState.ORPHANED, True),
        ("none", TaskState.RUNNING, True),
    ],
)
def test_condition(condition: str, state: TaskState, again: bool) -> None:
    """What was asked to stop, or lost its node, is replaced whatever the condition says."""
    found = decide(policy(condition), [attempt(state, created=900)])
    assert (found is not None) == again


def test_the_delay_counts_from_now() -> None:
    assert decide(policy(delay=5), [attempt(TaskState.FAILED, created=900)]) == NOW + 5 * SECOND


@pytest.mark.parametrize("state", [TaskState.SHUTDOWN, TaskState.ORPHANED, TaskState.RUNNING])
def test_no_delay_after_what_is_not_the_tasks_fault(state: TaskState) -> None:
    """RUNNING is a task that we gave up: its node is down, or drained."""
    assert decide(policy(delay=5), [attempt(state, created=900)]) == NOW


def test_an_empty_slot_starts_at_once() -> None:
    assert decide(policy(), []) == NOW


def test_attempts_at_an_older_template_do_not_count() -> None:
    old = [attempt(TaskState.FAILED, created=900 + i) for i in range(4)]
    assert decide(policy(attempts=1), old, spec_version=2) == NOW


def failures(*created: float) -> list[Task]:
    return [attempt(TaskState.FAILED, created=second) for second in created]


def test_max_attempts_counts_restarts_not_starts() -> None:
    assert decide(policy(attempts=2), failures(900, 910)) is not None
    assert decide(policy(attempts=2), failures(900, 910, 920)) is None


def test_only_attempts_within_the_window_count() -> None:
    """Restarts at 700 and 990; the last one ended at 991."""
    assert decide(policy(attempts=2, window=60), failures(600, 700, 990)) is not None
    assert decide(policy(attempts=2, window=300), failures(600, 700, 990)) is None


def test_waiting_does_not_bring_attempts_back() -> None:
    """The window reaches back from the last failure: later is never again, too."""
    used_up = failures(900, 910, 920)
    rules = policy(attempts=2, window=30)
    for seconds in (0, 100, 10_000):
        now = Instant(NOW + seconds * SECOND)
        assert next_start(rules, used_up, spec_version=1, now=now) is None


def test_the_first_restarts_are_never_slowed() -> None:
    quick = failures(*(999 + i / 10 for i in range(GUARD_STARTS - 1)))
    assert decide(policy(delay=0), quick) == NOW


def test_a_hot_loop_is_slowed() -> None:
    quick = failures(*(999 + i / 10 for i in range(GUARD_STARTS)))
    assert decide(policy(delay=0), quick) == 999 * SECOND + GUARD_PERIOD


@given(
    st.lists(st.integers(0, 2_000), max_size=12),
    st.sampled_from([0.0, 0.1, 5.0]),
    st.sampled_from([TaskState.FAILED, TaskState.COMPLETE, TaskState.SHUTDOWN]),
)
def test_the_guard_is_bounded(created: list[int], delay: float, state: TaskState) -> None:
    """Whatever clocks did: never in the past, never longer than the delay or the guard."""
    found = decide(policy(delay=delay), [attempt(state, created=second) for second in created])
    assert found is not None
    assert NOW <= found <= NOW + max(int(delay * SECOND), GUARD_PERIOD)


def test_a_task_that_crashes_at_once_is_started_less_than_twice_a_second() -> None:
    """Simulated: a slot with delay 0 whose task fails at once; the reaper keeps five attempts."""
    now, starts = 0, list[Task]()
    for _ in range(60):
        begin = next_start(policy(delay=0), starts[-5:], spec_version=1, now=Instant(now))
        assert begin is not None
        now = begin
        starts.append(attempt(TaskState.FAILED, created=now / SECOND))
        now += SECOND // 1000
    spent = starts[-1].created_at - starts[0].created_at
    assert spent > 30 * SECOND
