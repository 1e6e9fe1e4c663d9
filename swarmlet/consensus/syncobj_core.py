"""The cured core: a filter around PySyncObj, and what it lacks. Sans-IO.

A driver calls ``deliver(...)*``, then ``round(now)``; it sends ``now``, runs ``jobs`` (blocking
disk work, in order, in a thread), sends ``later``, and only then starts the next round. A leader's
entries are among ``now``: replication runs beside its own sync. Everything else waits for the disk,
and no entry counts as this member's own vote for committing before the round after its sync.

docs/adr/0001-raft-on-pysyncobj.md says why it is built so; each cure has a test in
tests/sim/test_holes.py that fails against the stock library.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, NamedTuple

import msgspec

from swarmlet.clock import Rng
from swarmlet.consensus.disk import Disk
from swarmlet.consensus.entries import (
    MEMBERSHIP,
    REGULAR,
    Entry,
    Proposal,
    check_readable,
    decode_members,
    decode_proposals,
    encode_members,
    encode_proposals,
)
from swarmlet.consensus.messages import (
    Ack,
    Alive,
    Append,
    ChunkAck,
    Heartbeat,
    Message,
    PreVote,
    PreVoteReply,
    Removed,
    SnapshotChunk,
    Stale,
    TimeoutNow,
    VoteGranted,
    VoteRequest,
)
from swarmlet.consensus.port import StateMachine
from swarmlet.consensus.sessions import Answer, Sessions, attempt
from swarmlet.consensus.settings import RaftSettings
from swarmlet.consensus.snapshot import (
    Snapshot,
    SnapshotStore,
    Taken,
    decode_snapshot,
    encode_snapshot,
    take,
)
from swarmlet.consensus.syncobj_members import Outgoing
from swarmlet.consensus.syncobj_replicator import Replicator
from swarmlet.consensus.syncobj_seam import LEADER, Peer
from swarmlet.consensus.wal import Configuration, Mark, Wal
from swarmlet.errors import JOIN_ANEW, Damaged

#: Proposals applied in one round; then the loop gets its turn: a follower may have
#: 100,000 to catch up.
APPLY_AT_ONCE: Final = 500

#: Segments after which a snapshot is taken early: each restart begins one.
MANY_SEGMENTS: Final = 16


class Placed(msgspec.Struct, frozen=True):
    """Where a submitted entry went; ``index`` is None if this member may not append it (now)."""

    ticket: int
    index: int | None


class Answered(msgspec.Struct, frozen=True):
    """Answers to the proposals of an entry that this member appended as a leader."""

    index: int
    answers: list[Answer]


class Round(NamedTuple):
    """What is to be done, in this order; see the module's docstring."""

    now: list[Outgoing]
    jobs: list[Callable[[], None]]
    later: list[Outgoing]
    placed: list[Placed]
    answered: list[Answered]
    background: Callable[[], Taken] | None


class _Submitted(NamedTuple):
    ticket: int
    command: bytes
    members: tuple[str, ...] | None


class RaftCore(Replicator):
    """One member's Raft state."""

    def __init__(  # noqa: PLR0913 -- a core has that many parts; all but the first are by keyword
        self,
        me: str,
        *,
        bootstrap: Sequence[str] | None,
        disk: Disk,
        key: bytes,
        machine: StateMachine,
        settings: RaftSettings,
        rng: Rng,
        now: float,
    ) -> None:
        self.me = me
        self._me = Peer(me)
        self._machine = machine
        self._sessions = Sessions()
        self._store = SnapshotStore(disk, key)
        wal = Wal(disk, key)
        snapshot = self._load_or_begin(wal, bootstrap)
        wal.anchor(snapshot.mark)
        self._prepare(now)
        super().__init__(me, wal=wal, settings=settings, rng=rng, now=now)
        self._restore(snapshot)
        self.commit = max(self.commit, min(wal.committed, wal.last))
        self._reconfigure()
        if self.configuration.members == (me,):
            self.deadline = now - 1.0  # alone: nobody to wait for

    def _prepare(self, now: float) -> None:
        super()._prepare(now)
        self._answered: list[Answered] = []
        self._submitted: list[_Submitted] = []
        self._tickets = 0
        self._installing: tuple[Mark, bytes] | None = None
        self._taking = False
        self._kept_bytes = 0

    def _load_or_begin(self, wal: Wal, bootstrap: Sequence[str] | None) -> Snapshot:
        snapshot = self._store.load()
        if snapshot is not None:
            if wal.empty_disk and snapshot.mark.index > 1:
                raise Damaged("the log is gone, a snapshot is there", advice=JOIN_ANEW)
            return snapshot
        if not wal.empty_disk:
            raise Damaged("the snapshot is gone, a log is there", advice=JOIN_ANEW)
        members = tuple(sorted(bootstrap or ()))
        state = self._machine.snapshot()()
        first = Snapshot(Mark(1, 0), Configuration(1 if members else 0, members), [], state)
        blob = encode_snapshot(first)
        self._store.adopt(first, blob)
        self._store.save(first.mark, blob)
        return first

    # -- what is known

    @property
    def snapshot_index(self) -> int:
        """Where the newest snapshot ends."""
        return self._store.mark.index

    @property
    def next_deadline(self) -> float:
        """When the next round is due if nothing happens."""
        return self.heartbeat_due if self.role == LEADER else self.deadline

    # -- what the driver says

    def propose(self, proposals: list[Proposal]) -> int:
        """Submit one entry; the next round says where it went."""
        return self._submit(encode_proposals(proposals), None)

    def change_members(self, members: set[str]) -> int:
        """Submit a configuration that differs by one member."""
        return self._submit(encode_members(sorted(members)), tuple(sorted(members)))

    def _submit(self, command: bytes, members: tuple[str, ...] | None) -> int:
        self._tickets += 1
        self._submitted.append(_Submitted(self._tickets, command, members))
        return self._tickets

    def deliver(self, source: str, message: Message, now: float) -> None:
        """Take one message of an authenticated peer."""
        self.set_time(now)
        _HANDLERS[type(message)](self, Peer(source), message)
        self._reconfigure()

    # -- one round

    def round(self, now: float) -> Round:
        """Do what is due and return what must follow."""
        self.set_time(now)
        led, last, commit = self.role == LEADER, self.wal.last, self.commit
        self._campaign_if_due()
        self.tick_library()
        self._may_campaign = self._may_campaign and self.deadline < now
        placed = self._place()
        self._reconfigure()
        if self.role == LEADER:
            self._hand_over()
            if self._resend or self.wal.last != last or self.commit != commit:
                self._replicate(beat=self.commit != commit)
        self._resend = False
        return self._finish(placed, parallel=led and self.role == LEADER)

    def _finish(self, placed: list[Placed], *, parallel: bool) -> Round:
        out, self._out = self._out, []
        answered, self._answered = self._answered, []
        jobs = self._jobs()
        now, later = (out, []) if not jobs else ([], out)
        if jobs and parallel:
            now = [o for o in out if isinstance(o[1], Append)]
            later = [o for o in out if not isinstance(o[1], Append)]
        return Round(now, jobs, later, placed, answered, self._background())

    def _jobs(self) -> list[Callable[[], None]]:
        jobs: list[Callable[[], None]] = []
        if self._installing is not None:  # before the log that relies on it
            jobs.append(partial(self._store.save, *self._installing))
            self._installing = None
        self.wal.committed = max(self.wal.committed, self.commit)
        job = self.wal.job()
        return [*jobs, job] if job is not None else jobs

    def _place(self) -> list[Placed]:
        """Append what was submitted, after the commit rule: it must not count before its sync."""
        if self._successor is not None and self.role == LEADER:
            return []
        submitted, self._submitted = self._submitted, []
        placed = []
        for ticket, command, members in submitted:
            index = None
            if self.role == LEADER and (members is None or self._may_become(members)):
                index = self.wal.last + 1
                self.wal.add(command, index, self.term)
            placed.append(Placed(ticket, index))
        return placed

    # -- the state machine: total, deterministic, exactly once

    def apply_committed(self) -> None:
        """Apply some of what is committed."""
        budget = APPLY_AT_ONCE
        while self.applied_index < self.commit and budget > 0:
            entry = self.wal.at(self.applied_index + 1)
            budget -= self.apply_entry(entry)
            self.applied_index = entry[1]

    def apply_entry(self, entry: Entry) -> int:
        """Apply one committed entry; return how much work it was."""
        command, index, term = entry
        check_readable(command)
        if command[0] == MEMBERSHIP:
            self._note_removal(index, decode_members(command) or ())
        answers: list[Answer] = []
        if command[0] == REGULAR:
            apply = partial(attempt, self._machine, index)
            answers = [self._sessions.once(p, apply) for p in decode_proposals(command)]
        if term == self._led_term:
            self._answered.append(Answered(index, answers))
        return len(answers) + 1

    def _restore(self, snapshot: Snapshot) -> None:
        self.applied_index = snapshot.mark.index
        self.commit = max(self.commit, snapshot.mark.index)
        self._machine.load(snapshot.state)
        self._sessions.load(snapshot.sessions)

    # -- snapshots

    def snapshot_taken(self, taken: Taken) -> None:
        """Note that the background work of an earlier round is done and durable."""
        self._taking = False
        if taken.snapshot.mark.index <= self._store.mark.index:
            return  # the leader's own came in between
        mark = taken.snapshot.mark
        self._store.adopt(taken.snapshot, taken.blob)
        self.wal.trim(self._keep_from(mark), durable=mark)
        self._kept_bytes = self.wal.size

    def _keep_from(self, mark: Mark) -> int:
        """Oldest entry worth keeping for followers that lag, while that costs little memory."""
        sending = [p.transfer.mark.index for p in self._progress.values() if p.transfer]
        if self.wal.size < 2 * self.settings.snapshot_bytes:
            return min([mark.index - self.settings.retain_entries, *sending])
        if self.wal.size < 8 * self.settings.snapshot_bytes:
            return min([mark.index, *sending])
        return mark.index

    def _background(self) -> Callable[[], Taken] | None:
        if self._taking or not self._snapshot_due():
            return None
        self._taking = True
        mark = Mark(self.applied_index, self.wal.at(self.applied_index)[2])
        known = [c for c in self.wal.configurations if c.index <= mark.index]
        configuration = known[-1] if known else self._store.configuration
        frozen = Snapshot(mark, configuration, self._sessions.freeze(), b"")
        return partial(take, self._store, frozen, self._machine.snapshot())

    def _snapshot_due(self) -> bool:
        entries = self.applied_index - self._store.mark.index
        last_size = len(self._store.blob or b"")
        grown = self.wal.size - self._kept_bytes
        if entries <= 0:
            return False
        return (
            (entries >= self.settings.snapshot_entries and grown * 4 >= last_size)
            or grown >= max(self.settings.snapshot_bytes, last_size)
            or self.wal.segments > MANY_SEGMENTS
        )

    def _install(self, blob: bytes) -> bool:
        """Replace the state by the leader's; False if the bytes are damaged (never stored then)."""
        try:
            snapshot = decode_snapshot(blob)
        except Damaged as exc:
            if exc.code == "too-new":
                raise
            return False
        mark = snapshot.mark
        self._store.adopt(snapshot._replace(state=b"", sessions=[]), blob)
        self._installing = (mark, blob)
        if self.wal.holds(mark):
            self.wal.trim(mark.index, durable=mark)
        else:
            self.wal.reset(mark)
        self._restore(snapshot)
        return True


_HANDLERS: Final[dict[type, Callable[..., None]]] = {
    Append: RaftCore._on_append,  # noqa: SLF001 -- the class's own table
    Ack: RaftCore._on_ack,  # noqa: SLF001
    SnapshotChunk: RaftCore._on_chunk,  # noqa: SLF001
    ChunkAck: RaftCore._on_chunk_ack,  # noqa: SLF001
    Heartbeat: RaftCore._on_heartbeat,  # noqa: SLF001
    Alive: RaftCore._on_alive,  # noqa: SLF001
    Stale: RaftCore._on_stale,  # noqa: SLF001
    PreVote: RaftCore._on_pre_vote,  # noqa: SLF001
    PreVoteReply: RaftCore._on_pre_vote_reply,  # noqa: SLF001
    VoteRequest: RaftCore._on_vote_request,  # noqa: SLF001
    VoteGranted: RaftCore._on_vote_granted,  # noqa: SLF001
    TimeoutNow: RaftCore._on_timeout_now,  # noqa: SLF001
    Removed: RaftCore._on_removed,  # noqa: SLF001
}
