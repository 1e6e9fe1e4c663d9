"""A task is stopped when nobody sends it connections any more, or when that took too long."""

import pytest
from swarmlet.manager.withdrawals import LINGER, PATIENCE, Withdrawals


@pytest.fixture
def one() -> Withdrawals:
    withdrawals = Withdrawals()
    withdrawals.begin("t", {"a": None, "b": None}, 10.0)
    return withdrawals


def test_it_is_held_until_the_last_node_confirms_and_a_little_longer(one: Withdrawals) -> None:
    """What is under way then is still answered."""
    one.told("a", {"t": 3})
    one.told("b", {"t": 7})
    one.confirmed("a", 3, 10.1)
    assert one.wake_at == 10.0 + PATIENCE
    one.confirmed("b", 8, 10.2)
    assert one.wake_at == 10.2 + LINGER
    assert one.holds("t")
    assert one.expired(10.2 + LINGER) == ["t"]
    assert not one.holds("t")


def test_an_older_confirmation_says_nothing(one: Withdrawals) -> None:
    one.confirmed("a", 99, 10.1)  # it was not told yet
    one.told("a", {"t": 3})
    one.confirmed("a", 2, 10.2)
    one.down("b", 10.3)
    assert one.wake_at == 10.0 + PATIENCE
    one.confirmed("a", 3, 10.4)
    assert one.wake_at == 10.4 + LINGER


def test_a_node_that_is_lost_is_not_waited_for(one: Withdrawals) -> None:
    one.down("a", 10.1)
    one.down("b", 10.2)
    assert one.wake_at == 10.2 + LINGER


def test_what_was_told_before_is_waited_for_too() -> None:
    """The message is on its way, or its rules are not in force yet."""
    withdrawals = Withdrawals()
    withdrawals.begin("t", {"a": 3}, 10.0)
    withdrawals.confirmed("a", 2, 10.1)
    assert withdrawals.wake_at == 10.0 + PATIENCE
    withdrawals.confirmed("a", 3, 10.2)
    assert withdrawals.wake_at == 10.2 + LINGER


def test_a_node_that_comes_back_confirms_all_that_it_is_told_anew(one: Withdrawals) -> None:
    """It may not have heard of what its earlier session was told."""
    one.down("b", 10.1)
    one.told("a", {"t": 9})
    one.told_all("a", 1)
    one.confirmed("a", 1, 10.2)
    assert one.wake_at == 10.2 + LINGER


def test_the_last_word_never_makes_it_wait_longer(one: Withdrawals) -> None:
    one.down("a", 10.1)
    one.down("b", 10.0 + PATIENCE - LINGER / 2)
    assert one.wake_at == 10.0 + PATIENCE


def test_a_silent_node_holds_a_task_only_so_long(one: Withdrawals) -> None:
    assert one.wake_at == 10.0 + PATIENCE
    assert one.expired(10.0 + PATIENCE / 2) == []
    assert one.expired(10.0 + PATIENCE) == ["t"]
    assert not one.holds("t")
    assert one.wake_at == float("inf")


def test_what_nobody_serves_is_not_held() -> None:
    withdrawals = Withdrawals()
    withdrawals.begin("t", {}, 0.0)
    assert not withdrawals.holds("t")
