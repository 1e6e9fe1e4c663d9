"""A cluster is formed through the API alone."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from swarmlet.client import Client
from swarmlet.playground import cluster
from swarmlet.playground.layout import Roots, Site
from swarmlet.playground.records import HostRecord

from tests.fakes.swarmletd import Handler, Server

HOSTS = (
    HostRecord("m1", "manager", "10.99.0.1"),
    HostRecord("m2", "manager", "10.99.0.2"),
    HostRecord("w1", "worker", "10.99.0.3"),
)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """Make a playground of which only the daemons' sockets exist."""
    site = Site("lab", Roots(run=tmp_path))
    with ExitStack() as stack:
        for host in HOSTS:
            socket = site.spot(host.name).socket
            socket.parent.mkdir(parents=True)
            server = stack.enter_context(Server(str(socket), Handler))
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
            stack.callback(server.shutdown)
        yield site


def test_every_host_becomes_a_node_of_its_role(site: Site) -> None:
    cluster.form(site, HOSTS)
    nodes = Client(site.spot("m1").socket).get("/nodes")
    found = {(n["Description"]["Hostname"], n["Spec"]["Role"]) for n in nodes}
    assert found == {("m1", "manager"), ("m2", "manager"), ("w1", "worker")}
    assert {n["Status"]["Addr"] for n in nodes} == {host.address for host in HOSTS}
