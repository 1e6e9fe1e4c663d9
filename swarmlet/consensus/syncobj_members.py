"""Who takes part: the configuration in the log, learners, and those that were removed.

An entry holds the whole configuration, and the newest one in the log counts, committed or not
(Raft's rule for one change at a time). The library's sets of nodes are made to follow it.
"""

from typing import Final

from swarmlet.consensus.messages import (
    Message,
    Removed,
)
from swarmlet.consensus.replication import Progress
from swarmlet.consensus.snapshot import (
    SnapshotStore,
)
from swarmlet.consensus.syncobj_seam import LEADER, Peer, SeamedSyncObj
from swarmlet.consensus.wal import Configuration

NEVER: Final = float("-inf")
ALWAYS: Final = float("inf")

Outgoing = tuple[str, Message]

#: Entries a learner may lack when it gets its vote.
CLOSE_ENOUGH: Final = 10


class Members(SeamedSyncObj):
    """The part of the core that knows the members. :class:`RaftCore` is made of four such parts."""

    me: str
    _me: Peer
    _store: SnapshotStore

    def _prepare(self, now: float) -> None:
        """Set what the library's constructor will find when it walks over this object."""
        self._out: list[Outgoing] = []
        self._progress: dict[Peer, Progress] = {}
        # Send times that each peer answered, as this leader's clock read then (ReadIndex, lease).
        self._answered_at: dict[Peer, float] = {}
        self._led_term = -1
        self._successor: Peer | None = None
        # Booting counts as hearing the leader: a vote given before the restart may back a lease.
        self._heard = now
        # When each peer became a member: what one of that name said before is another's word.
        self._since: dict[Peer, float] = {}
        self._removed_at = 0

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
    def may_change(self) -> bool:
        """Whether a membership change may begin: the last one and this term's no-op committed."""
        return (
            self.role == LEADER
            and self.no_op_index is not None
            and self.commit >= self.no_op_index
            and self.configuration.index <= self.commit
        )

    def lag(self, member: str) -> int:
        """Entries that a follower lacks, as its leader knows."""
        return self.wal.last - self.match_index.get(Peer(member), 0)

    def has_caught_up(self, member: str) -> bool:
        """Whether a learner has so much of the log that its vote would not hold up commits."""
        return self.match_index.get(Peer(member), 0) > 0 and self.lag(member) <= CLOSE_ENOUGH

    def learner_ids(self) -> list[str]:
        """Members that receive the log and do not vote."""
        return sorted(str(peer.id) for peer in self.learners)

    def regressed_ids(self) -> list[str]:
        """Followers that said that they lack what they acknowledged."""
        return sorted(str(peer.id) for peer, p in self._progress.items() if p.regressed)

    def contact_ids(self) -> set[str]:
        """Everybody this member may have to send to."""
        ids = {*self.configuration.members, *self.learner_ids()}
        return (ids | ({self.leader_id} if self.leader_id else set())) - {self.me}

    def is_reachable(self, member: str) -> bool:
        """Whether a stream to that member is up."""
        return Peer(member) in self.reachable

    def set_reachable(self, member: str, *, up: bool) -> None:
        """A stream came up, or the last one went down: what was on the old one is lost."""
        peer = Peer(member)
        (self.reachable.add if up else self.reachable.discard)(peer)
        if peer in self._progress:
            self._progress[peer].lost()

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

    def _may_become(self, members: tuple[str, ...]) -> bool:
        """One change of one member at a time, by a leader that has committed in its own term."""
        difference = set(members) ^ set(self.configuration.members)
        return len(difference) == 1 and self.me in members and self.may_change

    def _reconfigure(self) -> None:
        """Make the library's sets follow the newest configuration in the log."""
        if self.role != LEADER:
            for peer in self.learners:
                self._forget(peer)  # what it acknowledged is nothing to the next leadership
            self.learners.clear()
            self._successor = None
        elif self._led_term != self.term:
            self._led_term, self._answered_at = self.term, {}
            for progress in self._progress.values():
                progress.lost()
                progress.regressed = 0.0
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
        self._since.setdefault(peer, self.now)
        self.last_answer[peer] = self.now

    def _forget(self, peer: Peer) -> None:
        for table in (self.next_index, self.match_index):
            table.pop(peer, None)
        for times in (self.last_answer, self._answered_at, self._since):
            times.pop(peer, None)
        self._progress.pop(peer, None)

    def _member_since(self) -> int | None:
        """Index of the newest known configuration that has this member in it."""
        known = [self._store.configuration, *self.wal.configurations]
        return max((c.index for c in known if self.me in c.members), default=None)

    @property
    def removed(self) -> bool:
        """Whether this member was removed, and not let in again since."""
        return self._removed_at > (self._member_since() or 0)

    def _note_removal(self, index: int, members: tuple[str, ...]) -> None:
        since = self._member_since()
        if self.me not in members and since is not None and since < index:
            self._removed_at = index

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

    def _emit(self, peer: Peer, message: Message) -> None:
        self._out.append((str(peer.id), message))


def by_id(peer: Peer) -> str:
    """Order peers the same in every process."""
    return str(peer.id)
