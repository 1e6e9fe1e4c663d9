"""Updates through the stock client on real hosts: pace, order, failures, the way back."""

from functools import partial

import pytest
from swarmlet.client import Json

from tests.e2e.cluster import Cluster, eventually

pytestmark = [pytest.mark.netns, pytest.mark.docker]

#: Managers and workers of its playground.
HOSTS = (3, 2)

#: A program that cannot be started: one that ends soon would come up for a moment, and a moment is
#: all that an update without a delay asks of a task before it takes the next.
BROKEN = "--args=/no/such/program"


def deployed(cluster: Cluster, replicas: int, *words: str) -> dict[str, str]:
    """A service that runs; when each of its containers started."""
    cluster.create("web", f"--replicas={replicas}", *words)
    cluster.wait_running("web", replicas)
    cluster.wait_containers("web", replicas)
    return cluster.started("web")


def status(cluster: Cluster) -> Json:
    return cluster.client("m2").get("/services/web").get("UpdateStatus") or {}


def wait_status(cluster: Cluster, state: str) -> Json:
    return eventually(
        lambda: found if (found := status(cluster)).get("State") == state else None,
        f"the update of web is {state}",
        seen=lambda: (
            f"{status(cluster)}\n"
            + cluster.docker("m1", "service", "ps", "--no-trunc", "web", check=False).stdout
        ),
    )


def environment(cluster: Cluster) -> list[bool]:
    """Of each container that runs: whether it has the new setting."""
    return [
        "COLOUR=blue" in cluster.inspect(found["Host"], found["Id"])["Config"]["Env"]
        for found in cluster.containers("web")
    ]


def test_start_first_never_has_fewer_than_asked_for(cluster: Cluster) -> None:
    deployed(cluster, 3, "--update-order=start-first", "--update-monitor=1s")
    cluster.docker("m2", "service", "update", "-d", "--env-add=COLOUR=blue", "web")
    seen = []

    def done() -> bool:
        seen.append(len(cluster.containers("web")))
        return bool(status(cluster)["State"] == "completed")

    eventually(done, "the update is completed")
    assert min(seen) >= 3
    cluster.wait_containers("web", 3)
    assert all(environment(cluster))
    assert status(cluster)["Message"] == "update completed"


def test_start_first_works_on_every_node_of_a_global_service(cluster: Cluster) -> None:
    cluster.create("web", "--mode=global", "--update-order=start-first", "--update-monitor=1s")
    cluster.wait_running("web", 5)
    said = cluster.docker("m1", "service", "update", "--env-add=COLOUR=blue", "web")
    assert "converged" in said.stdout
    cluster.wait_containers("web", 5)
    assert all(environment(cluster))


def test_all_at_once_and_one_after_another_end_alike(cluster: Cluster) -> None:
    deployed(cluster, 4, "--update-parallelism=0", "--update-monitor=1s")
    cluster.docker("m1", "service", "update", "--env-add=COLOUR=blue", "web")
    wait_status(cluster, "completed")
    assert environment(cluster) == [True] * 4
    words = ("--update-parallelism=2", "--update-delay=1s", "--env-rm=COLOUR")
    cluster.docker("m3", "service", "update", *words, "web")
    wait_status(cluster, "completed")
    assert environment(cluster) == [False] * 4


def test_a_failing_update_pauses_and_the_client_says_why(cluster: Cluster) -> None:
    before = deployed(cluster, 3)
    said = cluster.docker("m1", "service", "update", BROKEN, "web", check=False)
    assert said.returncode == 1
    words = "update paused due to failure or early termination of task "
    assert f"service update paused: {words}" in said.stderr
    paused = wait_status(cluster, "paused")
    failed = paused["Message"].removeprefix(words).partition(":")[0]
    assert cluster.client("m1").get(f"/tasks/{failed}")["Status"]["State"] == "failed"
    assert "CompletedAt" not in paused
    assert len(cluster.started("web").items() & before.items()) == 2  # the rest was left alone

    cluster.docker("m1", "service", "update", "-d", "--args=sleep 100000", "web")
    wait_status(cluster, "completed")
    cluster.wait_running("web", 3)


def test_a_failing_update_rolls_back_by_itself(cluster: Cluster) -> None:
    words = ("--update-failure-action=rollback", "--update-order=start-first")
    before = deployed(cluster, 3, *words, "--rollback-monitor=1s")
    cluster.docker("m1", "service", "update", "-d", BROKEN, "web")
    back = wait_status(cluster, "rollback_completed")
    assert back["Message"] == "rollback completed"
    assert cluster.started("web") == before  # not one container was touched
    spec = cluster.client("m1").get("/services/web")
    assert spec["Spec"]["TaskTemplate"]["ContainerSpec"]["Args"][0] == "sh"
    assert "PreviousSpec" not in spec
    said = cluster.docker("m1", "service", "rollback", "-d", "web", check=False)
    assert "does not have a previous spec" in said.stderr


def test_our_command_line_tells_of_a_rollback(cluster: Cluster) -> None:
    deployed(cluster, 1, "--update-failure-action=rollback", "--rollback-monitor=1s")
    said = cluster.swarmlet("m2", "service", "update", BROKEN, "web", check=False)
    assert said.returncode == 9
    assert "the update was rolled back: update rolled back due to failure" in said.stderr
    cluster.wait_running("web", 1)


@pytest.mark.parametrize("words", [("rollback",), ("update", "--rollback")])
def test_the_way_back_by_hand(cluster: Cluster, words: tuple[str, ...]) -> None:
    deployed(cluster, 2, "--update-monitor=1s", "--rollback-monitor=1s")
    cluster.docker("m1", "service", "update", "--env-add=COLOUR=blue", "web")
    wait_status(cluster, "completed")
    said = cluster.docker("m3", "service", *words, "web")
    assert "manually requested rollback" in said.stdout
    wait_status(cluster, "rollback_completed")
    assert environment(cluster) == [False] * 2
    cluster.docker("m1", "service", "rollback", "-d", "web")  # and forth again
    wait_status(cluster, "rollback_completed")
    assert environment(cluster) == [True] * 2


def test_force_replaces_every_task(cluster: Cluster) -> None:
    before = deployed(cluster, 3, "--update-monitor=1s")
    cluster.docker("m1", "service", "update", "-d", "--label-add=a=b", "web")
    assert status(cluster) == {}
    assert cluster.started("web") == before
    cluster.docker("m1", "service", "update", "--force", "web")
    wait_status(cluster, "completed")
    cluster.wait_containers("web", 3)
    assert not cluster.started("web").keys() & before.keys()


def test_an_update_that_finds_no_place_says_what_it_waits_for(cluster: Cluster) -> None:
    before = deployed(cluster, 2, "--update-order=start-first", "--update-monitor=1s")
    cluster.docker("m1", "service", "update", "-d", "--reserve-memory=900g", "web")
    eventually(
        lambda: "insufficient resources on 5 nodes" in status(cluster).get("Message", ""),
        "the update says what it waits for",
    )
    assert status(cluster)["State"] == "updating"
    assert cluster.started("web") == before
    cluster.docker("m1", "service", "update", "-d", "--reserve-memory=0", "web")
    eventually(lambda: cluster.started("web") == before, "all is as it was")
    cluster.wait_running("web", 2)


def test_an_update_survives_its_leader(cluster: Cluster) -> None:
    """Killed in the middle, twice; what runs meanwhile never falls below what the terms allow."""
    deployed(cluster, 6, "--update-monitor=1s", "--constraint=node.role==worker")
    cluster.docker("m1", "service", "update", "-d", "--env-add=COLOUR=blue", "web")
    seen = []

    def replaced(number: int) -> bool:
        seen.append(len(cluster.containers("web")))
        return sum(environment(cluster)) >= number

    for number in (1, 3):
        eventually(partial(replaced, number), f"{number} tasks are new")
        leader = cluster.wait_leader("m1")
        cluster.playground.stop_daemon(leader, kill=True)
        other = cluster.other_managers(leader)[0]
        cluster.wait_leader(other, other_than=leader)
        cluster.playground.start_daemon(leader)
    wait_status(cluster, "completed")
    cluster.wait_containers("web", 6)
    assert all(environment(cluster))
    assert min(seen) >= 5
