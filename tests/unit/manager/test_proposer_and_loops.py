"""Proposals from any manager, and the reconcile loop around decisions."""

from collections.abc import Awaitable, Callable

import pytest
import structlog
import trio
from swarmlet.clock import Instant
from swarmlet.consensus.port import MemberStatus, OutcomeUnknown, ProposalId
from swarmlet.control.decision import Decision
from swarmlet.errors import (
    AlreadyExists,
    LeaderSilent,
    NoQuorum,
    NotFound,
    OutOfSequence,
    ReplicaBehind,
)
from swarmlet.manager.links import Links
from swarmlet.manager.loops import MAX_ITEMS, Loop, Rule, batches
from swarmlet.manager.proposer import NO_QUORUM_AFTER
from swarmlet.model.objects import Service
from swarmlet.model.specs import ServiceSpec
from swarmlet.rpc.calls import (
    Answer,
    AskReadIndex,
    Committed,
    Forward,
    ReadIndexIs,
    Request,
    serve_calls,
)
from swarmlet.rpc.channel import ConnectionLost
from swarmlet.state.commands import (
    DeleteNode,
    DeleteService,
    DeleteTasks,
    PutService,
)
from swarmlet.state.store import Change, View

from tests.unit.manager.rig import Rig, now


def _service(name: str, id_: str = "s1") -> PutService:
    return PutService(service=Service(id=id_, spec=ServiceSpec(name=name)), expect=0)


async def test_refused_command_raises_the_error_that_it_stands_for() -> None:
    """A refusal of the state machine reaches the caller as its own type."""
    rig = Rig()
    await rig.proposer.propose(_service("web"))
    with pytest.raises(AlreadyExists):
        await rig.proposer.propose(_service("web", "s2"))
    with pytest.raises(OutOfSequence):
        await rig.proposer.propose(_service("web2"))
    with pytest.raises(NotFound):
        await rig.proposer.propose(DeleteService(id="nope"))


async def test_lost_answer_is_not_a_second_proposal() -> None:
    """When the answer is lost, the retry is the same proposal: it is applied once."""
    rig = Rig()
    rig.consensus.lose_answers(2)
    await rig.proposer.propose(_service("web"))
    assert [s.spec.name for s in rig.replica.view.services()] == ["web"]
    assert rig.replica.view.index == 1


async def test_write_without_a_leader_fails_within_two_seconds(autojump_clock: object) -> None:
    """A write does not hang when there is no leader; it says what is missing."""
    rig = Rig()
    rig.consensus.lose_leadership()
    start = trio.current_time()
    with pytest.raises(NoQuorum):
        await rig.proposer.propose(_service("web"))
    assert trio.current_time() - start < 2


async def test_write_waits_for_an_election(autojump_clock: object, nursery: trio.Nursery) -> None:
    """A leader that is found in time serves the write that waited."""
    rig = Rig()
    rig.consensus.lose_leadership()

    async def elect() -> None:
        await trio.sleep(1)
        rig.consensus.gain_leadership()

    nursery.start_soon(elect)
    await rig.proposer.propose(_service("web"))
    assert rig.replica.view.service_named("web") is not None


async def test_call_to_a_dead_leader_ends_when_another_leads(
    autojump_clock: object, nursery: trio.Nursery
) -> None:
    """A leader whose host lost its power never answers; the write goes to its successor."""
    hung, _kept = trio.testing.memory_stream_pair()

    async def dial(member: str) -> trio.abc.Stream:
        assert member == "m2"
        return hung

    links = Links(dial)
    rig = Rig(links)
    rig.consensus.lose_leadership(to="m2")
    await nursery.start(links.run)

    async def elect() -> None:
        await trio.sleep(0.5)
        rig.consensus.gain_leadership()

    nursery.start_soon(elect)
    await rig.proposer.propose(_service("web"))
    assert rig.replica.view.service_named("web") is not None
    nursery.cancel_scope.cancel()


async def test_forwarded_write_returns_when_the_local_replica_has_it(
    autojump_clock: object, nursery: trio.Nursery
) -> None:
    """A follower forwards to the leader, and its caller reads its own write afterwards."""
    leader = Rig()
    ours, theirs = trio.testing.memory_stream_pair()
    follower: Rig

    async def handle(request: Request) -> Answer:
        assert isinstance(request, Forward)
        applied = await leader.consensus.propose(request.command)
        follower.consensus.gain_leadership()  # replication, as far as this test needs it
        ident = ProposalId(request.client, request.seq, request.floor)
        await follower.consensus.propose(request.command, ident=ident)
        return Committed(index=applied.index, value=applied.value)

    async def dial(_member: str) -> trio.abc.Stream:
        return ours

    links = Links(dial)
    follower = Rig(links)
    follower.consensus.lose_leadership(to="m2")
    await nursery.start(links.run)
    nursery.start_soon(_serve, theirs, handle)
    await follower.proposer.propose(_service("web"))
    assert follower.replica.view.service_named("web") is not None
    nursery.cancel_scope.cancel()


class Lagging:
    """A follower whose leader is known and answers, and whose replica follows when it is told."""

    def __init__(self, nursery: trio.Nursery, *, silent: bool = False, slow: float = 0) -> None:
        self.nursery, self.silent, self.slow = nursery, silent, slow
        self.leader = Rig()
        self.links = Links(self._dial)
        self.rig = Rig(self.links)
        self.rig.consensus.lose_leadership(to="m2")

    async def start(self) -> None:
        await self.nursery.start(self.links.run)

    async def follow(self) -> None:
        """Let the replica apply one entry."""
        self.rig.consensus._advance()
        await trio.testing.wait_all_tasks_blocked()

    async def follow_always(self) -> None:
        """Let the replica apply what there is, for ever."""
        while True:
            self.rig.consensus._advance()
            await trio.sleep(0.1)

    async def _dial(self, _member: str) -> trio.abc.Stream:
        ours, theirs = trio.testing.memory_stream_pair()
        self.nursery.start_soon(_serve, theirs, self._handle)
        return ours

    async def _handle(self, request: Request) -> Answer:
        if self.silent:
            await trio.sleep_forever()
        await trio.sleep(self.slow)
        if isinstance(request, AskReadIndex):
            return ReadIndexIs(index=await self.leader.consensus.read_index())
        assert isinstance(request, Forward)
        applied = await self.leader.consensus.propose(request.command)
        return Committed(index=applied.index, value=applied.value)


async def test_committed_write_is_no_failure_where_the_replica_does_not_follow(
    autojump_clock: object, nursery: trio.Nursery
) -> None:
    """It is durable, and will be here too; that this manager is behind is said and logged once."""
    lagging = Lagging(nursery)
    await lagging.start()
    proposer = lagging.rig.proposer
    with structlog.testing.capture_logs() as logs:
        await proposer.propose(_service("web"))
        await proposer.propose(_service("web2", "s2"))
        with pytest.raises(AlreadyExists):
            await proposer.propose(_service("web", "s3"))
    assert [line["event"] for line in logs] == ["replica-behind"]
    assert [s.spec.name for s in lagging.leader.replica.view.services()] == ["web", "web2"]
    assert "behind" in proposer.behind()
    for _ in range(3):
        await lagging.follow()
    assert proposer.behind() == ""
    nursery.cancel_scope.cancel()


async def test_barrier_of_a_replica_that_does_not_follow_says_so(
    autojump_clock: object, nursery: trio.Nursery
) -> None:
    """There is a leader: that there is none would send the operator the wrong way."""
    lagging = Lagging(nursery)
    await lagging.start()
    await lagging.leader.proposer.propose(_service("web"))
    start = trio.current_time()
    with pytest.raises(ReplicaBehind):
        await lagging.rig.proposer.barrier(within=0.5)
    assert trio.current_time() - start < 0.6
    await lagging.follow()
    await lagging.rig.proposer.barrier()
    nursery.cancel_scope.cancel()


async def test_leader_that_is_known_and_silent_is_not_missing(
    autojump_clock: object, nursery: trio.Nursery
) -> None:
    """What became of the write is not known, and neither of them says more than that."""
    lagging = Lagging(nursery, silent=True)
    await lagging.start()
    with pytest.raises(OutcomeUnknown, match="not known"):
        await lagging.rig.proposer.propose(_service("web"))
    with pytest.raises(LeaderSilent):
        await lagging.rig.proposer.barrier()
    nursery.cancel_scope.cancel()


async def test_leader_that_is_slow_is_waited_for_longer_than_one_that_is_missing(
    autojump_clock: object, nursery: trio.Nursery
) -> None:
    lagging = Lagging(nursery, slow=NO_QUORUM_AFTER + 1)
    await lagging.start()
    nursery.start_soon(lagging.follow_always)
    await lagging.rig.proposer.propose(_service("web"))
    await lagging.rig.proposer.barrier()
    assert [s.spec.name for s in lagging.leader.replica.view.services()] == ["web"]
    nursery.cancel_scope.cancel()


async def test_leader_that_is_lost_while_it_is_waited_for_is_missing(
    autojump_clock: object, nursery: trio.Nursery
) -> None:
    lagging = Lagging(nursery, silent=True)
    await lagging.start()

    async def lose() -> None:
        await trio.sleep(NO_QUORUM_AFTER + 1)
        lagging.rig.consensus.lose_leadership()

    nursery.start_soon(lose)
    with pytest.raises(NoQuorum):
        await lagging.rig.proposer.barrier()
    nursery.cancel_scope.cancel()


async def test_leader_that_reaches_no_quorum_says_so(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It leads for a moment longer: a silent leader would be the wrong word."""
    rig = Rig()

    async def frozen(*_: object, **__: object) -> None:
        await trio.sleep_forever()

    members = [MemberStatus(id=f"m{i}", voter=True, reachable=i == 1, lag=0) for i in (1, 2, 3)]
    monkeypatch.setattr(rig.consensus, "propose", frozen)
    monkeypatch.setattr(rig.consensus, "members", lambda: members)
    with pytest.raises(NoQuorum, match="1 of 2"):
        await rig.proposer.propose(_service("web"))


async def _serve(stream: trio.abc.Stream, handle: Callable[[Request], Awaitable[Answer]]) -> None:
    try:
        await serve_calls(stream, handle, peer="follower")
    except* ConnectionLost:
        pass


def test_large_decisions_are_cut_into_proposals_of_bounded_size() -> None:
    """No proposal holds more items than fit in a Raft entry, and none is lost or reordered."""
    ids = tuple(str(i) for i in range(MAX_ITEMS * 2 + 5))
    commands = (DeleteService(id="a"), DeleteTasks(ids=ids), DeleteNode(id="n", expect=1))
    cut = list(batches(commands))
    sizes = [sum(len(c.ids) if isinstance(c, DeleteTasks) else 1 for c in b) for b in cut]
    assert max(sizes) <= MAX_ITEMS
    flat = [i for b in cut for c in b if isinstance(c, DeleteTasks) for i in c.ids]
    assert tuple(flat) == ids
    assert isinstance(cut[0][0], DeleteService)
    assert isinstance(cut[-1][-1], DeleteNode)


async def test_loop_decides_again_when_its_proposal_is_refused(
    autojump_clock: object, nursery: trio.Nursery
) -> None:
    """A decision made on a state that moved on is made again, on the new one, until it holds."""
    rig = Rig()
    seen: list[set[str]] = []

    def decide(view: View, dirty: set[str], at: Instant) -> Decision:
        del at
        seen.append(set(dirty))
        if "s1" not in dirty or view.service("s1") is not None:
            return Decision()
        expect = 0 if len(seen) > 3 else 99
        command = _service("web")
        return Decision((PutService(service=command.service, expect=expect),))

    rule = Rule("test", lambda _view, change: change.services | {"s1"}, decide)
    loop = Loop(rule, replica=rig.replica, proposer=rig.proposer, now=now)
    nursery.start_soon(loop.run)
    await trio.sleep(1)  # of the mock clock
    assert rig.replica.view.service("s1") is not None
    assert len(seen) >= 4
    assert all("s1" in dirty for dirty in seen)
    nursery.cancel_scope.cancel()


async def test_loop_sees_every_change_that_came_while_it_was_busy(
    autojump_clock: object, nursery: trio.Nursery
) -> None:
    """Dirty identifiers gather while a loop proposes; none is forgotten."""
    rig = Rig()
    seen: set[str] = set()

    def decide(_view: View, dirty: set[str], at: Instant) -> Decision:
        del at
        seen.update(dirty)
        return Decision()

    def dirty(_view: View, change: Change) -> set[str]:
        return set(change.services)

    loop = Loop(Rule("test", dirty, decide), replica=rig.replica, proposer=rig.proposer, now=now)
    nursery.start_soon(loop.run)
    for number in range(20):
        await rig.proposer.propose(_service(f"web{number}", f"s{number}"))
    await trio.testing.wait_all_tasks_blocked()
    assert seen == {f"s{number}" for number in range(20)}
    nursery.cancel_scope.cancel()
