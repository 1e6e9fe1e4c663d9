"""Placement: filters, ranking, preferences, and the words for a refusal."""

import pytest
from msgspec.structs import replace
from swarmlet.clock import SECOND
from swarmlet.control import scheduler
from swarmlet.control.filters import Reason, explain
from swarmlet.control.nodeset import NodeSet
from swarmlet.model.networks import NetworkSpec
from swarmlet.model.objects import Network, Node, NodeState, Plugin, Task, TaskState
from swarmlet.model.specs import (
    Availability,
    DiscreteResource,
    Driver,
    GenericResource,
    NamedResource,
    Placement,
    PlacementPreference,
    Platform,
    PortConfig,
    ResourceRequirements,
    Resources,
    RestartPolicy,
    SpreadOver,
)
from swarmlet.model.tunnels import TunnelKeys
from swarmlet.state.commands import ChangeTasks, DeleteNode

from tests.fakes.world import World, a_node, a_service

HOST_PORT = PortConfig(target_port=80, published_port=8080, publish_mode="host", protocol="tcp")


def world_with(*nodes: Node) -> World:
    world = World()
    world.nodes(*nodes)
    return world


def spread(*labels: str) -> Placement:
    return Placement(
        preferences=tuple(
            PlacementPreference(spread=SpreadOver(spread_descriptor=label)) for label in labels
        )
    )


def placed(world: World, service: str = "web") -> list[str]:
    return sorted(task.node_id for task in world.wanted(service) if task.node_id)


def refusal(world: World) -> str:
    (text,) = {task.status.err for task in world.wanted() if not task.node_id}
    return text


def test_a_placement_is_told_in_dockers_words() -> None:
    world = world_with(a_node("n0"))
    world.service(a_service(replicas=1))
    world.settle()
    (task,) = world.wanted()
    assert task.status.state is TaskState.ASSIGNED
    assert task.status.message == "scheduler assigned task to node"


def test_a_task_of_an_encrypted_network_runs_where_that_is_possible() -> None:
    """A node without a key would run it apart from all others."""
    world = World()
    hidden = NetworkSpec(name="hidden", options={"encrypted": ""})
    world.networks(Network(id="id-hidden", spec=hidden))
    able = a_node("n1")
    assert able.description is not None
    key = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="
    tunnel = TunnelKeys(lanes=(key, ""))
    world.nodes(a_node("n0"))
    world.service(a_service(replicas=2, networks=("id-hidden",)))
    world.settle()
    assert refusal(world) == "no suitable node (encrypted networks are not possible on 1 node)"
    world.nodes(replace(able, description=replace(able.description, tunnel=tunnel)))
    world.settle()
    assert placed(world) == ["n1", "n1"]


def test_the_fewest_tasks_of_the_service_win_then_the_fewest_in_all() -> None:
    world = world_with(a_node("n0"), a_node("n1"), a_node("n2"))
    only = Placement(constraints=("node.id == n0",))
    world.service(a_service("other", replicas=3, placement=only))
    world.service(a_service(replicas=2))
    world.settle()
    assert placed(world) == ["n1", "n2"]
    world.service(a_service(replicas=3))
    world.settle()
    assert placed(world) == ["n0", "n1", "n2"]


def test_a_node_where_the_service_keeps_failing_comes_last() -> None:
    """Five failures within five minutes; then it is forgiven."""
    world = world_with(a_node("n0"), a_node("n1", availability=Availability.PAUSE))
    world.service(a_service(replicas=5, restart=RestartPolicy(delay=0, max_attempts=9)))
    world.settle()
    for task in world.wanted():
        world.report(task.id, TaskState.FAILED)
    world.nodes(a_node("n1"))
    world.settle()
    assert placed(world) == ["n1"] * 5
    world.pass_time(301)
    world.service(a_service(replicas=9, restart=RestartPolicy(delay=0, max_attempts=9)))
    world.settle()
    assert placed(world).count("n0") == 4


def test_preferences_spread_over_zones_before_nodes() -> None:
    """Zone a has one node, zone b three: half of the tasks each."""
    world = world_with(
        a_node("n0", labels={"zone": "a"}), *(a_node(f"n{i}", labels={"zone": "b"}) for i in (1, 2))
    )
    world.service(a_service(replicas=4, placement=spread("node.labels.zone")))
    world.settle()
    assert placed(world) == ["n0", "n0", "n1", "n2"]


def test_preferences_make_a_tree() -> None:
    """Half to each zone, within it half to each rack; no label is a value of its own."""
    labels = [("a", "1"), ("a", "2"), ("a", "2"), ("b", "1")]
    world = world_with(
        *(a_node(f"n{i}", labels={"zone": z, "rack": r}) for i, (z, r) in enumerate(labels)),
        a_node("n4"),
    )
    world.service(a_service(replicas=12, placement=spread("node.labels.zone", "node.labels.rack")))
    world.settle()
    counts = [placed(world).count(f"n{i}") for i in range(5)]
    assert counts == [2, 1, 1, 4, 4]


def test_a_full_zone_gives_way() -> None:
    world = world_with(
        a_node("n0", labels={"zone": "a"}, cpus=1), a_node("n1", labels={"zone": "b"}, cpus=8)
    )
    world.service(a_service(replicas=4, cpus=1, placement=spread("node.labels.zone")))
    world.settle()
    assert placed(world) == ["n0", "n1", "n1", "n1"]


@pytest.mark.parametrize(
    ("node", "service", "words"),
    [
        (a_node("n", state=NodeState.DOWN), a_service(), "1 node not available for new tasks"),
        (a_node("n", cpus=2), a_service(cpus=3), "insufficient resources on 1 node"),
        (
            a_node("n"),
            a_service(placement=Placement(constraints=("node.id == x",))),
            "scheduling constraints not satisfied on 1 node",
        ),
        (
            a_node("n"),
            a_service(placement=Placement(platforms=(Platform(architecture="arm64"),))),
            "unsupported platform on 1 node",
        ),
        (
            a_node("n"),
            a_service(placement=Placement(max_replicas=1)),
            "max replicas per node limit exceed",
        ),
        (a_node("n"), a_service(ports=(HOST_PORT,)), "host-mode port already in use on 1 node"),
    ],
)
def test_each_refusal_has_dockers_words(node: Node, service: object, words: str) -> None:
    world = world_with(node)
    assert isinstance(service, type(a_service()))
    world.service(service)
    world.settle()
    assert refusal(world) == f"no suitable node ({words})"
    pending = next(task for task in world.wanted() if not task.node_id)
    assert pending.status.state is TaskState.PENDING
    assert pending.status.message == "pending task scheduling"


def test_reasons_are_counted_and_the_commonest_comes_first() -> None:
    world = world_with(
        a_node("n0", availability=Availability.DRAIN),
        a_node("n1", availability=Availability.PAUSE),
        a_node("n2", labels={"disk": "ssd"}, cpus=1),
        *(a_node(f"n{i}") for i in (3, 4, 5)),
    )
    only = Placement(constraints=("node.labels.disk == ssd",))
    world.service(a_service(replicas=1, cpus=2, placement=only))
    world.settle()
    assert refusal(world) == (
        "no suitable node (scheduling constraints not satisfied on 3 nodes; "
        "2 nodes not available for new tasks; insufficient resources on 1 node)"
    )


def test_without_nodes_there_is_nothing_to_count() -> None:
    world = World()
    world.service(a_service(replicas=1))
    world.settle()
    assert refusal(world) == "no suitable node"


def test_a_reason_that_stays_is_not_written_again() -> None:
    world = world_with(a_node("n0", state=NodeState.DOWN))
    world.service(a_service(replicas=2))
    world.settle()
    world.pass_time(10)
    assert world.schedule().commands == ()


def test_missing_plugins_are_named() -> None:
    assert explain([Reason.PLUGIN] * 2) == "no suitable node (missing plugin on 2 nodes)"
    world = World()
    node = a_node("n0")
    assert node.description is not None
    about = replace(node.description, plugins=(Plugin("Log", "json-file"),))
    world.nodes(replace(node, description=about))
    service = a_service(replicas=1)
    template = replace(service.spec.task_template, log_driver=Driver(name="gelf"))
    world.service(replace(service, spec=replace(service.spec, task_template=template)))
    world.settle()
    assert refusal(world) == "no suitable node (missing plugin on 1 node)"


def test_a_global_task_is_checked_on_its_node_only() -> None:
    world = world_with(a_node("n0", cpus=1), a_node("n1", cpus=4))
    world.service(a_service(replicas=None, cpus=2))
    world.settle()
    first, second = world.wanted()
    assert first.status.err == "no suitable node (insufficient resources on 1 node)"
    assert second.status.state is TaskState.ASSIGNED


def test_generic_resources_are_counted() -> None:
    gpus = Resources(
        generic_resources=(
            GenericResource(named_resource_spec=NamedResource(kind="gpu", value="a")),
            GenericResource(named_resource_spec=NamedResource(kind="gpu", value="b")),
        )
    )
    one = GenericResource(discrete_resource_spec=DiscreteResource(kind="gpu", value=1))
    world = World()
    node = a_node("n0")
    assert node.description is not None
    world.nodes(replace(node, description=replace(node.description, resources=gpus)))
    service = a_service(replicas=3)
    needs = ResourceRequirements(reservations=Resources(generic_resources=(one,)))
    template = replace(service.spec.task_template, resources=needs)
    world.service(replace(service, spec=replace(service.spec, task_template=template)))
    world.settle()
    assert placed(world) == ["n0", "n0"]
    assert refusal(world) == "no suitable node (insufficient resources on 1 node)"


def test_a_port_stays_taken_until_the_task_has_ended() -> None:
    world = world_with(a_node("n0"))
    world.service(a_service(replicas=1, ports=(HOST_PORT,)))
    world.run()
    old = world.wanted()[0]
    world.service(a_service(replicas=1, image="app:2", ports=(HOST_PORT,)))
    world.settle()
    assert refusal(world) == "no suitable node (host-mode port already in use on 1 node)"
    world.report(old.id, TaskState.SHUTDOWN)
    world.settle()
    assert placed(world) == ["n0"]


def test_ties_fall_differently_for_each_service() -> None:
    """Fifty services of one task on five equal nodes of fifty clusters of their own."""
    chosen = set()
    for number in range(50):
        world = world_with(*(a_node(f"n{i}") for i in range(5)))
        world.service(a_service(f"s{number}", replicas=1))
        world.settle()
        chosen.update(placed(world, f"s{number}"))
    assert len(chosen) == 5


def test_only_the_named_tasks_are_placed() -> None:
    world = world_with(a_node("n0"))
    world.service(a_service(replicas=3))
    world.do(*world.orchestrate().commands)
    task = world.wanted()[1]
    decision = scheduler.decide(world.store, world.now, tasks=[task.id, "unknown"])
    (command,) = decision.commands
    assert isinstance(command, ChangeTasks)
    assert [change.id for change in command.changes] == [task.id]


def test_deciding_does_not_take_what_is_not_committed() -> None:
    """The node set follows the store; a proposal that fails must leave no trace in it."""
    world = world_with(a_node("n0", cpus=2))
    world.service(a_service(replicas=2, cpus=1, ports=()))
    world.do(*world.orchestrate().commands)
    nodes = NodeSet.of(world.store)
    first = scheduler.decide(world.store, world.now, nodes=nodes)
    assert first.commands
    assert nodes.loads == NodeSet.of(world.store).loads
    assert scheduler.decide(world.store, world.now, nodes=nodes) == first


def test_a_node_set_follows_nodes_that_come_and_go() -> None:
    world = world_with(a_node("n0"), a_node("n1"))
    world.service(a_service(replicas=4, cpus=1, ports=(HOST_PORT,)))
    world.run()
    nodes = NodeSet()
    nodes.update(world.store, world.store.take_change())
    for task in world.running():
        world.report(task.id, TaskState.FAILED)
    nodes.update(world.store, world.store.take_change())
    assert nodes.loads == NodeSet.of(world.store).loads
    node = world.store.node("n0")
    assert node is not None
    world.ok(DeleteNode(id="n0", expect=node.version))
    world.settle()
    nodes.update(world.store, world.store.take_change())
    assert nodes.loads == NodeSet.of(world.store).loads


def test_a_held_task_is_placed_before_its_time() -> None:
    """So that its image is there when it may start."""
    world = world_with(a_node("n0"))
    world.service(a_service(replicas=1, restart=RestartPolicy(delay=60 * SECOND)))
    world.run()
    world.report(world.wanted()[0].id, TaskState.FAILED)
    world.run()
    (held,) = world.wanted()
    assert _where(held) == ("n0", TaskState.READY)


def _where(task: Task) -> tuple[str, TaskState]:
    return task.node_id, task.status.state
