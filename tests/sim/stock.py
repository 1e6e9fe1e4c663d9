"""PySyncObj 0.3.17 as it is, with only transport and clock replaced: what it gets wrong.

Each function returns True when the damage is done. The line numbers are those of its syncobj.py.
"""

import gc
import logging
import os
import random
import warnings
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import pysyncobj.journal
import pysyncobj.pickle
import pysyncobj.syncobj
from pysyncobj import SyncObj, SyncObjConf, replicated
from pysyncobj.node import Node
from pysyncobj.transport import Transport

PICKLE = pysyncobj.pickle
LIMIT = 100


class _Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


CLOCK = _Clock()


@contextmanager
def stock_library() -> Iterator[None]:
    """Undo what our seam replaced, and quieten the library."""
    random.seed(1)
    module = pysyncobj.syncobj
    with (
        mock.patch.object(module, "monotonicTime", CLOCK),
        mock.patch.object(module, "pickle", PICKLE),
        mock.patch.object(logging.getLogger("pysyncobj.syncobj"), "disabled", new=True),
    ):
        yield
    with warnings.catch_warnings():  # its journals are closed by the garbage collector only
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


class Net:
    """Queues between members, delivered by hand."""

    def __init__(self) -> None:
        self.queues: dict[tuple[str, str], deque[bytes]] = defaultdict(deque)
        self.members: dict[str, Any] = {}
        self.cut: set[tuple[str, str]] = set()
        self.forgiven: tuple[type[Exception], ...] = ()

    def flow(self, a: str, b: str, count: int = 1 << 30) -> int:
        queue, done = self.queues[a, b], 0
        while queue and done < count:
            message = PICKLE.loads(queue.popleft())
            done += 1
            if (a, b) not in self.cut and b in self.members:
                with suppress(*self.forgiven):  # holes of their own
                    self.members[b].transport._onMessageReceived(Node(a), message)
        return done

    def settle(self) -> None:
        while any(self.flow(a, b) for a, b in list(self.queues) if self.queues[a, b]):
            pass

    def isolate(self, one: str, others: str) -> None:
        self.cut |= {(one, o) for o in others} | {(o, one) for o in others}


class _Wire(Transport):  # type: ignore[misc]  # the library has no types
    def __init__(self, net: Net, me: str) -> None:
        super().__init__(None, None, None)
        self.net, self.me = net, me

    def send(self, node: Any, message: Any) -> bool:
        self.net.queues[self.me, node.id].append(PICKLE.dumps(message))
        return True


class Member(SyncObj):  # type: ignore[misc]  # the library has no types
    """A replicated list."""

    def __init__(self, net: Net, me: str, others: str, **settings: Any) -> None:
        self.items: list[Any] = []
        self.hits = 0
        self.transport = _Wire(net, me)
        net.members[me] = self
        conf = SyncObjConf(autoTick=False, dynamicMembershipChange=True, **settings)
        nodes = [Node(o) for o in others]
        super().__init__(Node(me), nodes, conf, transport=self.transport, nodeClass=Node)
        for node in nodes:
            self.transport._onNodeConnected(node)

    @replicated  # type: ignore[untyped-decorator]  # the library has no types
    def put(self, item: Any) -> Any:
        self.items.append(item)
        return item

    @replicated  # type: ignore[untyped-decorator]  # the library has no types
    def boom(self, item: Any) -> None:
        self.hits += 1
        raise ValueError(item)


def cluster(size: int, **settings: Any) -> tuple[Net, list[Any]]:
    net, ids = Net(), "abcde"[:size]
    members = [Member(net, i, ids.replace(i, ""), **settings) for i in ids]
    return net, members


def elect(net: Net, one: Any) -> None:
    one._SyncObj__raftElectionDeadline = 0
    for _ in range(2):
        one.doTick(0)
        net.settle()


def beat(net: Net, members: list[Any], times: int = 3) -> None:
    for _ in range(times):
        CLOCK.now += 0.11
        for one in members:
            one.doTick(0)
        net.settle()


def led(size: int, **settings: Any) -> tuple[Net, list[Any]]:
    """A cluster led by its first member."""
    net, members = cluster(size, **settings)
    elect(net, members[0])
    beat(net, members)
    return net, members


def tick(one: Any, times: int = 1) -> None:
    for _ in range(times):
        CLOCK.now += 0.11
        one.doTick(0)


def end(one: Any) -> int:
    return int(one._SyncObj__raftLog[-1][1])


def alone(directory: Path, count: int) -> tuple[Any, dict[str, Any]]:
    """One member with files and ``count`` committed items."""
    settings = {
        "journalFile": str(directory / "j"),
        "fullDumpFile": str(directory / "dump"),
        "useFork": False,
    }
    one = Member(Net(), "a", "", **settings)
    one._SyncObj__raftElectionDeadline = 0
    one.doTick(0)
    for i in range(count):
        one.put(i)
    tick(one, 3)
    return one, settings


def truncation_without_conflict(_: Path) -> bool:
    """991-1004: a short resent batch cuts acknowledged entries; then the leader dies."""
    net, (a, b, c) = led(3, appendEntriesBatchSizeBytes=100)
    net.cut |= {("a", "c"), ("c", "a"), ("b", "c"), ("c", "b")}
    results: list[int] = []
    for i in range(4):
        a.put(f"u{i}" + "x" * 60, callback=lambda _, error: results.append(error))
    a.doTick(0)
    tick(a)
    net.queues["a", "b"].clear()  # the stream broke; the next index had advanced already
    tick(a, 2)
    net.flow("a", "b")
    first, second = list(net.queues["b", "a"])[:2]
    net.queues["b", "a"] = deque([first])
    net.flow("b", "a")
    tick(a)
    net.flow("a", "b")
    net.queues["b", "a"].appendleft(second)
    net.flow("b", "a", 1)
    tick(a)
    net.flow("b", "a")
    a.doTick(0)
    net.flow("a", "b", 1)
    del net.members["a"]
    net.queues.clear()
    net.cut.clear()
    b._SyncObj__raftNextIndex.clear()
    elect(net, b)
    beat(net, [b, c])
    kept = {item[:2] for item in b.items}
    return bool(results.count(0)) and not {"u0", "u1", "u2", "u3"} <= kept


def two_membership_changes(_: Path) -> bool:
    """186, 1361: cut off, a leader removes everybody else and commits alone."""
    net, (a, b, c) = led(3)
    results: list[int] = []
    net.isolate("a", "bc")
    a.removeNodeFromCluster(Node("b"))
    a.removeNodeFromCluster(Node("c"))
    a.put("minority", callback=lambda _, error: results.append(error))
    tick(a, 4)
    net.queues.clear()
    elect(net, b)
    b.put("majority")
    beat(net, [b, c])
    return results == [0] and a.items != b.items


def poison(_: Path) -> bool:
    """728: an exception is applied again at each tick; nothing behind it ever is."""
    net, members = led(3)
    a = members[0]
    a.boom(1)
    a.put(2)
    for _round in range(10):
        CLOCK.now += 0.11
        for one in members:
            try:
                one.doTick(0)
            except ValueError:
                continue
        net.settle()
    return a.hits > 1 and 2 not in a.items


def callback_exception(_: Path) -> bool:
    """728: an exception in a callback makes the leader apply the entry twice."""
    net, members = led(3)
    raised: list[int] = []

    def fails_once(_: object, _error: object) -> None:
        if not raised:
            raised.append(1)
            raise RuntimeError

    members[0].put("x", callback=fails_once)
    for _round in range(5):
        CLOCK.now += 0.11
        for one in members:
            try:
                one.doTick(0)
            except RuntimeError:
                continue
        net.settle()
    return bool(members[0].items != members[1].items)


def stale_ack(_: Path) -> bool:
    """1071: an acknowledgement of an old term counts in a new one: no quorum, yet committed."""
    net, (a, b, c, d, e) = led(5)
    net.cut |= {("a", o) for o in "cde"}
    for i in range(3):
        a.put(f"old{i}")
    a.doTick(0)
    tick(a)
    net.flow("a", "b")
    late, net.queues["b", "a"] = net.queues["b", "a"], deque()
    net.queues.clear()
    net.cut = {("a", "b"), ("b", "a")}
    c._SyncObj__raftElectionDeadline = 0
    for _round in range(2):
        c.doTick(0)
        for one in "abde":
            net.flow("c", one)
        if _round == 0:
            for one in "abde":
                net.flow(one, "c")
    net.queues.clear()
    net.cut |= {("c", "a"), ("c", "b")}
    a._SyncObj__raftElectionDeadline = 0
    a.doTick(0)
    for one in "cde":
        net.flow("a", one)
        net.flow(one, "a")
    net.cut = {("a", o) for o in "bce"}
    for one in "bce":
        net.queues["a", one].clear()
    results: list[int] = []
    for i in range(2):
        a.put(f"new{i}", callback=lambda _, error: results.append(error))
    for _round in range(4):
        tick(a)
        net.flow("a", "d")
        net.flow("d", "a")
    net.cut.clear()
    net.queues["b", "a"] = late
    net.flow("b", "a")
    a.doTick(0)
    commit = (a.raftCommitIndex, a.raftCurrentTerm)
    holders = [o for o in (a, b, c, d, e) if commit in {x[1:] for x in o._SyncObj__raftLog[:]}]
    return 0 in results and len(holders) < 3


def no_fsync(directory: Path) -> bool:
    """A journal in a file: not one sync for a hundred answered puts, nor for votes."""
    with (
        mock.patch.object(os, "fsync") as fsync,
        mock.patch.object(os, "fdatasync") as fdatasync,
        mock.patch.object(pysyncobj.journal.ResizableFile, "flush") as msync,
    ):
        net, ids = Net(), "abc"
        members: list[Any] = [
            Member(net, i, ids.replace(i, ""), journalFile=str(directory / i)) for i in ids
        ]
        elect(net, members[0])
        beat(net, members)
        results: list[int] = []
        for i in range(100):
            members[0].put(i, callback=lambda _, error: results.append(error))
        beat(net, members, 4)
    calls = fsync.call_count + fdatasync.call_count + msync.call_count
    return results.count(0) == 100 and calls == 0


def compaction_in_place(directory: Path) -> bool:
    """Compaction rewrites the file in place: killed in the middle, the tail is gone."""
    path = str(directory / "j")
    journal: Any = pysyncobj.journal.FileJournal(path)
    for i in range(1, 101):
        journal.add(b"x", i, 1)
    add, added = pysyncobj.journal.FileJournal.add, []

    def killed(self: Any, *entry: Any) -> None:
        added.append(entry)
        if len(added) == 10:
            raise SystemExit
        add(self, *entry)

    with mock.patch.object(pysyncobj.journal.FileJournal, "add", killed), suppress(SystemExit):
        journal.deleteEntriesTo(50)
    return bool(pysyncobj.journal.FileJournal(path)[-1][1] < 100)


def dump_then_crash(directory: Path) -> bool:
    """1489: a crash between dump and compaction makes the restart clear the journal."""
    one, settings = alone(directory, 10)
    one.forceLogCompaction()
    one.doTick(0)
    one._SyncObj__serializer.checkSerializing = lambda: (1, None)  # its child is still being reaped
    results: list[int] = []
    for i in range(5):
        one.put(i, callback=lambda _, error: results.append(error))
    tick(one, 3)
    one._SyncObj__raftLog.flush()
    again = Member(Net(), "a", "", **settings)
    again.doTick(0)
    return results.count(0) == 5 and end(again) < end(one)


def damaged_dump(directory: Path) -> bool:
    """1510: a bare except, and the member serves an empty state as a leader."""
    one, settings = alone(directory, 10)
    one.forceLogCompaction()
    one.doTick(0)
    tick(one)
    one._SyncObj__raftLog.flush()
    with (directory / "dump").open("r+b") as file:
        file.truncate(20)
    again: Any = Member(Net(), "a", "", **settings)
    again.doTick(0)
    again._SyncObj__raftElectionDeadline = 0
    tick(again, 5)
    return bool(again.items != one.items and again._isLeader())


def commit_from_disk(directory: Path) -> bool:
    """1029: the stored commit index outlives the log's tail; what comes next is applied."""
    journal: Any = pysyncobj.journal.FileJournal(str(directory / "b"))
    for i in range(1, 6):
        journal.add(b"\x01", i, 1)
    journal.setRaftCommitIndex(20)
    journal.setCurrentTerm(1, None)
    journal._destroy()
    b: Any = Member(Net(), "b", "ac", journalFile=str(directory / "b"))
    entry = (b"\0" + PICKLE.dumps((b._methodToID["put_v0"], ("uncommitted",))), 6, 2)
    b.transport._onMessageReceived(
        Node("a"),
        {
            "type": "append_entries",
            "term": 2,
            "commit_index": 5,
            "entries": [entry],
            "prevLogIdx": 5,
            "prevLogTerm": 1,
        },
    )
    b.doTick(0)
    return bool(b.items == ["uncommitted"])


def deaf_leader(_: Path) -> bool:
    """A leader that nobody answers leads for 30 s, beside its successor."""
    net, (a, b, c) = led(3)
    net.isolate("a", "bc")
    began = CLOCK.now
    elect(net, b)
    while a._isLeader() and CLOCK.now - began < 60:
        beat(net, [a, b, c], 1)
    return CLOCK.now - began > 20


def disruption(_: Path) -> bool:
    """No pre-vote: a minority that was cut off deposes a healthy leader when it returns."""
    net, members = led(5)
    a = members[0]
    net.cut |= {(x, y) for x in "abcde" for y in "abcde" if (x in "de") != (y in "de")}
    beat(net, members, 60)
    kept = a._isLeader()
    net.cut.clear()
    lost = False
    for _round in range(40):
        beat(net, members, 1)
        lost |= not a._isLeader()
    return bool(kept and lost)


def slow_repair(_: Path) -> bool:
    """300 divergent entries are repaired one heartbeat each."""
    net, (a, b, c) = led(3)
    net.isolate("a", "bc")
    for i in range(300):
        a.put(i)
    tick(a, 2)
    net.queues.clear()
    elect(net, b)
    for i in range(310):
        b.put(-i)
    beat(net, [b, c], 4)
    net.cut.clear()
    net.queues.clear()
    began = CLOCK.now
    while a._SyncObj__raftLog[-1] != b._SyncObj__raftLog[-1] and CLOCK.now - began < 60:
        beat(net, [a, b, c], 1)
    return CLOCK.now - began > 10


def configuration_forgotten(directory: Path) -> bool:
    """Membership entries in the log do not count after a restart until they commit."""
    journal: Any = pysyncobj.journal.FileJournal(str(directory / "a"))
    journal.add(b"\x01", 1, 0)
    journal.add(b"\x01", 2, 1)
    for i, one in ((3, "d"), (4, "e")):
        journal.add(b"\x02" + PICKLE.dumps(["add", one, one]), i, 1)
    journal.setRaftCommitIndex(2)
    journal.setCurrentTerm(1, None)
    journal._destroy()
    a: Any = Member(Net(), "a", "bc", journalFile=str(directory / "a"))
    a.doTick(0)
    return sorted(node.id for node in a.otherNodes) == ["b", "c"]


def ack_of_removed(_: Path) -> bool:
    """1080: the late acknowledgement of a removed member is a KeyError."""
    net, (a, _b, _c) = led(3)
    tick(a)
    net.flow("a", "c")
    a.removeNodeFromCluster(Node("c"))
    a.doTick(0)
    try:
        net.flow("c", "a")
    except KeyError:
        return True
    return False


def lost_chunk(directory: Path) -> bool:
    """A snapshot that lost a chunk is put in place of what was there before."""
    net, (a, b) = led(2, useFork=False, logCompactionBatchSize=64)
    for i in range(40):
        a.put(f"{i}-{random.random()}")  # noqa: TID251 -- the stock library's own seed
    beat(net, [a, b])
    a.forceLogCompaction()
    a.doTick(0)
    tick(a)
    dump = directory / "dump"
    fresh: Any = Member(net, "b", "a", useFork=False, fullDumpFile=str(dump))
    a._SyncObj__raftNextIndex[Node("b")] = 2
    net.queues.clear()
    tick(a)
    del net.queues["a", "b"][3]
    net.forgiven = (IndexError,)
    net.flow("a", "b")
    return dump.exists() and not list(fresh.items)


def unknown_version(_: Path) -> bool:
    """An entry of an unknown version is skipped, and its successor applied twice."""
    one: Any = Member(Net(), "a", "")
    one._SyncObj__raftElectionDeadline = 0
    one.doTick(0)
    tick(one, 2)
    one._applyCommand(PICKLE.dumps(9), None, 3)
    one.put("x")
    one.put("y")
    tick(one, 5)
    return bool(one.items.count("x") > 1 or one.items.count("y") > 1)


def removed_campaigns(_: Path) -> bool:
    """A removed member is never told: it campaigns for ever, in ever higher terms."""
    net, members = led(3)
    a, _b, c = members
    net.forgiven = (KeyError,)
    a.removeNodeFromCluster(Node("c"))
    beat(net, members)
    before = c.raftCurrentTerm
    beat(net, members, 100)
    return bool(c.raftCurrentTerm > before + 5)


def commit_by_chunk(_: Path) -> bool:
    """1032: a snapshot chunk commits a suffix that was never compared with the leader's log."""
    b: Any = Member(Net(), "b", "ac")
    entry = (b"\0" + PICKLE.dumps((b._methodToID["put_v0"], ("never committed",))), 2, 2)
    append = {"type": "append_entries", "prevLogIdx": 1, "prevLogTerm": 0, "entries": [entry]}
    b.transport._onMessageReceived(Node("c"), {**append, "term": 2, "commit_index": 1})
    b.doTick(0)
    chunk = {"type": "append_entries", "term": 3, "commit_index": 500, "serialized": None}
    b.transport._onMessageReceived(Node("a"), chunk)
    b.doTick(0)
    return bool(b.items == ["never committed"])


Show = Callable[[Path], bool]
STOCK: dict[str, Show] = {
    show.__name__: show
    for show in (
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
