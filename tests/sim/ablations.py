"""The core with one cure taken out. The simulator, or a directed scenario, must find each one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final
from unittest import mock

from swarmlet.consensus import snapshot, syncobj_core, syncobj_replicator
from swarmlet.consensus.entries import Proposal
from swarmlet.consensus.matching import Fit, fit
from swarmlet.consensus.messages import Append, VoteGranted
from swarmlet.consensus.sessions import Answer, Sessions
from swarmlet.consensus.syncobj_core import Placed, RaftCore, Round
from swarmlet.consensus.syncobj_seam import LEADER, Peer
from swarmlet.consensus.wal import Configuration, Mark, Wal


def _cut_always(wal: Wal, commit: int, message: Append) -> Fit:
    """PySyncObj's own rule: what follows the previous entry goes, conflict or not."""
    found = fit(wal, commit, message)
    if found.hint is not None or message.prev_index < wal.first:
        return found
    end = message.prev_index + len(message.entries)
    return Fit(message.prev_index, message.prev_term, message.entries, end, None)


def _claim_all(wal: Wal, commit: int, message: Append) -> Fit:
    """Acknowledge the whole log, though only its beginning was compared."""
    found = fit(wal, commit, message)
    end = max(wal.last, message.prev_index + len(message.entries))
    return found if found.hint is not None else found._replace(matched=end)


def _any_term(self: RaftCore, peer: Peer, _term: int, sent: float) -> bool:
    if self.role != LEADER or peer not in self.next_index:
        return False
    self._answered_at[peer] = max(self._answered_at.get(peer, float("-inf")), sent)
    self.last_answer[peer] = self.now
    return True


def _ungated(self: RaftCore, members: tuple[str, ...]) -> bool:
    return self.me in members


_round: Final = RaftCore.round
_finish: Final = RaftCore._finish
_place: Final = RaftCore._place


def _send_at_once(self: RaftCore, now: float) -> Round:
    done = _round(self, now)
    return done._replace(now=done.now + done.later, later=[])


def _place_first(self: RaftCore, now: float) -> Round:
    placed = _place(self)

    def rest(core: RaftCore, more: list[Placed], *, parallel: bool) -> Round:
        return _finish(core, placed + more, parallel=parallel)

    with mock.patch.object(RaftCore, "_finish", rest):
        return _round(self, now)


def _always_apply(self: Sessions, proposal: Proposal, apply: Callable[[bytes], Answer]) -> Answer:
    return apply(proposal.command)


def _committed_configuration(self: RaftCore) -> Configuration:
    known = [c for c in self.wal.configurations if c.index <= (self.commit or 0)]
    return known[-1] if known else self._store.configuration


def _any_chunk(self: snapshot.Incoming, mark: Mark, _offset: int, data: bytes) -> int:
    if mark != self._mark:
        self._mark, self._buffer = mark, bytearray()
    self._buffer += data
    return len(self._buffer)


def _count_twice(self: RaftCore, peer: Peer, m: VoteGranted) -> None:
    if m.term == self.term:
        self.hand_to_library(peer, {"type": "response_vote", "term": m.term})


def _forget_vote(self: Wal, term: int, vote: str | None) -> None:
    self.term, self.vote = term, vote


def _log_before_snapshot(self: RaftCore, now: float) -> Round:
    done = _round(self, now)
    return done._replace(jobs=done.jobs[::-1])


def _no(*_: object) -> bool:
    return False


def _yes(core: RaftCore, _now: float) -> bool:
    return core.may_read


def _always(_core: RaftCore) -> float:
    return float("inf")


_prepare: Final = RaftCore._prepare


def _boot_deaf(self: RaftCore, now: float) -> None:
    _prepare(self, now)
    self._heard = float("-inf")


def _campaign_unasked(self: RaftCore, now: float) -> Round:
    self._may_campaign = True
    return _round(self, now)


#: name -> (where, attribute, replacement). What each one breaks stands in docs/adr/0001.
ABLATIONS: Final[dict[str, tuple[object, str, object]]] = {
    "no-conflict-truncation": (syncobj_replicator, "fit", _cut_always),
    "ack-cap": (syncobj_replicator, "fit", _claim_all),
    "ack-term": (RaftCore, "_is_answer", _any_term),
    "one-change": (RaftCore, "_may_become", _ungated),
    "fsync-first": (RaftCore, "round", _send_at_once),
    "commit-after-sync": (RaftCore, "round", _place_first),
    "exactly-once": (Sessions, "once", _always_apply),
    "read-index": (RaftCore, "quorum_heard_at", _always),
    "lease": (RaftCore, "lease_holds", _yes),
    "sticky-votes": (RaftCore, "_is_sticky", _no),
    "pre-vote": (RaftCore, "round", _campaign_unasked),
    "newest-config": (RaftCore, "configuration", property(_committed_configuration)),
    "chunk-order": (snapshot.Incoming, "feed", _any_chunk),
    "vote-dedupe": (RaftCore, "_on_vote_granted", _count_twice),
    "durable-vote": (Wal, "setCurrentTerm", _forget_vote),
    "boot-lease": (RaftCore, "_prepare", _boot_deaf),
    "snapshot-before-log": (RaftCore, "round", _log_before_snapshot),
    "loss-noticed": (syncobj_replicator, "has_lost", _no),
}


@contextmanager
def ablated(name: str) -> Iterator[None]:
    """Run the body without that cure."""
    where, attribute, replacement = ABLATIONS[name]
    with mock.patch.object(where, attribute, replacement):
        handler = {VoteGranted: RaftCore._on_vote_granted}
        with mock.patch.dict(syncobj_core._HANDLERS, handler):
            yield
