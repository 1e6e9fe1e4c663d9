"""A cluster of cores in virtual time, with seeded faults, and checkers that watch every step.

Nothing here waits or touches a real disk: a run is a function of its seed. The checkers: one leader
a term, a new leader has all that is committed, every member applies the same entries and reaches
the same state, clients see a linearizable register, everything committed survives crashes, and the
cluster works again once the faults end.
"""

import heapq
import random
import zlib
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final
from unittest import mock

import msgpack
from swarmlet.consensus import replication
from swarmlet.consensus.entries import Entry, Proposal
from swarmlet.consensus.messages import FrameReader, encode_frame
from swarmlet.consensus.settings import RaftSettings
from swarmlet.consensus.snapshot import Taken
from swarmlet.consensus.syncobj_core import RaftCore, Round
from swarmlet.consensus.syncobj_members import Outgoing

from tests.sim.linearizable import Op, is_linearizable

KEY: Final = bytes(range(32))
START: Final = 1000.0

#: So small that a snapshot takes many chunks, and a follower that lags fills its window.
SMALL_WINDOWS: Final[dict[str, Any]] = {
    "CHUNK_BYTES": 100,
    "WINDOW_CHUNKS": 3,
    "WINDOW_BYTES": 2000,
    "WINDOW_MESSAGES": 6,
}


class ViolationError(Exception):
    """A promise was broken."""


class PowerCutError(Exception):
    """The simulated machine lost power inside a disk operation."""


class SimDisk:
    """Files that survive; an armed power cut loses or tears the operation it hits."""

    def __init__(self, rng: random.Random) -> None:
        self.files: dict[str, bytearray] = {}
        self.operations_left: int | None = None
        self._rng = rng

    def names(self) -> list[str]:
        return sorted(self.files)

    def read(self, name: str) -> bytes:
        return bytes(self.files[name])

    def append(self, name: str, data: bytes) -> None:
        if self._is_cut():
            kept = self._rng.randrange(len(data) + 1)
            junk = self._rng.randbytes(self._rng.choice((0, 0, 9, 40))) if kept < len(data) else b""
            self.files[name] += data[:kept] + junk
            raise PowerCutError
        self.files[name] += data

    def replace(self, name: str, data: bytes) -> None:
        if self._is_cut():
            raise PowerCutError
        self.files[name] = bytearray(data)

    def remove(self, name: str) -> None:
        if self._is_cut():
            raise PowerCutError
        self.files.pop(name, None)

    def _is_cut(self) -> bool:
        if self.operations_left is None:
            return False
        self.operations_left -= 1
        return self.operations_left < 0


class Registers:
    """A state machine whose "add" shows if a command is ever applied twice."""

    def __init__(self) -> None:
        self.values: dict[str, int] = {}

    def apply(self, index: int, command: bytes) -> bytes:
        key, kind, value = msgpack.unpackb(command)
        if kind == "poison":
            raise ValueError(key)
        self.values[key] = value if kind == "write" else self.values.get(key, 0) + value
        return bytes(msgpack.packb(self.values[key]))

    def snapshot(self) -> Callable[[], bytes]:
        frozen = dict(self.values)
        return lambda: bytes(msgpack.packb(frozen))

    def load(self, state: bytes) -> None:
        self.values = msgpack.unpackb(state)


def command(key: str, kind: str, value: int) -> bytes:
    """Encode one command of :class:`Registers`."""
    return bytes(msgpack.packb([key, kind, value]))


@dataclass
class Ledger:
    """What the whole cluster has agreed on so far."""

    committed: dict[int, tuple[int, int]] = field(default_factory=dict)
    #: The term in which an entry was first seen committed: only later leaders must have it. One
    #: whose votes were slow may still be elected in an earlier term, and can do nothing.
    committed_in: dict[int, int] = field(default_factory=dict)
    states: dict[int, int] = field(default_factory=dict)
    leaders: dict[int, str] = field(default_factory=dict)

    def note_applied(self, core: RaftCore, entry: Entry) -> None:
        key = (entry[2], zlib.crc32(entry[0]))
        self.committed_in.setdefault(entry[1], core.term)
        if self.committed.setdefault(entry[1], key) != key:
            raise ViolationError(f"{core.me} applies another entry {entry[1]} than was committed")

    def note_state(self, who: str, index: int, values: dict[str, int]) -> None:
        digest = zlib.crc32(repr(sorted(values.items())).encode())
        if self.states.setdefault(index, digest) != digest:
            raise ViolationError(f"the state of {who} after entry {index} differs")

    def note_leader(self, core: RaftCore) -> bool:
        """Check a leader; return whether it is a new one."""
        known = self.leaders.get(core.term)
        if known == core.me:
            return False
        if known is not None:
            raise ViolationError(f"{known} and {core.me} both lead term {core.term}")
        self.leaders[core.term] = core.me
        for index, key in self.committed.items():
            if self.committed_in[index] < core.term and index > core.wal.first:
                entry = core.wal.at(index) if index <= core.wal.last else None
                if entry is None or (entry[2], zlib.crc32(entry[0])) != key:
                    raise ViolationError(f"{core.me}, elected in {core.term}, lacks entry {index}")
        return True


class WatchedCore(RaftCore):
    """A core that reports what it applies. Ablations derive from it."""

    ledger: Ledger
    registers: Registers

    def apply_entry(self, entry: Entry) -> int:
        self.ledger.note_applied(self, entry)
        work = super().apply_entry(entry)
        self.ledger.note_state(self.me, entry[1], self.registers.values)
        return work


@dataclass
class _Wait:
    term: int
    done: list[Callable[[bytes | None], None]]


@dataclass
class Node:
    """A core and its driver."""

    core: WatchedCore
    registers: Registers
    generation: int
    inbox: deque[tuple[str, bytes]] = field(default_factory=deque)
    proposals: list[tuple[Proposal, Callable[[bytes | None], None]]] = field(default_factory=list)
    tickets: dict[int, list[Callable[[bytes | None], None]]] = field(default_factory=dict)
    committing: dict[int, _Wait] = field(default_factory=dict)
    busy: bool = False
    round: Round | None = None
    background: Callable[[], Taken] | None = None
    timer: float = 0.0


class Sim:
    """One seeded run."""

    def __init__(
        self, seed: int, *, core: type[WatchedCore] = WatchedCore, seconds: float = 20.0
    ) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.core_type = core
        self.seconds = seconds
        size = (3, 5, 3, 5, 3, 1, 5, 7)[seed % 8]
        self.changes_members = seed % 4 >= 2 and size > 1
        self.founders = [f"n{i}" for i in range(size)]
        self.ids = [f"n{i}" for i in range(size + (2 if self.changes_members else 0))]
        self.settings = RaftSettings(
            snapshot_entries=self.rng.choice([30, 80, 200]),
            retain_entries=self.rng.choice([1, 10, 40]),
            lease_reads=True,
        )
        self.now = START
        self.stats: Counter[str] = Counter()
        self.history: list[Op] = []
        self.nodes: dict[str, Node] = {}
        self.blocked: set[tuple[str, str]] = set()
        self._disks = {i: SimDisk(self.rng) for i in self.ids}
        self._ledger = Ledger()
        self._links: dict[tuple[str, str], list[float]] = {}
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0
        self._doomed: set[str] = set()
        self._anew: set[str] = set()

    # -- events

    def at(self, delay: float, call: Callable[..., None], *args: Any) -> None:
        self._count += 1
        heapq.heappush(self._events, (self.now + delay, self._count, call, args))

    def run(self) -> None:
        """Run to the end, or raise what was found."""
        with mock.patch.multiple(replication, **SMALL_WINDOWS):
            self._run()

    def _run(self) -> None:
        for node in self.founders:
            self.start(node)
        for client in range(1, 6):
            self.at(0.5 + client * 0.01, self._client, client, 1)
        self.at(2.0, self._fault)
        self.at(self.seconds - 7.5, self._heal)
        for node in self.founders:
            self.at(self.seconds - 7.4, self._restart, node)
        while self._events and self._events[0][0] < START + self.seconds:
            time, _, call, args = heapq.heappop(self._events)
            self.now = max(self.now, time)
            self.stats["events"] += 1
            call(*args)
        self._check_end()

    # -- members

    def start(self, i: str) -> None:
        registers = Registers()
        self.core_type.ledger, self.core_type.registers = self._ledger, registers
        disk = self._disks[i]
        disk.operations_left = None
        core = self.core_type(
            i,
            bootstrap=self.founders if i in self.founders and i not in self._anew else None,
            disk=disk,
            key=KEY,
            machine=registers,
            settings=self.settings,
            rng=random.Random(self.rng.getrandbits(32)),
            now=self.now,
        )
        core.ledger, core.registers = self._ledger, registers
        self._count += 1
        self.nodes[i] = Node(core, registers, self._count)
        for other in self.nodes:
            if other != i:
                self._reconnect(i, other)
                self._reconnect(other, i)
        self.at(0, self._wake, i, self._count)

    def crash(self, i: str) -> None:
        node = self.nodes.pop(i, None)
        if node is None:
            return
        self._doomed.discard(i)
        self.stats["crashes"] += 1
        self._disks[i].operations_left = self.rng.randrange(4)
        jobs = list(node.round.jobs) if node.busy and node.round else []
        if node.background is not None:
            jobs.insert(self.rng.randrange(len(jobs) + 1), node.background)  # type: ignore[arg-type]  # its result is of no interest
        try:
            for job in jobs:
                job()
        except PowerCutError:
            self.stats["torn"] += 1
        for _, done in node.proposals:
            done(None)
        for other in self.nodes:
            self._reconnect(other, i)

    def _restart(self, i: str) -> None:
        if i not in self.nodes:
            self.start(i)

    def node(self, i: str, generation: int) -> Node | None:
        node = self.nodes.get(i)
        return node if node is not None and node.generation == generation else None

    def leader(self) -> Node | None:
        leaders = [n for n in self.nodes.values() if n.core.leads]
        return max(leaders, key=lambda n: n.core.term, default=None)

    # -- the driver of each member

    def _wake(self, i: str, generation: int) -> None:
        node = self.node(i, generation)
        if node is None or node.busy:
            return
        core = node.core
        self._feed(node)
        done = core.round(self.now)
        if core.leads:
            self.stats["elections"] += self._ledger.note_leader(core)
        self._settle(node, done)
        self._send(i, done.now)
        if done.jobs and i in self._doomed:
            self._doomed.discard(i)
            self.at(0.0004, self.crash, i)
        if done.background is not None:
            node.background = done.background
            self.at(self.rng.random() * 0.3, self._snapshot_done, i, generation)
        if not done.jobs:
            self._send(i, done.later)
            self._arm(i)
            return
        node.busy, node.round = True, done
        delay = 0.0005 + self.rng.random() * 0.003
        if self.rng.random() < 0.01:
            delay = self.rng.random() * 1.5
            self.stats["slow syncs"] += 1
        self.at(delay, self._synced, i, generation)
        for beat in range(1, int(delay / 0.1) + 1):
            self.at(beat * 0.1 - 0.02, self._beat, i, generation)

    def _feed(self, node: Node) -> None:
        while node.inbox:
            source, raw = node.inbox.popleft()
            for message in FrameReader().feed(raw):
                node.core.deliver(source, message, self.now)
        while node.proposals:
            batch, node.proposals = node.proposals[:8], node.proposals[8:]
            node.tickets[node.core.propose([p for p, _ in batch])] = [done for _, done in batch]

    def _synced(self, i: str, generation: int) -> None:
        node = self.node(i, generation)
        if node is None or node.round is None:
            return
        for job in node.round.jobs:
            job()
        node.busy = False
        self._send(i, node.round.later)
        self._arm(i)
        self.at(0, self._wake, i, generation)

    def _snapshot_done(self, i: str, generation: int) -> None:
        node = self.node(i, generation)
        if node is None or node.background is None:
            return
        if node.busy:
            self.at(0.001, self._snapshot_done, i, generation)
            return
        work, node.background = node.background, None
        node.core.snapshot_taken(work())
        self.stats["snapshots"] += 1
        self._wake(i, generation)

    def _beat(self, i: str, generation: int) -> None:
        node = self.node(i, generation)
        if node is not None and node.busy:
            self._send(i, node.core.heartbeats(self.now))

    def _arm(self, i: str) -> None:
        node = self.nodes[i]
        due = max(min(node.core.next_deadline, self.now + 5.0), self.now) + 1e-4
        if node.core.applied_index < node.core.commit:
            due = self.now + 1e-4
        node.timer = due
        self.at(due - self.now, self._timer, i, node.generation, due)

    def _timer(self, i: str, generation: int, due: float) -> None:
        node = self.node(i, generation)
        if node is not None and node.timer == due:
            self._wake(i, generation)

    def _settle(self, node: Node, done: Round) -> None:
        for placed in done.placed:
            waiting = node.tickets.pop(placed.ticket, [])
            if placed.index is None:
                for call in waiting:
                    call(None)
            else:
                node.committing[placed.index] = _Wait(node.core.term, waiting)
        for one in done.answered:
            wait = node.committing.pop(one.index, None)
            if wait is not None and wait.term == node.core.term:
                for call, answer in zip(wait.done, one.answers, strict=False):
                    call(answer.value if answer.ok else None)

    # -- the network

    def _reconnect(self, a: str, b: str) -> None:
        """A new stream from a to b: what was on the old one is lost."""
        link = self._links.setdefault((a, b), [0.0, 0.0, 0.0])
        link[0] += 1
        up = a in self.nodes and b in self.nodes and (a, b) not in self.blocked
        link[1], link[2] = float(up), 0.0
        if a in self.nodes:
            self.nodes[a].core.set_reachable(b, up=up)

    def _send(self, a: str, messages: list[Outgoing]) -> None:
        for b, message in messages:
            link = self._links.get((a, b))
            if link is None or not link[1]:
                continue
            delay = self.rng.choice((0.001, 0.001, 0.002, 0.005, 0.02))
            if self.rng.random() < 0.02:
                delay = self.rng.random() * 0.8
            arrival = max(self.now + delay, link[2] + 1e-6)  # in order within a stream
            link[2] = arrival
            self.stats["messages"] += 1
            self.at(arrival - self.now, self._arrive, a, b, link[0], encode_frame(message))

    def _arrive(self, a: str, b: str, epoch: float, raw: bytes) -> None:
        # Now and then a late message of a replaced stream still gets in: we dial both ways.
        stale = self._links[(a, b)][0] != epoch
        node = self.nodes.get(b)
        if node is None or (a, b) in self.blocked or (stale and self.rng.random() < 0.5):
            return
        node.inbox.append((a, raw))
        self._wake(b, node.generation)

    # -- faults

    def _fault(self) -> None:
        if self.now - START > self.seconds - 8:
            return
        dice, live = self.rng.random(), sorted(self.nodes)
        if dice < 0.25:
            self._partition()
            self.at(0.3 + self.rng.random() * 3, self._heal)
        elif dice < 0.5 and live:
            for i in self.rng.sample(live, 1 if self.rng.random() < 0.8 else len(live)):
                if self.rng.random() < 0.5:
                    self._doomed.add(i)  # in the middle of its next sync
                    self.at(0.05, self.crash, i)
                else:
                    self.crash(i)
                self.at(0.1 + self.rng.random() * 2.5, self._restart, i)
        elif dice < 0.58 and len(self.ids) > 1:
            a, b = self.rng.sample(self.ids, 2)
            self._reconnect(a, b)
            self._reconnect(b, a)
        elif dice < 0.7 or not self.changes_members:
            self._transfer()
        else:
            self._change_members()
        self.at(0.1 + self.rng.random() * 1.1, self._fault)

    def _partition(self) -> None:
        self.stats["partitions"] += 1
        kind, one = self.rng.randrange(5), self.rng.choice(self.ids)
        pairs = [(a, b) for a in self.ids for b in self.ids if a != b]
        part = set(self.rng.sample(self.ids, self.rng.randrange(1, len(self.ids) + 1)))
        leader = self.leader()
        match kind:
            case 0:
                self.blocked = {p for p in pairs if one in p}
            case 1:
                self.blocked = {p for p in pairs if (p[0] in part) != (p[1] in part)}
            case 2:
                side = self.rng.randrange(2)
                self.blocked = {p for p in pairs if p[side] == one}
            case 3:
                self.blocked = {p for p in pairs if self.rng.random() < 0.3}
            case _:  # the leader is deaf, yet heard
                self.blocked = {p for p in pairs if leader and p[1] == leader.core.me}
        self._reconnect_all()

    def _heal(self) -> None:
        self.blocked = set()
        self._reconnect_all()

    def _reconnect_all(self) -> None:
        for a in self.ids:
            for b in self.ids:
                if a != b:
                    self._reconnect(a, b)

    def _transfer(self) -> None:
        leader = self.leader()
        if leader is not None and leader.core.voters:
            successor = self.rng.choice(sorted(str(p.id) for p in leader.core.voters))
            leader.core.start_transfer(successor, until=self.now + 1.0)
            self.stats["transfers"] += 1

    def _change_members(self) -> None:
        leader = self.leader()
        if leader is None:
            return
        core, members = leader.core, set(leader.core.configuration.members)
        one = self.rng.choice(self.ids)
        if one in members and len(members) > 3 and one != core.me:
            self._submit_change(leader, members - {one})
        elif one not in members:
            settled = core.configuration.index <= core.commit and core.lease_holds(self.now)
            if settled and one not in core.learner_ids() and self.rng.random() < 0.5:
                self._begin_anew(one)  # as a node does that was demoted
            elif one not in self.nodes:
                self.start(one)
            core.add_learner(one)
            self.at(0.1, self._promote, core.me, leader.generation, one, 0)

    def _begin_anew(self, i: str) -> None:
        self.crash(i)
        self._disks[i].files.clear()
        self._anew.add(i)
        self.start(i)
        self.stats["begun anew"] += 1

    def _promote(self, i: str, generation: int, learner: str, tries: int) -> None:
        node = self.node(i, generation)
        if node is None or learner not in node.core.learner_ids():
            return
        if node.core.has_caught_up(learner):
            self._submit_change(node, {*node.core.configuration.members, learner})
        elif tries < 10:
            self.at(0.1, self._promote, i, generation, learner, tries + 1)

    def _submit_change(self, node: Node, members: set[str]) -> None:
        node.tickets[node.core.change_members(members)] = []
        self.stats["membership changes"] += 1

    # -- clients

    def _client(self, client: int, seq: int) -> None:
        if self.now - START > self.seconds - 5:
            return
        kind = self.rng.choices(("read", "write", "add"), (4, 3, 3))[0]
        value = client * 10_000 + seq if kind == "write" else 1
        op = Op(f"k{self.rng.randrange(3)}", kind, value, self.now)
        self.history.append(op)
        self._attempt(client, seq, op)

    def _attempt(self, client: int, seq: int, op: Op) -> None:
        finished = False

        def finish(answer: bytes | None, *, ok: bool = False) -> None:
            nonlocal finished
            if finished:
                return
            finished = True
            if answer is None and not ok:
                self.at(0.02 + self.rng.random() * 0.1, self._attempt, client, seq, op)
                return
            op.done = self.now
            op.result = None if answer is None else msgpack.unpackb(answer)
            self.stats["operations"] += 1
            self.at(self.rng.random() * 0.05, self._client, client, seq + 1)

        self.at(1.0, finish, None)
        target = self.rng.choice(self.ids)
        leading = [i for i, n in self.nodes.items() if n.core.leads]
        if leading and self.rng.random() < 0.9:
            target = self.rng.choice(leading)
        node = self.nodes.get(target)
        if node is None:
            return
        if op.kind == "read":
            self._read(target, node, op, finish)
            return
        proposal = Proposal(str(client), seq, seq, command(op.key, op.kind, op.value))
        node.proposals.append((proposal, finish))
        self.at(0, self._wake, target, node.generation)

    def _read(self, i: str, node: Node, op: Op, finish: Callable[..., None]) -> None:
        core = node.core
        if not core.may_read:
            finish(None)
        elif self.rng.random() < 0.5:
            if core.lease_holds(self.now):
                self.stats["lease reads"] += 1
                _finish_read(finish, node, op)
            else:
                finish(None)
        else:
            asked, term, index = self.now, core.term, core.commit
            core.ask_quorum()
            self.at(0, self._wake, i, node.generation)

            def poll() -> None:
                if self.nodes.get(i) is not node or not core.leads or core.term != term:
                    finish(None)
                elif core.quorum_heard_at() >= asked and core.applied_index >= index:
                    self.stats["index reads"] += 1
                    _finish_read(finish, node, op)
                elif self.now - asked < 0.9:
                    self.at(0.005, poll)

            self.at(0.002, poll)

    # -- the end

    def _check_end(self) -> None:
        leader = self.leader()
        if leader is None:
            raise ViolationError("no leader after the faults ended")
        if found := [i for n in self.nodes.values() for i in n.core.regressed_ids()]:
            raise ViolationError(f"{found} are said to have lost what they acknowledged")
        for i in leader.core.configuration.members:
            node = self.nodes.get(i)
            if node is not None and node.core.applied_index < leader.core.applied_index - 20:
                raise ViolationError(f"{i} did not catch up after the faults ended")
        self.stats["unanswered"] += sum(op.done == float("inf") for op in self.history)
        for key in {op.key for op in self.history}:
            if not is_linearizable([op for op in self.history if op.key == key]):
                raise ViolationError(f"register {key} is not linearizable")


def _finish_read(finish: Callable[..., None], node: Node, op: Op) -> None:
    value = node.registers.values.get(op.key)
    finish(None if value is None else msgpack.packb(value), ok=True)
