"""The same mistakes tried on our core. Each function returns True when the damage is done.

Run with a cure taken out (:mod:`tests.sim.ablations`), the one that needs it must return True.
"""

from swarmlet.consensus.entries import REGULAR, Proposal
from swarmlet.consensus.messages import (
    Ack,
    Append,
    ChunkAck,
    SnapshotChunk,
    VoteGranted,
    VoteRequest,
)
from swarmlet.consensus.settings import RaftSettings
from swarmlet.consensus.snapshot import Snapshot, encode_snapshot, take
from swarmlet.consensus.wal import Configuration, Mark
from swarmlet.errors import Damaged

from tests.sim.lab import Damage, Lab, led
from tests.sim.raft import PowerCutError, command

SMALL = RaftSettings(snapshot_entries=20, retain_entries=1, lease_reads=True)


def truncation_without_conflict() -> bool:
    """A late, short append of the same term must not cut what was acknowledged behind it."""
    lab = led("abc")
    a, b = lab.cores["a"], lab.cores["b"]
    base = a.wal.last
    for value in range(4):
        lab.put("a", value)
    lab.round("a")
    lab.settle()
    term, before = a.wal.at(base)[2], b.wal.last
    short = Append(a.term, a.commit, base, term, a.wal.batch(base + 1, limit=1), lab.now)
    try:
        b.deliver("a", short, lab.now)
    except Damaged:
        return True
    return b.wal.last < before


def two_membership_changes() -> bool:
    """Cut off, a leader must not shrink the cluster to itself and commit alone."""
    lab = led("abc")
    lab.isolate("a")
    a = lab.cores["a"]
    commit = a.commit
    a.change_members({"a", "c"})
    lab.round("a")
    a.change_members({"a"})
    lab.round("a")
    lab.put("a", 7)
    for _ in range(3):
        lab.round("a")
    return a.commit > commit


def poison() -> bool:
    """An exception in apply becomes an answer, the same everywhere; what follows is applied."""
    lab = led("abc")
    lab.cores["a"].propose([Proposal("p", 1, 1, command("k", "poison", 0))])
    lab.round("a")
    lab.put("a", 2)
    lab.beat(3)
    same = all(lab.values(i) == {"k": 2} for i in "abc")
    return not same or lab.answers.count(b"ValueError") != 1


def callback_exception() -> bool:
    """The core calls nobody back: answers are returned, so a caller's failure cannot touch it."""
    lab = led("abc")
    lab.put("a", 5)
    lab.cores["a"].round(lab.now)  # and its result is thrown away
    lab.beat(3)
    lab.put("a", 6)
    lab.beat(3)
    return any(lab.values(i) != {"k": 6} for i in "abc")


def stale_ack() -> bool:
    """Acknowledgements of another term must not add up to a quorum."""
    lab = led("abcde")
    a = lab.cores["a"]
    old = a.term
    lab.elect("c")
    lab.elect("a")
    lab.isolate("a")
    lab.put("a", 9)
    lab.round("a")
    commit = a.commit
    for peer in "bcd":
        a.deliver(peer, Ack(old, a.wal.last + 1, matched=True, sent=lab.now), lab.now)
    lab.round("a")
    return a.commit > commit


def no_fsync() -> bool:
    """What promises something leaves only after the disk has it."""
    lab = led("abc")
    b = lab.cores["b"]
    lab.put("a", 3)
    lab.round("a")
    while lab.queues["a", "b"]:
        b.deliver("a", lab.queues["a", "b"].popleft(), lab.now)
    done = b.round(lab.now)
    return bool(done.now) or not done.jobs or not done.later


def compaction_in_place() -> bool:
    """Power cut at each disk operation of a compaction: all that was synced is there."""
    for operations in range(15, 40):
        lab = led("a", settings=SMALL)
        lab.disks["a"].operations_left = operations
        synced = 0
        try:
            for value in range(60):
                lab.put("a", value)
                lab.round("a")
                synced = lab.cores["a"].wal.last
        except PowerCutError:
            pass
        if lab.start("a").wal.last < synced:
            return True
    return False


def dump_then_crash() -> bool:
    """A crash between a snapshot and the log's compaction loses nothing."""
    lab = led("a")
    for value in range(10):
        lab.put("a", value)
        lab.round("a")
    a = lab.cores["a"]
    mark = Mark(a.applied_index, a.wal.at(a.applied_index)[2])
    frozen = Snapshot(mark, a.configuration, [], b"")
    take(a._store, frozen, lab.registers["a"].snapshot())
    return lab.start("a").wal.last != a.wal.last


def damaged_dump() -> bool:
    """A damaged snapshot stops the start; it is not an empty state."""
    lab = led("a")
    name = next(n for n in lab.disks["a"].names() if n.startswith("snapshot"))
    lab.disks["a"].files[name][-5] ^= 1
    try:
        lab.start("a")
    except Damaged:
        return False
    return True


def commit_from_disk() -> bool:
    """After a restart nothing is committed until a leader says so."""
    lab = led("abc")
    commit = lab.cores["b"].commit
    return not lab.start("b").commit < commit


def deaf_leader() -> bool:
    """A leader that nobody answers steps down within a second or so."""
    lab = led("abc")
    lab.isolate("a")
    lab.beat(12, ids="a")
    return lab.cores["a"].leads


def disruption() -> bool:
    """A minority that was cut off does not depose the leader when it returns."""
    lab = led("abcde")
    term = lab.cores["a"].term
    lab.isolate("de")
    lab.beat(60)
    lab.cut.clear()
    lab.beat(20)
    return lab.cores["a"].term != term or not lab.cores["a"].leads


def slow_repair() -> bool:
    """A divergence of 300 entries is repaired in a few exchanges."""
    lab = led("abc")
    lab.isolate("a")
    for value in range(300):
        lab.put("a", value)
    lab.round("a")
    lab.queues.clear()
    lab.elect("b")
    for value in range(310):
        lab.put("b", value)
    lab.beat(2, ids="bc")
    lab.cut.clear()
    lab.queues.clear()
    lab.now += 0.2
    lab.round("b")
    exchanges = lab.settle()
    return exchanges > 12 or lab.cores["a"].wal[-1] != lab.cores["b"].wal[-1]


def configuration_forgotten() -> bool:
    """The newest configuration in the log counts after a restart, committed or not."""
    lab = led("abc")
    lab.isolate("a")
    lab.cores["a"].change_members({"a", "b", "c", "d"})
    lab.round("a")
    return "d" not in lab.start("a").configuration.members


def ack_of_removed() -> bool:
    """A late acknowledgement of a removed member is dropped."""
    lab = led("abc")
    a = lab.cores["a"]
    a.change_members({"a", "b"})
    lab.beat(2)
    try:
        a.deliver("c", Ack(a.term, a.wal.last + 1, matched=True, sent=lab.now), lab.now)
    except KeyError:
        return True
    return False


def lost_chunk() -> bool:
    """A snapshot with a chunk missing is neither kept nor acknowledged."""
    lab = led("abc")
    d, state = lab.join("d"), lab.registers["a"].snapshot()()
    blob = encode_snapshot(Snapshot(Mark(50, 1), Configuration(50, ("a", "b", "c")), [], state))
    parts = [(offset, blob[offset : offset + 10]) for offset in range(0, len(blob), 10)]
    del parts[1]
    for offset, data in parts:
        chunk = SnapshotChunk(1, 50, 1, offset, len(blob) - 10, data, lab.now)
        d.deliver("a", chunk, lab.now)
    answers = [m.have for _, m in d._out if isinstance(m, ChunkAck)]
    return len(answers) != len(parts) or max(answers) > 10


def unknown_version() -> bool:
    """An entry of a later format stops the member; nothing is skipped or applied twice."""
    lab = led("abc")
    a = lab.cores["a"]
    a.wal.add(bytes((REGULAR, 99)) + b"\x90", a.wal.last + 1, a.term)
    lab.put("a", 8)
    try:
        lab.beat(4)
    except Damaged as exc:
        return exc.code != "too-new"
    return True


def removed_campaigns() -> bool:
    """A removed member learns it and stops; terms do not grow."""
    lab = led("abc")
    a, c = lab.cores["a"], lab.cores["c"]
    a.change_members({"a", "b"})
    lab.beat(30)
    return not c.removed or a.term != c.term or not a.leads


def commit_by_chunk() -> bool:
    """A chunk moves no commit index over entries that were never compared."""
    lab = led("abc")
    b = lab.cores["b"]
    lab.isolate("c")
    lab.elect("c")
    commit, end = b.commit, b.wal.last
    b.deliver("c", _append(b.term, b.wal.last, b.wal.last_term), lab.now)
    b.deliver("a", SnapshotChunk(b.term + 1, end + 50, 2, 0, 100, b"x", lab.now), lab.now)
    lab.round("b")
    return b.wal.last != end + 1 or b.commit > commit


def _append(term: int, prev: int, prev_term: int) -> Append:
    return Append(term, 0, prev, prev_term, [(b"\x01", prev + 1, term)], 0.0)


CURED: dict[str, Damage] = {
    damage.__name__: damage
    for damage in (
        truncation_without_conflict,
        two_membership_changes,
        poison,
        callback_exception,
        stale_ack,
        no_fsync,
        compaction_in_place,
        dump_then_crash,
        damaged_dump,
        commit_from_disk,
        deaf_leader,
        disruption,
        slow_repair,
        configuration_forgotten,
        ack_of_removed,
        lost_chunk,
        unknown_version,
        removed_campaigns,
        commit_by_chunk,
    )
}


# -- what random search does not find


def uncompared_suffix() -> bool:
    """An acknowledgement covers only what the leader's append was compared with."""
    lab = Lab("abc")
    b = lab.cores["b"]
    b.deliver("c", Append(1, 1, 1, 0, [(b"\x01", i, 1) for i in (2, 3, 4)], 0.0), lab.now)
    lab.round("b")
    b.deliver("a", Append(2, 1, 1, 0, [], 0.0), lab.now)
    acks = [m for _, m in b._out if isinstance(m, Ack)]
    return acks[-1].next_index != 2


def stale_read() -> bool:
    """A leader that was replaced without knowing it confirms no read."""
    lab = led("abc")
    lab.isolate("a")
    lab.now += 0.3
    asked = lab.now
    lab.cores["a"].ask_quorum()
    lab.round("a")
    lab.settle()
    return lab.cores["a"].quorum_heard_at() >= asked


def lease_outlived() -> bool:
    """A leader that was not answered for nearly a timeout has no lease."""
    lab = led("abc")
    lab.isolate("a")
    lab.now += 0.48
    return lab.cores["a"].lease_holds(lab.now)


def vote_while_led() -> bool:
    """A member that hears its leader gives no vote, so no lease is broken and nobody disturbed."""
    lab = led("abc")
    lab.cut = {("a", "c")}
    lab.beat(30)
    return not lab.cores["a"].leads


def vote_counted_twice() -> bool:
    """Two votes of one member are one vote."""
    lab = Lab("abcde")
    lab.campaign("a")
    a = lab.cores["a"]
    for _ in range(2):
        a.deliver("b", VoteGranted(a.term), lab.now)
    return a.leads


def vote_forgotten() -> bool:
    """A member that restarts in a term knows whom it voted for."""
    lab = Lab("abc")
    lab.now += 1.0
    b = lab.cores["b"]
    lab.round("b")
    b.deliver("a", VoteRequest(5, 10, 4, transfer=False), lab.now)
    lab.round("b")
    b = lab.start("b")
    lab.now += 1.0
    b.deliver("c", VoteRequest(5, 10, 4, transfer=False), lab.now)
    return any(isinstance(m, VoteGranted) for _, m in b._out)


def vote_after_restart() -> bool:
    """For one timeout after a restart no vote is given: the last one may back a lease."""
    lab = led("abc")
    b = lab.start("b")
    b.deliver("c", VoteRequest(b.term + 1, 100, 9, transfer=False), lab.now + 0.3)
    return any(isinstance(m, VoteGranted) for _, m in b._out)


def power_cut_in_install() -> bool:
    """A crash between the two writes of an installed snapshot leaves a member that can start."""
    lab = led("abc", settings=SMALL)
    for value in range(30):
        lab.put("a", value)
        lab.beat(1, ids="ab")
    a = lab.cores["a"]
    d = lab.join("d")
    lab.round("d")
    blob, mark = a._store.blob or b"", a._store.mark
    chunk = SnapshotChunk(a.term, mark.index, mark.term, 0, len(blob), blob, lab.now)
    d.deliver("a", chunk, lab.now)
    d.round(lab.now).jobs[0]()
    try:
        return lab.start("d").applied_index != mark.index
    except Damaged:
        return True


def commit_before_sync() -> bool:
    """Alone, a member commits nothing before its own disk has it."""
    lab = led("a")
    a = lab.cores["a"]
    commit = a.commit
    lab.put("a", 4)
    a.round(lab.now)  # its jobs have not run
    return a.commit > commit


def loss_papered_over() -> bool:
    """A member on an older copy of its disk is not brought up to date by a snapshot: it stops."""
    lab = led("abc", settings=SMALL)
    files = {name: bytearray(data) for name, data in lab.disks["b"].files.items()}
    for value in range(60):
        if value == 5:
            lab.isolate("b")
        lab.put("a", value)
        lab.beat()
    lab.cut.clear()
    lab.disks["b"].files = files
    b = lab.start("b")
    try:
        lab.beat(20)
    except Damaged:
        return lab.cores["a"].regressed_ids() != ["b"]
    return b.applied_index == lab.cores["a"].applied_index


DIRECTED: dict[str, Damage] = {
    "no-conflict-truncation": truncation_without_conflict,
    "one-change": two_membership_changes,
    "ack-term": stale_ack,
    "fsync-first": no_fsync,
    "pre-vote": disruption,
    "newest-config": configuration_forgotten,
    "chunk-order": lost_chunk,
    "ack-cap": uncompared_suffix,
    "read-index": stale_read,
    "lease": lease_outlived,
    "sticky-votes": vote_while_led,
    "vote-dedupe": vote_counted_twice,
    "durable-vote": vote_forgotten,
    "boot-lease": vote_after_restart,
    "commit-after-sync": commit_before_sync,
    "snapshot-before-log": power_cut_in_install,
    "loss-noticed": loss_papered_over,
}

#: Cures whose absence the simulator finds within a few seeds: the checkers themselves work.
FOUND_BY_SEEDS = ("no-conflict-truncation", "exactly-once")
