"""What passes, and by whom it is answered."""

import socket
import struct

import pytest

from tests.netns.rig import Lan, connect, exchange, tcp, udp

pytestmark = [pytest.mark.netns, pytest.mark.slow]

#: Enough new connections that each of three backends gets one, but for one run in 10^8.
MANY = 48

CLIENT = "10.88.0.100"

#: Below those that the kernel gives out itself (net.ipv4.ip_local_port_range).
CLIENT_PORT = 21_000

SCTP = 132


def names(answers: "set[str]") -> set[str]:
    return {answer.split()[0] for answer in answers}


def test_tasks_reach_each_other_with_their_own_addresses(lan: Lan) -> None:
    """On the same node and on others, in one network and without translation."""
    asker = lan.containers["web1"].space
    assert tcp(asker, "10.10.9.31", 80) == "sticky1 10.10.9.11"
    assert tcp(asker, "10.10.9.12", 80) == "web2 10.10.9.11"
    assert udp(asker, "10.10.9.23", 80) == "far3 10.10.9.11"


def test_a_virtual_address_leads_to_every_backend(lan: Lan) -> None:
    """Also to the asking task itself, whose own address cannot be its client's then."""
    asker = lan.containers["web1"].space
    answers = {tcp(asker, "10.10.9.200", 80) for _ in range(MANY)}
    assert answers == {"web1 10.10.9.1", "web2 10.10.9.11", "web3 10.10.9.11"}
    assert names({udp(asker, "10.10.9.200", 80) for _ in range(MANY)}) == {"web1", "web2", "web3"}


@pytest.mark.parametrize("entry", ["10.88.0.1", "10.88.0.2", "10.88.0.3"])
def test_a_published_port_keeps_the_clients_address(lan: Lan, entry: str) -> None:
    """Whichever node the client comes in by, and wherever the backend runs."""
    everyone = {f"web{n} {CLIENT}" for n in (1, 2, 3)}
    assert {tcp(lan.client, entry, 8080) for _ in range(MANY)} == everyone
    assert {udp(lan.client, entry, 5353) for _ in range(MANY)} == everyone


@pytest.mark.parametrize("entry", ["10.88.0.1", "10.88.0.3"])
def test_sctp_is_redirected_like_the_others(lan: Lan, entry: str) -> None:
    """A packet made by hand: not every kernel has sockets for it, but they redirect it."""
    place = lan.containers["far3"].space
    server, client = (space.socket(socket.SOCK_RAW, SCTP) for space in (place, lan.client))
    with server, client:
        client.sendto(sctp_init(40_000, 7777), (entry, 0))
        packet, sender = server.recvfrom(1024)
    assert sender[0] == CLIENT
    assert struct.unpack_from("!2xH", packet, (packet[0] & 15) * 4) == (38_412,)


def test_one_client_port_may_come_in_by_two_nodes(lan: Lan) -> None:
    """Two connections with the same client address and port end at the same backend, apart."""
    source = (CLIENT, CLIENT_PORT)
    ways = [connect(lan.client, (f"10.88.0.{n}", 8081), source=source) for n in (1, 2, 3)]
    for _ in range(2):
        assert [exchange(sock) for sock in ways] == [f"far3 {CLIENT}"] * 3
    for sock in ways:
        sock.close()


def test_a_port_answers_on_every_address_of_the_node(lan: Lan) -> None:
    """From the node itself too: loopback, its own address, and virtual addresses."""
    host = lan.hosts[2].space
    for address, port in (("127.0.0.1", 8080), ("10.88.0.2", 8080), ("10.10.9.200", 80)):
        answers = {tcp(host, address, port) for _ in range(MANY)}
        assert names(answers) == {"web1", "web2", "web3"}


def test_hosts_track_connections_not_the_packets_around_them(lan: Lan) -> None:
    """Each direction of VXLAN has ports of its own, so its flows would only fill the table."""
    assert tcp(lan.containers["web1"].space, "10.10.9.12", 80) == "web2 10.10.9.11"
    tracked = lan.hosts[2].space.run("cat", "/proc/net/nf_conntrack")
    assert "dport=80" in tracked
    assert "dport=4789 " not in tracked


def test_a_node_reaches_the_ports_of_another(lan: Lan) -> None:
    """Even when the backend runs on the asking node."""
    answers = {tcp(lan.hosts[2].space, "10.88.0.1", 8080) for _ in range(MANY)}
    assert names(answers) == {"web1", "web2", "web3"}


def test_a_task_reaches_published_ports(lan: Lan) -> None:
    """Of another network too: they are public."""
    asker = lan.containers["blue1"].space
    assert tcp(asker, "10.88.0.1", 8081) == "far3 10.10.10.71"
    assert tcp(asker, "10.88.0.3", 8081).startswith("far3 ")


def test_a_port_may_be_published_at_one_address(lan: Lan) -> None:
    """And nowhere else."""
    assert tcp(lan.client, "10.88.0.1", 8084) == f"one2 {CLIENT}"
    for place, address in ((lan.client, "10.88.0.2"), (lan.hosts[1].space, "127.0.0.1")):
        with pytest.raises(ConnectionRefusedError):
            tcp(place, address, 8084)


def test_what_the_engine_publishes_at_its_node_reaches_the_task(lan: Lan) -> None:
    """``mode=host``: the engine redirects to the task's address, and nothing of ours is in the way.

    A virtual address of another network stays closed, although that is redirected as well.
    """
    rule = "PREROUTING -m addrtype --dst-type LOCAL -p tcp --dport 9090 -j DNAT"
    words = f"{rule} --to-destination 10.10.9.11:80".split()
    node, neighbour = lan.hosts[1].space, lan.containers["blue1"].space
    node.run("iptables", "-t", "nat", "-A", *words)
    try:
        assert tcp(lan.client, "10.88.0.1", 9090) == f"web1 {CLIENT}"
        assert tcp(neighbour, "10.88.0.1", 9090) == "web1 10.10.10.71"
        with pytest.raises(OSError, match="No route"):
            tcp(neighbour, "10.10.9.200", 80)
    finally:
        node.run("iptables", "-t", "nat", "-D", *words)


def test_a_sticky_client_meets_one_backend_whichever_way(lan: Lan) -> None:
    """The same by all nodes."""
    answers = {tcp(lan.client, f"10.88.0.{n}", 8082) for n in (1, 2, 3) for _ in range(8)}
    assert len(answers) == 1


def test_a_task_in_two_networks_answers_in_both(lan: Lan) -> None:
    """Also clients from outside who came by the network that is not its default route."""
    assert tcp(lan.containers["web1"].space, "10.10.9.205", 80) == "both2 10.10.9.11"
    assert tcp(lan.containers["blue1"].space, "10.10.10.205", 80) == "both2 10.10.10.71"
    for entry in ("10.88.0.1", "10.88.0.2"):
        assert tcp(lan.client, entry, 8085) == f"both2 {CLIENT}"


def test_an_internal_network_serves_published_ports(lan: Lan) -> None:
    """They were asked for; the answers may go out."""
    for entry in ("10.88.0.1", "10.88.0.2"):
        answers = {tcp(lan.client, entry, 8086) for _ in range(MANY)}
        assert answers == {f"dark1 {CLIENT}", f"dark2 {CLIENT}"}
    assert tcp(lan.containers["dark1"].space, "10.10.11.62", 80) == "dark2 10.10.11.61"


def test_an_engines_own_published_port_leads_to_its_container(lan: Lan) -> None:
    """That of a plain container, or of a task's host mode: by rules that are not ours."""
    host = lan.hosts[1].space
    rule = "tcp dport 18099 fib daddr type local dnat to 10.10.9.11:80"
    chain = "chain pre { type nat hook prerouting priority dstnat; " + rule + "; }"
    host.run("nft", "-f", "-", stdin="table ip engine {\n" + chain + "\n}\n")
    try:
        assert tcp(lan.client, "10.88.0.1", 18099) == f"web1 {CLIENT}"
    finally:
        host.run("nft", "delete", "table", "ip", "engine")


def test_tasks_reach_the_outside_as_their_node(lan: Lan) -> None:
    """Masqueraded."""
    outside = lan.serve(lan.client, "outside", 7001)
    assert tcp(lan.containers["web2"].space, CLIENT, 7001) == "outside 10.88.0.2"
    outside.close()


def test_kernels_are_as_planned(lan: Lan) -> None:
    """Nothing differs on any host."""
    for host in lan.hosts.values():
        assert host.order("differences") == [], host.log()
        assert host.order("statistics")["failures"] == 0, host.log()


def sctp_init(source: int, port: int) -> bytes:
    """The first packet of an association (RFC 9260, 3.3.2), with its sum: CRC32c."""
    chunk = struct.pack("!BBHIIHHI", 1, 0, 20, 1, 65_535, 1, 1, 1)
    head = struct.pack("!HHI", source, port, 0)
    total = 0xFFFF_FFFF
    for byte in head + bytes(4) + chunk:
        total ^= byte
        for _ in range(8):
            total = total >> 1 ^ (0x82F6_3B78 if total & 1 else 0)
    return head + struct.pack("<I", total ^ 0xFFFF_FFFF) + chunk
