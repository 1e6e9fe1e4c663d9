"""The trio side of consensus: one loop that feeds the core, syncs, sends, and answers.

The core decides; this module moves bytes and wakes tasks. Disk work runs in a worker thread, one
batch a round, so that everything proposed during one sync shares the next.
"""

from collections.abc import AsyncGenerator, Callable, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Final, NoReturn, Protocol, TypeVar

import msgspec
import trio
from trio.abc import Stream

from swarmlet.clock import Rng
from swarmlet.consensus.changes import MemberChanges
from swarmlet.consensus.disk import FileDisk
from swarmlet.consensus.entries import MAX_COMMAND_BYTES, Proposal
from swarmlet.consensus.leadership import LeadershipNews
from swarmlet.consensus.messages import Message
from swarmlet.consensus.peers import Dial, Peers
from swarmlet.consensus.port import (
    Applied,
    Leadership,
    MemberStatus,
    NotLeader,
    OutcomeUnknown,
    ProposalId,
    StateMachine,
)
from swarmlet.consensus.promises import Promises
from swarmlet.consensus.settings import LAN, RaftSettings
from swarmlet.consensus.snapshot import Taken
from swarmlet.consensus.syncobj_core import RaftCore, Round
from swarmlet.consensus.syncobj_members import Outgoing
from swarmlet.consensus.turns import Turns
from swarmlet.errors import (
    Damaged,
    DiskFailed,
    FailedPrecondition,
    InvalidInput,
    SwarmletError,
    first_error,
)

T = TypeVar("T")

#: Proposals that may wait for the loop; further callers wait their turn.
MAX_WAITING: Final = 8192

#: Messages read ahead of the loop; then the streams' own back-pressure works.
INBOX: Final = 1024

#: A disk that takes longer than this for one sync is no reason to go on leading.
SLOW_DISK_SECONDS: Final = 5.0


class RunBlocking(Protocol):
    """Runs a blocking call elsewhere. Tests with a mock clock run it inline."""

    async def __call__(self, call: Callable[[], T], /) -> T:
        """Return what ``call`` returns."""
        ...


class Statistics(msgspec.Struct, frozen=True):
    """What this member did and where it is. Counters since its start; sizes in bytes."""

    rounds: int
    syncs: int
    sync_seconds: float
    term: int
    commit: int
    applied: int
    log_entries: int
    log_bytes: int
    log_segments: int
    log_written: int
    snapshot_index: int
    waiting: int


class SyncObjConsensus:
    """A Raft member: :class:`swarmlet.consensus.port.Consensus` over PySyncObj's cured core.

    Made inside trio; blocks while it reads its files; raises Damaged if they are. ``bootstrap``
    names the first members and counts only when the directory is empty; None waits to be added.
    """

    def __init__(  # noqa: PLR0913 -- the daemon wires it once, by keyword
        self,
        member_id: str,
        *,
        bootstrap: Sequence[str] | None,
        directory: Path,
        key: bytes,
        state_machine: StateMachine,
        dial: Dial,
        rng: Rng,
        settings: RaftSettings = LAN,
        run_blocking: RunBlocking | None = None,
    ) -> None:
        if problems := settings.problems():
            raise InvalidInput("; ".join(problems))
        self.settings = settings
        self._disk = FileDisk(directory)
        self._core = RaftCore(
            member_id,
            bootstrap=bootstrap,
            disk=self._disk,
            key=key,
            machine=state_machine,
            settings=settings,
            rng=rng,
            now=trio.current_time(),
        )
        self._peers = Peers(
            dial=dial, rng=rng, received=self._receive, changed=self._stream_changed
        )
        self._run_blocking: RunBlocking = run_blocking or _in_thread(trio.CapacityLimiter(2))
        self._inbox_in, self._inbox = trio.open_memory_channel[tuple[str, Message]](INBOX)
        # A new client with each life of this member, even if the randomness were not random.
        self._client = f"{member_id}-{self._core.wal.life}-{rng.getrandbits(64):016x}"
        self._sequence = count(1)
        self._open: dict[int, None] = {}
        self._promises = Promises()
        self._turns = Turns(self._core)
        self._changes = MemberChanges(self._core, self._promises, self._turns, settings)
        self._leadership = LeadershipNews(Leadership(term=0, leader=None, is_leader=False))
        self._rounds = self._syncs = 0
        self._sync_seconds = 0.0
        self._sync_started: float | None = None
        self._syncing = trio.Event()  # of the present sync, or the next

    # -- what is known

    @property
    def leadership(self) -> Leadership:
        """What is known now. ``is_leader`` also means that all before this term is applied here."""
        return self._leadership.now

    @property
    def applied(self) -> int:
        """Index of the last entry applied here."""
        return self._core.applied_index

    def watch_leadership(self) -> AsyncGenerator[Leadership, None]:
        """Yield the present leadership, then each change."""
        return self._leadership.watch()

    def members(self) -> list[MemberStatus]:
        """Return the configuration in force, learners included."""
        core, voters = self._core, self._core.configuration.members
        return [
            MemberStatus(
                id=member,
                voter=member in voters,
                reachable=member == core.me or core.is_reachable(member),
                lag=0 if member == core.me or not core.leads else core.lag(member),
            )
            for member in [*voters, *core.learner_ids()]
        ]

    def regressed_members(self) -> list[str]:
        """Return followers that lost what they had acknowledged: they must leave and join anew.

        A disk that lies about syncs does that. Known on a leader; such a follower never catches up,
        since overwriting a promise silently is what could lose committed data.
        """
        return self._core.regressed_ids()

    def statistics(self) -> Statistics:
        """Return counters and sizes."""
        core = self._core
        return Statistics(
            rounds=self._rounds,
            syncs=self._syncs,
            sync_seconds=self._sync_seconds,
            term=core.term,
            commit=core.commit,
            applied=core.applied_index,
            log_entries=len(core.wal),
            log_bytes=core.wal.size,
            log_segments=core.wal.segments,
            log_written=core.wal.bytes_written,
            snapshot_index=core.snapshot_index,
            waiting=self._promises.waiting,
        )

    # -- proposals and reads

    async def propose(self, command: bytes, *, ident: ProposalId | None = None) -> Applied:
        """Commit ``command`` once and return the state machine's answer."""
        if len(command) > MAX_COMMAND_BYTES:
            raise InvalidInput(f"a command of {len(command)} bytes, more than {MAX_COMMAND_BYTES}")
        self._turns.require_leader()
        while self._promises.queued >= MAX_WAITING:
            await self._turns.next()
            self._turns.require_leader()
        if ident is not None:
            return await self._submit(Proposal(*ident, command))
        sequence = next(self._sequence)
        self._open[sequence] = None
        try:
            floor = next(iter(self._open))
            return await self._submit(Proposal(self._client, sequence, floor, command))
        finally:
            del self._open[sequence]

    async def _submit(self, proposal: Proposal) -> Applied:
        waiter = self._promises.queue(proposal)
        self._turns.wake()
        return await waiter.wait()

    async def read_index(self) -> int:
        """Return a commit index that a majority confirmed after this call began."""
        core, asked = self._core, trio.current_time()
        self._turns.require_leader()
        term = core.term
        while not core.may_read:
            await self._turns.next()
            self._turns.require_term(term)
        index = core.commit
        if self.settings.lease_reads and core.lease_holds(trio.current_time()):
            return index
        core.ask_quorum()
        self._turns.wake()
        while core.quorum_heard_at() < asked:
            await self._turns.next()
            self._turns.require_term(term)
        return index

    async def wait_applied(self, index: int) -> None:
        """Wait until this replica has applied ``index``."""
        while self._core.applied_index < index:
            await self._turns.next()

    # -- membership

    async def add_member(self, member: str) -> None:
        """Add a learner, let it catch up, make it a voter. Cancelled, it is no learner any more."""
        await self._changes.add(member)

    async def remove_member(self, member: str) -> None:
        """Remove a voter; a leader asked to remove itself hands over and raises NotLeader."""
        await self._changes.remove(member)

    async def transfer_leadership(self, to: str | None = None) -> None:
        """Let ``to`` (or the member that is most up to date) take over."""
        await self._changes.transfer(to)

    # -- running

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> NoReturn:
        """Take part until cancelled. Raises DiskFailed or Damaged; nothing is acknowledged then."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._beat)
                task_status.started()
                await self._loop(nursery)
        except BaseExceptionGroup as group:
            fatal = _fatal(group)
            if fatal is None:
                raise
            self._turns.stop(fatal)
            raise fatal from group
        finally:
            self._stop()
        raise AssertionError("the loop never ends by itself")

    async def serve_peer(self, peer_id: str, stream: Stream) -> None:
        """Talk to an authenticated peer on a stream it opened, until that ends."""
        await self._peers.serve(peer_id, stream)

    async def _loop(self, nursery: trio.Nursery) -> NoReturn:
        core = self._core
        while True:
            await self._turns.wait_for_work()
            self._peers.follow(core.contact_ids(), nursery)
            self._read_inbox()
            self._submit_batches()
            done = core.round(trio.current_time())
            self._rounds += 1
            self._send(done.now)
            self._settle(done)
            if done.background is not None:
                nursery.start_soon(self._take_snapshot, done.background)
            if done.jobs:
                await self._sync(done.jobs)
            self._send(done.later)
            self._tell()

    def _read_inbox(self) -> None:
        now = trio.current_time()
        for _ in range(INBOX):
            try:
                source, message = self._inbox.receive_nowait()
            except trio.WouldBlock:
                return
            self._core.deliver(source, message, now)
        self._turns.wake()

    def _submit_batches(self) -> None:
        while self._promises.queued and not self._core.transferring:
            waiters, proposals = self._promises.next_batch(limit=self.settings.max_batch)
            self._promises.submitted(self._core.propose(proposals), waiters)

    async def _sync(self, jobs: list[Callable[[], None]]) -> None:
        started = self._sync_started = trio.current_time()
        self._syncing.set()
        try:
            await self._run_blocking(partial(_run_all, jobs))
        finally:
            self._sync_started = None
        self._syncs += 1
        self._sync_seconds += trio.current_time() - started
        self._turns.wake()  # what was synced may be committed now

    async def _take_snapshot(self, work: Callable[[], Taken]) -> None:
        taken = await self._run_blocking(work)
        self._core.snapshot_taken(taken)
        self._turns.wake()

    async def _beat(self) -> None:
        """Keep the leadership while a sync is slow; a dead disk must cost it."""
        while True:
            await self._syncing.wait()  # an idle member sleeps on
            await trio.sleep(self.settings.heartbeat)
            started, now = self._sync_started, trio.current_time()
            if started is None:
                self._syncing = trio.Event()
                continue
            if self.settings.heartbeat / 2 < now - started < SLOW_DISK_SECONDS:
                self._send(self._core.heartbeats(now))

    # -- results

    def _settle(self, done: Round) -> None:
        core, promises = self._core, self._promises
        promises.answered(done.answered)
        if promises.lead_ends(leading_term=core.term if core.leads else None):
            promises.fail_committing(OutcomeUnknown("leadership was lost before the commit"))
        for placed in done.placed:
            promises.placed(placed, term=core.term, refusal=self._refusal())

    def _refusal(self) -> SwarmletError:
        if self._core.leads:
            return FailedPrecondition("another membership change is under way")
        return NotLeader(self._core.leader_id)

    def _tell(self) -> None:
        """Wake whoever waits for a round to have passed, or for leadership to change."""
        core = self._core
        self._turns.passed()
        self._leadership.tell(
            Leadership(term=core.term, leader=core.leader_id, is_leader=core.may_read)
        )

    def _stop(self) -> None:
        failure = self._turns.stop(OutcomeUnknown("this manager is stopping"))
        self._promises.fail_all(failure)
        self._leadership.tell(Leadership(term=self._core.term, leader=None, is_leader=False))
        self._disk.close()

    # -- inside

    def _send(self, messages: list[Outgoing]) -> None:
        for peer, message in messages:
            self._peers.send(peer, message)

    async def _receive(self, peer: str, message: Message) -> None:
        await self._inbox_in.send((peer, message))
        self._turns.wake()

    def _stream_changed(self, peer: str, up: bool) -> None:  # noqa: FBT001 -- a callback's only value
        self._core.set_reachable(peer, up=up)
        self._turns.wake()


def _run_all(jobs: list[Callable[[], None]]) -> None:
    for job in jobs:
        job()


def _in_thread(limiter: trio.CapacityLimiter) -> RunBlocking:
    """One slot for a round's sync, one for a snapshot beside it; none of the process's pool."""

    async def run(call: Callable[[], T], /) -> T:
        return await trio.to_thread.run_sync(call, limiter=limiter)

    return run


def _fatal(group: BaseExceptionGroup[BaseException]) -> SwarmletError | None:
    """Return the reason to stop that is somewhere in a nursery's group."""
    found = group.subgroup((DiskFailed, Damaged))
    return first_error(found) if found is not None else None
