"""What the engine shows of this node's containers: its events, and a look at all after each break.

Nothing else tells what a container does. What was learnt before a break is void after it: the
engine may be another process by then, and that the old one ended a container is no fault of its
task (:mod:`swarmlet.agent.reboot`).
"""

import math
from collections.abc import Callable, Iterable
from typing import Final, NoReturn

import structlog
import trio

from swarmlet.agent import probing, processes
from swarmlet.agent.backoff import Backoff
from swarmlet.agent.prober import Prober
from swarmlet.agent.pulse import Pulse
from swarmlet.agent.reboot import Death, ended_by_host
from swarmlet.agent.units import Unit, Units
from swarmlet.clock import Rng, Seconds, WallClock
from swarmlet.engine import convert
from swarmlet.engine.client import Engine, Event
from swarmlet.engine.convert import Container
from swarmlet.engine.incarnation import Incarnation
from swarmlet.engine.tunnel import parse_version
from swarmlet.errors import EngineError, EngineUnavailable, NotFound

#: What supervisors need to know; other events (exec, attach, rename...) never leave the engine.
ACTIONS: Final = ("die", "oom", "health_status", "start", "destroy")

#: Seconds for an engine to begin its stream of events; it has begun before anything happened.
OPEN_TIMEOUT: Final = 30.0

log = structlog.get_logger(__name__)


class EngineWatch:
    """Tells the units what their containers do.

    ``calls`` bounds the calls of a look at all; ``changed`` is called when something is to be kept
    on disk, ``halted`` when a unit lost its process or has one again, ``resynced`` at the end of
    each look at all.
    """

    def __init__(  # noqa: PLR0913 - what it stands on, and whom it tells by name
        self,
        engine: Engine,
        units: Units,
        *,
        calls: trio.CapacityLimiter,
        clock: WallClock,
        rng: Rng,
        changed: Callable[[], None],
        halted: Callable[[Unit], None],
        resynced: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._units = units
        self._calls = calls
        self._rng = rng
        self._changed = changed
        self._halted = halted
        self._resynced = resynced
        self._incarnation = Incarnation(name="", started_at=convert.instant(""))
        self._ready = trio.Event()  # the event stream is up and the units know their containers
        self._pulse = Pulse(engine, missed=self._missed)
        self._prober = Prober(engine, self._health_changed, clock=clock)
        self._checking = trio.CancelScope()
        self._stream = trio.CancelScope()  # of the present try to hold a stream of events
        self._nursery: trio.Nursery | None = None
        self._turn = 0  # counts resynchronisations: what was learnt across one is void

    async def wait_ready(self) -> None:
        """Wait until the units know their containers."""
        await self._ready.wait()

    @property
    def incarnation(self) -> str:
        """The name of the engine's present life."""
        return self._incarnation.name

    def away(self) -> Seconds:
        """For how long the engine is of no use; 0 while it is."""
        return self._pulse.away()

    # --- one container --------------------------------------------------------------------------

    async def look(self, unit: Unit) -> None:
        """Inspect a unit's container, over a new connection: see :class:`Engine`."""
        turn = self._turn
        unit.stale = False
        found: Container | None
        try:
            found = convert.container(await self._engine.inspect(unit.container_ref, fresh=True))
        except NotFound:
            found = None
        if turn != self._turn or not self._ready.is_set():
            unit.stale = True  # the engine was replaced meanwhile: whose doing is it?
            return
        if found is None or found.task_id == unit.task.task_id:
            self.see(unit, found)

    def see(self, unit: Unit, found: Container | None) -> None:
        """Take over what the engine showed of a unit's container; None: there is none."""
        found = self._prober.seen(found) if found else None
        unit.learn(container=found)
        self._see_process(unit, found)
        if found is not None and found.running:
            unit.learn(host_ended=False)
            if unit.seen_in != self._incarnation.name:
                unit.seen_in = self._incarnation.name
                self._changed()
        else:
            self._units.wake_slot(unit)

    # --- its process ----------------------------------------------------------------------------

    def revive(self, unit: Unit) -> bool:
        """Its container is about to get a process; returns whether it had lost one."""
        return self._set_halted(unit, halted=False)

    def _see_process(self, unit: Unit, found: Container | None) -> None:
        if found is None or found.created:
            return
        if not found.running:
            self._set_halted(unit, halted=True)
        elif not unit.stale and found.pid != unit.ended_pid:
            # Else it may have ended since the engine was asked, or the engine does not know yet.
            self._set_halted(unit, halted=False)
            self._watch_process(unit, found)

    def _set_halted(self, unit: Unit, *, halted: bool) -> bool:
        if unit.halted is halted:
            return False
        unit.halted = halted
        self._halted(unit)
        return True

    def _watch_process(self, unit: Unit, found: Container) -> None:
        if self._nursery is not None and unit.watched_pid != found.pid:
            unit.watched_pid = found.pid
            self._nursery.start_soon(self._await_end, unit, found)

    async def _await_end(self, unit: Unit, found: Container) -> None:
        """Nothing follows for the task: why it ended only the engine can tell."""
        if await processes.ended(found.pid, found.id):
            unit.ended_pid = found.pid
            if unit.known.container is not None and unit.known.container.pid == found.pid:
                self._set_halted(unit, halted=True)

    # --- all containers -------------------------------------------------------------------------

    async def follow(self) -> None:
        """Read the stream of events, for good; after each break look at everything anew."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._pulse.watch)
            await self._hold_streams()

    async def _hold_streams(self) -> NoReturn:
        retry = Backoff(self._rng)
        while True:
            began = trio.current_time()
            self._stream = trio.CancelScope(deadline=began + OPEN_TIMEOUT)
            reason = "silent"
            try:
                with self._stream:
                    await self._hold_stream(retry)
            except (EngineUnavailable, EngineError, NotFound) as exc:
                reason = exc.message
            log.info("engine-stream-broken", reason=reason)
            if self._ready.is_set():  # never replace one that supervisors wait for
                self._ready = trio.Event()
                self._pulse.doubt()
            else:
                self._pulse.failed(began)
            await retry.wait()

    async def _hold_stream(self, retry: Backoff) -> None:
        async with self._engine.events(labels=[convert.TASK_LABEL], actions=ACTIONS) as events:
            self._stream.deadline = math.inf
            await self._resync()
            self._pulse.seen()
            retry.reset()
            async for event in events:
                self._on_event(event)

    def _missed(self) -> None:
        """The engine gave no sign of life: what its stream says no more must be looked up.

        A look at everything that is under way goes on: its calls have time-outs of their own.
        """
        if self._ready.is_set():
            self._stream.cancel()

    def _on_event(self, event: Event) -> None:
        unit = self._units.get(event.attributes.get(convert.TASK_LABEL, ""))
        if unit is None:
            return  # a stranger
        container = unit.known.container
        if container is not None and container.id != event.container_id:
            return
        runs = container is not None and container.running
        if event.action == "start" and (unit.acting or runs):
            return  # the echo of our own call
        unit.stale = True
        if event.action == "die":
            # Now: an engine that stops takes no more questions.
            self._set_halted(unit, halted=True)
        unit.wake()

    async def _resync(self) -> None:
        """Learn which containers there are, and who ended those that ended."""
        incarnation = await self._engine.incarnation()
        listed = await self._engine.containers(labels=[convert.TASK_LABEL])
        found = await self._inspect([entry["Id"] for entry in listed])
        for entry in listed:
            self._units.meet(convert.task_of(entry), convert.stranger(entry))
        self._incarnation = incarnation
        self._attribute_deaths(found)
        for unit in [*self._units, *self._units.strangers.values()]:
            unit.stale = False
            self.see(unit, found.get(unit.task.task_id))
            unit.wake()
        self._turn += 1
        self._resynced()
        self._ready.set()
        self._check_forgotten(found.values())

    def _check_forgotten(self, containers: Iterable[Container]) -> None:
        """Have the agent check what the engine does not: see :mod:`.probing`."""
        self._checking.cancel()
        self._checking = trio.CancelScope()
        api = parse_version(self._engine.api_version)
        forgotten = probing.forgotten(containers, self._incarnation, api)
        if self._nursery is not None:
            self._nursery.start_soon(self._check_health, forgotten, self._checking)

    async def _check_health(self, of: list[Container], scope: trio.CancelScope) -> None:
        with scope:
            await self._prober.run(of)

    def _health_changed(self, container: Container) -> None:
        if unit := self._units.get(container.task_id):
            unit.stale = True
            unit.wake()

    async def _inspect(self, container_ids: list[str]) -> dict[str, Container]:
        """The containers that are still there, by task."""
        found: dict[str, Container] = {}
        failures: list[EngineUnavailable] = []

        async def inspect(container_id: str) -> None:
            async with self._calls:
                try:
                    seen = convert.container(await self._engine.inspect(container_id))
                except NotFound:
                    return
                except EngineUnavailable as exc:
                    failures.append(exc)
                    return
            found[seen.task_id] = seen

        async with trio.open_nursery() as nursery:
            for container_id in container_ids:
                nursery.start_soon(inspect, container_id)
        if failures:
            raise failures[0]
        return found

    def _attribute_deaths(self, found: dict[str, Container]) -> None:
        """Note which tasks went down with the host or the engine, and for no fault of their own."""
        deaths = [
            Death(
                task_id=unit.task.task_id,
                exit_code=container.exit_code,
                finished_at=container.finished_at,
                seen_in=unit.seen_in,
            )
            for task_id, container in found.items()
            if not (container.running or container.created)
            and (unit := self._units.get(task_id)) is not None
            and not unit.known.state(unit.task).ended
        ]
        for task_id in ended_by_host(deaths, self._incarnation):
            log.warning("task-ended-by-host", task=task_id)
            if unit := self._units.get(task_id):
                unit.learn(host_ended=True)
