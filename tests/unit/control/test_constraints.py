"""Constraint expressions: swarmkit's syntax and words."""

import pytest
from swarmlet.control.constraints import label_value, parse, problems, satisfied
from swarmlet.model.objects import Node, NodeDescription
from swarmlet.model.specs import Availability, NodeSpec, Platform, Resources, Role

from tests.fakes.world import a_node

NODE = Node(
    id="abc",
    spec=NodeSpec(
        role=Role.MANAGER, availability=Availability.ACTIVE, labels={"Zone": "East", "empty": ""}
    ),
    role=Role.MANAGER,
    description=NodeDescription(
        hostname="Host1",
        platform=Platform(architecture="x86_64", os="linux"),
        resources=Resources(),
        engine_labels={"com.example.disk": "ssd"},
    ),
    status=a_node("x", addr="192.168.7.9").status,
)


@pytest.mark.parametrize(
    ("expression", "met"),
    [
        ("node.id == abc", True),
        ("node.id==abc", True),
        ("  node.id  ==  ABC ", True),
        ("node.id != abc", False),
        ("node.hostname == host1", True),
        ("node.role == manager", True),
        ("node.role != Manager", False),
        ("NODE.ROLE == manager", True),
        ("node.ip == 192.168.7.9", True),
        ("node.ip == 192.168.0.0/16", True),
        ("node.ip != 192.168.0.0/16", False),
        ("node.ip == 10.0.0.0/8", False),
        ("node.ip == fe80::/10", False),
        ("node.platform.os == Linux", True),
        ("node.platform.arch == amd64", True),
        ("node.platform.arch == x86_64", True),
        ("node.platform.arch != aarch64", True),
        ("node.labels.Zone == east", True),
        ("node.labels.zone == east", False),
        ("node.labels.none != east", True),
        ("engine.labels.com.example.disk == SSD", True),
        ("engine.labels.com.example.disk != ssd", False),
    ],
)
def test_matching(expression: str, met: bool) -> None:
    assert not problems([expression])
    assert satisfied((expression,), NODE) == met


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("node.id", "constraint expected one operator from ==, !="),
        ("node.id > 3", "constraint expected one operator from ==, !="),
        ("== x", "key '' is invalid"),
        ("node.colour == red", "key 'node.colour' is invalid"),
        ("node.labels. == red", "key 'node.labels.' is invalid"),
        ("no de.id == red", "key 'no de.id' is invalid"),
        ("node.id == ", "value '' is invalid"),
        ("node.id == a,b", "value 'a,b' is invalid"),
        ("node.ip == here", "value 'here' is invalid: not an IP address or CIDR"),
    ],
)
def test_every_problem_is_named(expression: str, problem: str) -> None:
    assert parse(expression) == problem
    assert problems(["node.id == a", expression, expression]) == [problem, problem]
    assert not satisfied((expression,), NODE)


def test_a_node_that_never_connected_has_no_hostname() -> None:
    node = Node(id="n", spec=NODE.spec, role=Role.WORKER)
    assert not satisfied(("node.hostname == host1",), node)
    assert satisfied(("node.hostname != host1",), node)
    assert not satisfied(("node.ip == 0.0.0.0/0",), node)
    assert label_value("engine.labels.a", node) == ""


def test_all_expressions_must_hold() -> None:
    assert satisfied(("node.id == abc", "node.role == manager"), NODE)
    assert not satisfied(("node.id == abc", "node.role == worker"), NODE)
    assert satisfied((), NODE)
