"""A port whose container is not known yet: it speaks for itself, and for nobody who is known."""

import socket

import pytest
from swarmlet.model.forwarding import Attachment
from swarmlet.net.numbers import bridge_name

from tests.netns.rig import Container, Lan, connect, eventually, tcp, udp
from tests.netns.test_isolation import datagram, send, speak

ETH_P_IP = 0x0800

pytestmark = [pytest.mark.netns, pytest.mark.slow]


@pytest.fixture
def three(fresh: Lan) -> tuple[Container, Container, Container]:
    """On the first host: one that is known, and two that are not."""
    for n in (5, 6, 7):
        fresh.task(f"web{n}", 1, Attachment("red", f"10.10.9.1{n}"))
    fresh.give()
    known, one, other = (fresh.containers[f"web{n}"] for n in (5, 6, 7))
    fresh.hosts[1].identify([known])
    return known, one, other


def test_who_is_not_known_speaks_for_itself_only(
    fresh: Lan, three: tuple[Container, Container, Container]
) -> None:
    known, new, _ = three
    server = fresh.containers["web2"].server
    assert udp(new.space, "10.10.9.12", 80) == "web2 10.10.9.16"
    new.space.ip("addr add 10.10.9.15/32 dev eth0")
    send(new.space, "10.10.9.15", ("10.10.9.12", 80))
    new.space.ip("addr del 10.10.9.15/32 dev eth0")
    bridge = bridge_name("red")
    gateway = fresh.hosts[1].space.hardware(bridge)
    as_other = datagram(source="10.10.9.15", to="10.10.9.12")
    as_itself = datagram(source="10.10.9.16", to="10.10.9.12")
    for mac, tags, packet in (
        (new.places[bridge].mac, "81000000", as_other),
        (known.places[bridge].mac, "", as_itself),
    ):
        head = bytes.fromhex((gateway + mac).replace(":", "") + tags + "0800")
        speak(new.space, head + packet)
    assert udp(new.space, "10.10.9.12", 80) == "web2 10.10.9.16"
    assert "10.10.9.15" not in server.askers
    assert tcp(fresh.hosts[1].space, "10.10.9.15", 80) == "web5 10.10.9.1"


def test_who_becomes_known_gets_what_is_its(
    fresh: Lan, three: tuple[Container, Container, Container]
) -> None:
    """Though another one, not known either, took it before; the node believes nobody else."""
    _, thief, victim = three
    host, bridge = fresh.hosts[1], bridge_name("red")
    mac = victim.places[bridge].mac
    thief.space.ip(
        "addr flush dev eth0",
        "link set eth0 down",
        f"link set eth0 address {mac}",
        "addr add 10.10.9.17/24 dev eth0",
        "link set eth0 up",
        "route add default via 10.10.9.1",
    )
    assert udp(thief.space, "10.10.9.12", 80) == "web2 10.10.9.17"
    host.identify([thief, victim, three[0]])
    eventually(lambda: tcp(host.space, "10.10.9.17", 80) == "web7 10.10.9.1")
    with pytest.raises(TimeoutError):
        connect(thief.space, ("10.10.9.12", 80), patience=0.5)
    assert tcp(host.space, "10.10.9.17", 80) == "web7 10.10.9.1"
    eventually(lambda: host.order("differences") == [])


def test_what_is_for_somebody_silent_is_sent_to_nobody_else(
    fresh: Lan, three: tuple[Container, Container, Container]
) -> None:
    """A bridge forgets who says nothing for five minutes, and then asks everybody."""
    known, other, _ = three
    host, bridge = fresh.hosts[1], bridge_name("red")
    known.space.ip("link set eth0 arp off")
    host.space.run("bridge", "link", "set", "dev", known.ports[0], "learning", "off")
    host.space.run("ip", "link", "set", bridge, "type", "bridge", "fdb_flush")
    heard = other.space.inside(
        lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_IP))
    )
    with heard:
        heard.bind(("eth0", ETH_P_IP))
        heard.settimeout(5)
        assert other.space.run("ip", "link", "set", "eth0", "promisc", "on") == ""
        with host.space.socket(socket.SOCK_DGRAM) as sock:
            sock.sendto(b"secret", ("10.10.9.15", 9))
            sock.sendto(b"hello", ("10.10.9.16", 9))
        frames = [b""]
        while b"hello" not in frames[-1]:
            frames.append(heard.recv(2048))
        assert not any(b"secret" in frame for frame in frames)
