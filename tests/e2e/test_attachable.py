"""Plain containers in attachable networks, by the stock client, on managers and on a worker."""

import json
from collections.abc import Iterator
from functools import partial

import pytest

from tests.e2e.cluster import FOREVER, IMAGE, Cluster, diagnosed, eventually
from tests.e2e.conftest import MakePlayground

pytestmark = [pytest.mark.netns, pytest.mark.docker]

HOSTS = ("m1", "m2", "w1")


@pytest.fixture(scope="module")
def hosts(make_shared_playground: MakePlayground) -> Iterator[Cluster]:
    """A leader, two followers and a worker."""
    playground = make_shared_playground(managers=3, workers=1)
    with diagnosed(playground):
        yield Cluster(playground)


@pytest.fixture
def cluster(hosts: Cluster) -> Iterator[Cluster]:
    """The same with an attachable network ``ov``, and without plain containers."""
    hosts.docker("m1", "network", "create", "-d", "overlay", "--attachable", "ov")
    yield hosts
    hosts.remove_all()
    for host in hosts.hosts:
        found = hosts.engine(host, "ps", "-aq", "--filter", "name=box").stdout.split()
        if found:
            hosts.docker(host, "rm", "-f", *found)
    for network in ("ov", "ov2"):
        eventually(partial(removed, hosts, network), f"network {network} is removed")


def removed(cluster: Cluster, network: str) -> bool:
    done = cluster.docker("m1", "network", "rm", network, check=False)
    return done.returncode == 0 or "not found" in done.stderr


def run(cluster: Cluster, host: str, name: str, *options: str, network: str = "ov") -> str:
    """Start a container that stays; its identifier."""
    words = ("run", "-d", "--name", name, "--network", network, *options, IMAGE, *FOREVER)
    return cluster.docker(host, *words).stdout.strip()


def attached(cluster: Cluster, host: str = "m1", network: str = "ov") -> dict[str, str]:
    """Addresses by name: what the cluster knows."""
    shown = json.loads(cluster.docker(host, "network", "inspect", "-v", network).stdout)[0]
    plain = shown["Services"].get("", {"Tasks": []})["Tasks"]
    return {task["Name"]: task["EndpointIP"] for task in plain}


def address(cluster: Cluster, host: str, name: str, network: str = "ov") -> str:
    """The address that the engine says the container has."""
    template = f"{{{{(index .NetworkSettings.Networks {json.dumps(network)}).IPAddress}}}}"
    return cluster.docker(host, "inspect", "-f", template, name).stdout.strip()


def finds(cluster: Cluster, host: str, asker: str, name: str) -> str:
    """What a container is told of a name; "" when there is none."""
    words = ("exec", asker, "nslookup", name)
    said = cluster.engine(host, *words, check=False).stdout.partition("Name:")[2]
    found = [line.split()[1] for line in said.splitlines() if line.startswith("Address")]
    return found[0] if found else ""


def wait_known(cluster: Cluster, host: str, asker: str, name: str, place: str) -> None:
    """Wait until a container is told this address; "" that there is none."""
    eventually(
        lambda: finds(cluster, host, asker, name) == place, f"on {host} {name} is {place or None}"
    )


def is_out(cluster: Cluster, host: str, name: str) -> bool:
    """Whether a container is in no network."""
    words = ("inspect", "-f", "{{json .NetworkSettings.Networks}}", name)
    return cluster.engine(host, *words).stdout.strip() == "{}"


def reaches(cluster: Cluster, host: str, asker: str, target: str) -> bool:
    words = ("exec", asker, "ping", "-c", "1", "-W", "2", target)
    return cluster.engine(host, *words, check=False).returncode == 0


def test_containers_on_any_node_reach_each_other_by_all_their_names(cluster: Cluster) -> None:
    for host in HOSTS:
        run(cluster, host, f"box-{host}", "--network-alias", f"alias-{host}", "-h", f"host-{host}")
    addresses = {host: address(cluster, host, f"box-{host}") for host in HOSTS}
    assert len(set(addresses.values())) == len(HOSTS)
    assert attached(cluster) == {f"box-{host}": addresses[host] for host in HOSTS}
    ids = {
        host: cluster.docker(host, "inspect", "-f", "{{.Id}}", f"box-{host}").stdout[:12]
        for host in HOSTS
    }
    for asker in HOSTS:
        for host in HOSTS:
            for name in (f"box-{host}", f"alias-{host}", f"host-{host}", ids[host]):
                wait_known(cluster, asker, f"box-{asker}", name, addresses[host])
            assert reaches(cluster, asker, f"box-{asker}", addresses[host])
    words = ("exec", "box-m2", "nslookup", addresses["w1"])
    assert "name = box-w1.ov" in cluster.engine("m2", *words).stdout


def test_tasks_and_containers_reach_each_other(cluster: Cluster) -> None:
    cluster.create("web", "--network", "ov", "--replicas", "4")
    run(cluster, "w1", "box")
    eventually(lambda: len(cluster.running("web")) == 4, "web runs")
    eventually(lambda: finds(cluster, "w1", "box", "web"), "the service is known")
    for task in cluster.containers("web"):
        eventually(
            partial(reaches, cluster, task["Host"], task["Id"], "box"), "a task reaches the box"
        )
        [place] = json.loads(cluster.engine(task["Host"], "inspect", task["Id"]).stdout)[0][
            "NetworkSettings"
        ]["Networks"].values()
        assert reaches(cluster, "w1", "box", place["IPAddress"])


def test_a_container_has_names_while_it_runs_and_its_address_while_it_is_there(
    cluster: Cluster,
) -> None:
    run(cluster, "m1", "box-asker")
    run(cluster, "w1", "box")
    own = address(cluster, "w1", "box")

    known = partial(wait_known, cluster, "m1", "box-asker")
    known("box", own)
    cluster.docker("w1", "stop", "box")
    known("box", "")
    assert attached(cluster)["box"] == own
    cluster.docker("w1", "start", "box")
    known("box", own)
    cluster.docker("w1", "rename", "box", "box-new")
    known("box-new", own)
    known("box", "")
    refused = cluster.docker("m1", "network", "rm", "ov", check=False)
    assert "network ov is in use by container box-asker on node m1 and 1 more" in refused.stderr
    cluster.docker("w1", "rm", "-f", "box-new")
    eventually(lambda: list(attached(cluster)) == ["box-asker"], "the address is given back")
    cluster.docker("m1", "rm", "-f", "box-asker")
    cluster.docker("m1", "network", "rm", "ov")


def test_an_address_that_is_asked_for_must_be_free_and_of_the_network(cluster: Cluster) -> None:
    def refused(host: str, *words: str) -> str:
        words = ("run", "--rm", "--network", "ov", *words, IMAGE, "true")
        return cluster.docker(host, *words, check=False).stderr

    subnet = cluster.docker(
        "m1", "network", "inspect", "-f", "{{(index .IPAM.Config 0).Subnet}}", "ov"
    ).stdout.rpartition(".")[0]
    run(cluster, "m1", "box", "--ip", f"{subnet}.77")
    assert attached(cluster) == {"box": f"{subnet}.77"}
    for host in HOSTS:
        taken = refused(host, "--ip", f"{subnet}.77")
        assert f"address {subnet}.77 of network ov is in use by container box on node m1" in taken
    assert f"its gateway {subnet}.1" in refused("w1", "--ip", f"{subnet}.1")
    assert "10.255.0.7 is no address for a container in network ov" in refused(
        "w1", "--ip", "10.255.0.7"
    )
    cluster.docker("m1", "rm", "-f", "box")
    run(cluster, "m1", "box", "--ip", f"{subnet}.77")


def test_what_is_not_attachable_is_refused_in_dockers_words(cluster: Cluster) -> None:
    for host in HOSTS:
        words = ("run", "--rm", "--network", "ingress", IMAGE, "true")
        refused = cluster.docker(host, *words, check=False)
        assert "network ingress not manually attachable" in refused.stderr


def test_containers_are_connected_and_disconnected_while_they_run(cluster: Cluster) -> None:
    run(cluster, "m1", "box-asker")
    cluster.docker("w1", "run", "-d", "--name", "box", IMAGE, *FOREVER)
    cluster.docker("w1", "network", "connect", "--alias", "other", "ov", "box")
    own = address(cluster, "w1", "box")
    eventually(lambda: finds(cluster, "m1", "box-asker", "other") == own, "its alias is known")
    assert reaches(cluster, "m1", "box-asker", "box")
    again = cluster.docker("w1", "network", "connect", "ov", "box", check=False)
    assert "endpoint with name box already exists in network ov" in again.stderr
    for force in ((), ("-f",)):
        cluster.docker("w1", "network", "disconnect", *force, "ov", "box")
        assert list(attached(cluster)) == ["box-asker"]
        cluster.docker("w1", "network", "connect", "ov", "box")
        eventually(lambda: finds(cluster, "m1", "box-asker", "box"), "it is known again")


def test_a_container_in_two_networks_has_its_places_in_both(cluster: Cluster) -> None:
    cluster.docker("m1", "network", "create", "-d", "overlay", "--attachable", "ov2")
    run(cluster, "w1", "box", "--network", "ov2")
    for network in ("ov", "ov2"):
        run(cluster, "m1", f"box-{network}", network=network)
        own = address(cluster, "w1", "box", network)
        assert attached(cluster, network=network)["box"] == own
        wait_known(cluster, "m1", f"box-{network}", "box", own)
        assert reaches(cluster, "m1", f"box-{network}", "box")


def test_what_comes_to_nothing_gives_its_address_back(cluster: Cluster) -> None:
    run(cluster, "w1", "box")
    own = attached(cluster)
    words = ("create", "--name", "box", "--network", "ov", IMAGE, "true")
    assert "already in use" in cluster.docker("w1", *words, check=False).stderr
    assert attached(cluster) == own
    cluster.docker("w1", "run", "--rm", "--name", "box-two", "--network", "ov", IMAGE, "true")
    eventually(lambda: attached(cluster) == own, "--rm gives the address back")
    cluster.docker("w1", "run", "--name", "box-two", "--network", "ov", IMAGE, "true")
    assert "box-two" in attached(cluster)
    cluster.docker("w1", "container", "prune", "-f")
    eventually(lambda: attached(cluster) == own, "a prune gives the address back")


def test_a_published_port_of_a_container_leads_to_it(cluster: Cluster) -> None:
    words = ("--name", "box", "--network", "ov", "-p", "18090:80", IMAGE)
    cluster.docker("w1", "run", "-d", *words, "httpd", "-f", "-p", "80", "-h", "/bin")
    at = f"http://{cluster.address('w1')}:18090/busybox"
    fetch = ("timeout", "5", "wget", "-q", "-O", "/dev/null", at)
    eventually(
        lambda: cluster.engine("m1", "run", "--rm", IMAGE, *fetch, check=False).returncode == 0,
        "the port answers a client on another host",
    )


def test_what_happens_while_the_daemon_is_away_is_put_right(cluster: Cluster) -> None:
    """A container is removed, and one enters the engine's copy of the network by itself."""
    run(cluster, "w1", "box")
    run(cluster, "w1", "box-gone")
    own = address(cluster, "w1", "box")
    cluster.playground.stop_daemon("w1", kill=True)
    cluster.engine("w1", "rm", "-f", "box-gone")
    cluster.engine("w1", "run", "-d", "--name", "box-own", "--network", "ov", IMAGE, *FOREVER)
    cluster.playground.start_daemon("w1")
    eventually(lambda: attached(cluster) == {"box": own}, "the cluster knows what there is")
    eventually(
        partial(is_out, cluster, "w1", "box-own"),
        "a container without a place of the cluster's is disconnected",
    )
    run(cluster, "m1", "box-asker")
    assert reaches(cluster, "m1", "box-asker", own)


def test_a_container_comes_back_with_its_host(cluster: Cluster) -> None:
    run(cluster, "m1", "box-asker")
    run(cluster, "w1", "box", "--restart", "always")
    own = address(cluster, "w1", "box")
    cluster.playground.kill("w1")
    cluster.playground.start("w1")
    eventually(lambda: finds(cluster, "m1", "box-asker", "box") == own, "it is known again")
    assert address(cluster, "w1", "box") == own
    eventually(lambda: reaches(cluster, "m1", "box-asker", "box"), "it is reached again")
    eventually(lambda: reaches(cluster, "w1", "box", "box-asker"), "it reaches others")


def test_a_node_that_goes_takes_its_containers_out(make_playground: MakePlayground) -> None:
    """By force, and while they run: their addresses are others' from then on."""
    playground = make_playground(managers=1, workers=2)
    with diagnosed(playground):
        cluster = Cluster(playground)
        cluster.docker("m1", "network", "create", "-d", "overlay", "--attachable", "ov")
        for host in ("w1", "w2"):
            run(cluster, host, f"box-{host}")
        cluster.swarmlet("m1", "node", "rm", "--force", "w1")
        cluster.swarmlet("w2", "leave")
        eventually(lambda: attached(cluster) == {}, "their addresses are given back")
        for host in ("w1", "w2"):
            eventually(
                partial(is_out, cluster, host, f"box-{host}"),
                f"the container on {host} is disconnected",
            )
        cluster.docker("m1", "network", "rm", "ov")
