"""Encrypted networks: nothing readable on the wire, and nothing at all where it cannot be so."""

import contextlib
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace
from swarmlet.model.forwarding import Attachment, PublishedPort
from swarmlet.model.networks import DEFAULT_DATA_PORT
from swarmlet.model.tunnels import TunnelKeys, lane_ports
from swarmlet.net.numbers import ENCRYPTED_VNI, VNI

from tests.netns.conftest import MODES, bridge_nf
from tests.netns.rig import Lan, connect, eventually, exchange, lan_of, tcp, udp
from tests.netns.sniffer import Sniffer
from tests.netns.test_isolation import vxlan

pytestmark = [
    pytest.mark.netns,
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("wg") is None or shutil.which("wireguard-go") is None,
        reason="needs Debian's wireguard-tools and wireguard-go",
    ),
]

CLIENT = "10.88.0.100"
MANY = 16


@pytest.fixture(params=MODES)
def lan(request: pytest.FixtureRequest) -> Iterator[Lan]:
    """Three hosts; an encrypted network and a plain one, each on two hosts; both are published."""
    for lan in lan_of(3):
        bridge_nf(lan, request.param)
        lan.network("hidden", 12, encrypted=True)
        lan.network("open", 9)
        lan.service(
            "secret",
            Attachment("hidden", "10.10.12.200"),
            ports=(PublishedPort("tcp", 8090, 80), PublishedPort("udp", 8090, 80)),
        )
        lan.service(
            "plain", Attachment("open", "10.10.9.200"), ports=(PublishedPort("tcp", 8091, 80),)
        )
        lan.exchange_keys()
        for n in (1, 2):
            lan.task(f"secret{n}", n, Attachment("hidden", f"10.10.12.1{n}"))
            lan.task(f"plain{n}", n, Attachment("open", f"10.10.9.1{n}"))
        lan.give()
        lan.settle()
        yield lan


@pytest.fixture
def wire(lan: Lan) -> Iterator[Sniffer]:
    """What the hosts say to each other."""
    sniffer = Sniffer(lan.switch, {host.address for host in lan.hosts.values()})
    yield sniffer
    sniffer.close()


def test_nothing_can_be_read_on_the_wire(lan: Lan, wire: Sniffer) -> None:
    """Tasks among each other, by virtual address, by ports of any node, and from nodes."""
    asker = lan.containers["secret1"].space
    for ask in (tcp, udp):
        assert ask(asker, "10.10.12.12", 80) == "secret2 10.10.12.11"
        assert {ask(asker, "10.10.12.200", 80).split()[0] for _ in range(MANY)} == {
            "secret1",
            "secret2",
        }
        for entry in lan.hosts.values():
            answers = {ask(lan.client, entry.address, 8090) for _ in range(MANY)}
            assert answers == {f"secret1 {CLIENT}", f"secret2 {CLIENT}"}
    for address, port in (("127.0.0.1", 8090), ("10.10.12.200", 80), ("10.10.12.12", 80)):
        assert tcp(lan.hosts[1].space, address, port).startswith("secret")
    # A client in a network that is not encrypted: what passes is the encrypted one's.
    answers = {tcp(lan.containers["plain1"].space, "10.88.0.1", 8090) for _ in range(MANY)}
    assert {answer.split()[0] for answer in answers} == {"secret1", "secret2"}
    assert tcp(lan.containers["plain1"].space, "10.10.9.12", 80) == "plain2 10.10.9.11"
    eventually(lambda: wire.saw(b"plain2 10.10.9.11"))
    assert not wire.saw(b"secret")
    assert not wire.saw(ENCRYPTED_VNI.to_bytes(3) + b"\0\x0a\x58\x64\x40")
    assert wire.to_port(lane_ports(DEFAULT_DATA_PORT)[0]) > MANY


def test_an_encrypted_task_reaches_ports_of_plain_networks(lan: Lan) -> None:
    """As its node: replies to its own address would have to come back plainly."""
    asker = lan.containers["secret1"].space
    answers = {tcp(asker, "10.88.0.1", 8091) for _ in range(MANY)}
    assert answers == {"plain1 10.10.12.11", "plain2 100.64.0.1"}


def test_large_packets_pass(lan: Lan) -> None:
    """The bridges of encrypted networks leave room for both headers."""
    with connect(lan.containers["secret1"].space, ("10.10.12.12", 80)) as sock:
        sock.sendall(b"x" * 100_000)
        assert sock.recv(1024).startswith(b"secret2")
    outside = lan.serve(lan.client, "outside", 7009)
    assert tcp(lan.containers["secret1"].space, CLIENT, 7009) == "outside 10.88.0.1"
    outside.close()


def test_kernels_are_as_planned(lan: Lan) -> None:
    """Nothing differs on any host, and nothing was left out."""
    for host in lan.hosts.values():
        assert host.order("differences") == [], host.log()
        assert host.order("problems") == []
        assert host.order("statistics")["failures"] == 0, host.log()


def test_a_node_without_a_key_is_not_spoken_to(lan: Lan, wire: Sniffer) -> None:
    """Its tasks get no connections; to their addresses they are refused; doctor says why."""
    lan.tables.peers["n2"] = replace(lan.tables.peers["n2"], tunnel=None)
    lan.give()
    asker = lan.containers["secret1"].space
    assert {tcp(asker, "10.10.12.200", 80) for _ in range(MANY)} == {"secret1 10.10.12.1"}
    for entry in (1, 3):
        server = lan.containers["secret2"].server
        server.askers.clear()
        with contextlib.suppress(OSError):
            for _ in range(MANY):
                tcp(lan.client, f"10.88.0.{entry}", 8090)
        assert not server.askers
    with pytest.raises(ConnectionRefusedError):
        tcp(asker, "10.10.12.12", 80)
    assert lan.hosts[1].order("problems") == [
        "node n2 has no key: its tasks in encrypted networks are not reached from here"
    ]
    assert not wire.saw(b"secret")


#: What others do to a node.
HARM = (
    "ip link del swl1",
    "ip link del swlw0",
    "ip route flush table 12001",
    "ip route del 10.10.12.11/32",
    "ip route del 100.64.32.1/32",
    "ip rule del pref 2001",
    "bridge fdb del 0a:58:64:40:00:01 dev swl1",
    "nft flush ruleset",
)


def test_whatever_is_broken_nothing_leaves_plainly(lan: Lan, wire: Sniffer) -> None:
    """Not even for a moment, in the midst of traffic; and it is repaired."""
    host = lan.hosts[2]
    asker = lan.containers["secret2"].space
    stop = threading.Event()

    def talk() -> None:
        with asker.socket(socket.SOCK_DGRAM) as one, lan.client.socket(socket.SOCK_DGRAM) as two:
            for sock, to in ((one, ("10.10.12.11", 80)), (two, ("10.88.0.2", 8090))):
                sock.setblocking(False)
                sock.connect(to)
            while not stop.wait(0.001):
                for sock in (one, two):
                    with contextlib.suppress(OSError):
                        sock.send(b"secret-question")

    talker = threading.Thread(target=talk)
    talker.start()
    try:
        for command in HARM:
            host.space.run(*command.split())
            eventually(lambda: not host.order("differences"))
            assert tcp(asker, "10.10.12.11", 80) == "secret1 10.10.12.12", command
            assert not wire.saw(b"secret"), command
    finally:
        stop.set()
        talker.join()


def test_without_its_links_a_node_is_silent(lan: Lan, wire: Sniffer) -> None:
    """Nobody repairs it; what has no way any more must not find another."""
    host = lan.hosts[2]
    asker = lan.containers["secret2"].space
    replying = connect(lan.client, ("10.88.0.1", 8090))
    while exchange(replying) != f"secret2 {CLIENT}":
        replying.close()
        replying = connect(lan.client, ("10.88.0.1", 8090))
    host.kill()
    host.space.ip("route add default via 10.88.0.1 dev eth0")
    for device in ("swlw0", "swl1"):
        host.space.ip(f"link del {device}")
        with asker.socket(socket.SOCK_DGRAM) as sock:
            for to in ("10.10.12.11", "10.10.12.200"):
                with contextlib.suppress(OSError):
                    sock.sendto(b"secret-question", (to, 80))
        with pytest.raises(TimeoutError):
            exchange(replying)
    replying.close()
    with lan.client.socket(socket.SOCK_DGRAM) as sock:
        for _ in range(MANY):
            sock.sendto(b"secret-question", ("10.88.0.2", 8090))
    assert tcp(lan.containers["plain2"].space, "10.10.9.11", 80) == "plain1 10.10.9.12"
    eventually(lambda: wire.saw(b"plain1 10.10.9.12"))
    assert not wire.saw(b"secret")


@pytest.mark.parametrize("number", [1, 2], ids=["the client's", "the server's"])
def test_a_program_that_dies_or_hangs_is_replaced(lan: Lan, number: int) -> None:
    """wireguard-go; connections go on, whoever speaks first: the other's tunnel is an old one."""
    host = lan.hosts[number]
    with connect(lan.containers["secret1"].space, ("10.10.12.12", 80)) as sock:
        sock.settimeout(20)
        assert exchange(sock) == "secret2 10.10.12.11"
        for signal in ("KILL", "STOP"):
            pid = server_of(lan, number)
            if not pid:
                pytest.skip("the kernel encrypts here")
            host.space.run("kill", f"-{signal}", str(pid))
            if signal == "STOP":
                # Nobody hears of that: the next look finds it.
                host.space.run("ip", "link", "set", "swl1", "mtu", "1300")
            eventually(lambda: server_of(lan, number) not in {0, pid})  # noqa: B023  # called at once
            assert exchange(sock) == "secret2 10.10.12.11"
            eventually(lambda: not host.order("differences"))


def server_of(lan: Lan, number: int) -> int:
    """The process of wireguard-go that serves a host, 0 if there is none."""
    where = Path(lan.hosts[number].path).stat().st_ino
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (place / "cmdline").read_bytes().split(b"\0")
            if b"wireguard-go" in words and (place / "ns/net").stat().st_ino == where:
                return int(place.name)
    return 0


def test_tunnels_outlive_the_program_that_made_them(lan: Lan) -> None:
    """A crash of what programs the kernel; the next one finds them, and keeps them."""
    host, pid = lan.hosts[1], server_of(lan, 1)
    with connect(lan.containers["secret1"].space, ("10.10.12.12", 80)) as sock:
        host.kill()
        assert exchange(sock) == "secret2 10.10.12.11"
        host.start()
        host.give(lan.tables)
        assert exchange(sock) == "secret2 10.10.12.11"
    assert server_of(lan, 1) == pid
    assert host.order("differences") == []


def test_packets_of_an_encrypted_network_come_out_of_tunnels_only(lan: Lan) -> None:
    """Neither in the plain overlay nor in plain VXLAN of that identifier, even from a peer."""
    server = lan.containers["secret1"].server
    lan.hosts[3].kill()  # it would not let such a packet out
    lan.hosts[3].space.run("nft", "flush", "ruleset")
    for vni in (VNI, ENCRYPTED_VNI):
        server.askers.clear()
        frame = vxlan(source="10.10.12.12", to="10.10.12.11", entry=1, vni=vni)
        with lan.hosts[3].space.socket(socket.SOCK_DGRAM) as sock:
            for _ in range(3):
                sock.sendto(frame, ("10.88.0.1", DEFAULT_DATA_PORT))
        assert udp(lan.containers["secret2"].space, "10.10.12.11", 80) == "secret1 10.10.12.12"
        assert len(server.askers) == 1
    # Where the tunnel leads, the same packet from the peer itself does arrive.
    with lan.hosts[2].space.socket(socket.SOCK_DGRAM) as sock:
        sock.sendto(
            vxlan(source="10.10.12.12", to="10.10.12.11", entry=1, vni=ENCRYPTED_VNI),
            ("100.64.32.1", DEFAULT_DATA_PORT),
        )
    eventually(lambda: len(server.askers) == 2)


def test_no_task_gets_into_a_tunnel(lan: Lan) -> None:
    """Its host would send what it forges as its own."""
    server = lan.containers["secret1"].server
    server.askers.clear()
    frame = vxlan(source="10.10.12.12", to="10.10.12.11", entry=1, vni=ENCRYPTED_VNI)
    for name in ("plain2", "secret2"):
        with lan.containers[name].space.socket(socket.SOCK_DGRAM) as sock:
            sock.sendto(frame, ("100.64.32.1", DEFAULT_DATA_PORT))
    assert udp(lan.containers["secret2"].space, "10.10.12.11", 80) == "secret1 10.10.12.12"
    assert len(server.askers) == 1


def test_a_tunnel_leads_to_no_port_of_its_host(lan: Lan) -> None:
    """A firewall of the underlay is not to be passed by."""
    secret = lan.serve(lan.hosts[1].space, "host", 7010)
    for place in (lan.hosts[2].space, lan.containers["secret2"].space):
        with pytest.raises(OSError, match=r"timed out|unreachable|No route"):
            connect(place, ("100.64.32.1", 7010), patience=0.5)
    assert not secret.askers
    secret.close()


def test_keys_are_replaced_without_losing_a_packet(lan: Lan, wire: Sniffer) -> None:
    """Both lanes, on each node in turn, while datagrams are counted in both directions."""
    one, two = (lan.containers[name].space for name in ("secret1", "secret2"))
    stop, lost, sent = threading.Event(), [0], [0]

    def talk() -> None:
        with one.socket(socket.SOCK_DGRAM) as here, two.socket(socket.SOCK_DGRAM) as there:
            here.connect(("10.10.12.12", 80))
            there.connect(("10.10.12.11", 80))
            for sock in (here, there):
                sock.settimeout(1)
            while not stop.is_set():
                for sock in (here, there):
                    sent[0] += 1
                    try:
                        exchange(sock)
                    except OSError:
                        lost[0] += 1
                time.sleep(0.001)

    talker = threading.Thread(target=talk)
    talker.start()
    try:
        old = lan.hosts[1].order("keys")
        for number in (1, 2, 1, 2):
            rotate(lan, number)
        assert set(lan.hosts[1].order("keys")["lanes"]).isdisjoint({*old["lanes"]} - {""})
    finally:
        stop.set()
        talker.join()
    assert lost == [0]
    assert sent[0] > 1000
    assert not wire.saw(b"secret")
    test_kernels_are_as_planned(lan)


def rotate(lan: Lan, number: int) -> None:
    """One node's key: made, told, used, told, forgotten, told."""
    host = lan.hosts[number]
    before = msgspec.convert(host.order("keys"), TunnelKeys)
    host.order("step", {})
    lan.exchange_keys()
    eventually(lambda: msgspec.convert(host.order("step", {}), TunnelKeys).lane != before.lane, 30)
    time.sleep(0.3)  # others hear of it later
    lan.exchange_keys()
    host.order("step", {})
    lan.exchange_keys()
    assert msgspec.convert(host.order("keys"), TunnelKeys).lanes[before.lane] == ""


def test_what_encrypts_goes_when_it_is_not_needed(lan: Lan) -> None:
    """Devices, processes and rules; and nothing else of the node's forwarding."""
    for name in ("secret1", "secret2"):
        del lan.tables.tasks[name]
    lan.give()
    for host in lan.hosts.values():
        links = host.space.run("ip", "link")
        assert "swlw" not in links
        assert "swl1:" not in links
        assert host.order("differences") == []
    eventually(lambda: server_of(lan, 1) == 0)
    assert tcp(lan.containers["plain1"].space, "10.10.9.12", 80) == "plain2 10.10.9.11"
