"""Services through the stock client (and ours): what is asked for runs, and nothing else."""

import json
import socket
import urllib.request

import pytest
from swarmlet.client import Json

from tests.e2e.cluster import FOREVER, IMAGE, Cluster, eventually

pytestmark = [pytest.mark.netns, pytest.mark.docker]

#: Managers and workers of its playground.
HOSTS = (3, 2)


def slots(tasks: list[Json]) -> dict[int, str]:
    """Task identifiers by slot."""
    return {task["Slot"]: task["ID"] for task in tasks}


def fails(cluster: Cluster, service: str, state: str = "failed") -> list[Json]:
    return [task for task in cluster.tasks(service) if task["Status"]["State"] == state]


def fetch(address: str, port: int) -> str:
    try:
        with urllib.request.urlopen(f"http://{address}:{port}/", timeout=2) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


def refuses(address: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex((address, port)) != 0


def test_the_stock_client_makes_shows_scales_and_removes_a_service(cluster: Cluster) -> None:
    """Create on a follower, see it on another, scale on the leader: one cluster."""
    leader = cluster.leader()
    first, second = cluster.other_managers(leader)
    service_id = cluster.create("web", "--replicas=3", host=first)
    cluster.wait_running("web", 3, second)
    line = cluster.docker(second, "service", "ls", "--format", "{{.ID}} {{.Name}} {{.Replicas}}")
    assert line.stdout == f"{service_id[:12]} web 3/3\n"
    before = slots(cluster.running("web"))
    assert max(cluster.places("web").values()) == 1

    cluster.docker(leader, "service", "scale", "-d", "web=7")
    cluster.wait_running("web", 7)
    assert slots(cluster.running("web")).items() >= before.items()
    assert max(cluster.places("web").values()) == 2
    cluster.docker(first, "service", "scale", "web=2")  # the stock client's own progress
    cluster.wait_running("web", 2)
    cluster.wait_containers("web", 2)
    shown = json.loads(cluster.docker(second, "service", "inspect", "web").stdout)
    assert shown[0]["Spec"]["Mode"] == {"Replicated": {"Replicas": 2}}
    rows = cluster.docker(first, "service", "ps", "--format", "{{.Name}} {{.DesiredState}}", "web")
    assert sum(row.endswith("Running") for row in rows.stdout.splitlines()) == 2

    cluster.docker(second, "service", "rm", "web")
    cluster.wait_no_containers("web")
    assert cluster.docker(first, "service", "ls", "-q").stdout == ""
    said = cluster.docker(first, "service", "inspect", "web", check=False)
    assert said.returncode == 1
    assert "no such service: web" in said.stderr.lower()


def test_our_command_line_does_the_same(cluster: Cluster) -> None:
    cluster.swarmlet("m2", "service", "create", "--name=web", "--replicas=2", IMAGE, *FOREVER)
    cluster.wait_running("web", 2)
    cluster.swarmlet("m3", "service", "scale", "web=4")
    cluster.wait_running("web", 4)
    shown = cluster.swarmlet("m1", "--format", "json", "service", "ls").stdout
    assert json.loads(shown)["Name"] == "web"
    assert "web.4" in cluster.swarmlet("m2", "service", "ps", "web").stdout
    said = cluster.swarmlet("m1", "service", "create", "--name=web", IMAGE, check=False)
    assert said.returncode == 4
    assert "web" in said.stderr
    said = cluster.swarmlet("m1", "service", "inspect", "nope", check=False)
    assert said.returncode == 3
    cluster.swarmlet("m1", "service", "rm", "web")
    cluster.wait_no_containers("web")


def test_a_global_service_has_a_task_on_each_node_that_fits(cluster: Cluster) -> None:
    cluster.create("agent", "--mode=global")
    cluster.wait_running("agent", 5)
    assert set(cluster.places("agent")) == set(cluster.hosts)
    cluster.docker("m2", "service", "update", "-d", "--constraint-add=node.role==worker", "agent")
    cluster.wait_running("agent", 2)
    assert set(cluster.places("agent")) == {"w1", "w2"}
    cluster.wait_containers("agent", 2)


def test_an_update_replaces_one_task_at_a_time(cluster: Cluster) -> None:
    """While it lasts, no more than one slot is without a running container."""
    cluster.create("web", "--replicas=4")
    cluster.wait_running("web", 4)
    old = {task["ID"] for task in cluster.running("web")}
    cluster.docker("m1", "service", "update", "-d", "--env-add=COLOUR=blue", "web")
    least = 4

    def done() -> bool:
        nonlocal least
        running = cluster.running("web")
        least = min(least, len(running))
        return len(running) == 4 and not old & {task["ID"] for task in running}

    eventually(done, "all tasks are new")
    assert least >= 3
    for container in cluster.wait_containers("web", 4):
        env = cluster.inspect(container["Host"], container["Id"])["Config"]["Env"]
        assert "COLOUR=blue" in env
    eventually(
        lambda: cluster.client("m2").get("/services/web")["UpdateStatus"]["State"] == "completed",
        "the update is completed",
    )
    for host in cluster.hosts:
        cluster.engine(host, "tag", IMAGE, "busybox:other")
    cluster.docker(
        "m2", "service", "update", "-d", "--no-resolve-image", "--image=busybox:other", "web"
    )
    eventually(
        lambda: {c["Image"] for c in cluster.containers("web")} == {"busybox:other"},
        "all run the new image",
    )


def test_labels_of_a_service_change_without_a_restart(cluster: Cluster) -> None:
    cluster.create("web", "--replicas=3")
    cluster.wait_running("web", 3)
    tasks, started = slots(cluster.running("web")), cluster.started("web")
    cluster.docker("m1", "service", "update", "-d", "--label-add=team=blue", "web")
    cluster.docker("m2", "service", "update", "-d", "--update-parallelism=2", "web")
    assert cluster.client("m3").get("/services/web")["Spec"]["Labels"] == {"team": "blue"}
    cluster.docker("m1", "service", "scale", "-d", "web=4")
    cluster.wait_running("web", 4)
    assert slots(cluster.running("web")).items() >= tasks.items()
    assert cluster.started("web").items() >= started.items()


def test_constraints_choose_nodes_by_label_name_and_role(cluster: Cluster) -> None:
    cluster.docker("m1", "node", "update", "--label-add=disk=ssd", "w1")
    cluster.docker("m2", "node", "update", "--label-add=disk=ssd", "m2")
    cluster.create("labelled", "--replicas=4", "--constraint=node.labels.disk==ssd")
    cluster.create("named", "--replicas=2", "--constraint=node.hostname==m3")
    cluster.create("workers", "--replicas=3", "--constraint=node.role!=manager")
    for service, count in (("labelled", 4), ("named", 2), ("workers", 3)):
        cluster.wait_running(service, count)
    assert set(cluster.places("labelled")) == {"w1", "m2"}
    assert set(cluster.places("named")) == {"m3"}
    assert set(cluster.places("workers")) == {"w1", "w2"}

    cluster.docker("m1", "node", "update", "--label-rm=disk", "m2")
    eventually(lambda: set(cluster.places("labelled")) == {"w1"}, "what no longer fits moves")
    cluster.wait_running("labelled", 4)


def test_what_fits_nowhere_waits_says_why_and_runs_when_it_can(cluster: Cluster) -> None:
    """The explanation counts the nodes that each filter refused."""
    cluster.docker("m1", "node", "update", "--availability=drain", "m3")
    cluster.create("rare", "--constraint=node.labels.gpu==yes")
    cluster.create("huge", "--reserve-memory=100000g", "--constraint=node.role==worker")

    def pending(service: str) -> str:
        tasks = cluster.wanted(service)
        if not tasks:
            return ""  # the orchestrator has not looked at the service yet
        [task] = tasks
        assert task["Status"]["State"] == "pending"
        return str(task["Status"].get("Err") or task["Status"].get("Message"))

    eventually(lambda: "no suitable node" in pending("rare"), "rare is explained")
    assert "constraints not satisfied on 4 nodes" in pending("rare")
    assert "1 node not available for new tasks" in pending("rare")
    eventually(lambda: "no suitable node" in pending("huge"), "huge is explained")
    assert "insufficient resources on 4 nodes" in pending("huge")
    shown = cluster.docker("m2", "service", "ps", "--no-trunc", "rare").stdout
    assert "no suitable node" in shown

    cluster.docker("m2", "node", "update", "--label-add=gpu=yes", "w2")
    cluster.wait_running("rare", 1)
    assert set(cluster.places("rare")) == {"w2"}
    cluster.docker("m1", "service", "update", "-d", "--reserve-memory=8m", "huge")
    cluster.wait_running("huge", 1)


def test_no_more_replicas_on_a_node_than_allowed(cluster: Cluster) -> None:
    cluster.create(
        "web", "--replicas=5", "--replicas-max-per-node=2", "--constraint=node.role==worker"
    )
    eventually(lambda: len(cluster.running("web")) == 4, "four of five fit")
    assert cluster.places("web") == {"w1": 2, "w2": 2}
    [waiting] = [t for t in cluster.wanted("web") if t["Status"]["State"] == "pending"]
    eventually(
        lambda: "max replicas per node limit exceed" in status(cluster, waiting["ID"]),
        "the fifth is explained",
    )


def status(cluster: Cluster, task: str) -> str:
    return json.dumps(cluster.client("m1").get(f"/tasks/{task}")["Status"])


def test_drain_moves_tasks_and_pause_keeps_them(cluster: Cluster) -> None:
    cluster.create("web", "--replicas=5", "--restart-delay=1000s")
    cluster.create("agent", "--mode=global")
    cluster.wait_running("web", 5)
    cluster.wait_running("agent", 5)
    cluster.docker("m2", "node", "update", "--availability=pause", "w1")
    paused = {c["Id"] for c in cluster.containers_on("w1", "web")}
    cluster.docker("m2", "node", "update", "--availability=drain", "w2")
    # With the restart delay, a task that moved like one that failed would not be back this year.
    cluster.wait_moved("web", 5, "w2")
    assert {c["Id"] for c in cluster.containers_on("w1", "web")} == paused
    cluster.wait_running("agent", 4)
    eventually(lambda: not cluster.containers_on("w2"), "nothing runs on the drained node")
    assert len(cluster.containers_on("w1", "agent")) == 1
    cluster.docker("m1", "node", "update", "--availability=active", "w2")
    cluster.wait_running("agent", 5)


def test_restart_policies(cluster: Cluster) -> None:
    """None: never again. On failure: not after success. Attempts: the first and so many more."""
    fail, end = ("sh", "-c", "exit 3"), ("true",)
    cluster.create("once", "--restart-condition=none", command=fail)
    cluster.create("good", "--restart-condition=on-failure", command=end)
    cluster.create("thrice", "--restart-delay=0s", "--restart-max-attempts=2", command=fail)
    eventually(lambda: len(fails(cluster, "thrice")) == 3, "the first and two restarts")
    eventually(lambda: len(fails(cluster, "once")) == 1, "once failed")
    eventually(lambda: len(fails(cluster, "good", "complete")) == 1, "good is complete")
    for service, count in (("once", 1), ("good", 1), ("thrice", 3)):
        assert len(cluster.tasks(service)) == count, service
    [task] = fails(cluster, "once")
    assert task["Status"]["ContainerStatus"]["ExitCode"] == 3
    assert "non-zero exit (3)" in task["Status"]["Err"]


def test_a_killed_container_is_replaced_by_a_new_task_in_its_slot(cluster: Cluster) -> None:
    cluster.create("web", "--replicas=2", "--restart-delay=0s")
    before = slots(cluster.wait_running("web", 2))
    victim = cluster.containers("web")[0]
    cluster.engine(victim["Host"], "kill", victim["Id"])
    eventually(lambda: fails(cluster, "web"), "its task failed")
    after = slots(cluster.wait_running("web", 2))
    assert after.keys() == before.keys()
    assert len(set(after.items()) - set(before.items())) == 1
    cluster.wait_containers("web", 2)


def test_no_more_history_is_kept_than_asked_for(cluster: Cluster) -> None:
    """Five tasks that ended, by default, and no container of those that went."""
    cluster.create("loop", "--restart-delay=0s", command=("sh", "-c", "exit 1"))
    eventually(lambda: len(fails(cluster, "loop")) >= 4, "it failed often", seen=lambda: "")
    newest = max(task["CreatedAt"] for task in cluster.tasks("loop"))
    eventually(
        lambda: min(task["CreatedAt"] for task in cluster.tasks("loop")) > newest,
        "older tasks are forgotten",
    )
    eventually(lambda: len(fails(cluster, "loop")) <= 5, "at most five tasks that failed")
    names = [c["Names"] for c in cluster.containers("loop", running=False)]
    assert len(names) <= 8, names  # five, the present one, and up to two that are being removed


def test_a_host_port_is_reachable_and_a_second_wish_for_it_explained(cluster: Cluster) -> None:
    serve = ("sh", "-c", "echo hello > /var/www/index.html; exec httpd -f -h /var/www")
    cluster.create(
        "web",
        "--publish=mode=host,published=8081,target=80",
        "--stop-grace-period=0s",
        "--constraint=node.hostname==w1",
        command=serve,
    )
    cluster.wait_running("web", 1)
    address = cluster.address("w1")
    eventually(lambda: fetch(address, 8081) == "hello\n", "the machine reaches it")
    cluster.create(
        "other",
        "--publish=mode=host,published=8081,target=80",
        "--stop-grace-period=0s",
        "--constraint=node.hostname==w1",
        command=serve,
    )
    [task] = eventually(lambda: cluster.wanted("other"), "a task")
    eventually(
        lambda: "host-mode port already in use on 1 node" in status(cluster, task["ID"]),
        "the conflict is explained",
        seen=lambda: status(cluster, task["ID"]),
    )
    cluster.remove("web")
    cluster.wait_running("other", 1)
    eventually(lambda: fetch(address, 8081), "the port is free for the other")
    cluster.remove("other")
    assert refuses(address, 8081)


def test_a_task_runs_only_when_it_is_healthy(cluster: Cluster) -> None:
    """Not while the check fails; a task that becomes unhealthy is replaced."""
    cluster.create(
        "web",
        "--health-cmd=test -e /tmp/good",
        "--health-interval=200ms",
        "--health-retries=3",
        "--health-start-period=60s",
        "--restart-delay=0s",
    )
    [container] = cluster.wait_containers("web", 1)
    [task] = cluster.wanted("web")
    assert task["Status"]["State"] == "starting"
    cluster.engine(container["Host"], "exec", container["Id"], "sh", "-c", ": > /tmp/good")
    cluster.wait_running("web", 1)
    cluster.engine(container["Host"], "exec", container["Id"], "sh", "-c", "rm /tmp/good")
    eventually(lambda: fails(cluster, "web"), "the unhealthy task failed")
    assert "unhealthy" in status(cluster, task["ID"])


def test_tasks_are_stopped_with_their_signal_and_within_their_grace(cluster: Cluster) -> None:
    """The signal that was asked for arrives; what is deaf to it is killed after its grace."""
    trap = "trap 'echo gotcha > /seen/it; exit 0' USR1; while :; do sleep 1000 & wait $!; done"
    cluster.create(
        "polite",
        "--stop-signal=SIGUSR1",
        "--constraint=node.hostname==w1",
        "--mount=type=volume,source=seen,target=/seen",
        command=("sh", "-c", trap),
    )
    cluster.create("deaf", "--stop-grace-period=500ms", command=("sleep", "100000"))
    cluster.wait_running("polite", 1)
    cluster.wait_running("deaf", 1)
    cluster.remove("polite", "deaf")
    look = ["run", "--rm", "-v", "seen:/seen", IMAGE, "cat", "/seen/it"]
    assert cluster.engine("w1", *look).stdout == "gotcha\n"
    cluster.engine("w1", "volume", "rm", "seen")


def test_wishes_of_a_container_arrive_at_the_engine(cluster: Cluster) -> None:
    cluster.create(
        "full",
        "--env=A=1",
        "--workdir=/tmp",
        "--user=1000:1000",
        "--hostname=boat",
        "--limit-memory=64m",
        "--limit-cpu=0.5",
        "--limit-pids=50",
        "--mount=type=tmpfs,target=/scratch",
        "--cap-add=NET_ADMIN",
        "--ulimit=nofile=100:200",
        "--container-label=team=blue",
        "--host=db:10.0.0.9",
        "--init",
        "--read-only",
        "--dns=10.0.0.53",
    )
    cluster.wait_running("full", 1)
    [found] = cluster.wait_containers("full", 1)
    container = cluster.inspect(found["Host"], found["Id"])
    config, host = container["Config"], container["HostConfig"]
    assert "A=1" in config["Env"]
    assert (config["WorkingDir"], config["User"], config["Hostname"]) == (
        "/tmp",
        "1000:1000",
        "boat",
    )
    assert config["Labels"]["team"] == "blue"
    assert config["Labels"]["com.docker.swarm.service.name"] == "full"
    assert (host["Memory"], host["NanoCpus"], host["PidsLimit"]) == (64 << 20, 500_000_000, 50)
    assert host["ReadonlyRootfs"] is True
    assert host["Init"] is True
    assert "db:10.0.0.9" in host["ExtraHosts"]
    assert host["Dns"] == ["10.0.0.53"]
    assert any("NET_ADMIN" in name for name in host["CapAdd"])
    assert {"Name": "nofile", "Soft": 100, "Hard": 200} in host["Ulimits"]


def test_an_image_that_is_nowhere_is_rejected_with_its_name(cluster: Cluster) -> None:
    argv = ["service", "create", "-d", "--no-resolve-image", "--name=ghost"]
    cluster.docker("m1", *argv, "--restart-condition=none", "nowhere/nothing:1")
    eventually(lambda: fails(cluster, "ghost", "rejected"), "the task is rejected")
    [task] = fails(cluster, "ghost", "rejected")
    assert "No such image: nowhere/nothing:1" in task["Status"]["Err"]


def test_wrong_wishes_are_refused_whole_and_change_nothing(cluster: Cluster) -> None:
    """Each with its own words; nothing of a refused service is left."""
    argv = ["service", "create", "-d", "--no-resolve-image"]
    cluster.create("taken", "--replicas=0")
    for words, expected in (
        (["--name=taken"], "name conflicts with an existing object"),
        (["--name=bad_name!"], "name"),
        (["--name=c", "--constraint=node.nonsense==1"], "node.nonsense"),
        (["--name=c", "--constraint=rubbish"], "constraint expected one operator"),
        (["--name=c", "--network=nope"], "nope"),
        (["--name=c", "--reserve-cpu=0.0000000001"], ""),
    ):
        said = cluster.docker("m2", *argv, *words, IMAGE, check=False)
        assert said.returncode != 0, words
        assert expected in said.stderr, said.stderr
        assert "internal error" not in said.stderr
    names = [service["Spec"]["Name"] for service in cluster.client("m1").get("/services")]
    assert names == ["taken"]
    for words in (
        ["service", "rm", "nope"],
        ["service", "scale", "-d", "nope=1"],
        ["service", "update", "-d", "nope"],
        ["node", "update", "--availability=drain", "nope"],
        ["node", "inspect", "nope"],
        ["node", "promote", "nope"],
    ):
        said = cluster.docker("m1", *words, check=False)
        assert said.returncode != 0, words
        assert "not found" in said.stderr or "no such" in said.stderr.lower(), said.stderr
