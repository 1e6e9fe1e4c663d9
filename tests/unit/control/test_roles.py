"""Quorum arithmetic."""

import pytest
from msgspec.structs import replace
from swarmlet.control.roles import LAST_MANAGER, QUORUM_LOSS, quorum, refusal, tolerated
from swarmlet.model.specs import Role

from tests.fakes.world import World, a_node


@pytest.mark.parametrize(
    ("managers", "needed", "may_be_lost"),
    [(1, 1, 0), (2, 2, 0), (3, 2, 1), (4, 3, 1), (5, 3, 2), (6, 4, 2), (7, 4, 3)],
)
def test_quorum_table(managers: int, needed: int, may_be_lost: int) -> None:
    assert quorum(managers) == needed
    assert tolerated(managers) == may_be_lost


def managers(count: int) -> World:
    world = World()
    world.nodes(*(a_node(f"m{i}", role=Role.MANAGER) for i in range(count)), a_node("worker"))
    return world


@pytest.mark.parametrize(
    ("count", "leaving", "reachable", "expected"),
    [
        (1, "m0", {"m0"}, LAST_MANAGER),
        (2, "m1", {"m0", "m1"}, None),
        (2, "m1", {"m0"}, None),
        (3, "m2", {"m0", "m1", "m2"}, None),
        (3, "m2", {"m0", "m1"}, None),
        (3, "m1", {"m0", "m1"}, QUORUM_LOSS),
        (4, "m3", {"m0", "m1", "m3"}, None),
        (5, "m0", {"m0", "m1", "m2"}, QUORUM_LOSS),
        (5, "m4", {"m0", "m1", "m2"}, None),
        (3, "worker", set(), None),
        (3, "nobody", set(), None),
    ],
)
def test_refusal(count: int, leaving: str, reachable: set[str], expected: str | None) -> None:
    """What counts is the cluster without the one that leaves; a dead manager may go."""
    assert refusal(managers(count).store, leaving, reachable) == expected


def test_two_demotions_at_once_do_not_lose_the_last_manager() -> None:
    """One is already on its way out: what operators want counts, not only what is."""
    world = managers(2)
    demoted = replace(a_node("m0", role=Role.WORKER), role=Role.MANAGER)
    world.nodes(demoted)
    assert refusal(world.store, "m1", {"m0", "m1"}) == LAST_MANAGER


def test_a_promotion_can_be_taken_back() -> None:
    world = managers(1)
    promoted = replace(a_node("worker", role=Role.MANAGER), role=Role.WORKER)
    world.nodes(promoted)
    assert refusal(world.store, "worker", {"m0", "worker"}) is None
