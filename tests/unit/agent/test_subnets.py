"""Which subnets a machine uses itself."""

import ipaddress
import sys

import pytest
from swarmlet.agent.subnets import among_nodes, subnets
from swarmlet.model.networks import NODE_ADDRESSES, Place, node_address

ROUTES = """\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t0100420A\t0003\t0\t0\t0\t00000000\t0\t0\t0
tun0\t00000080\t0100420A\t0003\t0\t0\t0\t00000080\t0\t0\t0
eth0\t0000420A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0
sl-abc\t0001000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
swl0\t00004064\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0
lo\t0000007F\t00000000\t0001\t0\t0\t0\t000000FF\t0\t0\t0
*\t0002000A\t00000000\t0201\t0\t0\t0\t00FFFFFF\t0\t0\t0
"""

TRIE = """\
Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 10.66.0.2
        /32 host LOCAL
     |-- 10.0.1.1
        /32 host LOCAL
     |-- 10.9.9.9
        /32 host LOCAL
     |-- 10.66.0.255
        /32 link BROADCAST
     |-- 127.0.0.1
        /32 host LOCAL
     |-- 100.64.0.1
        /32 host LOCAL
"""


@pytest.mark.skipif(sys.byteorder != "little", reason="the recording is of such a machine")
def test_a_machine_uses_its_routes_and_addresses_but_not_its_overlays() -> None:
    """Nor its loopback, nor the way out, nor what a VPN routes of the whole Internet."""
    assert subnets(ROUTES, TRIE) == ("10.9.9.9/32", "10.66.0.0/24", "172.17.0.0/16")


def test_an_address_that_a_node_may_have_is_noticed() -> None:
    """A provider's, or a VPN's; not one beyond the last node's."""
    trie = TRIE.replace("100.64.0.1", "100.64.64.1").replace("10.9.9.9", "100.64.63.255")
    assert among_nodes(trie) == (node_address(4095, max(Place)),)
    assert among_nodes(TRIE.replace("100.64.0.1", "100.101.102.103")) == ()
    last = ipaddress.IPv4Address(node_address(4095, max(Place)))
    assert last == ipaddress.IPv4Network(NODE_ADDRESSES)[-1]


def test_a_machine_without_routes_uses_none() -> None:
    assert subnets("Iface\tDestination\n", "Main:\n") == ()
