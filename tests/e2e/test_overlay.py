"""The data path on real engines: names, virtual addresses, the mesh, and what must not pass."""

import http.client
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from typing import Final

import pytest
from swarmlet.playground.playground import Wish

from tests.e2e.cluster import Cluster, diagnosed, eventually
from tests.e2e.conftest import ENGINES, MakePlayground, engines_of
from tests.e2e.crowd import Crowd

pytestmark = [pytest.mark.netns, pytest.mark.docker]

#: A web server that says who asked and who answers. Told to end it answers what is under way first,
#: as servers do that care for their clients.
SERVER: Final = (
    "sh",
    "-c",
    """mkdir -p /www/cgi-bin
printf '#!/bin/sh\\necho; echo $REMOTE_ADDR $HOSTNAME\\n' >/www/cgi-bin/who
chmod +x /www/cgi-bin/who
httpd -f -p 80 -h /www &
trap 'sleep 1; kill $!; exit 0' TERM
wait""",
)
#: It is healthy when it answers.
HEALTHY: Final = (
    "--health-cmd=wget -q -O /dev/null http://127.0.0.1/cgi-bin/who",
    "--health-interval=200ms",
    "--health-retries=20",
)


@pytest.fixture(scope="module", params=ENGINES)
def hosts(
    make_shared_playground: MakePlayground, request: pytest.FixtureRequest
) -> Iterator[Cluster]:
    """A manager and two workers."""
    wish = Wish(engines=engines_of(request.param))
    playground = make_shared_playground(managers=1, workers=2, wish=wish)
    with diagnosed(playground):
        yield Cluster(playground)


def who(address: str, port: int) -> tuple[str, str]:
    """Ask a server: the client's address as it saw it, and its own name. Raises OSError."""
    with closing(http.client.HTTPConnection(address, port, timeout=5)) as connection:
        connection.request("GET", "/cgi-bin/who")
        answer = connection.getresponse()
        seen, name = answer.read().decode().split()
        return seen.strip("[]").removeprefix("::ffff:"), name  # busybox listens on IPv6


def answer_of(address: str, port: int) -> tuple[str, str] | None:
    """As :func:`who`; None when nothing answers."""
    try:
        return who(address, port)
    except (OSError, http.client.HTTPException, ValueError):
        return None


def run_in(cluster: Cluster, service: str, *argv: str, at: int = 0) -> str:
    """Run a command in a container of a service; what it wrote."""
    container = sorted(cluster.containers(service), key=lambda c: c["Names"])[at]
    return cluster.engine(container["Host"], "exec", container["Id"], *argv, check=False).stdout


def gets(cluster: Cluster, service: str, url: str) -> str:
    """What a container of a service gets from a web server, "" when nothing."""
    return run_in(cluster, service, "timeout", "5", "wget", "-q", "-O", "-", url).strip()


def vip(cluster: Cluster, service: str) -> str:
    found = cluster.client("m1").get(f"/services/{service}")["Endpoint"]["VirtualIPs"]
    return str(found[0]["Addr"]).partition("/")[0]


def outside(cluster: Cluster, host: str) -> str:
    """The address by which this machine reaches a host: what servers shall see."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((cluster.address(host), 9))
        return str(probe.getsockname()[0])


def refused(address: str, port: int) -> bool:
    """Whether a connection is refused at once, and not left hanging."""
    try:
        with socket.create_connection((address, port), timeout=5):
            return False
    except TimeoutError:
        return False
    except OSError:
        return True


class Visitor(Crowd):
    """A client that makes one connection after the other, and counts what fails."""

    def __init__(self, *places: tuple[str, int]) -> None:
        super().__init__()
        self.answered: Counter[str] = Counter()
        self.failures: list[str] = []
        self._places = places
        self._threads = [threading.Thread(target=self._visit, args=(p,)) for p in places]

    def _visit(self, place: tuple[str, int]) -> None:
        while not self._stop.wait(0.01):
            try:
                self.answered[who(*place)[1]] += 1
            except (OSError, http.client.HTTPException, ValueError) as exc:
                self.failures.append(f"{place}: {exc!r}")

    def wait_for(self, more: int) -> None:
        """Wait until so many more requests were answered."""
        goal = self.answered.total() + more
        eventually(lambda: self.answered.total() >= goal, f"{goal} requests are answered")


def test_tasks_reach_each_other_and_services_by_name(cluster: Cluster) -> None:
    """On whatever node they are; a name is its service's virtual address."""
    cluster.docker("m1", "network", "create", "-d", "overlay", "front")
    cluster.create("web", "--replicas=3", "--network=front", command=SERVER)
    cluster.create("client", "--mode=global", "--network=front")
    cluster.wait_running("web", 3)
    cluster.wait_running("client", 3)
    assert set(cluster.places("web")) == set(cluster.hosts)
    for at in range(3):
        assert vip(cluster, "web") in run_in(cluster, "client", "nslookup", "web", at=at)
        seen = {
            run_in(
                cluster, "client", "wget", "-q", "-O", "-", "http://web/cgi-bin/who", at=at
            ).split()[1]
            for _ in range(30)
        }
        assert len(seen) == 3
    addresses = {
        place["Addresses"][0].partition("/")[0]
        for task in cluster.running("web")
        for place in task["NetworksAttachments"]
    }
    looked_up = run_in(cluster, "client", "nslookup", "tasks.web")
    assert all(address in looked_up for address in addresses)
    for address in addresses:
        assert gets(cluster, "client", f"http://{address}/cgi-bin/who")


def test_a_published_port_answers_on_every_node_and_shows_the_client(cluster: Cluster) -> None:
    """Also on the nodes without a task; the server sees who really asks."""
    cluster.create(
        "web", "--replicas=1", "--publish=8080:80", "--constraint=node.role==worker",
        *HEALTHY, command=SERVER,
    )  # fmt: skip
    (task,) = cluster.wait_running("web", 1)
    for host in cluster.hosts:
        eventually(partial(answer_of, cluster.address(host), 8080), f"{host} leads to the task")
        seen, name = who(cluster.address(host), 8080)
        assert seen == outside(cluster, host)
        assert name == task["Status"]["ContainerStatus"]["ContainerID"][:12]
        url = "http://127.0.0.1:8080/cgi-bin/who"
        assert name in cluster.playground.run(host, "busybox", "wget", "-qO-", url).stdout


def test_a_published_port_without_a_task_refuses_at_once(cluster: Cluster) -> None:
    cluster.create("web", "--replicas=1", "--publish=8081:80", *HEALTHY, command=SERVER)
    cluster.wait_running("web", 1)
    eventually(lambda: answer_of(cluster.address("w1"), 8081), "it answers")
    cluster.docker("m1", "service", "scale", "-d", "web=0")
    cluster.wait_running("web", 0)
    for host in cluster.hosts:
        eventually(partial(refused, cluster.address(host), 8081), f"{host} refuses")


def test_networks_do_not_reach_each_other(cluster: Cluster) -> None:
    """Neither by address nor by name, and unpublished ports not from outside either."""
    for name in ("front", "back"):
        cluster.docker("m1", "network", "create", "-d", "overlay", name)
    cluster.create("web", "--replicas=2", "--network=front", command=SERVER)
    cluster.create("near", "--network=front")
    cluster.create("far", "--mode=global", "--network=back")
    cluster.wait_running("web", 2)
    cluster.wait_running("near", 1)
    cluster.wait_running("far", 3)
    assert gets(cluster, "near", "http://web/cgi-bin/who")
    addresses = [
        task["NetworksAttachments"][0]["Addresses"][0].partition("/")[0]
        for task in cluster.running("web")
    ]
    for address in [*addresses, vip(cluster, "web"), "web"]:
        assert gets(cluster, "far", f"http://{address}/cgi-bin/who") == ""


def test_a_task_in_two_networks_reaches_both(cluster: Cluster) -> None:
    for name in ("front", "back"):
        cluster.docker("m1", "network", "create", "-d", "overlay", name)
        cluster.create(f"web-{name}", f"--network={name}", command=SERVER)
    cluster.create("both", "--mode=global", "--network=front", "--network=back")
    cluster.wait_running("both", 3)
    for name in ("front", "back"):
        cluster.wait_running(f"web-{name}", 1)
        for at in range(3):
            url = f"http://web-{name}/cgi-bin/who"
            assert run_in(cluster, "both", "timeout", "5", "wget", "-q", "-O", "-", url, at=at)


def test_a_task_reaches_a_published_port_whose_backend_knows_nothing_of_its_network(
    cluster: Cluster,
) -> None:
    """Stack calls stack: the backend's node has no task in the caller's network."""
    for name in ("front", "back"):
        cluster.docker("m1", "network", "create", "-d", "overlay", name)
    cluster.create(
        *("web", "--network=front", "--publish=8085:80", "--constraint=node.hostname==w1"),
        command=SERVER,
    )
    cluster.create("caller", "--network=back", "--constraint=node.hostname==m1")
    cluster.wait_running("web", 1)
    cluster.wait_running("caller", 1)
    for host in cluster.hosts:
        url = f"http://{cluster.address(host)}:8085/cgi-bin/who"
        eventually(partial(gets, cluster, "caller", url), f"by the address of {host}")


def test_an_outage_of_the_daemon_is_not_noticed(cluster: Cluster) -> None:
    """Names and packets go on while it is stopped, and when it is back."""
    cluster.docker("m1", "network", "create", "-d", "overlay", "front")
    cluster.create(
        "web", "--replicas=3", "--network=front", "--publish=8082:80", *HEALTHY, command=SERVER
    )
    cluster.create("client", "--network=front", "--constraint=node.hostname==w1")
    cluster.wait_running("web", 3)
    cluster.wait_running("client", 1)
    eventually(lambda: answer_of(cluster.address("w1"), 8082), "it answers")
    with Visitor((cluster.address("w1"), 8082)) as visitor:
        visitor.wait_for(20)
        cluster.playground.stop_daemon("w1", kill=True)
        assert gets(cluster, "client", "http://web/cgi-bin/who")
        visitor.wait_for(20)
        cluster.playground.start_daemon("w1")
        cluster.wait_all_ready()
        visitor.wait_for(20)
    assert visitor.failures == []


def test_what_somebody_destroyed_comes_back(cluster: Cluster) -> None:
    """A flushed ruleset, a deleted route."""
    cluster.create("web", "--replicas=3", "--publish=8083:80", *HEALTHY, command=SERVER)
    cluster.wait_running("web", 3)
    place = (cluster.address("w1"), 8083)
    eventually(lambda: answer_of(*place), "it answers")
    cluster.playground.run("w1", "nft", "flush", "ruleset")
    eventually(lambda: answer_of(*place), "it answers again")
    cluster.playground.run("w1", "ip", "link", "del", "swl0")
    eventually(
        lambda: len({answer_of(*place) for _ in range(20)} - {None}) == 3,
        "all three tasks answer again",
    )


@pytest.mark.slow
def test_no_request_is_lost_when_tasks_come_and_go(cluster: Cluster) -> None:
    """Through the mesh, while a service is scaled down and up and its node is drained."""
    cluster.create("web", "--replicas=4", "--publish=8084:80", *HEALTHY, command=SERVER)
    cluster.wait_running("web", 4)
    places = [(cluster.address(host), 8084) for host in cluster.hosts]
    for place in places:
        eventually(partial(answer_of, *place), f"{place} answers")
    with Visitor(*places) as visitor:
        for replicas in (2, 5, 1, 4):
            cluster.docker("m1", "service", "scale", "-d", f"web={replicas}")
            cluster.wait_running("web", replicas)
            visitor.wait_for(30)
        cluster.docker("m1", "node", "update", "--availability=drain", "w2")
        cluster.wait_moved("web", 4, "w2")
        visitor.wait_for(30)
        cluster.docker("m1", "node", "update", "--availability=active", "w2")
    assert visitor.failures == []
