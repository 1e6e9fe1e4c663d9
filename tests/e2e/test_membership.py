"""Nodes come, change their role, and go: init, join, tokens, promote, demote, leave, rm."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from swarmlet.client import Json
from swarmlet.errors import JOIN_ANEW, SwarmletError
from swarmlet.playground.images import BUSYBOX
from swarmlet.playground.playground import Wish

from tests.e2e.cluster import Cluster, diagnosed, eventually
from tests.e2e.conftest import MakePlayground

pytestmark = [pytest.mark.netns, pytest.mark.docker]

FOREIGN = "SWMTKN-1-" + "1" * 50 + "-" + "a" * 25


@pytest.fixture(scope="module")
def hosts(make_shared_playground: MakePlayground) -> Iterator[Cluster]:
    """Five hosts with daemons, and no cluster yet."""
    playground = make_shared_playground(managers=3, workers=2, wish=Wish(init=False))
    with diagnosed(playground):
        yield Cluster(playground)


@pytest.fixture
def cluster(hosts: Cluster) -> Cluster:
    """The five hosts as three managers and two workers, whatever the last test left."""
    restore(hosts)
    return hosts


def swarm(cluster: Cluster, host: str) -> Json:
    return cluster.client(host).get("/info")["Swarm"]


def token(cluster: Cluster, role: str, host: str = "m1") -> str:
    return cluster.swarmlet(host, "join-token", "-q", role).stdout.strip()


def join(cluster: Cluster, host: str, role: str, *, via: str = "m1", check: bool = True) -> int:
    address = cluster.address(host)
    argv = ["join", "--advertise-addr", address, "--token", token(cluster, role, via)]
    return cluster.swarmlet(host, *argv, cluster.address(via), check=check).returncode


def restore(cluster: Cluster) -> None:
    if swarm(cluster, "m1")["LocalNodeState"] != "active":
        for host in cluster.hosts:
            leave(cluster, host)
        cluster.swarmlet("m1", "init", "--advertise-addr", cluster.address("m1"))
    for host in cluster.hosts:
        if swarm(cluster, host)["LocalNodeState"] == "error":
            leave(cluster, host)
        if swarm(cluster, host)["LocalNodeState"] == "inactive":
            join(cluster, host, "manager" if host.startswith("m") else "worker")
    cluster.wait_all_ready()
    for node in cluster.client("m1").get("/nodes"):
        if node["Status"]["State"] == "down":
            cluster.docker("m1", "node", "rm", "--force", node["ID"])
    for host, node in cluster.nodes().items():
        if bool(node.get("ManagerStatus")) != host.startswith("m"):
            cluster.docker("m1", "node", "promote" if host.startswith("m") else "demote", host)
    cluster.wait_voters("m1", "m2", "m3")
    cluster.wait_all_ready()


def leave(cluster: Cluster, host: str) -> None:
    if swarm(cluster, host)["LocalNodeState"] != "inactive":
        cluster.docker(host, "swarm", "leave", "--force")


def test_a_daemon_outside_of_any_cluster_says_so(hosts: Cluster) -> None:
    """Before init: the stock client's question has the stock answer, ours has advice."""
    said = hosts.docker("m1", "node", "ls", check=False)
    assert said.returncode == 1
    assert "This node is not a swarm manager" in said.stderr
    said = hosts.swarmlet("m1", "node", "ls", check=False)
    assert said.returncode == 6
    assert "swarmlet init" in said.stderr
    said = hosts.docker("m1", "swarm", "leave", check=False)
    assert "not part of a swarm" in said.stderr


def test_init_makes_a_cluster_of_one_that_runs_services(hosts: Cluster) -> None:
    """One manager is a whole cluster; a second init is refused; it leaves by force only."""
    hosts.docker("m3", "swarm", "init", "--advertise-addr", hosts.address("m3"))
    assert hosts.voters("m3") == {"m3"}
    hosts.create("one", host="m3")
    hosts.wait_running("one", 1, "m3")
    for command in (
        hosts.docker("m3", "swarm", "init", check=False),
        hosts.swarmlet("m3", "init", check=False),
    ):
        assert command.returncode != 0
        assert "already part of a swarm" in command.stderr

    hosts.bounce_daemon("m3", kill=True)
    hosts.wait_running("one", 1, "m3")

    assert "last manager" in hosts.docker("m3", "swarm", "leave", check=False).stderr
    hosts.docker("m3", "swarm", "leave", "--force")
    assert swarm(hosts, "m3")["LocalNodeState"] == "inactive"
    assert hosts.containers_on("m3", "one", running=False) == []


def test_nodes_join_as_what_their_token_says(cluster: Cluster) -> None:
    """Three managers vote, two workers do not; any manager shows all of them."""
    for host in ("m1", "m2", "m3"):
        cluster.wait_voters("m1", "m2", "m3", at=host)
        assert set(cluster.nodes(host)) == set(cluster.hosts)
    assert not swarm(cluster, "w1")["ControlAvailable"]
    assert swarm(cluster, "m2")["ControlAvailable"]
    refused = cluster.docker("w1", "service", "ls", check=False)
    assert "Worker nodes can't be used to view or modify cluster state" in refused.stderr
    refused = cluster.swarmlet("w1", "service", "ls", check=False)
    assert "Worker nodes can't be used" in refused.stderr


def test_joining_twice_is_refused_and_changes_nothing(cluster: Cluster) -> None:
    before = cluster.nodes()
    argv = ["--token", token(cluster, "worker"), cluster.address("m1")]
    for said in (
        cluster.swarmlet("w1", "join", *argv, check=False),
        cluster.docker("w1", "swarm", "join", *argv, check=False),
        cluster.docker("m2", "swarm", "init", check=False),
    ):
        assert said.returncode != 0
        assert "already part of a swarm" in said.stderr
    assert cluster.nodes().keys() == before.keys()


def test_each_wrong_token_has_its_own_clear_error(cluster: Cluster) -> None:
    """Malformed, of another cluster, replaced, unknown; no such address: five different answers."""
    cluster.swarmlet("w2", "leave")
    old = token(cluster, "worker")
    cluster.swarmlet("m2", "join-token", "--rotate", "worker")
    new = token(cluster, "worker")
    assert new != old
    unknown = new[:-25] + "a" * 25
    where = cluster.address("m1")
    nobody = f"{where}:9"
    cases = [
        ("SWMTKN-1-abc", where, "invalid join token"),
        (FOREIGN, where, "is not the one that this token belongs to"),
        (old, where, "token"),
        (unknown, where, "token"),
        (new, nobody, "no manager answers"),
    ]
    answers = set()
    for given, address, words in cases:
        ours = cluster.swarmlet("w2", "join", "--token", given, address, check=False)
        stock = cluster.docker("w2", "swarm", "join", "--token", given, address, check=False)
        for said in (ours, stock):
            assert said.returncode != 0, (given, said)
            assert words in said.stderr, (given, said)
            assert "Traceback" not in said.stderr
        answers.add(ours.stderr.splitlines()[0])
        assert swarm(cluster, "w2")["LocalNodeState"] == "inactive"
    assert len(answers) >= 4, answers
    cluster.docker("w2", "swarm", "join", "--token", new, where)
    eventually(lambda: cluster.states().get("w2") == "ready", "w2 is ready with the new token")


def test_a_worker_that_leaves_takes_no_container_with_it_and_its_tasks_move(
    cluster: Cluster,
) -> None:
    """Its containers are gone, the node is down, its tasks run elsewhere; then rm forgets it."""
    cluster.create("web", "--replicas=5")
    cluster.wait_running("web", 5)
    cluster.swarmlet("w1", "leave")
    assert swarm(cluster, "w1")["LocalNodeState"] == "inactive"
    assert cluster.containers_on("w1", "web", running=False) == []
    cluster.wait_state("w1", "down")
    cluster.wait_moved("web", 5, "w1")
    cluster.docker("m2", "node", "rm", "w1")
    assert "w1" not in cluster.nodes()
    cluster.remove("web")


def test_a_manager_leaves_by_force_only_and_the_others_keep_their_quorum(cluster: Cluster) -> None:
    for said in (
        cluster.docker("m2", "swarm", "leave", check=False),
        cluster.swarmlet("m2", "leave", check=False),
    ):
        assert said.returncode != 0
        assert "manager" in said.stderr
    assert cluster.voters() == {"m1", "m2", "m3"}

    cluster.swarmlet("m2", "leave", "--force", "--yes")
    cluster.wait_state("m2", "down")
    cluster.swarmlet("m3", "leave", "--force", "--yes")
    # Had one of them stayed a voter, one manager of three could not write.
    cluster.wait_voters("m1")
    cluster.docker("m1", "node", "rm", "m2", "m3")
    cluster.create("still")
    cluster.wait_running("still", 1)
    cluster.remove("still")


def test_the_leader_itself_leaves_by_force(cluster: Cluster) -> None:
    leader = cluster.leader()
    other = cluster.other_managers(leader)[0]
    cluster.docker(leader, "swarm", "leave", "--force")
    cluster.wait_leader(other, other_than=leader)
    cluster.create("after", host=other)
    cluster.wait_running("after", 1, other)
    cluster.remove("after", host=other)
    if leader == "m1":
        # Put it back here: the fixture restores with m1 as the manager it asks.
        cluster.docker(other, "node", "rm", "--force", "m1")
        join(cluster, "m1", "manager", via=other)


def test_a_promoted_worker_votes_and_a_demoted_one_does_not(cluster: Cluster) -> None:
    """Five managers: all of them answer, and all of them count."""
    cluster.docker("m1", "node", "promote", "w1", "w2")
    cluster.wait_voters(*cluster.hosts)
    cluster.wait_all_ready()
    eventually(lambda: swarm(cluster, "w2")["ControlAvailable"], "w2 knows that it is a manager")
    eventually(lambda: len(cluster.nodes("w2")) == 5, "w2 answers")
    cluster.create("any", host="w2")
    cluster.wait_running("any", 1, "w1")
    cluster.remove("any", host="w1")
    cluster.docker("m2", "node", "demote", "w1", "w2")
    cluster.wait_voters("m1", "m2", "m3")
    eventually(lambda: not swarm(cluster, "w1")["ControlAvailable"], "w1 knows that it is a worker")
    assert "Worker nodes" in cluster.docker("w1", "node", "ls", check=False).stderr
    cluster.wait_all_ready()


def test_a_demoted_leader_hands_over(cluster: Cluster) -> None:
    leader = cluster.leader()
    other = cluster.other_managers(leader)[0]
    cluster.docker(leader, "node", "demote", leader)
    cluster.wait_leader(other, other_than=leader)
    eventually(
        lambda: cluster.voters(other) == {"m1", "m2", "m3"} - {leader}, "the leader is a worker"
    )
    cluster.wait_all_ready(at=other)
    cluster.docker(other, "node", "promote", leader)
    eventually(lambda: cluster.voters(other) == {"m1", "m2", "m3"}, "it is a manager again")
    eventually(lambda: len(cluster.nodes(leader)) == 5, "it answers")


def test_the_leader_is_removed_as_the_readme_says(cluster: Cluster) -> None:
    """Demote, leave, rm: each as soon as the one before has returned."""
    leader = cluster.leader()
    other = cluster.other_managers(leader)[0]
    cluster.swarmlet(leader, "node", "demote", leader)
    cluster.swarmlet(leader, "leave")
    cluster.wait_state(leader, "down", at=other)
    cluster.swarmlet(other, "node", "rm", leader)
    assert leader not in cluster.nodes(other)
    if leader == "m1":
        join(cluster, "m1", "manager", via=other)  # the fixture asks m1


def test_a_manager_without_its_identity_does_not_start_and_loses_nothing(cluster: Cluster) -> None:
    """With its file back it is the manager that it was."""
    playground = cluster.playground
    pem = playground.site.spot("m3").state_dir / "identity" / "node.pem"
    kept = pem.read_bytes()
    playground.stop_daemon("m3")
    pem.unlink()
    with pytest.raises(SwarmletError) as caught:
        playground.start_daemon("m3")
    assert "node.pem" in str(getattr(caught.value, "why", caught.value))
    pem.write_bytes(kept)
    playground.start_daemon("m3")
    cluster.wait_all_ready()
    assert cluster.voters() == {"m1", "m2", "m3"}


def test_the_last_manager_cannot_be_demoted(cluster: Cluster) -> None:
    cluster.docker("m1", "node", "demote", "m2", "m3")
    cluster.wait_voters("m1")
    said = cluster.docker("m1", "node", "demote", "m1", check=False)
    assert said.returncode != 0
    assert re.search("last manager", said.stderr), said.stderr
    said = cluster.swarmlet("m1", "node", "demote", "m1", check=False)
    assert said.returncode != 0
    assert "last manager" in said.stderr
    assert cluster.voters() == {"m1"}


def test_a_ready_node_is_removed_by_force_only_and_learns_it(cluster: Cluster) -> None:
    """The removed node's daemon says so, its containers stop, and it can leave and join again."""
    cluster.create("web", "--replicas=5")
    cluster.wait_running("web", 5)
    said = cluster.docker("m1", "node", "rm", "w2", check=False)
    assert said.returncode != 0
    assert "is not down and can't be removed" in said.stderr
    said = cluster.docker("m1", "node", "rm", "--force", "m2", check=False)
    assert said.returncode != 0
    assert "must be demoted" in said.stderr

    cluster.docker("m1", "node", "rm", "--force", "w2")

    assert "w2" not in cluster.nodes()
    eventually(lambda: swarm(cluster, "w2")["LocalNodeState"] == "error", "w2 knows its removal")
    assert "removed" in swarm(cluster, "w2")["Error"]
    cluster.wait_running("web", 5)
    eventually(
        lambda: not cluster.containers_on("w2", "web", running=False), "w2 stopped its tasks"
    )
    cluster.bounce_daemon("w2")
    eventually(lambda: swarm(cluster, "w2")["LocalNodeState"] == "error", "after a restart too")
    cluster.swarmlet("w2", "leave")
    assert swarm(cluster, "w2")["LocalNodeState"] == "inactive"
    join(cluster, "w2", "worker")
    cluster.wait_all_ready()
    cluster.remove("web")


def test_a_dead_manager_is_demoted_removed_and_told_so_when_it_boots(cluster: Cluster) -> None:
    """It was off when it happened: on its return it is a member of nothing, and runs nothing."""
    cluster.create("web", "--replicas=5")
    cluster.wait_running("web", 5)
    cluster.playground.kill("m3")
    cluster.wait_state("m3", "down")
    cluster.docker("m1", "node", "demote", "m3")
    cluster.wait_voters("m1", "m2")
    cluster.docker("m1", "node", "rm", "m3")
    cluster.wait_running("web", 5)
    cluster.playground.start("m3")
    eventually(lambda: swarm(cluster, "m3")["LocalNodeState"] == "error", "m3 knows its removal")
    eventually(lambda: not cluster.containers_on("m3", running=False), "m3 stopped its tasks")
    assert len(cluster.containers("web")) == 5
    cluster.remove("web")


def test_a_manager_on_an_old_copy_of_its_directory_stops_until_it_joins_anew(
    cluster: Cluster, tmp_path: Path
) -> None:
    """A backup is no way back: the others count on what was acknowledged after it was made."""
    leader = cluster.wait_leader()
    old = next(host for host in ("m3", "m2") if host != leader)
    directory = cluster.playground.site.spot(old).state_dir
    cluster.playground.stop_daemon(old)
    shutil.copytree(directory, tmp_path / "backup")
    cluster.playground.start_daemon(old)
    cluster.wait_all_ready(at=leader)
    cluster.create("later", "--replicas=0", host=leader)
    assert "later" in cluster.docker(old, "service", "ls").stdout
    cluster.create("latest", "--replicas=0", host=old)
    cluster.playground.stop_daemon(old)
    shutil.rmtree(directory)
    shutil.copytree(tmp_path / "backup", directory)
    with suppress(SwarmletError):  # it may stop before it was seen to start
        cluster.playground.start_daemon(old)
    eventually(lambda: cluster.playground.host(old).daemon_pid is None, f"{old} stops")
    assert JOIN_ANEW in cluster.log(old)
    eventually(lambda: "manager-lost-its-log" in cluster.log(leader), "the leader knows")
    cluster.wait_state(old, "down", at=leader)
    assert cluster.create("meanwhile", "--replicas=0", host=leader)

    cluster.swarmlet(leader, "node", "demote", old)
    cluster.swarmlet(leader, "node", "rm", old)
    shutil.rmtree(directory)
    cluster.playground.start_daemon(old)
    join(cluster, old, "manager", via=leader)
    cluster.wait_voters("m1", "m2", "m3", at=old)
    cluster.wait_all_ready(at=old)
    services = cluster.docker(old, "service", "ls", "--format={{.Name}}").stdout.split()
    assert sorted(services) == ["later", "latest", "meanwhile"]
    cluster.remove_all()


def test_roles_that_changed_while_a_node_was_off_are_taken_at_its_boot(cluster: Cluster) -> None:
    """A manager that was demoted comes back as a worker, a promoted worker as a manager."""
    cluster.playground.kill("m3", "w1")
    for host in ("m3", "w1"):
        cluster.wait_state(host, "down")
    cluster.docker("m1", "node", "demote", "m3")
    cluster.docker("m1", "node", "promote", "w1")
    cluster.wait_voters("m1", "m2")
    cluster.playground.start("m3", "w1")
    cluster.wait_voters("m1", "m2", "w1")
    cluster.wait_all_ready()
    eventually(lambda: not swarm(cluster, "m3")["ControlAvailable"], "m3 is a worker")
    eventually(lambda: swarm(cluster, "w1")["ControlAvailable"], "w1 is a manager")
    cluster.create("any", host="w1")
    cluster.wait_running("any", 1, "w1")
    cluster.remove("any", host="w1")


def test_a_join_that_cannot_listen_leaves_no_trace(cluster: Cluster) -> None:
    """The port is taken: the reason is told, and nothing of the cluster stays on the machine."""
    leave(cluster, "w2")
    argv = ["--token", token(cluster, "worker"), "--advertise-addr", cluster.address("w2")]
    before = len(cluster.client("m1").get("/nodes"))
    taken = cluster.playground.command_on("w2", [str(BUSYBOX), "nc", "-l", "-p", "7946"])
    with subprocess.Popen(taken[0], env=taken[1]) as holder:
        try:
            listening = ["sh", "-c", "grep -q ':1F0A' /proc/net/tcp /proc/net/tcp6"]
            eventually(
                lambda: cluster.playground.run("w2", *listening, check=False).returncode == 0,
                "the port is taken",
            )
            said = cluster.swarmlet(
                "w2",
                "join",
                *argv,
                "--listen-addr=0.0.0.0:7946",
                cluster.address("m1"),
                check=False,
            )
        finally:
            holder.kill()
    assert said.returncode != 0
    assert "cannot listen on 0.0.0.0:7946" in said.stderr
    assert len(cluster.client("m1").get("/nodes")) == before
    cluster.bounce_daemon("w2")
    assert swarm(cluster, "w2")["LocalNodeState"] == "inactive"
    cluster.swarmlet("w2", "join", *argv, cluster.address("m1"))
    cluster.wait_all_ready()


def test_two_clusters_do_not_mix(cluster: Cluster) -> None:
    """A token of one cluster does not join the other."""
    cluster.swarmlet("w1", "leave")
    cluster.swarmlet("w1", "init", "--advertise-addr", cluster.address("w1"))
    cluster.swarmlet("w2", "leave")
    foreign = token(cluster, "worker", "w1")
    said = cluster.swarmlet("w2", "join", "--token", foreign, cluster.address("m1"), check=False)
    assert said.returncode != 0
    assert "not the one that this token belongs to" in said.stderr
    cluster.swarmlet("w2", "join", "--token", foreign, cluster.address("w1"))
    assert set(cluster.nodes("w1")) == {"w1", "w2"}
    cluster.swarmlet("w2", "leave")
    cluster.swarmlet("w1", "leave", "--force", "--yes")
