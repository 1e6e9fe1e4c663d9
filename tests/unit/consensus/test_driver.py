"""The trio driver, in virtual time."""

import errno
import os
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from unittest import mock

import pytest
import trio
import trio.testing
from swarmlet.consensus import syncobj_core
from swarmlet.consensus.driver import SyncObjConsensus
from swarmlet.consensus.entries import FORMAT, REGULAR, TooNew
from swarmlet.consensus.messages import FrameReader, Ping, Pong, encode_frame
from swarmlet.consensus.peers import SILENCE
from swarmlet.consensus.port import Consensus, NotLeader, OutcomeUnknown, ProposalId
from swarmlet.consensus.settings import LAN, RaftSettings
from swarmlet.errors import (
    JOIN_ANEW,
    Damaged,
    DiskFailed,
    FailedPrecondition,
    InvalidInput,
    SwarmletError,
)
from trio.testing import MockClock

from tests.unit.consensus.cluster import Cluster, running
from tests.waiting import eventually


@pytest.fixture
async def three(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with running(tmp_path, "a", "b", "c") as cluster:
        yield cluster


async def follower(cluster: Cluster) -> tuple[str, SyncObjConsensus]:
    leader = await cluster.leader()
    return next((n, m) for n, m in cluster.members.items() if m is not leader)


async def test_it_is_a_consensus(three: Cluster, autojump_clock: MockClock) -> None:
    """The driver has the port's shape."""
    member: Consensus = await three.leader()
    assert member.leadership.is_leader


async def test_a_proposal_is_applied_by_everybody(
    three: Cluster, autojump_clock: MockClock
) -> None:
    """The answer is the state machine's, the index that of the entry."""
    leader = await three.leader()
    applied = await leader.propose(b"one")
    assert applied.value == b"1"
    for member in three.members.values():
        await member.wait_applied(applied.index)
    assert [journal.items for journal in three.journals.values()] == [[b"one"]] * 3


async def test_many_proposals_share_syncs(three: Cluster, autojump_clock: MockClock) -> None:
    """Everything proposed during one sync is in the next."""
    leader = await three.leader()
    before = leader.statistics().syncs
    async with trio.open_nursery() as nursery:
        for _ in range(500):
            nursery.start_soon(leader.propose, b"x")
    assert leader.statistics().syncs - before < 20
    assert len(three.journals["a"].items) == 500 or leader is not three.members["a"]


async def test_a_follower_names_the_leader(three: Cluster, autojump_clock: MockClock) -> None:
    """And the proposal will never be applied."""
    _, member = await follower(three)
    with pytest.raises(NotLeader) as caught:
        await member.propose(b"no")
    assert three.members[caught.value.leader or ""].leadership.is_leader


async def test_the_same_identity_is_applied_once(three: Cluster, autojump_clock: MockClock) -> None:
    """Repeated on the same or another leader, it gets its first answer."""
    ident = ProposalId("client", 1, 1)
    leader = await three.leader()
    first = await leader.propose(b"once", ident=ident)
    assert (await leader.propose(b"once", ident=ident)).value == first.value
    name, _ = await follower(three)
    await leader.transfer_leadership(name)
    successor = await three.leader()
    assert (await successor.propose(b"once", ident=ident)).value == first.value
    assert three.journals[name].items == [b"once"]


async def test_a_poisonous_command_is_answered(three: Cluster, autojump_clock: MockClock) -> None:
    """An exception in apply fails its proposal only."""
    leader = await three.leader()
    with pytest.raises(SwarmletError, match="ValueError"):
        await leader.propose(b"poison")
    assert (await leader.propose(b"next")).value == b"1"


async def test_a_command_that_cannot_be_read_stops_the_member(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Skipped, it would leave a replica that differs from those of newer members for good."""
    told: list[SwarmletError] = []
    with pytest.RaisesGroup(Damaged):
        async with running(tmp_path, "a") as cluster:
            leader = await cluster.leader()
            try:
                await leader.propose(b"newer")
            except SwarmletError as exc:
                told.append(exc)
    assert [type(exc) for exc in told] == [Damaged]
    assert not leader.leadership.is_leader
    with pytest.RaisesGroup(Damaged):  # nor does a restart skip it
        async with running(tmp_path, "a"):
            await trio.sleep(60)


async def test_only_the_member_that_cannot_read_stops(
    three: Cluster, autojump_clock: MockClock
) -> None:
    """As in a rolling upgrade: those of the new version go on."""
    leader = await three.leader()
    name, _ = await follower(three)
    await three.stop(name)
    for journal in three.journals.values():
        journal.reads_newer = True
    newer = await leader.propose(b"newer")
    old = three.make(name, None)
    with pytest.raises(Damaged), trio.fail_after(60):
        await old.run()
    assert old.applied < newer.index
    assert three.journals[name].items == []
    assert (await leader.propose(b"next")).value == b"2"


async def test_a_member_on_an_older_copy_of_its_files_stops(
    three: Cluster, autojump_clock: MockClock
) -> None:
    """It says why and what to do, its leader knows, and the others go on."""
    leader = await three.leader()
    name, _ = await follower(three)
    await leader.propose(b"old")
    await three.stop(name)
    shutil.copytree(three.directory / name, three.directory / "copy")
    member = await three.start(name, None)
    await member.wait_applied((await leader.propose(b"second")).index)
    await eventually(lambda: not leader._core.lag(name), what="all is acknowledged")
    await three.stop(name)
    shutil.rmtree(three.directory / name)
    (three.directory / "copy").rename(three.directory / name)
    older = three.make(name, None)
    with pytest.raises(Damaged, match="acknowledged") as caught, trio.fail_after(60):
        await older.run()
    assert caught.value.advice == JOIN_ANEW
    assert leader.regressed_members() == [name]
    assert b"second" not in three.journals[name].items
    assert (await leader.propose(b"next")).value == b"3"


async def test_an_entry_of_a_later_format_stops_the_member(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """The same for what is around the commands."""
    with pytest.RaisesGroup(TooNew):
        async with running(tmp_path, "a") as cluster:
            leader = await cluster.leader()
            newer = bytes((REGULAR, FORMAT + 1))
            with (
                mock.patch.object(syncobj_core, "encode_proposals", return_value=newer),
                pytest.raises(TooNew),
            ):
                await leader.propose(b"x")


async def test_a_large_command_is_refused(three: Cluster, autojump_clock: MockClock) -> None:
    """Before it reaches the log."""
    leader = await three.leader()
    with pytest.raises(InvalidInput):
        await leader.propose(bytes((1 << 20) + 1))


async def test_a_lost_leader_is_replaced(three: Cluster, autojump_clock: MockClock) -> None:
    """Another one commits; the old one's callers learn that they do not know."""
    old = await three.leader()
    await old.propose(b"before")
    name = next(n for n, m in three.members.items() if m is old)
    await three.isolate(name)
    with pytest.raises(OutcomeUnknown):
        await old.propose(b"lost?")
    with pytest.raises(NotLeader):
        await old.read_index()
    new = await three.leader()
    assert new is not old
    await new.propose(b"after")


async def test_a_read_waits_for_what_was_committed(
    three: Cluster, autojump_clock: MockClock
) -> None:
    """A replica that applied the read index has seen every earlier write."""
    leader = await three.leader()
    await leader.propose(b"seen")
    name, member = await follower(three)
    await member.wait_applied(await leader.read_index())
    assert three.journals[name].items == [b"seen"]


async def test_a_learner_becomes_a_voter(three: Cluster, autojump_clock: MockClock) -> None:
    """It catches up first, over the stream the leader dialled."""
    leader = await three.leader()
    for number in range(30):
        await leader.propose(b"%d" % number)
    joiner = await three.start("d", None)
    await leader.add_member("d")
    assert {m.id: m.voter for m in leader.members()} == dict.fromkeys("abcd", True)
    await joiner.wait_applied(leader.applied)
    assert len(three.journals["d"].items) == 30


async def test_a_joiner_gets_a_snapshot_of_what_is_gone(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A log that was compacted is replaced by the state it led to."""
    settings = RaftSettings(snapshot_entries=20, retain_entries=1)
    async with running(tmp_path, "a", settings=settings) as cluster:
        leader = await cluster.leader()
        for number in range(100):
            await leader.propose(b"%d" % number)
        assert leader.statistics().log_entries < 60
        joiner = await cluster.start("b", None)
        await leader.add_member("b")
        await joiner.wait_applied(leader.applied)
        assert cluster.journals["b"].items == cluster.journals["a"].items
        assert joiner.statistics().snapshot_index > 1


async def test_a_removed_member_is_told(three: Cluster, autojump_clock: MockClock) -> None:
    """It stops instead of campaigning for ever."""
    leader = await three.leader()
    name, member = await follower(three)
    await leader.remove_member(name)
    with trio.fail_after(10):
        await eventually(lambda: member._core.removed)
    term = leader.leadership.term
    await trio.sleep(10)
    assert leader.leadership.term == term


async def test_a_member_that_was_let_in_again_takes_over(
    three: Cluster, autojump_clock: MockClock
) -> None:
    """The log that it learns tells of its removal too: that was another life, with another disk."""
    leader = await three.leader()
    await three.start("d", None)
    await leader.add_member("d")
    await leader.remove_member("d")
    await three.stop("d")
    shutil.rmtree(three.directory / "d")
    member = await three.start("d", None)
    await leader.add_member("d")
    await leader.transfer_leadership("d")
    assert (await three.leader()) is member


async def test_a_leader_that_removes_itself_hands_over(
    three: Cluster, autojump_clock: MockClock
) -> None:
    """The caller is sent to the successor, who does it."""
    leader = await three.leader()
    name = next(n for n, m in three.members.items() if m is leader)
    with pytest.raises(NotLeader) as caught:
        await leader.remove_member(name)
    assert caught.value.leader not in {None, name}
    successor = await three.leader()
    await successor.remove_member(name)
    with trio.fail_after(10):
        await eventually(lambda: leader._core.removed)


async def test_the_last_member_stays(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A cluster without members could never change again."""
    async with running(tmp_path, "a") as cluster:
        leader = await cluster.leader()
        with pytest.raises(FailedPrecondition):
            await leader.remove_member("a")


async def test_a_lone_member_leads_at_once(tmp_path: Path, autojump_clock: MockClock) -> None:
    """There is nobody to wait for, neither at first nor after a restart."""
    async with running(tmp_path, "a") as cluster:
        await (await cluster.leader()).propose(b"kept")
        assert trio.current_time() < 0.05
        await cluster.stop("a")
        began = trio.current_time()
        await cluster.start("a", ["a"])
        await cluster.leader()
        assert trio.current_time() - began < 0.05
        assert cluster.journals["a"].items == [b"kept"]


async def test_a_restarted_cluster_has_everything(
    three: Cluster, autojump_clock: MockClock
) -> None:
    """All members lose power at once."""
    leader = await three.leader()
    for number in range(10):
        await leader.propose(b"%d" % number)
    for name in "abc":
        await three.stop(name)
    for name in "abc":
        await three.start(name, None)
    leader = await three.leader()
    await leader.propose(b"more")
    name = next(n for n, m in three.members.items() if m is leader)
    assert len(three.journals[name].items) == 11


async def test_a_member_that_starts_alone_knows_what_was_committed(
    three: Cluster, autojump_clock: MockClock
) -> None:
    """All but the last writes, which it cannot know to be committed: enough for reads."""
    leader = await three.leader()
    for number in range(10):
        await leader.propose(b"%d" % number)
    for name in "abc":
        await three.stop(name)
    await three.start("a", None)
    await trio.sleep(60)
    assert three.journals["a"].items[:9] == [b"%d" % number for number in range(9)]
    await three.start("b", None)
    await (await three.leader()).propose(b"more")
    assert [b"%d" % number for number in range(10)] == three.journals["a"].items[:10]


async def test_hostile_bytes_close_the_stream_only(
    three: Cluster, autojump_clock: MockClock
) -> None:
    """A peer that talks nonsense is hung up on; the member goes on."""
    leader = await three.leader()
    near, far = trio.testing.memory_stream_pair()
    three.nursery.start_soon(leader.serve_peer, "b", far)
    await near.send_all(b"GET / HTTP/1.1\r\n\r\n")
    with trio.fail_after(5):
        while await near.receive_some():
            pass
    assert (await leader.propose(b"fine")).value == b"1"


async def test_a_newer_stream_of_a_peer_replaces_the_older(
    three: Cluster, autojump_clock: MockClock
) -> None:
    """Bytes of a connection that its peer has given up are not waited for."""
    leader = await three.leader()
    older, far = trio.testing.memory_stream_pair()
    three.nursery.start_soon(leader.serve_peer, "stranger", far)
    await trio.testing.wait_all_tasks_blocked()
    newer, far = trio.testing.memory_stream_pair()
    three.nursery.start_soon(leader.serve_peer, "stranger", far)
    with trio.fail_after(1):
        assert await older.receive_some() == b""
    await newer.send_all(encode_frame(Ping()))
    (answer,) = FrameReader().feed(bytes(await newer.receive_some()))
    assert answer == Pong()


async def test_a_silent_stream_is_given_up(three: Cluster, autojump_clock: MockClock) -> None:
    """TCP alone would keep it for many minutes."""
    leader = await three.leader()
    near, far = trio.testing.memory_stream_pair()
    three.nursery.start_soon(leader.serve_peer, "stranger", far)
    with trio.fail_after(SILENCE + 1):
        assert await near.receive_some() == b""


async def test_a_failed_disk_stops_the_member(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Nothing is acknowledged, and the caller learns why."""
    told: list[SwarmletError] = []

    async def propose(member: SyncObjConsensus) -> None:
        try:
            await member.propose(b"x")
        except SwarmletError as exc:
            told.append(exc)

    with pytest.RaisesGroup(DiskFailed):
        async with running(tmp_path, "a") as cluster:
            leader = await cluster.leader()
            full = OSError(errno.ENOSPC, "No space left on device")
            with mock.patch.object(os, "fdatasync", side_effect=full):
                await propose(leader)
    assert [type(exc) for exc in told] == [DiskFailed]
    assert not leader.leadership.is_leader


async def test_a_slow_sync_does_not_cost_the_leadership(
    three: Cluster, autojump_clock: MockClock
) -> None:
    """The leader goes on beating beside it, in the first such sync and in those after a pause."""
    leader = await three.leader()
    before = leader.leadership

    async def slow(call: Callable[[], object]) -> object:
        await trio.sleep(3 * LAN.election_max)
        return call()

    with mock.patch.object(leader, "_run_blocking", slow):
        for _ in range(3):
            await leader.propose(b"x")
            await trio.sleep(1)
    assert leader.leadership == before


async def test_leadership_can_be_watched(three: Cluster, autojump_clock: MockClock) -> None:
    """The present one first, then each change."""
    leader = await three.leader()
    name, member = await follower(three)
    views = member.watch_leadership()
    assert (await anext(views)).leader is not None
    await leader.transfer_leadership(name)
    async for view in views:
        if view.is_leader:
            break
    await views.aclose()


def test_settings_are_checked() -> None:
    """Each problem is named."""
    assert LAN.problems() == []
    bad = RaftSettings(election_min=2.0, heartbeat=1.0, leader_timeout=9.0, max_batch=0)
    assert len(bad.problems()) == 4
