"""Group commit."""

import pytest
import trio
from swarmlet.consensus.port import Applied, ProposalId
from swarmlet.manager.committer import MAX_BATCH, Committer
from swarmlet.model.objects import TaskState, TaskStatus
from swarmlet.state.commands import DeleteTasks, ReportTasks, TaskReport

from tests.unit.manager.rig import NOW, Rig


async def test_what_waits_together_is_committed_together(
    autojump_clock: object, nursery: trio.Nursery
) -> None:
    """A hundred commands that wait cost one log entry."""
    rig = Rig()
    committer = Committer(rig.proposer)
    events = [committer.submit(DeleteTasks(ids=(str(n),))) for n in range(100)]
    nursery.start_soon(committer.run)
    for event in events:
        await event.wait()
    assert rig.consensus.applied == 1
    nursery.cancel_scope.cancel()


async def test_no_proposal_outgrows_its_limit(
    autojump_clock: object, nursery: trio.Nursery
) -> None:
    """Large commands are spread over proposals; one that is too large goes alone."""
    rig = Rig()
    committer = Committer(rig.proposer)
    status = TaskStatus(state=TaskState.FAILED, at=NOW, err="x" * (MAX_BATCH // 3))
    large = ReportTasks(node_id="n", reports=(TaskReport("t", status),))
    giant = ReportTasks(node_id="n", reports=(TaskReport("t", status),) * 3)
    events = [committer.submit(c) for c in (large, large, giant, large)]
    nursery.start_soon(committer.run)
    for event in events:
        await event.wait()
    assert rig.consensus.applied == 3
    nursery.cancel_scope.cancel()


async def test_commit_whose_outcome_is_not_known_is_not_dropped(
    autojump_clock: object, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A leader with a slow disk has a quorum, and nothing commits in time."""
    rig = Rig()
    committer = Committer(rig.proposer)
    propose, slow = rig.consensus.propose, [trio.sleep_forever] * 2

    async def at_last(command: bytes, *, ident: ProposalId | None = None) -> Applied:
        if slow:
            await slow.pop()()
        return await propose(command, ident=ident)

    monkeypatch.setattr(rig.consensus, "propose", at_last)
    done = committer.submit(DeleteTasks(ids=("a",)))
    nursery.start_soon(committer.run)
    await done.wait()
    assert rig.consensus.applied == 1
    nursery.cancel_scope.cancel()


async def test_commit_is_tried_again_until_there_is_a_quorum(
    autojump_clock: object, nursery: trio.Nursery
) -> None:
    """Losing the quorum delays a report; it does not lose it."""
    rig = Rig()
    committer = Committer(rig.proposer)
    rig.consensus.lose_leadership()
    done = committer.submit(DeleteTasks(ids=("a",)))
    nursery.start_soon(committer.run)
    await trio.sleep(10)
    assert not done.is_set()
    rig.consensus.gain_leadership()
    await done.wait()
    nursery.cancel_scope.cancel()
