"""What becomes of connections when tasks, nodes, rules and programs go."""

import contextlib
import fcntl
import re
import socket
import sys
import termios

import pytest
from msgspec.structs import replace
from swarmlet.model.forwarding import Attachment, Reach
from swarmlet.net.kernel import REMEMBERED

from tests.netns.rig import Lan, Namespace, connect, eventually, exchange, tcp, udp

pytestmark = [pytest.mark.netns, pytest.mark.slow]

CLIENT = "10.88.0.100"
MANY = 24


def reset(sock: socket.socket) -> bool:
    """Whether the next packet of a connection is answered by a reset."""
    try:
        exchange(sock)
    except ConnectionError:
        return True
    finally:
        sock.close()
    return False


@pytest.mark.parametrize("way", ["gone", "lost"])
def test_connections_to_what_died_are_reset(fresh: Lan, way: str) -> None:
    """By virtual address, by published port, and from the node itself; new ones go elsewhere."""
    fresh.change("web1", serving=False)
    asker, host = fresh.containers["web1"].space, fresh.hosts[1].space
    through = [
        connect(asker, ("10.10.9.200", 80)),
        connect(asker, ("10.10.9.12", 80)),
        connect(fresh.client, ("10.88.0.1", 8080)),
        connect(host, ("127.0.0.1", 8080)),
    ]
    assert {exchange(sock).split()[0] for sock in through} == {"web2"}
    if way == "gone":
        del fresh.tables.tasks["web2"]
    else:
        fresh.tables.peers["n2"] = fresh.peer(2, Reach.LOST)
    fresh.change("web1", serving=True)
    assert [reset(sock) for sock in through] == [True] * len(through)
    assert {tcp(fresh.client, "10.88.0.1", 8080) for _ in range(MANY)} == {f"web1 {CLIENT}"}
    with pytest.raises(ConnectionRefusedError):
        tcp(asker, "10.10.9.12", 80)


def test_a_task_that_lost_its_process_is_refused_by_its_node(fresh: Lan) -> None:
    """Long before anybody else hears of it; and when it has one again, nobody need be told."""
    fresh.change("web1", serving=False)
    asker = fresh.containers["web1"].space
    through = [
        connect(asker, ("10.10.9.200", 80)),
        connect(fresh.client, ("10.88.0.1", 8080)),
        connect(fresh.client, ("10.88.0.2", 8080)),
    ]
    assert {exchange(sock).split()[0] for sock in through} == {"web2"}
    fresh.hosts[2].give(replace(fresh.tables, halted=frozenset({"web2"})))
    assert [reset(sock) for sock in through] == [True] * len(through)
    for entry in ("10.88.0.1", "10.88.0.2"):
        with pytest.raises(ConnectionRefusedError):
            tcp(fresh.client, entry, 8080)
    fresh.hosts[2].give(fresh.tables)
    assert tcp(fresh.client, "10.88.0.1", 8080) == f"web2 {CLIENT}"


def test_a_suspect_node_keeps_its_connections(fresh: Lan) -> None:
    """But it gets no new ones."""
    fresh.change("web1", serving=False)
    old = connect(fresh.client, ("10.88.0.1", 8080))
    assert exchange(old) == f"web2 {CLIENT}"
    fresh.tables.peers["n2"] = fresh.peer(2, Reach.SUSPECT)
    fresh.change("web1", serving=True)
    assert {tcp(fresh.client, "10.88.0.1", 8080) for _ in range(MANY)} == {f"web1 {CLIENT}"}
    assert exchange(old) == f"web2 {CLIENT}"
    old.close()


def test_a_busy_udp_client_moves_when_its_backend_leaves(fresh: Lan) -> None:
    """Its flow never ends by itself: it is the same socket all the time."""
    with (
        fresh.client.socket(socket.SOCK_DGRAM) as one,
        fresh.client.socket(socket.SOCK_DGRAM) as two,
    ):
        for entry, sock in ((1, one), (2, two)):
            sock.connect((f"10.88.0.{entry}", 5353))
        for leaving, staying in (("web1", "web2"), ("web2", "web1")):
            fresh.change(leaving, serving=False)
            assert {exchange(one), exchange(two)} == {f"{staying} {CLIENT}"}
            fresh.change(leaving, serving=True)


def test_nothing_changes_for_connections_while_a_backend_leaves(fresh: Lan) -> None:
    """A task that is to stop answers those it has, and its other neighbours reach it."""
    socks = [connect(fresh.client, ("10.88.0.1", 8080)) for _ in range(8)]
    before = [exchange(sock) for sock in socks]
    fresh.change("web2", serving=False)
    assert [exchange(sock) for sock in socks] == before
    assert tcp(fresh.containers["web1"].space, "10.10.9.12", 80) == "web2 10.10.9.11"
    for sock in socks:
        sock.close()


def test_connections_of_a_task_are_counted_at_its_node(fresh: Lan) -> None:
    """Whichever way they came in; one that nobody uses for a while is idle, not gone."""
    fresh.change("web1", serving=False)
    asker = fresh.containers["web1"].space
    ways = [
        connect(asker, ("10.10.9.200", 80)),
        connect(asker, ("10.10.9.12", 80)),
        connect(fresh.client, ("10.88.0.1", 8080)),
        connect(fresh.client, ("10.88.0.2", 8080)),
        connect(fresh.hosts[2].space, ("127.0.0.1", 8080)),
    ]
    node = fresh.hosts[2]

    def count() -> list[int]:
        (found,) = node.order("connections", ["10.10.9.12"]).values()
        return list(found)

    def in_use() -> bool:
        for sock in ways:
            exchange(sock)
        return count() == [5, 5]

    eventually(in_use)
    assert node.order("connections", ["10.10.9.11"]) == {"10.10.9.11": [0, 0]}
    eventually(lambda: count() == [5, 0])
    for sock in ways:
        sock.close()
    eventually(lambda: count() == [0, 0])


#: Things that others do, and what the log calls each.
HARM = {
    "iptables -F DOCKER-USER": "accepting rule in iptables chain DOCKER-USER is missing",
    "nft flush ruleset": "nft table ip swarmlet is missing",
    "nft delete table bridge swarmlet": "nft table bridge swarmlet is missing",
    "nft flush set ip swarmlet live": "nft ip live: 10.10.9.1",
    "nft flush chain ip swarmlet forward": "nft ip chain forward: rules were changed",
    "nft add rule ip swarmlet forward drop": "nft ip chain forward: rules were changed",
    "ip route del 10.10.9.12/32": "route 10.10.9.12/32 (task web2) is missing",
    "ip route add 10.10.9.77/32 dev lo proto 94": "route 10.10.9.77/32 should not be there",
    "ip route flush table 7002": "route default table 7002 (replies by node 10.88.0.2) is missing",
    "ip rule del pref 7001": "rule 7001 fwmark 0x20000/0xfff0000 (replies by node 10.88.0.2) is",
    "ip neigh flush dev swl0 nud permanent": "neighbour 100.64.0.2 dev swl0 (node 10.88.0.2) is",
    "bridge fdb del 0a:58:64:40:00:02 dev swl0": "fdb entry 0a:58:64:40:00:02 dev swl0 (node 10.88",
    "ip addr flush dev swl0": "address 100.64.0.1/32 dev swl0 is missing",
    "ip link set swl0 down": "device swl0 differs: up is False, not True",
    "ip link set swl0 mtu 1300": "device swl0 differs: mtu is 1300, not 1450",
    "ip link del swl0": "device swl0 is missing",
    "sysctl -w net.ipv4.conf.sl-red.proxy_arp=0": "net/ipv4/conf/sl-red/proxy_arp is 0, not 1",
    "sysctl -w net.ipv4.conf.swl0.rp_filter=1": "net/ipv4/conf/swl0/rp_filter is 1, not 2",
    "sysctl -w net.ipv4.conf.sl-red.forwarding=0": "net/ipv4/conf/sl-red/forwarding is 0, not 1",
    "sysctl -w net.ipv4.ip_forward=0": "net/ipv4/ip_forward is 0, not 1",
    "sysctl -w net.ipv4.neigh.sl-red.proxy_delay=80": "sl-red/proxy_delay is 80, not 0",
    "sysctl -w net.ipv6.conf.swl0.disable_ipv6=0": "net/ipv6/conf/swl0/disable_ipv6 is 0, not 1",
}


def test_what_others_break_is_repaired_and_named(fresh: Lan) -> None:
    """Each kind of harm, one after the other, and then the tasks reach each other again."""
    host = fresh.hosts[1]
    asker = fresh.containers["web1"].space
    for command, name in HARM.items():
        seen = len(host.log())
        host.space.run(*command.split())
        with contextlib.suppress(AssertionError):
            eventually(lambda: name in host.log()[seen:])  # noqa: B023  # called at once
        assert name in host.log()[seen:], command
        eventually(lambda: not host.order("differences"))
        assert tcp(asker, "10.10.9.12", 80) == "web2 10.10.9.11", command
        assert {udp(fresh.client, "10.88.0.1", 5353) for _ in range(MANY)} == {
            f"web1 {CLIENT}",
            f"web2 {CLIENT}",
        }, command


def test_a_connection_outlives_rules_and_program(fresh: Lan) -> None:
    """A flush of everything, and a crash of what programs the kernel."""
    fresh.change("web1", serving=False)
    sock = connect(fresh.client, ("10.88.0.1", 8080))
    assert exchange(sock) == f"web2 {CLIENT}"
    host = fresh.hosts[1]
    host.kill()
    assert exchange(sock) == f"web2 {CLIENT}"
    host.start()
    host.give(fresh.tables)
    assert exchange(sock) == f"web2 {CLIENT}"
    host.space.run("nft", "flush", "ruleset")
    eventually(lambda: not host.order("differences"))
    assert exchange(sock) == f"web2 {CLIENT}"
    sock.close()


def test_what_changed_during_a_crash_is_caught_up(fresh: Lan) -> None:
    """Routes and UDP flows of tasks that went meanwhile are gone."""
    host = fresh.hosts[1]
    fresh.change("web1", serving=False)
    with fresh.client.socket(socket.SOCK_DGRAM) as sock:
        sock.connect(("10.88.0.1", 5353))
        assert exchange(sock) == f"web2 {CLIENT}"
        host.kill()
        del fresh.tables.tasks["web2"]
        host.start()
        fresh.change("web1", serving=True)
        assert "10.10.9.12" not in host.space.run("ip", "route")
        assert exchange(sock) == f"web1 {CLIENT}"


def test_tasks_go_on_over_a_smaller_underlay(fresh: Lan) -> None:
    """Bridges and containers keep their MTU: the node tells them what fits through the overlay."""
    asker = fresh.containers["web1"].space
    old = connect(asker, ("10.10.9.12", 80))
    assert exchange(old) == "web2 10.10.9.11"
    for host in fresh.hosts.values():
        host.space.ip("link set eth0 mtu 1400")
    for host in fresh.hosts.values():
        eventually(lambda: "mtu 1350" in host.space.run("ip", "link", "show", "swl0"))  # noqa: B023  # called at once
    for sock in (old, connect(asker, ("10.10.9.200", 80))):
        sock.sendall(bytes(200_000))
        eventually(lambda: unacknowledged(sock) == 0)  # noqa: B023  # called at once
        sock.close()


def unacknowledged(sock: socket.socket) -> int:
    """Bytes that the other side has not confirmed."""
    return int.from_bytes(fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)), sys.byteorder)


@pytest.mark.parametrize("engine", ["without its rules", "that leaves forwarding alone"])
def test_clear_leaves_the_host_as_it_was(empty: Lan, engine: str) -> None:
    """Devices, routes, rules, tables, iptables and settings; again is no error.

    Switching forwarding changes other settings of the kernel's own accord.
    """
    host = empty.hosts[1]
    host.space.sysctl("net/ipv4/ip_forward", "0")
    host.space.sysctl("net/ipv4/conf/eth0/forwarding", "1")
    host.space.sysctl("net/ipv4/conf/all/accept_redirects", "0")
    if engine == "without its rules":
        host.space.run("iptables-restore", "-n", stdin="*filter\n-F\n-X DOCKER-USER\nCOMMIT\n")
    before = snapshot(host.space)
    empty.network("red", 9)
    empty.task("web1", 1, Attachment("red", "10.10.9.11"))
    empty.task("web2", 2, Attachment("red", "10.10.9.12"))
    host.give(empty.tables)
    assert snapshot(host.space) != before
    assert (host.directory / REMEMBERED).exists()
    host.order("clear")
    assert snapshot(host.space) == before
    assert not (host.directory / REMEMBERED).exists()
    host.order("clear")
    assert snapshot(host.space) == before
    host.give(empty.tables)
    assert host.order("differences") == ["bridge sl-red (network red) is missing"]


def snapshot(space: Namespace) -> list[str]:
    """All that the network of a host is made of."""
    parts = [
        space.run("nft", "list", "ruleset"),
        space.run("iptables", "-S"),
        space.run("ip", "-o", "-4", "addr"),
        " ".join(line.split()[1] for line in space.run("ip", "-o", "link").splitlines()),
        space.run("ip", "rule"),
        space.run("ip", "-4", "route", "show", "table", "all"),
        space.run("ip", "-4", "neigh", "show", "nud", "permanent"),
        space.run("sysctl", "-a", "-r", r"^net\.ipv4\.(ip_forward|conf\.(all|default|eth0)\.)"),
    ]
    # Handles, counters and life times are no state.
    return [re.sub(r"valid_lft \S+|preferred_lft \S+", "", part) for part in parts]


def test_a_connection_whose_mark_others_take_away_goes_on(fresh: Lan) -> None:
    """The engine's rules accept by it, and drop the rest here."""
    fresh.change("web1", serving=False)
    old = connect(fresh.client, ("10.88.0.1", 8080))
    assert exchange(old) == f"web2 {CLIENT}"
    thief = "add table ip thief\n"
    thief += "add chain ip thief take { type filter hook prerouting priority -10; }\n"
    thief += "add rule ip thief take ct state established ct mark set ct mark and 0xefffffff\n"
    fresh.hosts[1].space.run("nft", "-f", "-", stdin=thief)
    assert exchange(old) == f"web2 {CLIENT}"
    fresh.hosts[1].space.run("nft", "delete", "table", "ip", "thief")
    old.close()


def test_rules_of_others_are_left_alone_and_obeyed(fresh: Lan) -> None:
    """Those of a VPN, say, whatever their preference; also when ours go."""
    space = fresh.hosts[1].space
    space.ip(
        "route add 198.51.100.0/24 via 10.88.0.2 table 52",
        "rule add pref 2000 from 203.0.113.5 lookup 52",
        *(f"rule add pref {pref} lookup 52" for pref in (5270, 7000, 10_500)),
    )
    for found in ("with our rules", "without"):
        listed = space.run("ip", "rule", "show")
        assert [listed.count(f"{pref}:\tfrom") >= 1 for pref in (5270, 10_500)] == [True] * 2, found
        assert "from 203.0.113.5 lookup 52" in listed, found
        assert "via 10.88.0.2" in space.run("ip", "route", "get", "198.51.100.7"), found
        if found == "with our rules":
            fresh.hosts[1].order("clear")
    assert "7000:\tfrom all lookup 52" in space.run("ip", "rule", "show")
