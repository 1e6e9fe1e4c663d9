"""Elections that disturb nobody: pre-vote, sticky votes, transfer, leases.

The library counts the votes. What is decided here is whether a campaign may begin, whose votes
reach it, and whether this member answers at all.
"""

from typing import Final

from swarmlet.consensus.messages import (
    Heartbeat,
    PreVote,
    PreVoteReply,
    Removed,
    Stale,
    TimeoutNow,
    VoteGranted,
    VoteRequest,
)
from swarmlet.consensus.syncobj_members import ALWAYS, NEVER, Members, Outgoing, by_id
from swarmlet.consensus.syncobj_seam import LEADER, Peer, Raw

#: The part of ``election_min`` that a lease trusts: clocks may differ by a tenth in rate.
LEASE_PART: Final = 0.9


class Elections(Members):
    """The part of the core that campaigns, votes, hands over, and knows how long it leads."""

    def _prepare(self, now: float) -> None:
        super()._prepare(now)
        self._pre_votes: set[Peer] | None = None
        self._may_campaign = False
        self._votes: set[Peer] = set()
        self._transfer_term = -1
        self._successor_until = 0.0
        self._successor_told = NEVER
        self._lease_given_up = -1
        self._resend = False

    @property
    def may_read(self) -> bool:
        """Whether this leader knows everything committed before its term."""
        return (
            self.role == LEADER
            and self.no_op_index is not None
            and self.applied_index >= self.no_op_index
        )

    @property
    def transferring(self) -> bool:
        """Whether a hand-over is under way."""
        return self._successor is not None

    def start_transfer(self, member: str, *, until: float) -> None:
        """Append nothing more until ``member`` has it all and took over, or until that time."""
        self._successor, self._successor_until = Peer(member), until
        self._successor_told = NEVER
        self._resend = True

    def ask_quorum(self) -> None:
        """Send at once, so that answers renew :meth:`quorum_heard_at`."""
        self.heartbeat_due = NEVER

    def quorum_heard_at(self) -> float:
        """Newest time such that a majority answered something sent then or later."""
        answered = sorted(
            [ALWAYS, *(self._answered_at.get(peer, NEVER) for peer in self.voters)], reverse=True
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

    def _campaign_if_due(self) -> None:
        if self.role == LEADER:
            if self.deadline < self.now:
                self.deadline = self.now + self.election_timeout()
            return
        if self.deadline >= self.now:
            return
        if self.removed:
            self.deadline = ALWAYS
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
        for peer in sorted(self.voters, key=by_id):
            self._emit(peer, question)

    def _count_pre_votes(self) -> None:
        if self._pre_votes is not None and len(self._pre_votes) * 2 > len(self.voters) + 1:
            self._pre_votes, self._may_campaign, self.deadline = None, True, NEVER

    def _is_sticky(self) -> bool:
        """Whether the leader was heard so recently that voting for another would disturb it."""
        since = self.quorum_heard_at() if self.role == LEADER else self._heard
        return self.now - since < self.settings.election_min

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

    def _is_old(self, peer: Peer, term: int) -> bool:
        """Whether a leader or candidate is of an old term; it is told so."""
        if term >= self.term:
            return False
        self._emit(peer, Stale(self.term))
        return True

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
            self._removed_at = m.index
