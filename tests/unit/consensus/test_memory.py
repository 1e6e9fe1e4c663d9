"""The consensus that tests of other parts stand on."""

import pytest
import trio
from swarmlet.consensus.memory import MemoryConsensus
from swarmlet.consensus.port import Consensus, NotLeader, OutcomeUnknown, ProposalId
from swarmlet.errors import Damaged, SwarmletError

from tests.unit.consensus.cluster import Journal


async def test_it_applies_at_once() -> None:
    """A proposal is applied when propose returns, and counts."""
    journal = Journal()
    member: Consensus = MemoryConsensus("a", journal)
    assert (await member.propose(b"x")).value == b"1"
    assert journal.items == [b"x"]
    assert await member.read_index() == member.applied == 1


async def test_leadership_is_in_the_tests_hand() -> None:
    """Lost, nothing is accepted; gained, the term is a new one."""
    member = MemoryConsensus("a", Journal())
    member.lose_leadership("b")
    with pytest.raises(NotLeader) as caught:
        await member.propose(b"x")
    assert caught.value.leader == "b"
    member.gain_leadership()
    assert member.leadership.term == 3
    await member.propose(b"x")


async def test_a_lost_answer_is_found_by_repeating() -> None:
    """As in the real one: same identity, same answer, applied once."""
    journal = Journal()
    member = MemoryConsensus("a", journal)
    member.lose_answers()
    ident = ProposalId("c", 1, 1)
    with pytest.raises(OutcomeUnknown):
        await member.propose(b"x", ident=ident)
    assert (await member.propose(b"x", ident=ident)).value == b"1"
    assert journal.items == [b"x"]


async def test_watchers_see_changes() -> None:
    """The present leadership first."""
    member = MemoryConsensus("a", Journal())
    seen: list[bool] = []

    async def watch() -> None:
        async for view in member.watch_leadership():
            seen.append(view.is_leader)  # noqa: PERF401 -- it never ends

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        await trio.testing.wait_all_tasks_blocked()
        member.lose_leadership()
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert seen == [True, False]


async def test_a_poisonous_command_is_answered() -> None:
    """As in the real one: it fails its proposal only."""
    member = MemoryConsensus("a", Journal())
    with pytest.raises(SwarmletError, match="ValueError"):
        await member.propose(b"poison")
    assert (await member.propose(b"next")).value == b"1"


async def test_a_command_that_cannot_be_read_stops_the_member() -> None:
    """As in the real one: it takes part in nothing any more, and says why."""
    member = MemoryConsensus("a", Journal())
    for command in (b"newer", b"next"):
        with pytest.raises(Damaged):
            await member.propose(command)
    assert not member.leadership.is_leader
