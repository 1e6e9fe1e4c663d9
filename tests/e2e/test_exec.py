"""The stock client's exec, attach, cp and the like, in tasks on whatever node they are."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.e2e.cluster import Cluster, eventually
from tests.e2e.terminal import exit_status_of_a_shell

pytestmark = [pytest.mark.netns, pytest.mark.docker]

#: Managers and workers of its playground.
HOSTS = (2, 1)

#: It says once a second that it lives, and ends when it is told to.
TALK = ("sh", "-c", "trap 'exit 0' TERM; while :; do echo alive; sleep 0.3; done")


@pytest.fixture
def names(cluster: Cluster) -> dict[str, str]:
    """What a task on the worker may be called: by its identifier, name, and container's."""
    cluster.create("web", "--constraint=node.hostname==w1", command=TALK)
    [task] = cluster.wait_running("web", 1)
    container = task["Status"]["ContainerStatus"]["ContainerID"]
    return {
        "task": task["ID"],
        "name": f"web.1.{task['ID']}",
        "container": container,
        "short": container[:12],
    }


def test_a_command_in_a_task_of_another_node(cluster: Cluster, names: dict[str, str]) -> None:
    """Its output, its errors, and its exit status; from any manager, by any name."""
    for manager in ("m1", "m2"):
        for name in names.values():
            line = "hostname; echo oops >&2; exit 7"
            done = cluster.docker(manager, "exec", name, "sh", "-c", line, check=False)
            assert (done.returncode, done.stdout, done.stderr) == (
                7,
                f"{names['short']}\n",
                "oops\n",
            )


def test_much_input_reaches_it_and_its_end_too(cluster: Cluster, names: dict[str, str]) -> None:
    text = "".join(f"line {number}\n" for number in range(20_000))
    done = cluster.docker("m1", "exec", "-i", names["task"], "cat", stdin=text)
    assert done.stdout == text


def test_a_terminal_in_it(cluster: Cluster, names: dict[str, str]) -> None:
    assert exit_status_of_a_shell(cluster, "m1", names["task"]) == 5


def test_inspect_top_logs_stats_and_cp(
    cluster: Cluster, names: dict[str, str], tmp_path: Path
) -> None:
    task = names["task"]
    (shown,) = json.loads(cluster.docker("m1", "inspect", "--type=container", task).stdout)
    assert shown["Id"] == names["container"]
    assert "echo alive" in cluster.docker("m1", "top", task).stdout
    assert "alive" in cluster.docker("m1", "logs", "--tail=3", task).stdout
    assert names["short"] in cluster.docker("m1", "stats", "--no-stream", task).stdout
    source, back = tmp_path / "note", tmp_path / "back"
    source.write_text("for the worker")
    cluster.docker("m1", "cp", str(source), f"{task}:/tmp/note")
    assert cluster.docker("m1", "exec", task, "cat", "/tmp/note").stdout == "for the worker"
    cluster.docker("m1", "cp", f"{task}:/tmp/note", str(back))
    assert back.read_text() == "for the worker"


def test_attached_to_it(cluster: Cluster, names: dict[str, str]) -> None:
    socket = cluster.client("m1").path
    argv = ["docker", "-H", f"unix://{socket}", "attach", "--no-stdin", "--sig-proxy=false"]
    with subprocess.Popen([*argv, names["task"]], stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"alive\n"
        cluster.remove("web")  # it ends, and so does what is attached to it
        assert process.wait(timeout=60) == 0


def test_its_life_is_its_services(cluster: Cluster, names: dict[str, str]) -> None:
    """Nothing of another node is stopped or removed behind its service's back."""
    for words in (("stop",), ("rm", "-f"), ("kill",), ("restart",), ("pause",)):
        done = cluster.docker("m1", *words, names["task"], check=False)
        assert "No such container" in done.stderr
    assert [task["ID"] for task in cluster.running("web")] == [names["task"]]


def test_a_node_that_is_lost_is_named(cluster: Cluster, names: dict[str, str]) -> None:
    cluster.playground.kill("w1")
    cluster.wait_state("w1", "down")
    done = cluster.docker("m1", "exec", names["container"], "true", check=False)
    cluster.playground.start("w1")
    assert done.returncode != 0
    assert "is down" in done.stderr
    eventually(lambda: cluster.running("web"), "it runs again")
