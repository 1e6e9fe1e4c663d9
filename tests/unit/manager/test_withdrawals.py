"""A task is stopped when nobody sends it connections any more, or when that took too long."""

import pytest
from swarmlet.manager.withdrawals import PATIENCE, Withdrawals


@pytest.fixture
def one() -> Withdrawals:
    withdrawals = Withdrawals()
    withdrawals.begin("t", ["a", "b"], 10.0)
    return withdrawals


def test_it_is_held_until_the_last_node_confirms(one: Withdrawals) -> None:
    one.told("a", ["t"], 3)
    one.told("b", ["t"], 7)
    assert one.confirmed("a", 3) == []
    assert one.holds("t")
    assert one.confirmed("b", 8) == ["t"]
    assert not one.holds("t")


def test_an_older_confirmation_says_nothing(one: Withdrawals) -> None:
    assert one.confirmed("a", 99) == []  # it was not told yet
    one.told("a", ["t"], 3)
    assert one.confirmed("a", 2) == []
    assert one.left("b") == []
    assert one.confirmed("a", 3) == ["t"]


def test_a_node_that_goes_is_not_waited_for(one: Withdrawals) -> None:
    one.left("a")
    assert one.left("b") == ["t"]


def test_a_silent_node_holds_a_task_only_so_long(one: Withdrawals) -> None:
    assert one.wake_at == 10.0 + PATIENCE
    assert one.expired(10.0 + PATIENCE / 2) == []
    assert one.expired(10.0 + PATIENCE) == ["t"]
    assert not one.holds("t")
    assert one.wake_at == float("inf")


def test_what_nobody_serves_is_not_held() -> None:
    withdrawals = Withdrawals()
    withdrawals.begin("t", [], 0.0)
    assert not withdrawals.holds("t")
