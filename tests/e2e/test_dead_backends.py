"""What dies gets no clients: with its engine, with its host, with managers and without."""

import os
import signal
from collections.abc import Iterator
from typing import Final

import pytest

from tests.e2e.cluster import Cluster, diagnosed, eventually
from tests.e2e.conftest import MakePlayground
from tests.e2e.test_overlay import HEALTHY, SERVER, Visitor, answer_of

pytestmark = [pytest.mark.netns, pytest.mark.docker]

PORT: Final = 8090

#: So many answers in a row, of three backends of which one is dead, are no accident.
ROW: Final = 40


@pytest.fixture(scope="module")
def hosts(make_shared_playground: MakePlayground) -> Iterator[Cluster]:
    """A manager and two workers."""
    playground = make_shared_playground(managers=1, workers=2)
    with diagnosed(playground):
        yield Cluster(playground)


@pytest.fixture
def cluster(hosts: Cluster) -> Cluster:
    """A web server on each host, and all of them answer."""
    off = [host.name for host in hosts.playground.status() if host.state != "running"]
    if off:
        hosts.playground.start(*off)
    hosts.wait_all_ready()
    hosts.remove_all()
    hosts.create("web", "--mode=global", f"--publish={PORT}:80", *HEALTHY, command=SERVER)
    hosts.wait_running("web", 3)
    eventually(lambda: answering(hosts, "w1") == 3, "three tasks answer")
    return hosts


def answering(cluster: Cluster, entry: str) -> int:
    """How many tasks answer by the port of a node."""
    place = (cluster.address(entry), PORT)
    return len({answer[1] for _ in range(ROW) if (answer := answer_of(*place))})


def all_answered(cluster: Cluster, entry: str) -> bool:
    """Whether many requests in a row are answered."""
    place = (cluster.address(entry), PORT)
    return all(answer_of(*place) for _ in range(ROW))


def test_tasks_whose_engine_stops_get_no_clients(cluster: Cluster) -> None:
    """They are not moved, as it may be back at once; meanwhile nobody is sent to them."""
    pid = cluster.playground.host("w2").engine_pid
    assert pid
    places = [(cluster.address(entry), PORT) for entry in cluster.hosts]
    with Visitor(*places) as visitor:
        visitor.wait_for(30)
        os.kill(pid, signal.SIGTERM)
        eventually(lambda: cluster.playground.host("w2").engine_pid is None, "the engine is gone")
        eventually(lambda: all_answered(cluster, "w1"), "w1 sends nobody to w2")
        eventually(lambda: all_answered(cluster, "w2"), "w2 sends nobody to its own task")
        assert cluster.states()["w2"] == "ready"
        assert len(cluster.running("web")) == 3
        cluster.playground.start("w2")
        eventually(lambda: answering(cluster, "w1") == 3, "all three answer again")
    assert not [failure for failure in visitor.failures if "timed out" in failure]


def test_without_managers_dead_hosts_get_no_clients(cluster: Cluster) -> None:
    """Nobody says that they are dead: who forwards to them sees it."""
    cluster.playground.kill("m1", "w2")
    eventually(lambda: all_answered(cluster, "w1"), "w1 sends nobody to m1 and w2")
    cluster.playground.start("m1", "w2")
    eventually(lambda: answering(cluster, "w1") == 3, "all three answer again")
