"""Entries and snapshots on their way: what a leader sends, what a follower makes of it.

The library only ever sees an append that was made harmless (:mod:`swarmlet.consensus.matching`);
its own acknowledgements, which carry no term and claim too much, are replaced.
"""

from abc import abstractmethod

from swarmlet.consensus.entries import (
    Entry,
)
from swarmlet.consensus.matching import fit, has_lost
from swarmlet.consensus.messages import (
    Ack,
    Alive,
    Append,
    ChunkAck,
    Heartbeat,
    SnapshotChunk,
)
from swarmlet.consensus.replication import MESSAGE_BYTES, Progress, Transfer
from swarmlet.consensus.snapshot import (
    Incoming,
)
from swarmlet.consensus.syncobj_elections import Elections
from swarmlet.consensus.syncobj_members import NEVER, by_id
from swarmlet.consensus.syncobj_seam import FOLLOWER, LEADER, Peer
from swarmlet.consensus.wal import Mark
from swarmlet.errors import JOIN_ANEW, Damaged


class Replicator(Elections):
    """The part of the core that sends and takes entries and snapshots."""

    def _prepare(self, now: float) -> None:
        super()._prepare(now)
        self._incoming = Incoming()
        self._lost_at = 0.0  # when it was found that acknowledged entries are missing here

    @abstractmethod
    def _install(self, blob: bytes) -> bool:
        """Replace the state by a leader's snapshot; False if the bytes are damaged."""

    def replicate_all(self) -> None:
        """Heartbeat: everybody gets something."""
        self.heartbeat_due = self.now + self.settings.heartbeat
        for progress in self._progress.values():
            if progress.transfer is not None:
                progress.transfer.rewind_if_stuck()
        self._replicate(beat=True)

    def _replicate(self, *, beat: bool) -> None:
        for peer in sorted(self.voters | self.learners, key=by_id):
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
            self._emit(peer, self._append_after(start - 1, entries, peer))
            start, beat = entries[-1][1] + 1, False
        self.next_index[peer] = start
        if beat:
            self._emit(peer, self._append_after(start - 1, [], peer))

    def _append_after(self, index: int, entries: list[Entry], peer: Peer) -> Append:
        return Append(
            self.term,
            self.commit,
            index,
            self.wal.at(index)[2],
            entries,
            self.now,
            acked=self._promised(peer),
            lost=self._progress[peer].regressed,
        )

    def _promised(self, peer: Peer) -> int:
        """How much of the log a follower may never lose. A learner counts for nothing yet."""
        return self.match_index[peer] if peer in self.voters else 0

    def _send_chunks(self, peer: Peer, progress: Progress, *, beat: bool) -> None:
        transfer = progress.transfer
        if transfer is None:
            transfer = progress.transfer = Transfer(self._store.mark, self._store.blob or b"")
        mark, total = transfer.mark, len(transfer.blob)
        while (chunk := transfer.next_chunk()) is not None:
            message = SnapshotChunk(
                self.term,
                mark.index,
                mark.term,
                chunk[0],
                total,
                chunk[1],
                self.now,
                acked=self._promised(peer),
                lost=progress.regressed,
            )
            self._emit(peer, message)
            beat = False
        if beat:
            self._emit(peer, Heartbeat(self.term, self.now))

    def _heed(self, peer: Peer, term: int) -> None:
        """Follow a leader, without touching the log or the commit index."""
        self._heard, self._pre_votes = self.now, None
        raw = {"type": "append_entries", "term": term, "commit_index": self.commit}
        self.hand_to_library(peer, raw)

    # -- a follower

    def _lacks(self, peer: Peer, m: Append | SnapshotChunk) -> bool:
        """Whether entries that were acknowledged are missing here. Raises Damaged if that is sure.

        It is sure once the leader has confirmed it. A message alone may be one that was sent to an
        earlier member of this name (a node that was demoted and promoted again), and came late.
        """
        if not has_lost(self.wal, self.term, m):
            return False
        if m.lost and m.lost == self._lost_at:
            raise Damaged(
                f"this manager's log ends at entry {self.wal.last} and lacks some of what it had "
                f"acknowledged (up to entry {m.acked}): its state directory was exchanged for an "
                "older copy, or its disk lost what it had confirmed",
                advice=JOIN_ANEW,
            )
        self._lost_at = self._lost_at or self.now
        self._heed(peer, m.term)
        answer = Ack(self.term, self.wal.last + 1, matched=False, sent=m.sent, lost=self._lost_at)
        self._emit(peer, answer)
        return True

    def _on_append(self, peer: Peer, m: Append) -> None:
        if self._is_old(peer, m.term) or self._lacks(peer, m):
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
        if self._is_old(peer, m.term) or self._lacks(peer, m):
            return
        self._heed(peer, m.term)
        if m.index > self.applied_index:
            have = self._incoming.feed(Mark(m.index, m.snapshot_term), m.offset, m.data)
            if have < m.total or not self._install(self._incoming.complete()):
                have = have if have < m.total else 0
                self._emit(peer, ChunkAck(self.term, m.index, have, m.sent))
                return
        self._emit(peer, Ack(self.term, m.index + 1, matched=True, sent=m.sent))

    # -- a leader

    def _is_answer(self, peer: Peer, term: int, sent: float) -> bool:
        """Whether a follower answers this very leadership; one of another term must not count.

        Nor must one of a member of the same name that was removed since.
        """
        if self.role != LEADER or term != self.term or peer not in self.next_index:
            return False
        if sent < self._since.get(peer, NEVER):
            return False
        self._answered_at[peer] = max(self._answered_at.get(peer, NEVER), sent)
        self.last_answer[peer] = self.now
        return True

    def _on_ack(self, peer: Peer, m: Ack) -> None:
        if not self._is_answer(peer, m.term, m.sent):
            return
        progress = self._progress.setdefault(peer, Progress())
        if m.lost:
            # What it acknowledged stays known, so that it stops each time that it is started.
            progress.regressed = m.lost
            progress.lost()
            return
        # Never beyond our own log: a follower's longer one was not compared.
        index = min(m.next_index - 1, self.wal.last)
        if m.matched:
            self.match_index[peer] = max(self.match_index[peer], index)
            self.next_index[peer] = max(self.next_index[peer], self.match_index[peer] + 1)
            progress.acknowledged(index)
            self._resend |= self.next_index[peer] <= self.wal.last
        else:
            progress.lost()
            if peer in self.learners:  # it may begin anew: nothing depends on what it had
                self.match_index[peer] = min(self.match_index[peer], index)
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
