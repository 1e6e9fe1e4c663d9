"""Logs of services through the stock client: from all nodes, of later tasks too."""

import os
import subprocess
from typing import Self

import pytest

from tests.e2e.cluster import Cluster, eventually

pytestmark = [pytest.mark.netns, pytest.mark.docker]

#: Managers and workers of its playground.
HOSTS = (2, 1)

#: It says who it is on both streams, and then lives on.
TALK = ("sh", "-c", "hostname; echo oops >&2; while :; do sleep 0.2; done")


@pytest.fixture
def web(cluster: Cluster) -> dict[str, str]:
    """A service ``web`` with a task on each node: its hosts by its containers' names."""
    cluster.create("web", "--replicas=3", command=TALK)
    cluster.wait_running("web", 3)
    return {one["Id"][:12]: one["Host"] for one in cluster.containers("web")}


def lines(text: str) -> list[str]:
    return sorted(line.rpartition("| ")[2] for line in text.splitlines())


def test_any_manager_shows_the_logs_of_all_nodes(cluster: Cluster, web: dict[str, str]) -> None:
    assert len(set(web.values())) == 3
    for manager in ("m1", "m2"):
        said = cluster.docker(manager, "service", "logs", "web")
        assert lines(said.stdout) == sorted(web)
        assert lines(said.stderr) == ["oops"] * 3
        for line in said.stdout.splitlines():
            name, _, host = line.partition(" ")[0].partition("@")
            assert name.startswith("web.")
            assert host == web[line.rpartition("| ")[2]]


def test_raw_tail_since_and_times(cluster: Cluster, web: dict[str, str]) -> None:
    said = cluster.docker("m1", "service", "logs", "--raw", "--timestamps", "web").stdout
    (time, name), *_ = sorted(line.split() for line in said.splitlines())
    assert time.endswith("Z")
    assert name in web
    assert cluster.docker("m1", "service", "logs", "--raw", "--tail=0", "web").stdout == ""
    for since, count in (("10m", 3), ("2030-01-01T00:00:00Z", 0)):
        shown = cluster.docker("m1", "service", "logs", "--raw", f"--since={since}", "web").stdout
        assert len(shown.splitlines()) == count


def test_a_task_of_another_node(cluster: Cluster, web: dict[str, str]) -> None:
    said = [
        cluster.docker("m2", "service", "logs", "--raw", task["ID"]).stdout.strip()
        for task in cluster.running("web")
    ]
    assert sorted(said) == sorted(web)


def test_what_is_said_later_is_followed_and_by_whom_comes_later(
    cluster: Cluster, web: dict[str, str]
) -> None:
    with Follower(cluster, "web") as follower:
        eventually(lambda: set(web) <= set(follower.shown()), "all of now are shown")
        cluster.docker("m1", "service", "scale", "-d", "web=4")
        cluster.wait_running("web", 4)
        later = {one["Id"][:12] for one in cluster.containers("web")}
        eventually(lambda: later <= set(follower.shown()), "the one of later is shown")
        assert sorted(later) == sorted(follower.shown())  # each once


def test_a_terminals_lines(cluster: Cluster) -> None:
    cluster.create("tty", "--tty", "--replicas=2", command=("sh", "-c", "hostname; sleep 1000"))
    cluster.wait_running("tty", 2)
    names = sorted(one["Id"][:12] for one in cluster.containers("tty"))
    shown = cluster.docker("m1", "service", "logs", "--raw", "tty").stdout
    assert sorted(shown.split()) == names


def test_workers_say_whom_to_ask(cluster: Cluster, web: dict[str, str]) -> None:
    del web
    said = cluster.docker("w1", "service", "logs", "web", check=False)
    assert "This node is not a swarm manager" in said.stderr


def test_a_node_that_is_lost_is_named(cluster: Cluster, web: dict[str, str]) -> None:
    """What can be read is shown, and the client's exit status tells that it is not all."""
    cluster.playground.kill("w1")
    cluster.wait_state("w1", "down")
    said = cluster.docker("m1", "service", "logs", "--raw", "--no-trunc", "web", check=False)
    cluster.playground.start("w1")
    there = {name for name, host in web.items() if host != "w1"}
    assert there <= set(said.stdout.split())
    assert "some logs could not be retrieved" in said.stderr
    assert "is down" in said.stderr


class Follower:
    """A client that follows a log."""

    def __init__(self, cluster: Cluster, service: str) -> None:
        argv, environ = cluster.playground.command_on(
            "m2", ["docker", "service", "logs", "--raw", "--follow", service]
        )
        self._process = subprocess.Popen(
            argv, env=environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert self._process.stdout
        self._output = self._process.stdout
        os.set_blocking(self._output.fileno(), False)
        self._seen = b""

    def shown(self) -> list[str]:
        """The words that it has printed so far."""
        self._seen += self._output.read() or b""
        return self._seen.decode().split()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
