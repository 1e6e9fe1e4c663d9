"""Who may speak Raft to a manager."""

from random import Random

import pytest
import structlog
import trio
from swarmlet.clock import SECOND
from swarmlet.consensus.memory import MemoryConsensus
from swarmlet.errors import NotAllowed
from swarmlet.manager.manager import Manager
from swarmlet.manager.replica import Replica
from swarmlet.model.defaults import DOWN_AFTER
from swarmlet.model.objects import NodeState
from swarmlet.model.specs import Role
from swarmlet.rpc.listener import RemoteNode
from swarmlet.state.commands import ChangeNodes, DeleteNode, NodeChange

from tests.unit.manager.rig import Rig, now


class Member(MemoryConsensus):
    """A member whose peers talk until they are cut off."""

    def __init__(self, replica: Replica) -> None:
        super().__init__("m1", replica)
        self.talking: list[str] = []
        self.regressed: list[str] = []

    def regressed_members(self) -> list[str]:
        return list(self.regressed)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        await trio.sleep_forever()

    async def serve_peer(self, peer_id: str, stream: trio.abc.Stream) -> None:
        del stream
        self.talking.append(peer_id)
        try:
            await trio.sleep_forever()
        finally:
            self.talking.remove(peer_id)


async def _no_link(member: str) -> trio.abc.Stream:
    raise AssertionError(member)


async def _silent(node_id: str, addr: str) -> bool:
    del node_id, addr
    return False


class ManagerRig(Rig):
    """A whole manager, its replica and member in the test's hand."""

    def __init__(self) -> None:
        super().__init__()
        self.member = Member(self.replica)
        self.manager = Manager(
            "m1",
            replica=self.replica,
            member=self.member,
            dial=_no_link,
            probe=_silent,
            now=now,
            rng=Random(5),
        )

    async def talk(self, node_id: str, role: Role = Role.MANAGER) -> None:
        """Serve a peer with a certificate for ``role``."""
        stream, _ = trio.testing.memory_stream_pair()
        await self.manager.serve_raft(stream, RemoteNode(node_id, role, "c1", "10.0.0.9"))


async def test_new_member_with_an_empty_replica_listens_to_any_manager() -> None:
    """It knows nobody yet: the certificate must do."""
    rig = ManagerRig()
    with trio.move_on_after(0.01):
        await rig.talk("m2")
        raise AssertionError("the stream should have been served")


@pytest.mark.parametrize("stored", ["unknown", "worker"])
async def test_certificate_of_a_manager_that_is_none_any_more_is_refused(stored: str) -> None:
    """A certificate lives 90 days; a demotion or a removal counts at once."""
    rig = ManagerRig()
    await rig.found()
    await rig.node("worker")
    with pytest.raises(NotAllowed):
        await rig.talk(stored)


async def test_worker_is_refused_whatever_the_store_says() -> None:
    """Both must agree: certificate and state."""
    rig = ManagerRig()
    await rig.found()
    await rig.node("m2", role=Role.MANAGER)
    with pytest.raises(NotAllowed):
        await rig.talk("m2", Role.WORKER)


async def test_open_stream_of_a_removed_manager_is_cut(autojump_clock: object) -> None:
    """Who was let in while a manager is cut off when it is none any more."""
    rig = ManagerRig()
    await rig.found()
    await rig.node("m2", role=Role.MANAGER)
    async with trio.open_nursery() as nursery:
        await nursery.start(rig.manager.run)
        nursery.start_soon(rig.talk, "m2")
        await trio.testing.wait_all_tasks_blocked()
        assert rig.member.talking == ["m2"]
        demoted = NodeChange(id="m2", role=Role.WORKER)
        await rig.proposer.propose(ChangeNodes(changes=(demoted,)))
        node = rig.the_node("m2")
        await rig.proposer.propose(DeleteNode(id="m2", expect=node.version))
        await trio.testing.wait_all_tasks_blocked()
        assert rig.member.talking == []
        nursery.cancel_scope.cancel()


async def test_member_that_the_cluster_does_not_list_was_let_go() -> None:
    """Demoted and promoted again before it noticed: it must not wait for ever as it is."""
    rig = ManagerRig()
    await rig.found()
    assert not rig.manager.is_stranded(["m2"])  # it has not joined yet
    rig.manager.joined = True
    assert not rig.manager.is_stranded(["m1", "m2"])
    assert rig.manager.is_stranded(["m2"])


async def test_lost_leader_gets_no_more_time_than_a_lost_worker(autojump_clock: object) -> None:
    """Its successor knows that it is gone; the others get longer, to find the successor.

    A member names itself the leader some time before it leads: that is nobody's loss.
    """
    rig = ManagerRig()
    await rig.found()
    for other in ("m2", "w1"):
        await rig.node(other, role=Role.MANAGER if other == "m2" else Role.WORKER)
    rig.member.lose_leadership("m2")
    async with trio.open_nursery() as nursery:
        await nursery.start(rig.manager.run)
        for leader in (None, "m1"):
            await trio.testing.wait_all_tasks_blocked()
            rig.member.lose_leadership(leader)
        await trio.testing.wait_all_tasks_blocked()
        rig.member.gain_leadership()
        await trio.sleep(DOWN_AFTER / SECOND * 1.5)
        states = {node.id: node.status.state for node in rig.manager.replica.view.nodes()}
        assert states["m2"] is NodeState.DOWN
        assert states["w1"] is not NodeState.DOWN
        nursery.cancel_scope.cancel()


async def test_each_loss_of_a_managers_log_is_told_once(autojump_clock: object) -> None:
    """The second as well: the operator who mended the first must hear of it."""
    rig = ManagerRig()
    await rig.found()
    told = []
    with structlog.testing.capture_logs() as logs:
        async with trio.open_nursery() as nursery:
            await nursery.start(rig.manager.run)
            for regressed in (["m2"], ["m2"], [], ["m2"]):
                rig.member.regressed = regressed
                await trio.sleep(10)
                told.append(sum(line["event"] == "manager-lost-its-log" for line in logs))
            nursery.cancel_scope.cancel()
    assert told == [1, 1, 1, 2]
