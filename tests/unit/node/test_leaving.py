"""What a manager is told that wants to leave."""

import pytest
from swarmlet.consensus.port import MemberStatus
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
    members = [MemberStatus(f"m{n}", voter=True, reachable=True, lag=0) for n in range(managers)]
    with pytest.raises(Unavailable, match=words) as caught:
        leaving.refuse_manager(members)
    assert advice in caught.value.advice
