"""Our rules beside a real engine's: networks as the agent makes them, FORWARD policy DROP."""

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from swarmlet.engine.networks import network_body
from swarmlet.model.forwarding import (
    Attachment,
    NetworkRecord,
    PeerRecord,
    PublishedPort,
    ServiceRecord,
    Tables,
    TaskRecord,
)

from tests.docker import host
from tests.docker.host import EngineHost
from tests.netns.driven import Driven
from tests.netns.rig import eventually

pytestmark = [pytest.mark.docker, pytest.mark.slow]

MANY = 24

QUESTION = b"GET / HTTP/1.0\r\n\r\n"

NETWORKS = {
    name: NetworkRecord(
        id=name, name=name, subnet=f"10.10.{third}.0/24", gateway=f"10.10.{third}.1"
    )
    for name, third in (("red", 9), ("blue", 10))
}


class Node:
    """An engine, and a forwarder in its network namespace."""

    def __init__(self, engine: EngineHost) -> None:
        assert engine.process
        self.engine = engine
        self.forwarder = Driven(f"/proc/{engine.process.pid}/ns/net")
        self.forwarder.start()

    def run(self, *words: str) -> str:
        command = ["nsenter", f"--net={self.forwarder.path}", *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def network(self, record: NetworkRecord) -> None:
        bridge = self.forwarder.order("bridge", record)
        body = network_body(record, bridge=bridge["name"], mtu=bridge["mtu"])
        options = [f"--opt={key}={value}" for key, value in body["Options"].items()]
        subnet = [f"--subnet={record.subnet}", f"--gateway={record.gateway}"]
        self.engine.docker("network", "create", "-d", "bridge", *subnet, *options, record.name)
        self.forwarder.order("adopt", record)

    def task(self, record: TaskRecord) -> None:
        place = record.attachments[0]
        script = f"echo {record.name} >/www/index.html; exec httpd -f -p 80 -h /www"
        options = ["--network", place.network_id, "--ip", place.address, "--name", record.name]
        self.engine.docker("run", "-d", *options, "busybox:lab", "sh", "-c", script)

    def state(self) -> list[str]:
        """What the host's network is made of, without counters."""
        links = [line.split()[1] for line in self.run("ip", "-o", "link").splitlines()]
        return [
            *links,
            self.run("nft", "list", "tables"),
            self.run("iptables", "-S"),
            self.run("iptables", "-t", "nat", "-S"),
            self.run("ip", "rule"),
            self.run("ip", "-4", "route", "show", "table", "all"),
        ]

    def ask(self, asker: str, address: str, port: int = 80) -> str:
        """Who answers a container; nothing if nobody does."""
        words = ["nc", "-w", "3", address, str(port)]
        asked = self.engine.docker("exec", "-i", asker, *words, stdin=QUESTION, check=False)
        return asked.stdout.decode().rpartition("\r\n")[2].strip()

    def ask_here(self, address: str, port: int = 80) -> str:
        """Who answers the node itself."""
        words = ["nsenter", f"--net={self.forwarder.path}", "busybox", "nc", "-w", "3"]
        asked = subprocess.run(
            [*words, address, str(port)], input=QUESTION, capture_output=True, check=False
        )
        return asked.stdout.decode().rpartition("\r\n")[2].strip()


@pytest.fixture
def node() -> Iterator[Node]:
    """An engine of its own: what is counted afterwards must be all there is."""
    host.require()
    engine = EngineHost(Path(tempfile.mkdtemp(prefix="swlt-")))
    try:
        engine.boot()
        engine.import_image("busybox:lab")
        node = Node(engine)
        try:
            yield node
        finally:
            node.forwarder.delete()
    finally:
        engine.destroy()


def records() -> Tables:
    tasks = {
        name: TaskRecord(
            id=name,
            service_id=name.rstrip("12"),
            name=name,
            node=1,
            serving=True,
            attachments=(Attachment(network, address),),
        )
        for name, network, address in (
            ("web1", "red", "10.10.9.11"),
            ("web2", "red", "10.10.9.12"),
            ("other1", "blue", "10.10.10.11"),
        )
    }
    web = ServiceRecord(
        id="web",
        name="web",
        attachments=(Attachment("red", "10.10.9.200"),),
        ports=(PublishedPort("tcp", 8080, 80),),
    )
    peers = {"n1": PeerRecord(id="n1", number=1, addr="127.0.0.1")}
    return Tables(me=1, peers=peers, networks=NETWORKS, services={"web": web}, tasks=tasks)


def test_tasks_of_a_real_engine(node: Node) -> None:
    """Virtual address, published port, isolation; and when it is over, nothing is left."""
    assert "-P FORWARD DROP" in node.run("iptables", "-S", "FORWARD")
    before = node.state()
    tables = records()
    node.forwarder.order("tables", tables)
    for network in NETWORKS.values():
        node.network(network)
    for task in tables.tasks.values():
        node.task(task)

    both = {"web1", "web2"}
    assert {node.ask("web1", "10.10.9.200") for _ in range(MANY)} == both
    assert {node.ask_here("127.0.0.1", 8080) for _ in range(MANY)} == both
    assert {node.ask_here("10.10.9.200") for _ in range(MANY)} == both
    assert node.ask("web1", "10.10.9.12") == "web2"
    # Another network's task reaches what is published, and nothing else.
    assert node.ask("other1", "10.10.10.1", 8080) in both
    assert node.ask("other1", "10.10.9.12") == ""
    assert node.ask("other1", "10.10.9.200") == ""
    assert node.forwarder.order("differences") == []

    for name in tables.tasks:
        node.engine.docker("rm", "-f", name)
    for name in NETWORKS:
        node.engine.docker("network", "rm", name)
    node.forwarder.order("clear")
    assert node.state() == before


def test_an_engine_whose_rules_were_flushed_says_so(node: Node) -> None:
    """Ours come back; its own it makes when it starts, and until then it makes no bridge."""
    red, blue = NETWORKS.values()
    node.forwarder.order("tables", records())
    node.network(red)
    node.run("nft", "flush", "ruleset")
    eventually(lambda: "engine-rules-gone" in node.forwarder.log())
    eventually(lambda: "table ip swarmlet" in node.run("nft", "list", "tables"))
    words = ["network", "create", "--subnet", blue.subnet, "blue"]
    assert b"No chain/target/match by that name" in node.engine.docker(*words, check=False).stderr
