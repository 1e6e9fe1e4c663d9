"""Containers that outlive their engine (live-restore) stay what they were, and are looked after."""

import os
import signal

import pytest
from swarmlet.playground.playground import Wish

from tests.e2e.cluster import Cluster, eventually
from tests.e2e.conftest import MakePlayground

pytestmark = [pytest.mark.netns, pytest.mark.docker]

CHECK = ("--health-interval=300ms", "--health-retries=2", "--health-cmd")


def test_health_is_checked_after_a_crash_of_the_engine(make_playground: MakePlayground) -> None:
    """Of one that was healthy, and of one that had just begun: old engines forget both."""
    playground = make_playground(managers=1, workers=0, wish=Wish(engine_args=("--live-restore",)))
    cluster = Cluster(playground)
    cluster.create("old", *CHECK, "test ! -e /tmp/sick")
    cluster.wait_running("old", 1)
    (before,) = cluster.containers("old")
    cluster.create("new", *CHECK, "test -e /tmp/well")
    (fresh,) = eventually(lambda: cluster.containers("new"), "it has begun")
    os.kill(playground.host("m1").engine_pid or 0, signal.SIGKILL)
    eventually(lambda: playground.host("m1").state == "engine stopped", "the engine is dead")
    playground.start("m1")

    cluster.engine("m1", "exec", fresh["Id"], "touch", "/tmp/well")
    cluster.wait_running("new", 1)
    assert [one["Id"] for one in cluster.containers("old")] == [before["Id"]]
    cluster.engine("m1", "exec", before["Id"], "touch", "/tmp/sick")
    eventually(
        lambda: [one["Id"] for one in cluster.containers("old")] not in ([], [before["Id"]]),
        "the one that fell ill is replaced",
    )
