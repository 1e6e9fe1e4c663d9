"""What is not the cluster's goes to the local engine: the stock client notices nothing."""

from collections.abc import Iterator

import pytest

from tests.e2e.cluster import FOREVER, IMAGE, Cluster, diagnosed, eventually
from tests.e2e.conftest import MakePlayground
from tests.e2e.terminal import exit_status_of_a_shell

pytestmark = [pytest.mark.netns, pytest.mark.docker]


@pytest.fixture(scope="module")
def cluster(make_shared_playground: MakePlayground) -> Iterator[Cluster]:
    """One manager and one worker; the engine of each is behind swarmlet's socket."""
    playground = make_shared_playground(managers=1, workers=1)
    with diagnosed(playground):
        yield Cluster(playground)


def test_run_prints_and_hands_over_the_exit_status(cluster: Cluster) -> None:
    """On a worker too: only the cluster's part needs a manager."""
    for host in ("m1", "w1"):
        done = cluster.docker(
            host, "run", "--rm", IMAGE, "sh", "-c", "echo out; echo err >&2; exit 7", check=False
        )
        assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")


def test_standard_input_reaches_a_container(cluster: Cluster) -> None:
    text = "".join(f"line {number}\n" for number in range(20_000))
    done = cluster.docker("w1", "run", "--rm", "-i", IMAGE, "cat", stdin=text)
    assert done.stdout == text


def test_ps_logs_exec_cp_and_rm_of_a_container(cluster: Cluster) -> None:
    cluster.docker("w1", "run", "-d", "--name=box", IMAGE, "sh", "-c", "echo hello; sleep 1000")
    assert "box" in cluster.docker("w1", "ps", "--format={{.Names}}").stdout.split()
    eventually(lambda: cluster.docker("w1", "logs", "box").stdout == "hello\n", "its log")
    assert cluster.docker("w1", "exec", "-i", "box", "cat", stdin="fed").stdout == "fed"
    done = cluster.docker("w1", "exec", "box", "sh", "-c", "exit 9", check=False)
    assert done.returncode == 9
    assert "Engine:" in cluster.docker("w1", "version").stdout
    cluster.docker("w1", "rm", "-f", "box")
    assert cluster.docker("w1", "inspect", "box", check=False).returncode == 1


def test_exec_with_a_terminal(cluster: Cluster) -> None:
    """`exec -it` of the stock client on a pseudo terminal: a shell that sees a terminal."""
    cluster.docker("m1", "run", "-d", "--name=shell", IMAGE, *FOREVER)
    assert exit_status_of_a_shell(cluster, "m1", "shell") == 5
    cluster.docker("m1", "rm", "-f", "shell")


def test_containers_of_tasks_are_ordinary_containers(cluster: Cluster) -> None:
    """Their names and labels are Docker's, so every tool finds them: logs, exec, top."""
    cluster.create("web", "--constraint=node.role==worker", "--container-label=a=b")
    [task] = cluster.wait_running("web", 1)
    name = f"web.1.{task['ID']}"
    shown = cluster.docker("w1", "ps", "--filter=label=a=b", "--format={{.Names}}").stdout
    assert shown == f"{name}\n"
    assert cluster.docker("w1", "exec", name, "echo", "in").stdout == "in\n"
    labels = cluster.inspect("w1", name)["Config"]["Labels"]
    assert labels["com.docker.swarm.task.name"] == name
    assert labels["com.docker.swarm.node.id"] == task["NodeID"]
    cluster.remove("web")
