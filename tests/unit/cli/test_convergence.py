"""When a service counts as converged, when it never will, and what is said meanwhile."""

import datetime as dt
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from swarmlet.cli.convergence import ORDER, Standing, judge
from swarmlet.cli.live import draw

from tests.fakes import swarm

Json = Any
NODES = {n["ID"]: n for n in (swarm.node("mgr-1"), swarm.node("wrk-1"))}


def _judge(service: Json, tasks: list[Json], nodes: Json = None) -> Standing:
    return judge(service, tasks, nodes or NODES, dt.datetime.now(dt.UTC))


def test_all_replicas_running_is_converged() -> None:
    web = swarm.service("web", replicas=2)
    standing = _judge(web, [swarm.task(web, 1), swarm.task(web, 2)])
    assert standing.converged
    assert standing.line == "2/2  running"


def test_missing_tasks_are_waiting() -> None:
    web = swarm.service("web", replicas=3)
    standing = _judge(web, [swarm.task(web, 1), swarm.task(web, 2, "preparing")])
    assert not standing.converged
    assert standing.line == "1/3  1 preparing · 1 waiting"


def test_no_replicas_is_converged_without_tasks() -> None:
    assert _judge(swarm.service("web", replicas=0), []).converged


def test_a_global_service_wants_as_many_as_there_are() -> None:
    agent = swarm.service("agent", replicas=None)
    tasks = [swarm.task(agent, 0, host="mgr-1"), swarm.task(agent, 0, "starting", host="wrk-1")]
    assert _judge(agent, tasks).line == "1/2  1 starting"


def test_a_task_on_a_node_that_is_down_does_not_count() -> None:
    web = swarm.service("web")
    down = swarm.node("wrk-1", state="down")
    assert _judge(web, [swarm.task(web, 1)], {down["ID"]: down}).running == 0


def test_a_pending_task_tells_the_schedulers_reason() -> None:
    web = swarm.service("web")
    why = "no suitable node (insufficient resources on 2 nodes)"
    [trouble] = _judge(web, [swarm.task(web, 1, "pending", host="", err=why)]).troubles
    assert str(trouble) == f"web.1: {why}"


def test_a_task_that_fails_again_and_again_is_counted() -> None:
    web = swarm.service("web")
    tasks = [
        swarm.task(web, 1, "failed", err="exit 1", age=30, desired="shutdown", number=1),
        swarm.task(web, 1, "failed", err="exit 2", age=10, desired="shutdown", number=2),
        swarm.task(web, 1, "starting", age=1, number=3),
    ]
    [trouble] = _judge(web, tasks).troubles
    assert str(trouble) == "web.1 on wrk-1: exit 2 (2 times)"


@pytest.mark.parametrize(
    ("condition", "state", "failed"),
    [("none", "failed", True), ("none", "complete", False), ("on-failure", "complete", False)],
)
def test_a_task_that_ends_for_good_ends_the_wait(
    condition: str, state: str, *, failed: bool
) -> None:
    """Docker's command line waits for ever here."""
    template = {"ContainerSpec": {}, "RestartPolicy": {"Condition": condition}}
    once = swarm.service("once", TaskTemplate=template)
    standing = _judge(once, [swarm.task(once, 1, state, desired="shutdown")])
    assert bool(standing.failed) is failed
    assert standing.converged is not failed


def test_the_last_attempt_ends_the_wait() -> None:
    policy = {"Condition": "any", "MaxAttempts": 2, "Delay": 1_000_000_000}
    web = swarm.service("web", TaskTemplate={"ContainerSpec": {}, "RestartPolicy": policy})
    late = swarm.task(web, 1, "failed", age=60, desired="shutdown")
    assert "will not be started again" in _judge(web, [late]).failed
    fresh = swarm.task(web, 1, "failed", age=1, desired="shutdown")
    assert not _judge(web, [fresh]).failed


def test_a_slot_left_by_scaling_down_is_no_failure() -> None:
    template = {"ContainerSpec": {}, "RestartPolicy": {"Condition": "none"}}
    web = swarm.service("web", replicas=1, TaskTemplate=template)
    tasks = [swarm.task(web, 1), swarm.task(web, 2, "failed", desired="shutdown")]
    assert _judge(web, tasks).converged


@pytest.mark.parametrize(
    ("state", "message", "failed", "updating"),
    [
        ("updating", "", "", True),
        ("completed", "", "", False),
        ("paused", "task x failed", "the update was paused: task x failed", False),
        ("rollback_started", "", "", True),
        ("rollback_completed", "rollback completed", "", False),
        ("rollback_completed", "task x", "the update was rolled back: task x", False),
    ],
)
def test_the_update_has_its_say(state: str, message: str, failed: str, *, updating: bool) -> None:
    web = swarm.service("web") | {"UpdateStatus": {"State": state, "Message": message}}
    standing = _judge(web, [swarm.task(web, 1)])
    assert (standing.failed, standing.updating) == (failed, updating)


_STATES = st.sampled_from([*ORDER, "unheard-of"])


@given(
    st.integers(0, 5),
    st.lists(st.tuples(st.integers(1, 5), _STATES, _STATES, st.integers(0, 3)), max_size=12),
)
def test_judging_never_counts_more_than_there_is(
    replicas: int, states: list[tuple[int, str, str, int]]
) -> None:
    web = swarm.service("web", replicas=replicas)
    tasks = [
        swarm.task(web, slot, state, desired=desired, number=n)
        for slot, state, desired, n in states
    ]
    standing = _judge(web, tasks)
    assert 0 <= standing.running <= len({slot for slot, *_ in states})
    if standing.converged:
        assert standing.running == replicas


def test_the_live_view_draws_bars_and_reasons() -> None:
    web = swarm.service("[red]web", replicas=4)
    tasks = [swarm.task(web, 1), swarm.task(web, 2, "pending", host="", err="no node")]
    text = draw([_judge(web, tasks)], stable_in=None, height=24).plain
    assert text.splitlines() == [
        "service [red]web  █████░░░░░░░░░░░░░░░ 1/4  1 pending · 2 waiting",
        "  [red]web.2: no node",
    ]


def test_the_live_view_fits_the_screen() -> None:
    standings = [Standing(f"s{i}", 1, i % 2) for i in range(100)]
    assert len(draw(standings, stable_in=3.0, height=24).plain.splitlines()) <= 24
