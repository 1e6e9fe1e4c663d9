"""The generic reconcile loop of the leader: wake, decide, propose, and again.

A loop holds no state but what is dirty. When a proposal is refused, because the state moved on,
everything stays dirty and the next decision is made on the new state.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import structlog
import trio
from msgspec.structs import replace

from swarmlet.clock import Instant, WallClock
from swarmlet.control.decision import Alarms, Decision, Id
from swarmlet.errors import NoQuorum, SwarmletError
from swarmlet.manager.proposer import Proposer
from swarmlet.manager.replica import Replica
from swarmlet.state.commands import AnyCommand, ChangeTasks, CreateTasks, DeleteTasks
from swarmlet.state.store import Change, View, everything

log = structlog.get_logger()


#: Items in one proposal, so that a Raft entry stays far below its limit of 1 MiB.
MAX_ITEMS: Final = 1_000

#: Seconds before a refused decision is made again: the reason is usually applied within one round.
CONFLICT_PAUSE: Final = 0.02


class Rule(NamedTuple):
    """What makes one loop: which identifiers a change makes dirty, and what is decided of them.

    The identifiers of one rule are of one kind (services, nodes, slots), which the types leave
    open: the loop only keeps them.
    """

    name: str
    dirty: Callable[[View, Change], set[Any]]
    decide: Callable[[View, set[Any], Instant], Decision]


class Loop:
    """One reconcile loop."""

    def __init__(self, rule: Rule, *, replica: Replica, proposer: Proposer, now: WallClock) -> None:
        self._rule = rule
        self._replica = replica
        self._proposer = proposer
        self._now = now

    async def run(self) -> None:
        """Reconcile until cancelled."""
        dirty: set[Id] = set()
        alarms = Alarms()
        with self._replica.watch() as watch:
            while True:
                with trio.move_on_after(self._until(alarms.wake_at)):
                    await watch.wait()
                view, now = self._replica.view, self._now()
                change, reset = watch.take()
                dirty |= self._rule.dirty(view, everything(view) if reset else change)
                dirty |= alarms.due(now)
                decision = self._rule.decide(view, dirty, now)
                if await self._propose(decision.commands):
                    alarms.note(dirty, decision)
                    dirty = set()
                else:
                    watch.wake()
                    await trio.sleep(CONFLICT_PAUSE)

    def _until(self, wake_at: Instant | None) -> float:
        return math.inf if wake_at is None else max(0.0, (wake_at - self._now()) / 1e9)

    async def _propose(self, commands: Sequence[AnyCommand]) -> bool:
        """Whether all was accepted."""
        accepted = True
        for batch in batches(commands):
            try:
                outcomes = await self._proposer.outcomes(*batch)
            except NoQuorum:
                return False
            except SwarmletError as exc:
                log.warning("decision-not-committed", loop=self._rule.name, reason=exc.message)
                return False
            refused = [outcome for outcome in outcomes if outcome is not None]
            if refused:
                log.debug("decision-refused", loop=self._rule.name, reason=refused[0].message)
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
