"""How a Raft member is tuned: one frozen struct, two presets."""

from typing import Final

import msgspec


class RaftSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Times in seconds, sizes in bytes. Every member of a cluster should have the same."""

    #: A member that heard no leader for between ``election_min`` and ``election_max`` asks whether
    #: it may campaign. The minimum must be several heartbeats; the spread must exceed a round trip.
    election_min: float = 0.5
    election_max: float = 1.0
    #: A leader that no majority answered for this long steps down. At most ``election_max``: longer
    #: would leave two leaders side by side.
    leader_timeout: float = 1.0
    #: How often an idle leader says that it is there. A fifth of ``election_min`` or less.
    heartbeat: float = 0.1
    #: Entries kept before the snapshot, for followers that lag a little.
    retain_entries: int = 500
    #: A snapshot is due after that many entries, unless they are small beside the last snapshot ...
    snapshot_entries: int = 5000
    #: ... or after that many bytes of log, or as many as the last snapshot has if that is more (so
    #: that a large state is not written again for each small change).
    snapshot_bytes: int = 8 << 20
    #: Proposals that share one entry; more makes the largest entry (and so one sync) too big.
    max_batch: int = 200
    #: Answer read barriers from a lease. Off: it trusts that clocks run at one rate, even in
    #: paused virtual machines.
    lease_reads: bool = False

    def problems(self) -> list[str]:
        """Return what is wrong with these settings."""
        found = []
        if not 0 < self.election_min < self.election_max:
            found.append("election_min must be above 0 and below election_max")
        if self.heartbeat * 3 > self.election_min:
            found.append("heartbeat must be at most a third of election_min")
        if self.leader_timeout > self.election_max:
            found.append("leader_timeout must not exceed election_max")
        if min(self.retain_entries, self.snapshot_entries, self.max_batch) < 1:
            found.append("retain_entries, snapshot_entries and max_batch must be at least 1")
        return found


#: Managers in one site: a lost leader is replaced in about a second.
LAN: Final = RaftSettings()

#: Managers with tens of milliseconds between them.
WAN: Final = RaftSettings(election_min=1.0, election_max=2.0, leader_timeout=2.0, heartbeat=0.2)
