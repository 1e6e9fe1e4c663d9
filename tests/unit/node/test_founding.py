"""What a new cluster begins with."""

from random import Random

from swarmlet.api.backend import InitRequest
from swarmlet.clock import Instant
from swarmlet.node.founding import found
from swarmlet.state import fsm
from swarmlet.state.commands import FORMAT, Batch
from swarmlet.state.store import Store


def founded(request: InitRequest, *subnets: str) -> Store:
    now = Instant(1_763_814_522_422_455_520)
    cluster = found(request, "10.66.0.2:2377", subnets=subnets, now=lambda: now, rng=Random(1))
    store = Store()
    outcomes = fsm.apply(store, Batch(FORMAT, now, cluster.commands), 1)
    assert outcomes == [None, None, None]
    return store


def ingress_subnet(store: Store) -> str:
    network = store.network_named("ingress")
    assert network is not None
    assert network.spec.ingress
    return network.subnet


def test_a_cluster_has_an_ingress_network_that_keeps_clear_of_its_first_host() -> None:
    assert ingress_subnet(founded(InitRequest())) == "10.0.0.0/24"
    assert ingress_subnet(founded(InitRequest(), "10.0.0.0/16")) == "10.1.0.0/24"


def test_networks_get_their_addresses_from_where_the_user_said() -> None:
    request = InitRequest(address_pools=("172.30.0.0/16",), subnet_size=26, data_port=7789)
    store = founded(request)
    assert ingress_subnet(store) == "172.30.0.0/26"
    assert store.cluster is not None
    assert (store.cluster.subnet_size, store.cluster.data_port) == (26, 7789)


def test_a_host_that_routes_the_whole_pool_can_still_found_a_cluster() -> None:
    assert ingress_subnet(founded(InitRequest(), "10.0.0.0/8")) == "10.0.0.0/24"
