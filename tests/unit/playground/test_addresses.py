"""A playground's network overlaps nothing that the machine uses."""

from ipaddress import IPv4Address, IPv4Network

import pytest
from swarmlet.errors import FailedPrecondition
from swarmlet.playground import addresses


def test_the_first_network_is_taken_on_an_empty_machine() -> None:
    assert addresses.choose([]) == IPv4Network("10.99.0.0/24")


def test_a_network_in_use_is_passed_over_even_if_it_is_only_partly_in_use() -> None:
    taken = [IPv4Network("10.99.0.0/24"), IPv4Network("10.99.1.128/25"), IPv4Network("10.99.2.7")]
    assert addresses.choose(taken) == IPv4Network("10.99.3.0/24")


def test_a_taken_pool_leads_to_the_next_pool() -> None:
    assert addresses.choose([IPv4Network("10.99.0.0/16")]) == IPv4Network("10.199.0.0/24")


def test_a_route_to_all_private_addresses_takes_nothing() -> None:
    assert addresses.choose([IPv4Network("10.0.0.0/8")]) == IPv4Network("10.99.0.0/24")


def test_a_full_machine_is_told_what_to_do() -> None:
    with pytest.raises(FailedPrecondition, match="no free network") as caught:
        addresses.choose(addresses.POOLS)
    assert "down" in caught.value.advice


def test_hosts_count_from_one_and_the_machine_itself_is_254() -> None:
    network = IPv4Network("10.99.3.0/24")
    assert addresses.host_address(network, 0) == IPv4Address("10.99.3.1")
    assert addresses.gateway(network) == IPv4Address("10.99.3.254")
