"""The generic reconcile loop of the leader: wake, decide, propose, and again.

A loop holds no state but what is dirty. When a proposal is refused, because the state moved on,
everything stays dirty and the next decision is made on the new state.
"""

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

#: What a loop decides: (state, what is dirty, whether everything is, wall-clock time).
Decide = Callable[[View, "Dirty", Instant], Decision]

#: Items in one proposal, so that a Raft entry stays far below its limit of 1 MiB.
MAX_ITEMS: Final = 1_000

#: Seconds before a refused decision is made again: the reason is usually applied within one round.
CONFLICT_PAUSE: Final = 0.02


class Dirty:
    """What a loop has not dealt with yet."""

    def __init__(self) -> None:
        self.change = Change()
        self.everything = True

    def add(self, change: Change, *, reset: bool) -> None:
        """Note what changed."""
        self.change.merge(change)
        self.everything |= reset

    def clear(self) -> None:
        """Everything was dealt with."""
        self.change = Change()
        self.everything = False

    def services(self, view: View) -> set[str]:
        """Services that changed themselves or by one of their tasks, or all."""
        if self.everything:
            orphans = {task.service_id for task in view.tasks()}
            return orphans | {service.id for service in view.services()}
        return self.change.services | {task.service_id for task in self.change.tasks.values()}

    def nodes(self, view: View) -> set[str]:
        """Nodes that changed, or all."""
        if self.everything:
            return {node.id for node in view.nodes()}
        return self.change.nodes


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
        wake_at: Instant | None = None
        with self._replica.watch() as watch:
            while True:
                with trio.move_on_after(self._until(wake_at)):
                    await watch.wait()
                change, reset = watch.take()
                dirty.add(change, reset=reset)
                decision = self._decide(self._replica.view, dirty, self._now())
                wake_at = decision.wake_at
                if await self._propose(decision.commands):
                    dirty.clear()
                else:
                    watch.wake()
                    await trio.sleep(CONFLICT_PAUSE)

    def _until(self, wake_at: Instant | None) -> float:
        if wake_at is None:
            return math.inf
        return max(0.0, (wake_at - self._now()) / 1e9)

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
