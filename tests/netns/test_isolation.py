"""What does not pass."""

import socket
import struct
import time

import pytest
from swarmlet.net.numbers import VNI, bridge_name, mac

from tests.netns.rig import Lan, Namespace, connect, eventually, tcp, udp

pytestmark = [pytest.mark.netns, pytest.mark.slow]

#: How the refusal of a forbidden way shows; a time-out is none.
FORBIDDEN = r"No route|unreachable|refused"

#: A datagram that its own host refuses is not even sent.
REFUSED = (ConnectionRefusedError, PermissionError)


@pytest.mark.parametrize("asker", ["web1", "client", "host"])
def test_what_has_no_backend_refuses_at_once(lan: Lan, asker: str) -> None:
    """A connection is reset, a datagram answered by ICMP; nobody waits."""
    place = {
        "web1": lan.containers["web1"].space,
        "client": lan.client,
        "host": lan.hosts[1].space,
    }[asker]
    targets = [("10.88.0.1", 8083), ("10.88.0.2", 8083)]
    if asker != "client":
        targets += [("10.10.9.203", 80)]
    for address, port in targets:
        with pytest.raises(ConnectionRefusedError):
            tcp(place, address, port)
        with pytest.raises(REFUSED):
            udp(place, address, port)


def test_networks_do_not_reach_each_other(lan: Lan) -> None:
    """Neither tasks nor virtual addresses, on the same node or another."""
    asker = lan.containers["blue1"].space
    for address in ("10.10.9.11", "10.10.9.12", "10.10.9.200", "10.10.11.61"):
        with pytest.raises(OSError, match=FORBIDDEN):
            tcp(asker, address, 80)


def test_outsiders_reach_no_task_directly(lan: Lan) -> None:
    """Though they send their packets for it to a node."""
    lan.client.ip(*(f"route replace 10.10.{n}.0/24 via 10.88.0.1" for n in (9, 10, 11)))
    try:
        for address in ("10.10.9.11", "10.10.9.12", "10.10.9.200", "10.10.11.61"):
            with pytest.raises(TimeoutError):
                connect(lan.client, (address, 80), patience=0.5)
    finally:
        lan.client.ip(*(f"route del 10.10.{n}.0/24" for n in (9, 10, 11)))


def test_an_internal_network_has_no_way_out(lan: Lan) -> None:
    """Not to the world, not to other networks, not to published ports, not to its host."""
    outside = lan.serve(lan.client, "outside", 7002)
    host = lan.serve(lan.hosts[1].space, "host", 7003)
    asker = lan.containers["dark1"].space
    for address, port in (
        ("10.88.0.100", 7002),
        ("10.88.0.1", 7003),
        ("10.10.11.1", 7003),
        ("10.10.9.11", 80),
        ("10.88.0.1", 8080),
        ("10.88.0.2", 8080),
    ):
        with pytest.raises(OSError, match=FORBIDDEN):
            tcp(asker, address, port)
    outside.close()
    host.close()


def test_an_internal_network_may_ask_for_names(lan: Lan) -> None:
    """At its gateway, where the node answers."""
    names = lan.serve(lan.hosts[1].space, "names", 53)
    assert udp(lan.containers["dark1"].space, "10.10.11.1", 53) == "names 10.10.11.61"
    assert tcp(lan.containers["dark1"].space, "10.10.11.1", 53) == "names 10.10.11.61"
    names.close()


def test_the_hosts_loopback_is_private(lan: Lan) -> None:
    """Though route_localnet is on, which published ports at 127.0.0.1 need."""
    secret = lan.serve(lan.hosts[1].space, "secret", 7004)
    asker = lan.containers["web1"].space
    asker.sysctl("net/ipv4/conf/eth0/route_localnet", "1")
    asker.ip("route del local 127.0.0.0/8 dev lo table local", "addr del 127.0.0.1/8 dev lo")
    asker.ip("route add 127.0.0.0/8 via 10.10.9.1 src 10.10.9.11")
    with pytest.raises(TimeoutError):
        connect(asker, ("127.0.0.1", 7004), patience=0.5)
    assert secret.askers == []
    secret.close()


@pytest.mark.parametrize("forged", ["10.10.9.12", "10.10.9.31", "10.10.10.73", "10.88.0.3"])
def test_a_task_cannot_forge_a_source(lan: Lan, forged: str) -> None:
    """Of a task of the same network there or here, of another network, or of a node."""
    forger = lan.containers["web1"].space
    for target in ("sticky1", "far3"):
        server = lan.containers[target].server
        address = lan.tables.tasks[target].attachments[0].address
        server.askers.clear()
        forger.ip(f"addr add {forged}/32 dev eth0")
        try:
            send(forger, forged, (address, 80))
        finally:
            forger.ip(f"addr del {forged}/32 dev eth0")
        # What is sent honestly afterwards arrives, and so all that was sent before would have.
        assert udp(forger, address, 80) == f"{target} 10.10.9.11"
        assert forged not in server.askers


@pytest.mark.parametrize("tags", ["", "81000000", "88a80000", "8100000081000000"])
def test_a_task_cannot_forge_a_source_in_a_frame_of_its_own_making(lan: Lan, tags: str) -> None:
    """With priority tags (of VLAN 0), by which the kernel takes it for a frame without any."""
    forger, server = lan.containers["web1"], lan.containers["far3"].server
    server.askers.clear()
    bridge = bridge_name("red")
    to = lan.hosts[1].space.hardware(bridge) + forger.places[bridge].mac
    head = bytes.fromhex(to.replace(":", "") + tags + "0800")
    for source in ("10.10.9.31", "10.10.9.11"):
        speak(forger.space, head + datagram(source=source, to="10.10.9.23"))
    if not tags:  # the test sends what it means to
        eventually(lambda: "10.10.9.11" in server.askers)
    assert udp(forger.space, "10.10.9.23", 80) == "far3 10.10.9.11"
    assert "10.10.9.31" not in server.askers


def test_a_task_cannot_draw_the_packets_of_its_neighbour(lan: Lan) -> None:
    """By its hardware address: as the source of a frame, by which a bridge learns who is where."""
    forger, victim = lan.containers["web1"], lan.containers["sticky1"]
    host, bridge = lan.hosts[1], bridge_name("red")
    assert tcp(host.space, "10.10.9.31", 80) == "sticky1 10.10.9.1"
    to = host.space.hardware(bridge) + victim.places[bridge].mac
    head = bytes.fromhex(to.replace(":", "") + "0800")
    speak(forger.space, head + datagram(source="10.10.9.11", to="10.10.9.23"))
    assert udp(forger.space, "10.10.9.23", 80) == "far3 10.10.9.11"
    shown = host.space.run("bridge", "fdb", "show", "br", bridge, "brport", forger.ports[0])
    assert victim.places[bridge].mac not in shown
    assert tcp(host.space, "10.10.9.31", 80) == "sticky1 10.10.9.1"


def test_strangers_cannot_inject_into_the_overlay(lan: Lan) -> None:
    """A VXLAN packet from outside of the cluster is dropped, as is one that a task sends."""
    server = lan.containers["far3"].server
    server.askers.clear()
    frame = vxlan(source="10.10.9.12", to="10.10.9.23", entry=3)
    for place in (lan.client, lan.containers["web1"].space, lan.containers["web3"].space):
        with place.socket(socket.SOCK_DGRAM) as sock:
            for _ in range(3):
                sock.sendto(frame, ("10.88.0.3", lan.tables.data_port))
    assert tcp(lan.containers["web1"].space, "10.10.9.23", 80) == "far3 10.10.9.11"
    assert "10.10.9.12" not in server.askers
    # The same packet from a peer does arrive: the test sends what it means to.
    with lan.hosts[2].space.socket(socket.SOCK_DGRAM) as sock:
        sock.sendto(frame, ("10.88.0.3", lan.tables.data_port))
    deadline = time.monotonic() + 10
    while "10.10.9.12" not in server.askers:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def send(place: Namespace, source: str, to: tuple[str, int]) -> None:
    """Datagrams that claim a source."""
    with place.socket(socket.SOCK_DGRAM) as sock:
        sock.bind((source, 0))
        for _ in range(3):
            sock.sendto(b"forged", to)


def speak(place: Namespace, frame: bytes) -> None:
    """Send a frame."""
    sock = place.inside(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
    with sock:
        sock.bind(("eth0", 0))
        for _ in range(3):
            sock.send(frame)


def vxlan(*, source: str, to: str, entry: int, vni: int = VNI) -> bytes:
    """A datagram in IP, in a frame from node 2 to node ``entry``, in VXLAN."""
    frame = bytes.fromhex((mac(entry) + mac(2)).replace(":", "")) + b"\x08\x00"
    return struct.pack("!II", 0x08000000, vni << 8) + frame + datagram(source=source, to=to)


def datagram(*, source: str, to: str) -> bytes:
    """In IP."""
    body = b"injected"
    udp_ = struct.pack("!HHHH", 4444, 80, 8 + len(body), 0) + body
    head = struct.pack(
        "!BBHHHBBH4s4s",
        0x45,
        0,
        20 + len(udp_),
        1,
        0,
        64,
        17,
        0,
        socket.inet_aton(source),
        socket.inet_aton(to),
    )
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return head[:10] + struct.pack("!H", ~total & 0xFFFF) + head[12:] + udp_
