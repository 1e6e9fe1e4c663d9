"""A cluster of cores whose every message and tick is under the test's hand."""

import random
from collections import defaultdict, deque
from collections.abc import Callable

from swarmlet.consensus.entries import Proposal
from swarmlet.consensus.messages import Message
from swarmlet.consensus.settings import RaftSettings
from swarmlet.consensus.syncobj_core import RaftCore, Round
from swarmlet.consensus.syncobj_members import Outgoing

from tests.sim.raft import KEY, Registers, SimDisk, command


class Lab:
    """Members named by letters; messages wait in queues until delivered."""

    def __init__(self, ids: str, *, settings: RaftSettings | None = None) -> None:
        self.now = 1000.0
        self.ids = ids
        self.settings = settings or RaftSettings(lease_reads=True)
        self.cores: dict[str, RaftCore] = {}
        self.registers: dict[str, Registers] = {}
        self.disks = {i: SimDisk(random.Random(i)) for i in ids}
        self.queues: dict[tuple[str, str], deque[Message]] = defaultdict(deque)
        self.cut: set[tuple[str, str]] = set()
        self.answers: list[bytes] = []
        self._seq = 0
        for i in ids:
            self.start(i, bootstrap=ids)

    def start(self, i: str, *, bootstrap: str | None = None) -> RaftCore:
        """Start or restart a member from its disk."""
        self.registers[i] = Registers()
        self.disks[i].operations_left = None
        core = self.cores[i] = RaftCore(
            i,
            bootstrap=bootstrap,
            disk=self.disks[i],
            key=KEY,
            machine=self.registers[i],
            settings=self.settings,
            rng=random.Random(i),
            now=self.now,
        )
        for other in self.cores:
            core.set_reachable(other, up=True)
            self.cores[other].set_reachable(i, up=True)
        return core

    def join(self, i: str) -> RaftCore:
        """Start a member that is not in the configuration."""
        self.disks[i] = SimDisk(random.Random(i))
        return self.start(i)

    def round(self, i: str) -> Round:
        """One round of one member, its disk work and snapshot included."""
        done = self.cores[i].round(self.now)
        self.post(i, done.now)
        for job in done.jobs:
            job()
        self.post(i, done.later)
        if done.background is not None:
            self.cores[i].snapshot_taken(done.background())
        for one in done.answered:
            self.answers += [answer.value for answer in one.answers]
        return done

    def post(self, i: str, messages: list[Outgoing]) -> None:
        for to, message in messages:
            self.queues[i, to].append(message)

    def flow(self, a: str, b: str, count: int = 1 << 30) -> None:
        """Deliver what waits from a to b; b then has a round."""
        queue = self.queues[a, b]
        for _ in range(min(count, len(queue))):
            message = queue.popleft()
            if (a, b) not in self.cut and b in self.cores:
                self.cores[b].deliver(a, message, self.now)
        if b in self.cores:
            self.round(b)

    def settle(self, *, limit: int = 200) -> int:
        """Deliver until nothing waits; return how many exchanges it took."""
        for turn in range(limit):
            waiting = [pair for pair, queue in self.queues.items() if queue]
            if not waiting:
                return turn
            for a, b in waiting:
                self.flow(a, b)
        return limit

    def beat(self, times: int = 1, *, ids: str | None = None) -> None:
        """Let time pass in steps of a heartbeat, everybody working."""
        for _ in range(times):
            self.now += 0.11
            for i in ids or self.cores:
                self.round(i)
            self.settle()

    def elect(self, i: str) -> RaftCore:
        """Make a member leader, by a transfer nobody refuses."""
        self.campaign(i)
        self.settle()
        self.beat(2)
        return self.cores[i]

    def campaign(self, i: str) -> None:
        core = self.cores[i]
        core._may_campaign, core._transfer_term, core.deadline = True, core.term + 1, -1.0
        self.round(i)

    def put(self, i: str, value: int, *, key: str = "k") -> None:
        """Submit a write; the next round appends it."""
        self._seq += 1
        proposal = Proposal("lab", self._seq, self._seq, command(key, "write", value))
        self.cores[i].propose([proposal])

    def isolate(self, ids: str) -> None:
        """Cut these members off from all others."""
        everyone = set(self.cores)
        self.cut |= {(a, b) for a in everyone for b in everyone if (a in ids) != (b in ids)}

    def values(self, i: str) -> dict[str, int]:
        return self.registers[i].values


def led(ids: str, *, settings: RaftSettings | None = None) -> Lab:
    """A cluster led by its first member, with one value written."""
    lab = Lab(ids, settings=settings)
    lab.elect(ids[0])
    lab.put(ids[0], 1)
    lab.beat(2)
    return lab


Damage = Callable[[], bool]
