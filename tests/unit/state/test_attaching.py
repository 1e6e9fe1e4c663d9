"""Places of plain containers in attachable networks: who gets one, and who is told why not."""

import pytest
from swarmlet.model.forwarding import Attachment
from swarmlet.model.objects import AttachedContainer
from swarmlet.state import attaching
from swarmlet.state.commands import (
    AttachContainer,
    ContainerReport,
    DeleteNetwork,
    DeleteNode,
    DetachContainers,
    Outcome,
    Refusal,
    ReportContainers,
)

from tests.fakes.world import World, a_network, a_node, a_service


@pytest.fixture
def world() -> World:
    world = World()
    world.nodes(a_node("n1"), a_node("n2"))
    world.networks(
        a_network("open", subnet="10.9.0.0/29", attachable=True),
        a_network("part", subnet="10.9.1.0/24", ip_range="10.9.1.128/25", attachable=True),
        a_network("closed"),
    )
    return world


def a_container(
    *places: Attachment, ident: str = "c1", name: str = "box", node_id: str = "n1"
) -> AttachContainer:
    container = AttachedContainer(id=ident, node_id=node_id, name=name, attachments=places)
    return AttachContainer(container=container)


def at(network: str, address: str = "") -> Attachment:
    return Attachment(f"id-{network}", address)


def addresses(world: World, ident: str = "c1") -> list[str]:
    found = world.store.container(ident)
    return [] if found is None else [a.address for a in found.attachments]


def why(outcomes: list[Outcome]) -> str:
    (outcome,) = outcomes
    assert isinstance(outcome, Refusal)
    return outcome.message


def test_a_container_gets_an_address_in_each_network(world: World) -> None:
    world.ok(a_container(at("open"), at("part")))
    assert addresses(world) == ["10.9.0.2", "10.9.1.128"]
    assert world.store.address_owners("id-open") == {"10.9.0.2": "c1"}


def test_to_ask_again_changes_nothing_and_another_network_is_added(world: World) -> None:
    world.ok(a_container(at("open")))
    before = world.store.container("c1")
    world.ok(a_container(at("open", "10.9.0.2")))
    assert world.store.container("c1") is before
    world.ok(a_container(at("part")))
    assert addresses(world) == ["10.9.0.2", "10.9.1.128"]


def test_one_may_ask_for_an_address_of_the_subnet_beside_the_pool(world: World) -> None:
    free = world.store.free_addresses("id-part", world.now)
    world.ok(a_container(at("part", "10.9.1.7")))
    assert addresses(world) == ["10.9.1.7"]
    assert world.store.free_addresses("id-part", world.now) == free


def test_one_who_asks_for_an_address_gets_it_while_it_rests(world: World) -> None:
    world.ok(a_container(at("open", "10.9.0.5")))
    world.ok(DetachContainers(node_id="n1", ids=("c1",)))
    world.ok(a_container(at("open"), ident="c2"))
    assert addresses(world, "c2") == ["10.9.0.2"]
    world.ok(a_container(at("open", "10.9.0.5"), ident="c3"))
    assert addresses(world, "c3") == ["10.9.0.5"]


@pytest.mark.parametrize(
    ("place", "text"),
    [
        (at("closed"), "network closed not manually attachable"),
        (at("none"), "network id-none not found"),
        (at("open", "10.9.0.2"), "address 10.9.0.2 of network open is in use by service name-web"),
        (at("open", "10.9.0.3"), "10.9.0.3 of network open is in use by container old on node ho"),
        (at("open", "10.9.0.1"), "10.9.0.1 is no address for a container in network open: its sub"),
        (at("open", "10.9.0.7"), "its subnet is 10.9.0.0/29, its gateway 10.9.0.1"),
        (at("open", "10.9.1.3"), "10.9.1.3 is no address for a container in network open"),
        (at("open", "::1"), "::1 is no address for a container in network open"),
    ],
)
def test_what_cannot_be_had_is_refused_with_the_reason(
    world: World, place: Attachment, text: str
) -> None:
    world.service(a_service(networks=("open",), replicas=0))
    world.ok(a_container(at("open"), ident="c9", name="old"))
    assert text in why(world.do(a_container(at("part"), place)))
    assert world.store.container("c1") is None
    assert world.store.address_owners("id-part") == {}


def test_another_address_of_the_same_network_is_refused(world: World) -> None:
    world.ok(a_container(at("open")))
    text = why(world.do(a_container(at("open", "10.9.0.4"))))
    assert text == "it is in network open already, as 10.9.0.2"


def test_a_full_network_names_the_node_that_fills_it(world: World) -> None:
    for number in range(4):
        world.ok(a_container(at("open"), ident=f"c{number}", node_id="n1"))
    world.ok(a_container(at("open"), ident="c8", node_id="n2"))
    assert why(world.do(a_container(at("open"), ident="c9"))) == (
        "network open has no free address in 10.9.0.0/29; "
        "containers on node host-n1 have 4 of its addresses"
    )


def test_a_node_can_have_so_many_and_no_more(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attaching, "MAX_CONTAINERS", 1)
    world.ok(a_container(at("open")), a_container(at("open"), ident="c2", node_id="n2"))
    world.ok(a_container(at("part")))
    refused = why(world.do(a_container(at("part"), ident="c3")))
    assert refused == "node host-n1 has 1 attached containers, and that is the most"


def test_a_node_has_no_say_about_the_containers_of_others(world: World) -> None:
    world.ok(a_container(at("open")))
    assert "is not of node n2" in why(world.do(a_container(at("part"), node_id="n2")))
    assert "is not of node n9" in why(world.do(a_container(at("part"), node_id="n9", ident="c")))
    report = ContainerReport("c1", "abc", "stolen", running=True)
    world.ok(ReportContainers(node_id="n2", reports=(report,)))
    world.ok(DetachContainers(node_id="n2", ids=("c1",)))
    found = world.store.container("c1")
    assert found is not None
    assert (found.name, found.running) == ("box", False)


def test_nobody_takes_the_identifier_of_something_else(world: World) -> None:
    """Addresses belong to identifiers."""
    world.service(a_service())
    refused = why(world.do(a_container(at("open"), ident="web")))
    assert refused == "web is the identifier of something else"


def test_a_container_leaves_one_network_or_all(world: World) -> None:
    world.ok(a_container(at("open"), at("part")))
    world.ok(DetachContainers(node_id="n1", ids=("c1",), network_id="id-closed"))
    assert len(addresses(world)) == 2
    world.ok(DetachContainers(node_id="n1", ids=("c1", "none"), network_id="id-open"))
    assert addresses(world) == ["10.9.1.128"]
    world.ok(DetachContainers(node_id="n1", ids=("c1",)))
    assert world.store.container("c1") is None
    assert world.store.address_owners("id-part") == {}


def test_reports_change_what_is_known_and_nothing_else(world: World) -> None:
    world.ok(a_container(at("open")))
    report = ContainerReport("c1", "abc", "new", running=True)
    world.ok(ReportContainers(node_id="n1", reports=(report,)))
    found = world.store.container("c1")
    assert found is not None
    assert (found.container_id, found.name, found.running) == ("abc", "new", True)
    assert addresses(world) == ["10.9.0.2"]
    world.ok(ReportContainers(node_id="n1", reports=(report,)))
    assert world.store.container("c1") is found


def test_a_network_stays_while_containers_are_in_it_and_they_go_with_their_node(
    world: World,
) -> None:
    world.ok(a_container(at("open")), a_container(at("open"), ident="c2", name="two"))
    assert "network open is in use by container box on node host-n1 and 1 more" in why(
        world.do(DeleteNetwork(id="id-open"))
    )
    node = world.store.node("n1")
    assert node is not None
    world.ok(DeleteNode(id="n1", expect=node.version), DeleteNetwork(id="id-open"))
    assert world.store.attached() == []
