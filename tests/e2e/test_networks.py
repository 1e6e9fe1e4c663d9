"""Networks as the stock client (and ours) makes, shows and removes them: what managers decide.

Whether packets flow is another file's business.
"""

import json
from pathlib import Path

import pytest
from swarmlet.client import Json

from tests.e2e.cluster import FOREVER, IMAGE, Cluster, eventually

pytestmark = [pytest.mark.netns, pytest.mark.docker]

#: Managers and workers of its playground.
HOSTS = (1, 1)

COMPOSE = """\
version: "3.8"
services:
  web:
    image: busybox:lab
    command: ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1000 & wait $$!; done"]
    networks: [front, default]
    ports: ["18080:80"]
  db:
    image: busybox:lab
    command: ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1000 & wait $$!; done"]
networks:
  front:
    attachable: true
    ipam: {config: [{subnet: 10.77.0.0/24}]}
"""


@pytest.fixture
def compose(tmp_path: Path) -> str:
    path = tmp_path / "shop.yml"
    path.write_text(COMPOSE)
    return str(path)


def overlays(cluster: Cluster) -> list[Json]:
    return [n for n in cluster.client("m1").get("/networks") if n["Scope"] == "swarm"]


def names(cluster: Cluster, host: str = "m1", *words: str) -> list[str]:
    return cluster.docker(host, "network", "ls", "--format", "{{.Name}}", *words).stdout.split()


def shown(cluster: Cluster, kind: str, name: str, template: str) -> str:
    return cluster.docker("m1", kind, "inspect", "--format", template, name).stdout.strip()


def test_a_network_is_made_shown_and_removed(cluster: Cluster) -> None:
    """Beside those of the engine, and known by the same name to our command line."""
    made = cluster.docker(
        *("m1", "network", "create", "-d", "overlay", "--subnet", "10.80.0.0/24"),
        *("--gateway", "10.80.0.9", "--label", "a=b", "ov"),
    ).stdout.strip()
    assert names(cluster) == sorted(["bridge", "host", "ingress", "none", "ov"])
    assert names(cluster, "m1", "-f", "driver=overlay", "-f", "label=a=b") == ["ov"]
    [full] = json.loads(cluster.docker("m1", "network", "inspect", made[:8]).stdout)
    assert (full["Name"], full["Scope"], full["Driver"]) == ("ov", "swarm", "overlay")
    assert full["IPAM"]["Config"] == [{"Subnet": "10.80.0.0/24", "Gateway": "10.80.0.9"}]
    listed = cluster.swarmlet("m1", "network", "ls", "--format", "{{.Name}} {{.Scope}}").stdout
    assert "ov swarm" in listed.splitlines()
    assert cluster.docker("m1", "network", "rm", "ov").stdout.strip() == "ov"
    assert names(cluster, "m1", "-f", "driver=overlay") == ["ingress"]
    assert (
        "network ov not found"
        in cluster.docker("m1", "network", "inspect", "ov", check=False).stderr
    )


def test_the_engines_own_networks_are_its_business(cluster: Cluster) -> None:
    """On a manager and on a worker; a worker makes no overlay, and says so in Docker's words."""
    for host in ("m1", "w1"):
        cluster.docker(host, "network", "create", "mine")
        assert "mine" in names(cluster, host)
        assert "mine" in cluster.engine(host, "network", "ls", "--format", "{{.Name}}").stdout
        cluster.docker(host, "network", "rm", "mine")
    refused = cluster.docker("w1", "network", "create", "-d", "overlay", "ov", check=False)
    assert "cannot create a multi-host network from a worker node" in refused.stderr


def test_wrong_networks_are_refused_in_words(cluster: Cluster) -> None:
    def refused(*words: str) -> str:
        return cluster.docker("m1", "network", "create", *words, check=False).stderr

    assert "subnet 10.0.0.0/23 overlaps 10.0.0.0/24 of network ingress" in refused(
        "-d", "overlay", "--subnet", "10.0.0.0/23", "ov"
    )
    own = cluster.address("w1").rpartition(".")[0] + ".0/24"
    assert f"subnet {own} overlaps" in refused("-d", "overlay", "--subnet", own, "ov")
    assert "not supported yet by swarmlet" in refused("-d", "overlay", "--ipv6", "ov")
    assert "network with name ingress already exists" in refused("ingress")
    assert names(cluster, "m1", "-f", "driver=overlay") == ["ingress"]


def test_a_network_in_use_stays_and_its_user_is_named(cluster: Cluster) -> None:
    cluster.docker("m1", "network", "create", "-d", "overlay", "ov")
    cluster.create("web", "--network", "ov")
    refused = cluster.docker("m1", "network", "rm", "ov", check=False)
    assert "network ov is in use by service web" in refused.stderr
    cluster.docker("m1", "service", "rm", "web")
    assert cluster.docker("m1", "network", "rm", "ov").stdout.strip() == "ov"


def test_services_show_their_addresses_and_ports_and_a_taken_port_its_owner(
    cluster: Cluster,
) -> None:
    network = cluster.docker(
        "m1", "network", "create", "-d", "overlay", "--subnet", "10.80.0.0/24", "ov"
    ).stdout.strip()
    web = cluster.create("web", "--network", "ov", "--publish", "18080:80", "--publish", "81")
    virtual = shown(cluster, "service", "web", "{{json .Endpoint.VirtualIPs}}")
    assert json.loads(virtual) == [{"NetworkID": network, "Addr": "10.80.0.2/24"}]
    ports = json.loads(shown(cluster, "service", "web", "{{json .Endpoint.Ports}}"))
    assert [p["PublishedPort"] for p in ports] == [18080, 30000]
    line = cluster.docker("m1", "service", "ls", "--format", "{{.Ports}}").stdout
    assert "*:18080->80/tcp" in line
    taken = cluster.docker(
        *("m1", "service", "create", "-d", "--name", "two", "-p", "18080:80", IMAGE, *FOREVER),
        check=False,
    )
    assert f"port '18080' is already in use by service 'web' ({web})" in taken.stderr
    [task] = eventually(lambda: cluster.running("web"), "web runs")
    assert task["NetworksAttachments"][0]["Addresses"] == ["10.80.0.3/24"]
    verbose = cluster.docker("m1", "network", "inspect", "-v", "ov").stdout
    found = json.loads(verbose)[0]["Services"]["web"]
    assert (found["VIP"], found["Tasks"][0]["EndpointIP"]) == ("10.80.0.2", "10.80.0.3")
    rows = cluster.swarmlet("m1", "service", "endpoints", "web").stdout.splitlines()
    assert [row.split()[1] for row in rows[1:]] == [
        "10.80.0.2",
        "*:18080->80/tcp",
        "*:30000->81/tcp",
        "10.80.0.3",
    ]


def test_a_service_changes_networks_by_name(cluster: Cluster) -> None:
    for name in ("one", "two"):
        cluster.swarmlet("m1", "network", "create", name)
    ids = {n["Name"]: n["Id"] for n in overlays(cluster)}
    cluster.create("web", "--network", "one")
    cluster.docker("m1", "service", "update", "-d", "--network-add", "two", "web")
    spec = "{{json .Spec.TaskTemplate.Networks}}"

    def joined() -> list[str]:
        return [n["Target"] for n in json.loads(shown(cluster, "service", "web", spec))]

    assert joined() == sorted([ids["one"], ids["two"]])
    cluster.swarmlet("m1", "service", "update", "-d", "--network-rm", "one", "web")
    assert joined() == [ids["two"]]


def test_stock_stack_deploy_makes_networks_and_changes_nothing_the_second_time(
    cluster: Cluster, compose: str
) -> None:
    cluster.docker("m1", "stack", "deploy", "-c", compose, "shop")
    assert names(cluster, "m1", "-f", "driver=overlay") == ["ingress", "shop_default", "shop_front"]
    for name in ("shop_web", "shop_db"):
        cluster.wait_running(name, 1)
    before = {s["Spec"]["Name"]: s for s in cluster.client("m1").get("/services")}
    cluster.docker("m1", "stack", "deploy", "-c", compose, "shop")
    tasks = [t for name in before for t in cluster.tasks(name)]  # others may still be going
    for service in cluster.client("m1").get("/services"):
        assert service["Endpoint"] == before[service["Spec"]["Name"]]["Endpoint"]
    cluster.docker("m1", "stack", "rm", "shop")
    assert names(cluster, "m1", "-f", "driver=overlay") == ["ingress"]
    assert len(tasks) == 2


def test_our_stack_deploy_agrees_with_the_stock_one(cluster: Cluster, compose: str) -> None:
    """What one deployed the other finds unchanged, networks included; rm takes them along."""
    cluster.docker("m1", "stack", "deploy", "-c", compose, "shop")
    before = {n["Name"]: n["Id"] for n in overlays(cluster)}
    done = cluster.swarmlet("m1", "stack", "deploy", "-c", compose, "shop")
    assert "created" not in done.stderr
    assert {n["Name"]: n["Id"] for n in overlays(cluster)} == before
    removed = cluster.swarmlet("m1", "stack", "rm", "--yes", "shop").stderr
    assert "Removing network shop_front" in removed
    assert [n["Name"] for n in overlays(cluster)] == ["ingress"]
