"""What keeps each task going: ask :mod:`swarmlet.agent.lifecycle`, act, report, wait for news."""

from collections.abc import Callable

import structlog
import trio

from swarmlet.agent import lifecycle
from swarmlet.agent.actions import Actions
from swarmlet.agent.backoff import Backoff
from swarmlet.agent.lifecycle import Action
from swarmlet.agent.units import Unit, Units
from swarmlet.agent.watch import EngineWatch
from swarmlet.clock import Rng, WallClock
from swarmlet.errors import EngineRulesGone, EngineUnavailable
from swarmlet.model.objects import TaskStatus

log = structlog.get_logger(__name__)


class Supervisor:
    """Runs one loop a task. ``publish`` takes each status that is news."""

    def __init__(
        self,
        units: Units,
        watch: EngineWatch,
        actions: Actions,
        *,
        publish: Callable[[Unit, TaskStatus], None],
        clock: WallClock,
        rng: Rng,
    ) -> None:
        self._units = units
        self._watch = watch
        self._actions = actions
        self._publish = publish
        self._clock = clock
        self._rng = rng
        self._complained_of = ""
        self._free = False  # a manager spoke, or none did for long enough

    def release(self) -> None:
        """Let new containers begin."""
        self._free = True
        for unit in self._units:
            unit.learn(hold=False)
            unit.wake()

    async def supervise(self, unit: Unit) -> None:
        """Keep one task going, whatever happens to it: the one place that catches everything.

        Returns when a task that is gone has left nothing behind.
        """
        retry = Backoff(self._rng)
        while not (unit.gone and lifecycle.settled(unit.task, unit.known)):
            unit.wakeup = trio.Event()
            try:
                await self._watch.wait_ready()
                if not await self._advance(unit):
                    retry.reset()  # not after each call: one may work and the next fail
                    await unit.wakeup.wait()
            except EngineUnavailable as exc:
                self._complain(exc)
                log.info("engine-unavailable", task=unit.task.task_id, reason=exc.message)
                unit.stale = True
                await retry.wait()
            except Exception:
                log.exception("task-supervisor-failed", task=unit.task.task_id)
                unit.stale = True
                await retry.wait()

    def _complain(self, exc: EngineUnavailable) -> None:
        """Say once in an engine's life what only somebody else can put right."""
        life = self._watch.incarnation
        if isinstance(exc, EngineRulesGone) and self._complained_of != life:
            self._complained_of = life
            log.error("engine-rules-gone", reason=exc.message, advice=exc.advice)

    async def _advance(self, unit: Unit) -> bool:
        """Make one step. Returns whether anything was done (else: wait for news)."""
        if unit.stale:
            await self._watch.look(unit)
            return True
        hold = not self._free or self._actions.awaits(unit)
        unit.learn(hold=hold, slot_busy=self._units.slot_busy(unit))
        step = lifecycle.step(unit.task, unit.known, self._clock())
        if step.status is not None:
            self._publish(unit, step.status)
        if step.action is not Action.WAIT:
            await self._actions.act(unit, step.action)
        return step.status is not None or step.action is not Action.WAIT
