"""What the state machine gives with a command: subnets, addresses, ports, numbers."""

from typing import Literal

import pytest
from swarmlet.model.objects import TaskState
from swarmlet.model.specs import PortConfig
from swarmlet.state.addresses import REST, Pool, first_free_subnet
from swarmlet.state.commands import DeleteNetwork, DeleteService, PutNetwork, PutService, Refusal

from tests.fakes.world import START, World, a_network, a_node, a_service


@pytest.fixture
def world() -> World:
    world = World()
    world.nodes(a_node("n1"))
    return world


def refusal(world: World, command: PutNetwork | PutService | DeleteNetwork) -> str:
    (outcome,) = world.do(command)
    assert isinstance(outcome, Refusal)
    return outcome.message


def subnet(world: World, name: str) -> str:
    network = world.store.network_named(name)
    assert network is not None
    return network.subnet


def vips(world: World, service_id: str = "web") -> list[str]:
    service = world.store.service(service_id)
    assert service is not None
    return [attachment.address for attachment in service.attachments]


def published(world: World, service_id: str = "web") -> list[int]:
    service = world.store.service(service_id)
    assert service is not None
    return [port.published_port for port in service.ports]


# --- networks -------------------------------------------------------------------------------------


def test_subnets_come_from_the_pool_one_after_the_other(world: World) -> None:
    world.networks(a_network("a"), a_network("b"))
    assert (subnet(world, "a"), subnet(world, "b")) == ("10.0.0.0/24", "10.0.1.0/24")


def test_subnets_keep_clear_of_what_hosts_route(world: World) -> None:
    world.networks(a_network("a"), avoid=("10.0.0.0/16", "10.1.0.77/32"))
    assert subnet(world, "a") == "10.1.1.0/24"


def test_a_removed_network_gives_its_subnet_back(world: World) -> None:
    world.networks(a_network("a"), a_network("b"))
    world.ok(DeleteNetwork(id="id-a"))
    world.networks(a_network("c"))
    assert subnet(world, "c") == "10.0.0.0/24"


def test_networks_may_not_overlap(world: World) -> None:
    world.networks(a_network("a", subnet="10.7.0.0/16"))
    said = refusal(world, PutNetwork(network=a_network("b", subnet="10.7.3.0/24")))
    assert said == "subnet 10.7.3.0/24 overlaps 10.7.0.0/16 of network a"
    said = refusal(world, PutNetwork(network=a_network("c", subnet="100.64.1.0/24")))
    assert "the nodes' own overlay addresses" in said


def test_a_network_in_use_stays_and_says_who_uses_it(world: World) -> None:
    world.networks(a_network("a"))
    world.service(a_service(networks=("a",), replicas=1))
    world.run()
    assert "in use by service name-web" in refusal(world, DeleteNetwork(id="id-a"))
    (task,) = world.running()
    world.ok(DeleteService(id="web"))
    assert f"in use by task {task.name}" in refusal(world, DeleteNetwork(id="id-a"))
    world.run()
    world.ok(DeleteNetwork(id="id-a"))


@pytest.mark.parametrize(
    ("pools", "size", "taken", "found"),
    [
        (("10.0.0.0/8",), 24, ["10.0.0.0/9", "10.128.0.0/10"], "10.192.0.0/24"),
        (("10.9.0.0/24",), 24, ["10.9.0.255/32"], ""),
        (("10.9.0.0/24", "10.8.0.0/16"), 23, [], "10.8.0.0/23"),
        (("192.168.4.0/22",), 24, ["192.168.5.1/32"], "192.168.4.0/24"),
        (("192.168.4.0/22",), 24, ["192.168.4.0/23", "192.168.6.9/32"], "192.168.7.0/24"),
    ],
)
def test_first_free_subnet(pools: tuple[str, ...], size: int, taken: list[str], found: str) -> None:
    assert first_free_subnet(pools, size, taken) == found


# --- services -------------------------------------------------------------------------------------


def test_a_service_has_a_virtual_address_in_each_network_and_keeps_it(world: World) -> None:
    world.networks(a_network("a"), a_network("b"))
    world.service(a_service(networks=("a", "id-b")))
    first = vips(world)
    assert first == ["10.0.0.2", "10.0.1.2"]
    world.service(a_service(networks=("b", "a"), image="app:2"))
    assert vips(world) == first[::-1]
    world.service(a_service(networks=("b",), image="app:2"))
    assert vips(world) == first[1:]


def test_dnsrr_services_have_no_virtual_address(world: World) -> None:
    world.networks(a_network("a"))
    world.service(a_service(networks=("a",), endpoint="dnsrr"))
    assert vips(world) == [""]


def test_unknown_networks_are_refused(world: World) -> None:
    put = PutService(service=a_service(networks=("nowhere",)), expect=0)
    assert refusal(world, put) == "network nowhere not found"


def test_published_ports_without_a_network_go_by_the_ingress_network(world: World) -> None:
    port = PortConfig(target_port=80, published_port=8080)
    put = PutService(service=a_service(ports=(port,)), expect=0)
    assert "no ingress network" in refusal(world, put)
    world.networks(a_network("ingress"), a_network("a"))
    world.service(a_service(ports=(port,)))
    assert vips(world) == ["10.0.0.2"]
    world.service(a_service(ports=(port,), networks=("a",)))
    assert vips(world) == ["10.0.1.2"]


def test_a_published_port_has_one_owner_who_is_named(world: World) -> None:
    world.networks(a_network("ingress"))
    port = PortConfig(target_port=80, published_port=8080)
    world.service(a_service(ports=(port,)))
    said = refusal(world, PutService(service=a_service("api", ports=(port,)), expect=0))
    assert "port '8080' is already in use by service 'name-web' (web) as ingress port" in said
    udp = PortConfig(target_port=80, published_port=8080, protocol="udp")
    world.service(a_service("dns", ports=(udp,)))
    world.ok(DeleteService(id="web"))
    world.service(a_service("api", ports=(port,)))


def test_host_ports_and_ingress_ports_exclude_each_other(world: World) -> None:
    world.networks(a_network("ingress"))
    host = PortConfig(target_port=80, published_port=8080, publish_mode="host")
    world.service(a_service("one", ports=(host,)))
    world.service(a_service("two", ports=(host,)))  # on nodes of its own
    mesh = PortConfig(target_port=80, published_port=8080)
    said = refusal(world, PutService(service=a_service(ports=(mesh,)), expect=0))
    assert "already in use by service 'name-one' (one) as host-published port" in said


def test_a_host_port_that_is_published_everywhere_is_refused_as_such(world: World) -> None:
    world.networks(a_network("ingress"))
    mesh = PortConfig(target_port=80, published_port=8080)
    world.service(a_service("one", ports=(mesh,)))
    host = PortConfig(target_port=80, published_port=8080, publish_mode="host")
    said = refusal(world, PutService(service=a_service(ports=(host,)), expect=0))
    assert "already in use by service 'name-one' (one) as ingress port" in said


@pytest.mark.parametrize(
    ("port", "protocol", "taken"),
    [
        (2377, "tcp", True),
        (4789, "udp", True),
        (4793, "udp", True),
        (4794, "udp", True),
        (4790, "udp", False),
        (7946, "tcp", False),
        (4789, "tcp", False),
    ],
)
def test_what_the_nodes_live_by_cannot_be_published(
    world: World, port: int, protocol: Literal["tcp", "udp"], taken: bool
) -> None:
    """It would cut the nodes off from each other, and nobody could take it back."""
    world.networks(a_network("ingress"))
    asked = PortConfig(target_port=80, published_port=port, protocol=protocol)
    (outcome,) = world.do(PutService(service=a_service(ports=(asked,)), expect=0))
    assert (outcome is not None) == taken
    if outcome is not None:
        assert "publish another" in outcome.message


def test_chosen_ports_stay_through_updates(world: World) -> None:
    world.networks(a_network("ingress"))
    two = (PortConfig(target_port=80), PortConfig(target_port=81))
    world.service(a_service(ports=two))
    assert published(world) == [30_000, 30_001]
    world.service(a_service(ports=two[::-1], image="app:2"))
    assert published(world) == [30_001, 30_000]
    world.service(a_service("api", ports=two[:1]))
    assert published(world, "api") == [30_002]


# --- tasks ----------------------------------------------------------------------------------------


def test_a_task_gets_its_address_with_its_node_and_keeps_it_to_its_end(world: World) -> None:
    world.networks(a_network("a"))
    world.service(a_service(networks=("a",), replicas=1))
    world.do(*world.orchestrate().commands)
    (task,) = world.wanted()
    assert [a.address for a in task.attachments] == [""]
    world.run()
    (task,) = world.running()
    assert [a.address for a in task.attachments] == ["10.0.0.3"]
    assert world.store.address_owners("id-a") == {"10.0.0.2": "web", "10.0.0.3": task.id}
    world.report(task.id, TaskState.FAILED)
    assert world.store.address_owners("id-a") == {"10.0.0.2": "web"}


def test_tasks_of_a_full_network_say_so_and_run_when_there_is_room(world: World) -> None:
    world.networks(a_network("a", subnet="10.9.0.0/29"))
    world.service(a_service(networks=("a",), replicas=6))
    world.run()
    assert len(world.running()) == 4
    waiting = [task for task in world.wanted() if task.status.state is TaskState.PENDING]
    assert {task.status.err for task in waiting} == {"network a has no free address in 10.9.0.0/29"}
    world.service(a_service(networks=("a",), replicas=2))
    world.pass_time(2 * REST / 1e9)
    world.service(a_service(networks=("a",), replicas=4))
    world.run()
    assert len(world.running()) == 4


def test_a_task_that_finds_no_node_keeps_no_address_from_another(world: World) -> None:
    world.networks(a_network("a", subnet="10.9.0.0/29"))
    world.service(a_service("big", networks=("a",), replicas=4, cpus=100))
    world.pass_time(1)
    world.service(a_service("web", networks=("a",), replicas=3))
    world.run()
    assert len(world.running("web")) == 3


def test_addresses_go_round_in_a_ring() -> None:
    pool = Pool("10.9.0.0/29", "", ("10.9.0.1",))
    first = pool.take("t1", START)
    pool.release("t1", first, START)
    assert pool.take("t2", START) != first
    assert pool.free(START) == 3


# --- nodes ----------------------------------------------------------------------------------------


def test_nodes_have_numbers_for_life(world: World) -> None:
    world.nodes(a_node("n2"), a_node("n3"))
    world.nodes(a_node("n1", cpus=2))
    assert {node.id: node.number for node in world.store.nodes()} == {"n1": 1, "n2": 2, "n3": 3}
