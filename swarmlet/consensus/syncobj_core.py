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
from swarmlet.consensus.matching import fit
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
from swarmlet.consensus.replication import MESSAGE_BYTES, Progress, Transfer
from swarmlet.consensus.sessions import Answer, Sessions
from swarmlet.consensus.settings import RaftSettings
from swarmlet.consensus.snapshot import (
    Incoming,
    Snapshot,
    SnapshotStore,
    Taken,
    decode_snapshot,
    encode_snapshot,
    take,
)
from swarmlet.consensus.syncobj_seam import FOLLOWER, LEADER, Peer, Raw, SeamedSyncObj
from swarmlet.consensus.wal import Configuration, Mark, Wal
from swarmlet.errors import Damaged

#: Proposals applied in one round; then the loop gets its turn: a follower may have
#: 100,000 to catch up.
APPLY_AT_ONCE: Final = 500

#: Entries a learner may lack when it gets its vote.
CLOSE_ENOUGH: Final = 10

#: Segments after which a snapshot is taken early: each restart begins one.
MANY_SEGMENTS: Final = 16

#: The part of ``election_min`` that a lease trusts: clocks may differ by a tenth in rate.
LEASE_PART: Final = 0.9

_NEVER: Final = float("-inf")
_ALWAYS: Final = float("inf")
_ADVICE: Final = "restore it, or remove this manager and let it join again with an empty directory"

Outgoing = tuple[str, Message]


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


class RaftCore(SeamedSyncObj):
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
        self._reconfigure()
        if self.configuration.members == (me,):
            self.deadline = now - 1.0  # alone: nobody to wait for

    def _prepare(self, now: float) -> None:
        self._out: list[Outgoing] = []
        self._answered: list[Answered] = []
        self._submitted: list[_Submitted] = []
        self._tickets = 0
        self._progress: dict[Peer, Progress] = {}
        self._incoming = Incoming()
        self._installing: tuple[Mark, bytes] | None = None
        self._taking = False
        self._kept_bytes = 0
        self._resend = False
        # Send times that each peer answered, as this leader's clock read then (ReadIndex, lease).
        self._answered_at: dict[Peer, float] = {}
        self._led_term = -1
        # Booting counts as hearing the leader: a vote given before the restart may back a lease.
        self._heard = now
        self._pre_votes: set[Peer] | None = None
        self._may_campaign = False
        self._votes: set[Peer] = set()
        self._transfer_term = -1
        self._successor: Peer | None = None
        self._successor_until = 0.0
        self._successor_told = _NEVER
        self._lease_given_up = -1
        self.removed = False

    def _load_or_begin(self, wal: Wal, bootstrap: Sequence[str] | None) -> Snapshot:
        snapshot = self._store.load()
        if snapshot is not None:
            if wal.empty_disk and snapshot.mark.index > 1:
                raise Damaged("the log is gone, a snapshot is there", advice=_ADVICE)
            return snapshot
        if not wal.empty_disk:
            raise Damaged("the snapshot is gone, a log is there", advice=_ADVICE)
        members = tuple(sorted(bootstrap or ()))
        state = self._machine.snapshot()()
        first = Snapshot(Mark(1, 0), Configuration(1 if members else 0, members), [], state)
        blob = encode_snapshot(first)
        self._store.adopt(first, blob)
        self._store.save(first.mark, blob)
        return first

    # -- what is known

    @property
    def leads(self) -> bool:
        """Whether this member believes that it leads."""
        return self.role == LEADER

    @property
    def leader_id(self) -> str | None:
        """The member that leads, if one is known."""
        return None if self.leader_peer is None else str(self.leader_peer.id)

    @property
    def configuration(self) -> Configuration:
        """The newest configuration in the log, committed or not: Raft's rule."""
        newest = self.wal.configurations
        return newest[-1] if newest else self._store.configuration

    @property
    def is_voter(self) -> bool:
        """Whether this member votes."""
        return self.me in self.configuration.members

    @property
    def snapshot_index(self) -> int:
        """Where the newest snapshot ends."""
        return self._store.mark.index

    @property
    def may_read(self) -> bool:
        """Whether this leader knows everything committed before its term."""
        return (
            self.role == LEADER
            and self.no_op_index is not None
            and self.applied_index >= self.no_op_index
        )

    @property
    def next_deadline(self) -> float:
        """When the next round is due if nothing happens."""
        return self.heartbeat_due if self.role == LEADER else self.deadline

    def lag(self, member: str) -> int:
        """Entries that a follower lacks, as its leader knows."""
        return self.wal.last - self.match_index.get(Peer(member), 0)

    def has_caught_up(self, member: str) -> bool:
        """Whether a learner has so much of the log that its vote would not hold up commits."""
        return self.match_index.get(Peer(member), 0) > 0 and self.lag(member) <= CLOSE_ENOUGH

    @property
    def may_change(self) -> bool:
        """Whether a membership change may begin: the last one and this term's no-op committed."""
        return (
            self.role == LEADER
            and self.no_op_index is not None
            and self.commit >= self.no_op_index
            and self.configuration.index <= self.commit
        )

    def learner_ids(self) -> list[str]:
        """Members that receive the log and do not vote."""
        return sorted(str(peer.id) for peer in self.learners)

    def regressed_ids(self) -> list[str]:
        """Followers that insist on lacking entries they acknowledged."""
        return sorted(str(peer.id) for peer, p in self._progress.items() if p.has_regressed)

    def contact_ids(self) -> set[str]:
        """Everybody this member may have to send to."""
        ids = {*self.configuration.members, *self.learner_ids()}
        return (ids | ({self.leader_id} if self.leader_id else set())) - {self.me}

    def is_reachable(self, member: str) -> bool:
        """Whether a stream to that member is up."""
        return Peer(member) in self.reachable

    # -- what the driver says

    def set_reachable(self, member: str, *, up: bool) -> None:
        """A stream came up, or the last one went down: what was on the old one is lost."""
        peer = Peer(member)
        (self.reachable.add if up else self.reachable.discard)(peer)
        if peer in self._progress:
            self._progress[peer].lost()

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

    def add_learner(self, member: str) -> None:
        """Start replicating to a member that has no vote yet."""
        peer = Peer(member)
        if peer not in self.voters and peer not in self.learners and peer != self._me:
            self.learners.add(peer)
            self._track(peer)

    def drop_learner(self, member: str) -> None:
        """Stop replicating to it."""
        self.learners.discard(Peer(member))
        self._forget(Peer(member))

    def start_transfer(self, member: str, *, until: float) -> None:
        """Append nothing more until ``member`` has it all and took over, or until that time."""
        self._successor, self._successor_until = Peer(member), until
        self._successor_told = _NEVER
        self._resend = True

    @property
    def transferring(self) -> bool:
        """Whether a hand-over is under way."""
        return self._successor is not None

    def ask_quorum(self) -> None:
        """Send at once, so that answers renew :meth:`quorum_heard_at`."""
        self.heartbeat_due = _NEVER

    def quorum_heard_at(self) -> float:
        """Newest time such that a majority answered something sent then or later."""
        answered = sorted(
            [_ALWAYS, *(self._answered_at.get(peer, _NEVER) for peer in self.voters)], reverse=True
        )
        return answered[len(answered) // 2]

    def lease_holds(self, now: float) -> bool:
        """Whether nobody else can have been elected yet, if clocks run at about one rate."""
        self.set_time(now)
        return (
            self.may_read
            and self._lease_given_up != self.term
            and self.quorum_heard_at() + self.settings.election_min * LEASE_PART > now
        )

    def heartbeats(self, now: float) -> list[Outgoing]:
        """Return what to send while the disk is slow: alive, nothing else."""
        self.set_time(now)
        if self.role != LEADER:
            return []
        beat = Heartbeat(self.term, now)
        return [(str(peer.id), beat) for peer in self.voters | self.learners]

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

    def _hand_over(self) -> None:
        """Tell the successor to campaign once it has everything."""
        successor = self._successor
        if successor is None:
            return
        if self.now > self._successor_until or successor not in self.voters:
            self._successor = None
            self._resend = True  # what was held back goes out
        elif (
            self.match_index[successor] == self.wal.last
            and self.now - self._successor_told > self.settings.heartbeat
        ):
            self._successor_told = self.now
            self._lease_given_up = self.term
            self._emit(successor, TimeoutNow(self.term))

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
            apply = partial(self._apply_one, index)
            answers = [self._sessions.once(p, apply) for p in decode_proposals(command)]
        if term == self._led_term:
            self._answered.append(Answered(index, answers))
        return len(answers) + 1

    def _apply_one(self, index: int, command: bytes) -> Answer:
        """Turn an exception, which is a bug, into an answer that is the same on every member."""
        try:
            return Answer(ok=True, value=self._machine.apply(index, command))
        except Exception as exc:  # noqa: BLE001 -- re-raised, it would be applied again for ever
            return Answer(ok=False, value=type(exc).__name__.encode())

    def _restore(self, snapshot: Snapshot) -> None:
        self.applied_index = snapshot.mark.index
        self.commit = max(self.commit, snapshot.mark.index)
        self._machine.load(snapshot.state)
        self._sessions.load(snapshot.sessions)

    # -- snapshots

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

    # -- membership

    def _may_become(self, members: tuple[str, ...]) -> bool:
        """One change of one member at a time, by a leader that has committed in its own term."""
        difference = set(members) ^ set(self.configuration.members)
        return len(difference) == 1 and self.me in members and self.may_change

    def _reconfigure(self) -> None:
        """Make the library's sets follow the newest configuration in the log."""
        if self.role != LEADER:
            self.learners.clear()
            self._successor = None
        elif self._led_term != self.term:
            self._led_term, self._answered_at = self.term, {}
            for progress in self._progress.values():
                progress.lost()
        wanted = {Peer(member) for member in self.configuration.members if member != self.me}
        if wanted == self.voters:
            return
        for peer in wanted - self.voters:
            self.learners.discard(peer)
            self._track(peer)
        for peer in self.voters - wanted:
            self._forget(peer)
        self.voters = wanted

    def _track(self, peer: Peer) -> None:
        self.next_index.setdefault(peer, self.wal.last + 1)
        self.match_index.setdefault(peer, 0)
        self.last_answer[peer] = self.now

    def _forget(self, peer: Peer) -> None:
        for table in (self.next_index, self.match_index, self.last_answer, self._answered_at):
            table.pop(peer, None)
        self._progress.pop(peer, None)

    def _member_since(self) -> int | None:
        """Index of the newest known configuration that has this member in it."""
        known = [self._store.configuration, *self.wal.configurations]
        return max((c.index for c in known if self.me in c.members), default=None)

    def _note_removal(self, index: int, members: tuple[str, ...]) -> None:
        since = self._member_since()
        if self.me not in members and since is not None and since < index:
            self.removed = True

    # -- elections

    def _campaign_if_due(self) -> None:
        if self.role == LEADER:
            if self.deadline < self.now:
                self.deadline = self.now + self.election_timeout()
            return
        if self.deadline >= self.now:
            return
        if self.removed:
            self.deadline = _ALWAYS
        elif not self.is_voter:
            self.deadline = self.now + self.settings.election_max
            if self._member_since() is not None:
                self._ask_pre_votes()  # not to win: members answer that this one was removed
        elif not self._may_campaign:
            self.deadline = self.now + self.election_timeout()
            self.leader_peer = None
            self._pre_votes = {self._me}
            self._ask_pre_votes()
            self._count_pre_votes()

    def _ask_pre_votes(self) -> None:
        question = PreVote(self.term + 1, self.wal.last, self.wal.last_term)
        for peer in sorted(self.voters, key=_by_id):
            self._emit(peer, question)

    def _count_pre_votes(self) -> None:
        if self._pre_votes is not None and len(self._pre_votes) * 2 > len(self.voters) + 1:
            self._pre_votes, self._may_campaign, self.deadline = None, True, _NEVER

    def _is_sticky(self) -> bool:
        """Whether the leader was heard so recently that voting for another would disturb it."""
        since = self.quorum_heard_at() if self.role == LEADER else self._heard
        return self.now - since < self.settings.election_min

    # -- messages out

    def _emit(self, peer: Peer, message: Message) -> None:
        self._out.append((str(peer.id), message))

    def emit_raw(self, peer: Peer, raw: Raw) -> None:
        """Translate the few messages that the library still makes itself."""
        if raw["type"] == "request_vote":
            self._votes = {self._me}
            transfer = self._transfer_term == self.term
            self._emit(
                peer, VoteRequest(self.term, self.wal.last, self.wal.last_term, transfer=transfer)
            )
        elif raw["type"] == "response_vote":
            self._emit(peer, VoteGranted(raw["term"]))
        # its acknowledgements carry no term and claim too much: see _on_append

    def replicate_all(self) -> None:
        """Heartbeat: everybody gets something."""
        self.heartbeat_due = self.now + self.settings.heartbeat
        for progress in self._progress.values():
            if progress.transfer is not None:
                progress.transfer.rewind_if_stuck()
        self._replicate(beat=True)

    def _replicate(self, *, beat: bool) -> None:
        for peer in sorted(self.voters | self.learners, key=_by_id):
            if peer not in self.reachable:
                continue
            progress = self._progress.setdefault(peer, Progress())
            if self.next_index[peer] <= self.wal.first:
                self._send_chunks(peer, progress, beat=beat)
            else:
                self._send_entries(peer, progress, beat=beat)

    def _send_entries(self, peer: Peer, progress: Progress, *, beat: bool) -> None:
        start = self.next_index[peer]
        while start <= self.wal.last and progress.has_room():
            entries = self.wal.batch(start, limit=MESSAGE_BYTES)
            progress.sent(entries)
            self._emit(peer, self._append_after(start - 1, entries))
            start, beat = entries[-1][1] + 1, False
        self.next_index[peer] = start
        if beat:
            self._emit(peer, self._append_after(start - 1, []))

    def _append_after(self, index: int, entries: list[Entry]) -> Append:
        return Append(self.term, self.commit, index, self.wal.at(index)[2], entries, self.now)

    def _send_chunks(self, peer: Peer, progress: Progress, *, beat: bool) -> None:
        transfer = progress.transfer
        if transfer is None:
            transfer = progress.transfer = Transfer(self._store.mark, self._store.blob or b"")
        mark, total = transfer.mark, len(transfer.blob)
        while (chunk := transfer.next_chunk()) is not None:
            self._emit(
                peer,
                SnapshotChunk(
                    self.term, mark.index, mark.term, chunk[0], total, chunk[1], self.now
                ),
            )
            beat = False
        if beat:
            self._emit(peer, Heartbeat(self.term, self.now))

    # -- messages in: filter, then hand on

    def deliver(self, source: str, message: Message, now: float) -> None:
        """Take one message of an authenticated peer."""
        self.set_time(now)
        _HANDLERS[type(message)](self, Peer(source), message)
        self._reconfigure()

    def _is_old(self, peer: Peer, term: int) -> bool:
        """Whether a leader or candidate is of an old term; it is told so."""
        if term >= self.term:
            return False
        self._emit(peer, Stale(self.term))
        return True

    def _heed(self, peer: Peer, term: int) -> None:
        """Follow a leader, without touching the log or the commit index."""
        self._heard, self._pre_votes = self.now, None
        raw = {"type": "append_entries", "term": term, "commit_index": self.commit}
        self.hand_to_library(peer, raw)

    def _on_append(self, peer: Peer, m: Append) -> None:
        if self._is_old(peer, m.term):
            return
        found = fit(self.wal, self.commit, m)
        if found.hint is not None:
            self._heed(peer, m.term)
            self._emit(peer, Ack(self.term, found.hint, matched=False, sent=m.sent))
            return
        self._heard, self._pre_votes = self.now, None
        self.hand_to_library(
            peer,
            {
                "type": "append_entries",
                "term": m.term,
                "commit_index": min(m.commit, found.matched),
                "prevLogIdx": found.prev_index,
                "prevLogTerm": found.prev_term,
                "entries": found.entries,
            },
        )
        self._emit(peer, Ack(self.term, found.matched + 1, matched=True, sent=m.sent))

    def _on_chunk(self, peer: Peer, m: SnapshotChunk) -> None:
        if self._is_old(peer, m.term):
            return
        self._heed(peer, m.term)
        if m.index > self.applied_index:
            have = self._incoming.feed(Mark(m.index, m.snapshot_term), m.offset, m.data)
            if have < m.total or not self._install(self._incoming.complete()):
                have = have if have < m.total else 0
                self._emit(peer, ChunkAck(self.term, m.index, have, m.sent))
                return
        self._emit(peer, Ack(self.term, m.index + 1, matched=True, sent=m.sent))

    def _is_answer(self, peer: Peer, term: int, sent: float) -> bool:
        """Whether a follower answers this very leadership; one of another term must not count."""
        if self.role != LEADER or term != self.term or peer not in self.next_index:
            return False
        self._answered_at[peer] = max(self._answered_at.get(peer, _NEVER), sent)
        self.last_answer[peer] = self.now
        return True

    def _on_ack(self, peer: Peer, m: Ack) -> None:
        if not self._is_answer(peer, m.term, m.sent):
            return
        progress = self._progress.setdefault(peer, Progress())
        # Never beyond our own log: a follower's longer one was not compared.
        index = min(m.next_index - 1, self.wal.last)
        if m.matched:
            self.match_index[peer] = max(self.match_index[peer], index)
            self.next_index[peer] = max(self.next_index[peer], self.match_index[peer] + 1)
            progress.acknowledged(index)
            self._resend |= self.next_index[peer] <= self.wal.last
        else:
            progress.refused(lost_data=index < self.match_index[peer])
            self.next_index[peer] = max(self.match_index[peer], index) + 1
            self._resend = True

    def _on_chunk_ack(self, peer: Peer, m: ChunkAck) -> None:
        if self._is_answer(peer, m.term, m.sent):
            progress = self._progress.get(peer)
            if progress is not None and progress.transfer is not None:
                if progress.transfer.mark.index == m.index:
                    progress.transfer.acknowledge(m.have)
                self._resend = True

    def _on_alive(self, peer: Peer, m: Alive) -> None:
        self._is_answer(peer, m.term, m.sent)

    def _on_heartbeat(self, peer: Peer, m: Heartbeat) -> None:
        if self._is_old(peer, m.term):
            return
        if m.term == self.term and peer == self.leader_peer and self.role == FOLLOWER:
            self._heard, self._pre_votes = self.now, None
            if self._transfer_term != self.term + 1:
                self.deadline = self.now + self.election_timeout()
            self._emit(peer, Alive(m.term, m.sent))

    def _on_stale(self, _peer: Peer, m: Stale) -> None:
        if m.term > self.term:
            self.become_follower(m.term)

    def _on_pre_vote(self, peer: Peer, m: PreVote) -> None:
        if self._tell_if_removed(peer):
            return
        newer = (m.last_term, m.last_index) >= (self.wal.last_term, self.wal.last)
        granted = not self._is_sticky() and m.term > self.term and newer
        if granted:  # let it try first: fewer split votes
            self.deadline = max(self.deadline, self.now + self.settings.election_min / 2)
        self._emit(peer, PreVoteReply(m.term, granted=granted, current=self.term))

    def _tell_if_removed(self, peer: Peer) -> bool:
        current = self.configuration
        if (
            str(peer.id) in current.members
            or peer in self.learners
            or not current.members
            or current.index > self.commit
        ):
            return False
        self._emit(peer, Removed(self.term, current.index))
        return True

    def _on_pre_vote_reply(self, peer: Peer, m: PreVoteReply) -> None:
        if m.current > self.term:
            self.become_follower(m.current)
        elif (
            m.granted
            and self._pre_votes is not None
            and m.term == self.term + 1
            and peer in self.voters
        ):
            self._pre_votes.add(peer)
            self._count_pre_votes()

    def _on_vote_request(self, peer: Peer, m: VoteRequest) -> None:
        if (not m.transfer and self._is_sticky()) or self._is_old(peer, m.term):
            return
        if m.term == self.term and self.wal.vote == str(peer.id):
            self._emit(peer, VoteGranted(self.term))  # the first answer was lost
            return
        self.hand_to_library(
            peer,
            {
                "type": "request_vote",
                "term": m.term,
                "last_log_index": m.last_index,
                "last_log_term": m.last_term,
            },
        )

    def _on_vote_granted(self, peer: Peer, m: VoteGranted) -> None:
        if peer in self.voters and peer not in self._votes and m.term == self.term:
            self._votes.add(peer)
            self.hand_to_library(peer, {"type": "response_vote", "term": m.term})

    def _on_timeout_now(self, peer: Peer, m: TimeoutNow) -> None:
        if m.term == self.term and peer == self.leader_peer and self.is_voter:
            self._transfer_term, self._may_campaign = self.term + 1, True
            self.hand_to_library(peer, {"type": "timeout_now", "term": m.term})

    def _on_removed(self, _peer: Peer, m: Removed) -> None:
        since = self._member_since()
        if since is not None and m.index > since:
            self.removed = True


def _by_id(peer: Peer) -> str:
    return str(peer.id)


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
