"""Hosts with a firewall of their own: what it refuses is named, and passes once it is opened.

The rules are those that firewalld 1.3 and ufw 0.36 make, without what does not concern us.
"""

from collections.abc import Iterator

import pytest
from swarmlet.model.forwarding import Attachment, PublishedPort

from tests.netns.rig import Host, Lan, connect, eventually, exchange, lan_of, tcp, udp

pytestmark = [pytest.mark.netns, pytest.mark.slow]

CLIENT = "10.88.0.100"
MANY = 24

FIREWALLD = """
table inet firewalld {
  chain filter_INPUT {
    type filter hook input priority filter + 10; policy accept;
    ct state { established, related } accept
    ct status dnat accept
    iifname "lo" accept
    ct state invalid drop
    jump filter_INPUT_ZONES
    reject with icmpx admin-prohibited
  }
  chain filter_FORWARD {
    type filter hook forward priority filter + 10; policy accept;
    ct state { established, related } accept
    ct status dnat accept
    iifname "lo" accept
    ct state invalid drop
    jump filter_FORWARD_ZONES
    reject with icmpx admin-prohibited
  }
  chain filter_INPUT_ZONES { goto filter_IN_public; }
  chain filter_FORWARD_ZONES { goto filter_FWD_public; }
  chain filter_IN_public {
    jump filter_IN_public_allow
    meta l4proto { icmp, ipv6-icmp } accept
    reject with icmpx admin-prohibited
  }
  chain filter_IN_public_allow { tcp dport 22 accept; }
  chain filter_FWD_public { reject with icmpx admin-prohibited; }
  chain filter_IN_trusted { accept; }
  chain filter_FWD_trusted { accept; }
}
"""

#: ``--add-port=4789/udp --add-port=2377/tcp``, and ``--zone=trusted --add-interface=...``.
FIREWALLD_PORTS = """
add rule inet firewalld filter_IN_public_allow udp dport 4789 accept
add rule inet firewalld filter_IN_public_allow tcp dport 2377 accept
"""
FIREWALLD_DEVICES = "\n".join(
    f'insert rule inet firewalld filter_{hook}_ZONES iifname "{device}" goto filter_{zone}_trusted'
    for hook, zone in (("INPUT", "IN"), ("FORWARD", "FWD"))
    for device in ("swl0", "sl-*")
)

UFW = """*filter
:INPUT DROP
:ufw-before-input -
:ufw-user-input -
-A INPUT -j ufw-before-input
-A ufw-before-input -i lo -j ACCEPT
-A ufw-before-input -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A ufw-before-input -m conntrack --ctstate INVALID -j DROP
-A ufw-before-input -p icmp --icmp-type echo-request -j ACCEPT
-A ufw-before-input -j ufw-user-input
-A ufw-user-input -p tcp --dport 22 -j ACCEPT
COMMIT
"""
UFW_PORTS = """*filter
-A ufw-user-input -p udp -m udp --dport 4789 -j ACCEPT
-A ufw-user-input -p tcp -m tcp --dport 2377 -j ACCEPT
COMMIT
"""


@pytest.fixture
def lan() -> Iterator[Lan]:
    """Two hosts with a task each."""
    for lan in lan_of(2):
        lan.network("red", 9)
        ports = (PublishedPort("tcp", 8080, 80), PublishedPort("udp", 5353, 80))
        lan.service("web", Attachment("red", "10.10.9.200"), ports=ports)
        for node in (1, 2):
            lan.task(f"web{node}", node, Attachment("red", f"10.10.9.1{node}"))
        lan.give()
        lan.settle()
        yield lan


def all_passes(lan: Lan) -> bool:
    """Between the tasks both ways, by virtual address, and by every port of both hosts."""
    one, two = (lan.containers[name].space for name in ("web1", "web2"))
    both = {f"web1 {CLIENT}", f"web2 {CLIENT}"}
    assert tcp(one, "10.10.9.12", 80) == "web2 10.10.9.11"
    assert tcp(two, "10.10.9.11", 80) == "web1 10.10.9.12"
    for asker in (one, two):
        found = {tcp(asker, "10.10.9.200", 80).split()[0] for _ in range(MANY)}
        assert found == {"web1", "web2"}
    for entry in ("10.88.0.1", "10.88.0.2"):
        assert {tcp(lan.client, entry, 8080) for _ in range(MANY)} == both
        assert {udp(lan.client, entry, 5353) for _ in range(MANY)} == both
    return True


def passes(lan: Lan, asker: str, address: str) -> bool:
    try:
        with connect(lan.containers[asker].space, (address, 80), patience=1) as sock:
            return bool(exchange(sock))
    except OSError:
        return False


def refused(host: Host) -> set[tuple[str, str]]:
    refusals, _ = host.order("firewalls")
    return {(one["chain"].rpartition(" ")[2], one["traffic"]) for one in refusals}


def test_without_a_firewall_nothing_is_refused(lan: Lan) -> None:
    assert all_passes(lan)
    assert lan.hosts[1].order("firewalls") == [[], []]


def test_firewalld_is_opened_by_two_ports_and_two_devices(lan: Lan) -> None:
    """What another base chain accepted is not enough for it."""
    host = lan.hosts[1]
    host.space.run("nft", "-f", "-", stdin=FIREWALLD)
    assert not passes(lan, "web2", "10.10.9.11")
    inwards = {("filter_INPUT", "vxlan"), ("filter_INPUT", "control")}
    assert refused(host) == inwards | {("filter_FORWARD", "tasks")}
    assert host.order("firewalls")[1] == ["firewalld"]
    host.space.run("nft", "-f", "-", stdin=FIREWALLD_PORTS)
    assert refused(host) == {("filter_FORWARD", "tasks")}
    assert not passes(lan, "web2", "10.10.9.11")
    host.space.run("nft", "-f", "-", stdin=FIREWALLD_DEVICES)
    assert refused(host) == set()
    eventually(lambda: passes(lan, "web2", "10.10.9.11"))
    assert all_passes(lan)
    assert host.order("differences") == []


def test_ufw_is_opened_by_two_ports(lan: Lan) -> None:
    """Published ports pass by it, as the engine's own do."""
    host = lan.hosts[1]
    host.space.run("iptables-restore", "-n", stdin=UFW)
    assert not passes(lan, "web2", "10.10.9.11")
    assert host.order("firewalls")[1] == ["ufw"]
    lan.change("web2", serving=False)
    assert tcp(lan.client, "10.88.0.1", 8080) == f"web1 {CLIENT}"
    lan.change("web2", serving=True)
    host.space.run("iptables-restore", "-n", stdin=UFW_PORTS)
    eventually(lambda: passes(lan, "web2", "10.10.9.11"))
    assert all_passes(lan)


def test_an_engine_that_makes_no_rules_leaves_us_its_chain(lan: Lan) -> None:
    """``--iptables=false`` on a host that forwards nothing by itself."""
    host = lan.hosts[1]
    host.space.run("iptables-restore", "-n", stdin="*filter\n-F\n-X DOCKER-USER\nCOMMIT\n")
    assert "-P FORWARD DROP" in host.space.run("iptables", "-S", "FORWARD")
    eventually(lambda: "mark" in host.space.run("iptables", "-S", "FORWARD"))
    assert all_passes(lan)
    host.order("clear")
    assert "mark" not in host.space.run("iptables", "-S", "FORWARD")
