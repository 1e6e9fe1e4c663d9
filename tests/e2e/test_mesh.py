"""The data path on five hosts with a real web server (nginx): no request is lost, ports, names."""

import contextlib
import json
import socket
import urllib.request
from typing import Final

import pytest
from scripts.benchmarks import image
from swarmlet.errors import FailedPrecondition

from tests.e2e.cluster import Cluster, eventually
from tests.e2e.visitor import Visitors

pytestmark = [pytest.mark.netns, pytest.mark.docker]

#: Managers and workers of its playground.
HOSTS = (3, 2)

#: It says who asks and who answers, and ends a connection after some requests, as nginx does after
#: a thousand by default: machines that test are slow.
CONFIG: Final = """
daemon off; worker_processes 1; error_log /dev/null; pid /tmp/nginx.pid;
events { worker_connections 512; }
http { access_log off; keepalive_requests 20;
  client_body_temp_path /tmp/b; proxy_temp_path /tmp/p; fastcgi_temp_path /tmp/f;
  uwsgi_temp_path /tmp/u; scgi_temp_path /tmp/s;
  server { listen 80; listen 9000-9002; location / { return 200 "$remote_addr $hostname\\n"; } } }
"""
SERVER: Final = (
    "/bin/busybox",
    "sh",
    "-c",
    f"echo '{CONFIG}' >/tmp/nginx.conf; exec /usr/sbin/nginx -c /tmp/nginx.conf",
)
IDLE: Final = ("/bin/busybox", "sleep", "1000000")
HEALTHY: Final = (
    "--health-cmd=busybox wget -q -O /dev/null http://127.0.0.1/",
    "--health-interval=300ms",
    "--health-retries=20",
)


@pytest.fixture(scope="module")
def equipped(hosts: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """The hosts, with a web server's image."""
    archive = tmp_path_factory.mktemp("image") / "image.tar"
    try:
        image.build(archive, ["nginx"])
    except FailedPrecondition as exc:
        pytest.skip(f"{exc.message}: apt-get install nginx-light")
    hosts.playground.load_image(archive, hosts.hosts)
    return hosts


@pytest.fixture(autouse=True)
def front(equipped: Cluster, cluster: Cluster) -> None:
    """One network."""
    del equipped
    cluster.docker("m1", "network", "create", "-d", "overlay", "front")


def create(cluster: Cluster, name: str, *words: str, command: tuple[str, ...] = SERVER) -> None:
    argv = ["service", "create", "-d", "--quiet", "--no-resolve-image", "--name", name, *words]
    cluster.docker("m1", *argv, image.NAME, *command)


def tasks_namespace(cluster: Cluster, service: str) -> list[str]:
    """The words that bring a program into the network of a service's task."""
    container = cluster.containers(service)[0]
    pid = cluster.inspect(container["Host"], container["Id"])["State"]["Pid"]
    return ["nsenter", "-t", str(pid), "-n"]


def vip(cluster: Cluster, service: str) -> str:
    found = cluster.client("m1").get(f"/services/{service}")["Endpoint"]["VirtualIPs"]
    return str(found[0]["Addr"]).partition("/")[0]


def busybox(cluster: Cluster, service: str, *words: str) -> str:
    container = cluster.containers(service)[0]
    argv = ("exec", container["Id"], "/bin/busybox", "timeout", "5", "/bin/busybox", *words)
    return cluster.engine(container["Host"], *argv, check=False).stdout


def answer(address: str, port: int) -> list[str]:
    """The client's address as the server saw it, and the server's name; nothing if none answers."""
    with (
        contextlib.suppress(OSError),
        urllib.request.urlopen(f"http://{address}:{port}/", timeout=5) as said,
    ):
        return str(said.read().decode()).split()
    return []


def outside(cluster: Cluster, host: str) -> str:
    """The address by which this machine reaches a host."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((cluster.address(host), 9))
        return str(probe.getsockname()[0])


def updated(cluster: Cluster, *words: str) -> None:
    """Update ``web`` and wait for the end, old containers included."""
    cluster.docker("m1", "service", "update", "-d", "--quiet", *words, "web")
    eventually(
        lambda: (
            (cluster.client("m1").get("/services/web").get("UpdateStatus") or {}).get("State")
            != "updating"
        ),
        f"the update {words} is done",
        within=120,
    )
    cluster.wait_running("web", 3)
    cluster.wait_containers("web", 3)


def scaled(cluster: Cluster) -> None:
    for count in (1, 4, 3):
        cluster.docker("m1", "service", "scale", "-d", f"web={count}")
        cluster.wait_running("web", count)
        cluster.wait_containers("web", count)


def drained(cluster: Cluster) -> None:
    gone = next(iter(cluster.places("web")))
    cluster.docker("m1", "node", "update", "--availability=drain", gone)
    cluster.wait_moved("web", 3, gone)
    cluster.wait_containers("web", 3)
    cluster.docker("m1", "node", "update", "--availability=active", gone)


@pytest.mark.slow
def test_no_request_is_lost(cluster: Cluster) -> None:
    """Through every node and from a task, with kept and with new connections, whatever is done."""
    cluster.docker("m1", "network", "create", "-d", "overlay", "back")
    create(cluster, "client", "--network=front", "--constraint=node.hostname==m1", command=IDLE)
    create(
        cluster,
        *("web", "--replicas=3", "--network=front", "--publish=8080:80"),
        *("--update-order=start-first", "--update-parallelism=2", *HEALTHY),
    )
    cluster.wait_running("client", 1)
    cluster.wait_running("web", 3)
    places = [f"{cluster.address(host)}:8080" for host in cluster.hosts]
    for host in cluster.hosts:
        eventually(lambda: answer(cluster.address(host), 8080), f"{host} answers")  # noqa: B023
    inside = tasks_namespace(cluster, "client")
    with Visitors([], *places) as outer, Visitors(inside, f"{vip(cluster, 'web')}:80") as inner:
        updated(cluster, "--force")
        scaled(cluster)
        drained(cluster)
        updated(cluster, "--network-add=back")
        updated(cluster, "--network-rm=back")
        updated(cluster, "--publish-add=8090:9000")
        updated(cluster, "--publish-rm=9000")
    assert outer.failures == []
    assert inner.failures == []
    assert min(outer.answered, inner.answered) > 100


def test_ports_lead_to_tasks_however_they_are_published(cluster: Cluster) -> None:
    """A range, a number of the cluster's choice, on the task's node only, at one address."""
    where = cluster.address("w1")
    here = ("--constraint=node.hostname==w1", "--network=front")
    create(cluster, "web", "--publish=8000-8002:9000-9002", "--publish=80", *here)
    create(cluster, "own", "--publish=mode=host,published=8004,target=80", *here)
    create(cluster, "one", "--publish=8005:80", f"--label=swarmlet.publish.address={where}", *here)
    for name in ("web", "own", "one"):
        cluster.wait_running(name, 1)
    for host in cluster.hosts:
        for port in (8000, 8001, 8002, 30000):
            seen = eventually(
                lambda: answer(cluster.address(host), port),  # noqa: B023  # called at once
                f"{host}:{port} answers",
            )
            assert seen[0] == outside(cluster, host)
        own, one = answer(cluster.address(host), 8004), answer(cluster.address(host), 8005)
        assert (bool(own), bool(one)) == (host == "w1", host == "w1")
    assert answer(where, 8004)[0] == outside(cluster, "w1")
    words = ("service", "create", "-d", "--name=late", "--publish=8004:80", image.NAME)
    said = cluster.docker("m1", *words, check=False)
    assert "already in use by service 'own'" in said.stderr
    assert f"{where}:8005->80/tcp" in cluster.swarmlet("m1", "service", "endpoints", "one").stdout


def test_endpoints_tell_how_many_connections_a_task_has(cluster: Cluster) -> None:
    """Wherever it runs, and by whichever node they came."""
    create(cluster, "web", "--replicas=2", "--publish=8080:80", "--network=front")
    cluster.wait_running("web", 2)
    place = (cluster.address("m2"), 8080)
    eventually(lambda: answer(*place), "it answers")

    def shown() -> list[int]:
        said = cluster.swarmlet("m3", "--format=json", "service", "endpoints", "web").stdout
        rows = map(json.loads, said.splitlines())
        return [int(row["Connections"]) for row in rows if row["State"] == "serving"]

    eventually(lambda: shown() == [0, 0], "nobody is connected")
    with contextlib.ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(socket.create_connection(place, timeout=5))
        eventually(lambda: sum(shown()) == 5, "five are connected")


def test_weights_and_stickiness(cluster: Cluster) -> None:
    create(
        cluster, "web", "--replicas=3", "--network=front", "--publish=8080:80",
        "--label=swarmlet.lb.sticky=client-ip",
    )  # fmt: skip
    create(
        cluster, "other", "--replicas=2", "--network=front", "--publish=8081:80",
        "--container-label=swarmlet.lb.weight=0",
    )  # fmt: skip
    cluster.wait_running("web", 3)
    cluster.wait_running("other", 2)
    places = [cluster.address(host) for host in cluster.hosts]
    eventually(lambda: all(answer(place, 8080) for place in places), "all nodes answer")
    assert len({tuple(answer(place, 8080)) for place in places for _ in range(4)}) == 1
    assert answer(places[0], 8081) == []  # no weight, no connections
    cluster.docker(
        "m1", "service", "update", "--quiet", "--container-label-add=swarmlet.lb.weight=2", "other"
    )
    eventually(lambda: answer(places[0], 8081), "it answers with a weight")


def test_names_of_all_kinds(cluster: Cluster) -> None:
    """As a task's own program asks for them, on another node than those who are meant."""
    away = "--constraint=node.role==worker"
    create(cluster, "web", "--replicas=2", "--network=name=front,alias=Shop", away)
    create(cluster, "rr", "--replicas=2", "--network=front", "--endpoint-mode=dnsrr", away)
    near = ("--network=front", "--constraint=node.hostname==m1")
    create(cluster, "plain", *near, command=IDLE)
    create(cluster, "dots", "--dns-option=ndots:2", "--dns-search=example.org", *near, command=IDLE)
    for name, count in (("web", 2), ("rr", 2), ("plain", 1), ("dots", 1)):
        cluster.wait_running(name, count)
    address = vip(cluster, "web")

    def looked_up(name: str) -> set[str]:
        said = busybox(cluster, "plain", "nslookup", name).partition("\n\n")[2]
        return {line.split()[1] for line in said.splitlines() if line.startswith("Address")}

    def addresses(service: str) -> set[str]:
        return {
            place["Addresses"][0].partition("/")[0]
            for task in cluster.running(service)
            for place in task["NetworksAttachments"]
        }

    for name in ("web", "WEB", "shop", "web.front"):
        assert looked_up(name) == {address}, name
    eventually(lambda: looked_up("tasks.web") == addresses("web"), "the tasks of web are known")
    eventually(lambda: looked_up("rr") == addresses("rr"), "dnsrr means the tasks")
    for container in cluster.containers("web"):
        assert looked_up(container["Id"][:12]) < addresses("web")
    assert "web.front" in busybox(cluster, "plain", "nslookup", address)
    for asker in ("plain", "dots"):
        assert busybox(cluster, asker, "wget", "-q", "-O", "-", "http://web/").split(), asker


def test_a_full_network_says_so_on_the_task(cluster: Cluster) -> None:
    cluster.docker("m1", "network", "create", "-d", "overlay", "--subnet=10.81.0.0/29", "tiny")
    create(cluster, "web", "--replicas=5", "--network=tiny", command=IDLE)
    eventually(lambda: len(cluster.running("web")) == 4, "four of five run")
    shown = cluster.docker("m1", "service", "ps", "--no-trunc", "web").stdout
    assert "network tiny has no free address in 10.81.0.0/29" in shown
