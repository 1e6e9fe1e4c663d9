"""What a manager is told that wants to leave."""

from unittest import mock

import pytest
import trio
import trio.testing
from swarmlet.api.backend import ManagerHealth
from swarmlet.errors import Unavailable
from swarmlet.node import leaving


@pytest.mark.parametrize(
    ("managers", "words", "advice"),
    [
        (1, "last manager erases all current state", "make another node a manager"),
        (3, "leaves 2 managers out of 3", "demote this node first"),
    ],
)
def test_advice_can_be_followed(managers: int, words: str, advice: str) -> None:
    """Nobody can demote the last manager."""
    health = [ManagerHealth(leader=n == 0, reachable=True) for n in range(managers)]
    with pytest.raises(Unavailable, match=words) as caught:
        leaving.refuse_manager(health)
    assert advice in caught.value.advice


async def test_a_demotion_that_is_under_way_is_waited_for() -> None:
    """`node demote` returns before the node has noticed; `leave` may follow in the next moment."""
    membership = mock.Mock()
    membership.is_demoted.return_value = True
    gone = membership.manager_gone = trio.Event()
    done = trio.Event()

    async def settle() -> None:
        await leaving.settle_demotion(membership)
        done.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(settle)
        await trio.testing.wait_all_tasks_blocked()
        assert not done.is_set()
        gone.set()


async def test_a_demotion_that_does_not_end_is_not_waited_for_for_ever(
    autojump_clock: trio.testing.MockClock,
) -> None:
    membership = mock.Mock(manager_gone=trio.Event())
    await leaving.settle_demotion(membership)
    assert trio.current_time() < 10


async def test_a_manager_that_stays_one_is_not_waited_for(
    autojump_clock: trio.testing.MockClock,
) -> None:
    membership = mock.Mock(manager_gone=trio.Event())
    membership.is_demoted.return_value = False
    began = trio.current_time()
    await leaving.settle_demotion(membership)
    assert trio.current_time() == began
