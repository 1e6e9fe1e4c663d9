"""The generic reconcile loop of the leader: wake, decide, propose, and again.

A loop holds no state but what is dirty. When a proposal is refused, because the state moved on,
everything stays dirty and the next decision is made on the new state.
"""

import heapq
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import structlog
import trio
from msgspec.structs import replace

from swarmlet.clock import Instant, WallClock
from swarmlet.control.decision import Decision
from swarmlet.errors import NoQuorum
from swarmlet.manager.proposer import Proposer
from swarmlet.manager.replica import Replica
from swarmlet.state.commands import AnyCommand, ChangeTasks, CreateTasks, DeleteTasks
from swarmlet.state.store import Change, View

log = structlog.get_logger()

#: What a loop decides: (state, what is dirty, wall-clock time).
Decide = Callable[[View, Change, Instant], Decision]

#: Items in one proposal, so that a Raft entry stays far below its limit of 1 MiB.
MAX_ITEMS: Final = 1_000

#: Seconds before a refused decision is made again: the reason is usually applied within one round.
CONFLICT_PAUSE: Final = 0.02


def everything(view: View) -> Change:
    """A change that touches all there is: where a loop begins."""
    change = Change()
    change.cluster = True
    change.nodes.update(node.id for node in view.nodes())
    change.services.update(service.id for service in view.services())
    change.tasks.update((task.id, task) for task in view.tasks())
    return change


class Dirty:
    """What a loop must look at: now, and at certain times though nothing will have changed."""

    def __init__(self) -> None:
        self.change = Change()
        self._later: list[tuple[Instant, int, Change]] = []
        self._count = itertools.count()  # makes entries of one time comparable

    def take_due(self, now: Instant) -> None:
        """Make dirty again what had to wait until now."""
        while self._later and self._later[0][0] <= now:
            self.change.merge(heapq.heappop(self._later)[2])

    def done(self, wake_at: Instant | None) -> None:
        """All was dealt with; look at the same again at ``wake_at``."""
        if wake_at is not None:
            heapq.heappush(self._later, (wake_at, next(self._count), self.change))
        self.change = Change()

    def seconds_until_due(self, now: Instant) -> float:
        """How long nothing is due by itself; infinite when nothing waits."""
        return max(0.0, (self._later[0][0] - now) / 1e9) if self._later else math.inf


class Loop:
    """One reconcile loop."""

    def __init__(
        self, name: str, decide: Decide, *, replica: Replica, proposer: Proposer, now: WallClock
    ) -> None:
        self._name = name
        self._decide = decide
        self._replica = replica
        self._proposer = proposer
        self._now = now

    async def run(self) -> None:
        """Reconcile until cancelled."""
        dirty = Dirty()
        with self._replica.watch() as watch:
            while True:
                with trio.move_on_after(dirty.seconds_until_due(self._now())):
                    await watch.wait()
                change, reset = watch.take()
                dirty.change.merge(everything(self._replica.view) if reset else change)
                now = self._now()
                dirty.take_due(now)
                decision = self._decide(self._replica.view, dirty.change, now)
                if await self._propose(decision.commands):
                    dirty.done(decision.wake_at)
                else:
                    watch.wake()
                    await trio.sleep(CONFLICT_PAUSE)

    async def _propose(self, commands: Sequence[AnyCommand]) -> bool:
        """Whether all was accepted."""
        accepted = True
        for batch in batches(commands):
            try:
                outcomes = await self._proposer.outcomes(*batch)
            except NoQuorum:
                return False
            refused = [outcome for outcome in outcomes if outcome is not None]
            if refused:
                log.debug("decision-refused", loop=self._name, reason=refused[0].message)
                accepted = False
        return accepted


def batches(commands: Sequence[AnyCommand]) -> Iterator[tuple[AnyCommand, ...]]:
    """Cut commands into proposals of at most MAX_ITEMS items each."""
    batch: list[AnyCommand] = []
    size = 0
    for command in commands:
        for piece in _pieces(command):
            weight = _items(piece)
            if batch and size + weight > MAX_ITEMS:
                yield tuple(batch)
                batch, size = [], 0
            batch.append(piece)
            size += weight
    if batch:
        yield tuple(batch)


def _items(command: AnyCommand) -> int:
    match command:
        case CreateTasks():
            return len(command.tasks)
        case ChangeTasks():
            return len(command.changes)
        case DeleteTasks():
            return len(command.ids)
        case _:
            return 1


def _pieces(command: AnyCommand) -> Iterator[AnyCommand]:
    """A command with too many items, as several."""
    for start in range(0, max(1, _items(command)), MAX_ITEMS):
        part = slice(start, start + MAX_ITEMS)
        match command:
            case CreateTasks():
                yield replace(command, tasks=command.tasks[part])
            case ChangeTasks():
                yield replace(command, changes=command.changes[part])
            case DeleteTasks():
                yield replace(command, ids=command.ids[part])
            case _:
                yield command
