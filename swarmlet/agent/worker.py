"""Runs the tasks of this node: one supervisor each, one stream of events for all.

:mod:`swarmlet.agent.lifecycle` decides; here are the calls to the engine, and who waits for whom.
Cancelling :meth:`Worker.run` touches no container.
"""

import os
from collections.abc import Callable
from typing import Final

import msgspec
import structlog
import trio

from swarmlet.agent import lifecycle
from swarmlet.agent.lifecycle import Action, Failure, Known
from swarmlet.agent.reboot import Death, ended_by_host
from swarmlet.agent.storage import Kept, Storage
from swarmlet.clock import Rng, Seconds, WallClock
from swarmlet.engine import convert
from swarmlet.engine.client import Engine, Event
from swarmlet.engine.convert import Container
from swarmlet.engine.incarnation import Incarnation
from swarmlet.errors import DiskFailed, EngineError, EngineUnavailable, NotFound
from swarmlet.model.objects import TaskState, TaskStatus
from swarmlet.model.specs import TaskSpec
from swarmlet.rpc.messages import Assignment, Assignments

#: How long a node that starts waits for a manager before it runs its tasks from disk.
ALONE_AFTER: Final = Seconds(5.0)

#: Seconds between two looks whether the last container is gone when a node leaves.
IDLE_CHECK: Final = 0.05

#: Creating and starting are bound by the processors of runc and by the disk; a few more calls than
#: processors keep both busy, many more only make each slower (and delay a stop).
PARALLEL: Final = (os.cpu_count() or 1) * 2 + 2

#: Pulls wait for the network: two at once fill it.
PARALLEL_PULLS: Final = 2

#: Retries after a failure of the engine: soon first, since most are a restart of dockerd.
RETRY_FIRST: Final = Seconds(0.05)
RETRY_MOST: Final = Seconds(3.0)

#: A burst of changes (a full assignment, 50 tasks that start) becomes a few writes of the file.
SAVE_EVERY: Final = Seconds(0.25)

#: What supervisors need to know; other events (exec, attach, rename...) never leave the engine.
ACTIONS: Final = ("die", "oom", "health_status", "start", "destroy")

log = structlog.get_logger(__name__)

Report = Callable[[str, TaskStatus], None]


class _Unit:
    """One task: what is known of it, and its supervisor's alarm clock."""

    def __init__(self, task: Assignment, known: Known, *, seen_in: str = "") -> None:
        self.task = task
        self.known = known
        self.seen_in = seen_in
        self.gone = False
        self.stale = False  # the engine hinted at a change of the container: inspect it
        self.acting = False
        self.supervised = False
        self.wakeup = trio.Event()
        self.pulling: trio.CancelScope | None = None
        self.pulled = False  # a second "no such image" is final: it is of another platform

    def wake(self) -> None:
        self.wakeup.set()

    def learn(self, **changes: object) -> None:
        self.known = msgspec.structs.replace(self.known, **changes)

    @property
    def slot(self) -> tuple[str, int]:
        """The slot it fills on this node: of a global service, 0."""
        return (self.task.service_id, self.task.slot)

    @property
    def leaving(self) -> bool:
        """Whether it must stop and may still run."""
        container = self.known.container
        return self.task.desired > TaskState.RUNNING and container is not None and container.running


class Worker:
    """The tasks of this node on its engine.

    ``report`` is called at each change of a task's status, on the event loop; it must not block.
    """

    def __init__(  # noqa: PLR0913 - what it stands on, and two settings by name
        self,
        engine: Engine,
        storage: Storage,
        report: Report,
        *,
        clock: WallClock,
        rng: Rng,
        alone_after: Seconds = ALONE_AFTER,
        parallel: int = PARALLEL,
    ) -> None:
        self._engine = engine
        self._storage = storage
        self._report = report
        self._clock = clock
        self._rng = rng
        self._alone_after = alone_after
        self._units: dict[str, _Unit] = {}
        self._slots: dict[tuple[str, int], set[_Unit]] = {}
        self._strangers: dict[str, _Unit] = {}  # ours by label, of tasks that nobody named yet
        self._told = trio.Event()  # a manager named all tasks since the start
        self._free = False  # a manager spoke, or none did for long enough
        self._incarnation = Incarnation(name="", started_at=convert.instant(""))
        self._ready = trio.Event()  # the event stream is up and the units know their containers
        self._away_since: float | None = None  # when the engine was lost; None while it answers
        self._turn = 0  # counts resynchronisations: what was learnt across one is void
        self._dirty = trio.Event()
        self.parallel = parallel
        self._calls = trio.CapacityLimiter(parallel)
        # Fewer creates at once than starts, so that the first tasks start while others are created.
        self._creates = trio.CapacityLimiter(max(1, parallel // 3))
        self._pulls = trio.CapacityLimiter(PARALLEL_PULLS)
        self._pulling: dict[str, trio.Lock] = {}
        self._nursery: trio.Nursery | None = None

    # --- what others call -----------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run tasks until cancelled. Started once the tasks on disk are known."""
        for kept in await trio.to_thread.run_sync(self._storage.load):
            self._remember(kept)
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._keep)
                nursery.start_soon(self._follow_engine)
                nursery.start_soon(self._wait_for_managers)
                for unit in list(self._units.values()):
                    self._supervise_soon(unit)
                task_status.started()
        finally:
            self._nursery = None
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 2):
                await self._save()

    def assign(self, assignments: Assignments) -> None:
        """Take over what a manager wants of this node."""
        for task in assignments.tasks:
            self._take(task)
        gone = set(assignments.gone)
        if assignments.full:
            named = {task.task_id for task in assignments.tasks} | set(assignments.others)
            gone |= self._units.keys() - named
            self._told.set()
            if not assignments.others:
                self._adopt_strangers()
        for task_id in gone:
            if unit := self._units.get(task_id):
                self._dismiss(unit)
        if self._told.is_set():
            self._release()
        self._dirty.set()

    def engine_away(self) -> Seconds:
        """For how long the engine does not answer; 0 while it does."""
        since = self._away_since
        return Seconds(0.0 if since is None else trio.current_time() - since)

    async def wait_idle(self) -> None:
        """Wait until no task is left, dismissed ones included: their containers are removed.

        A worker that does not run has nothing to wait for: nobody would remove anything.
        """
        # A node does this once in its life, when it leaves: no event is kept for it.
        while self._units and self._nursery is not None:  # noqa: ASYNC110
            await trio.sleep(IDLE_CHECK)

    def statuses(self) -> dict[str, TaskStatus]:
        """The last status of each assigned task, to report again on a new session."""
        return {
            task_id: unit.known.status
            for task_id, unit in self._units.items()
            if unit.known.status is not None and not unit.gone
        }

    def tasks(self) -> dict[str, Assignment]:
        """The tasks that this node has, ended ones too."""
        return {task_id: unit.task for task_id, unit in self._units.items() if not unit.gone}

    @property
    def busy(self) -> bool:
        """Whether tasks that are gone still have something to remove."""
        return any(unit.gone for unit in self._units.values()) or bool(self._strangers)

    def container_of(self, task_id: str) -> Container | None:
        """The container of a task, as last seen."""
        unit = self._units.get(task_id)
        return unit.known.container if unit else None

    # --- assignments ----------------------------------------------------------------------------

    def _take(self, task: Assignment) -> None:
        unit = self._units.get(task.task_id)
        if unit is None:
            unit = self._strangers.pop(task.task_id, None) or _Unit(task, Known())
            unit.task = task  # a stranger's slot was read from its labels: now it is known
            self._add(unit)
        unit.task = task
        unit.gone = False
        if task.desired > TaskState.RUNNING and unit.pulling is not None:
            unit.pulling.cancel()  # nobody wants the image any more
        self._supervise_soon(unit)
        unit.wake()

    def _remember(self, kept: Kept) -> None:
        """Take over what was on disk; a manager may have spoken before."""
        unit = self._units.get(kept.task.task_id)
        if unit is not None:
            unit.learn(status=kept.status)
            unit.seen_in = kept.seen_in
            return
        unit = _Unit(kept.task, Known(status=kept.status), seen_in=kept.seen_in)
        self._add(unit)
        if self._told.is_set():
            self._dismiss(unit)

    def _dismiss(self, unit: _Unit) -> None:
        self._take(msgspec.structs.replace(unit.task, desired=TaskState.REMOVE))
        unit.gone = True

    def _adopt_strangers(self) -> None:
        """Containers of tasks that a full assignment does not name: stop and remove them."""
        for task_id, unit in list(self._strangers.items()):
            del self._strangers[task_id]
            self._add(unit)
            self._dismiss(unit)

    def _add(self, unit: _Unit) -> None:
        self._units[unit.task.task_id] = unit
        self._slots.setdefault(unit.slot, set()).add(unit)

    def _forget(self, unit: _Unit) -> None:
        del self._units[unit.task.task_id]
        others = self._slots[unit.slot]
        others.discard(unit)
        if not others:
            del self._slots[unit.slot]
        self._dirty.set()

    def _release(self) -> None:
        """Let new containers begin."""
        self._free = True
        for unit in self._units.values():
            unit.learn(hold=False)
            unit.wake()

    async def _wait_for_managers(self) -> None:
        with trio.move_on_after(self._alone_after):
            await self._told.wait()
        if not self._told.is_set():
            log.warning("no-manager", consequence="running the tasks kept on disk")
            self._release()

    # --- supervisors ----------------------------------------------------------------------------

    def _supervise_soon(self, unit: _Unit) -> None:
        if self._nursery is not None and not unit.supervised:
            unit.supervised = True
            self._nursery.start_soon(self._supervise, unit)

    async def _supervise(self, unit: _Unit) -> None:
        """Keep one task going, whatever happens to it: the one place that catches everything."""
        retry = Backoff(self._rng)
        try:
            while not (unit.gone and lifecycle.settled(unit.task, unit.known)):
                unit.wakeup = trio.Event()
                try:
                    await self._ready.wait()
                    if not await self._advance(unit):
                        retry.reset()  # not after each call: one may work and the next fail
                        await unit.wakeup.wait()
                except EngineUnavailable as exc:
                    log.info("engine-unavailable", task=unit.task.task_id, reason=exc.message)
                    unit.stale = True
                    await retry.wait()
                except Exception:
                    log.exception("task-supervisor-failed", task=unit.task.task_id)
                    unit.stale = True
                    await retry.wait()
            self._wake_slot(unit)
            self._forget(unit)
        finally:
            unit.supervised = False

    async def _advance(self, unit: _Unit) -> bool:
        """Make one step. Returns whether anything was done (else: wait for news)."""
        if unit.stale:
            await self._look(unit)
            return True
        unit.learn(hold=not self._free, slot_busy=self._slot_busy(unit))
        step = lifecycle.step(unit.task, unit.known, self._clock())
        if step.status is not None:
            self._publish(unit, step.status)
        if step.action is not Action.WAIT:
            unit.acting = True
            try:
                await self._act(unit, step.action)
            finally:
                unit.acting = False
        return step.status is not None or step.action is not Action.WAIT

    def _publish(self, unit: _Unit, status: TaskStatus) -> None:
        unit.learn(status=status)
        self._dirty.set()
        if status.state.ended:
            self._wake_slot(unit)
        if not unit.gone:
            self._report(unit.task.task_id, status)

    def _slot_busy(self, unit: _Unit) -> bool:
        return any(other is not unit and other.leaving for other in self._slots[unit.slot])

    def _wake_slot(self, unit: _Unit) -> None:
        for other in self._slots.get(unit.slot, ()):
            if other is not unit:
                other.wake()

    # --- actions --------------------------------------------------------------------------------

    async def _act(self, unit: _Unit, action: Action) -> None:
        try:
            await self._call(unit, action)
        except (EngineError, NotFound) as exc:
            await self._refused(unit, action, exc)

    async def _call(self, unit: _Unit, action: Action) -> None:
        if action is Action.PULL:
            await self._pull(unit)
        elif action is Action.CREATE:
            await self._create(unit)
        elif action is Action.STOP:
            # Not under the limit: a stop waits for the grace period, not for the engine.
            known = unit.task.spec.container_spec is not None  # else a stranger: the engine knows
            grace = convert.stop_seconds(unit.task.spec) if known else None
            await self._engine.stop(_container_id(unit), grace=grace)
            await self._look(unit)
        elif action is Action.START:
            async with self._calls:
                await self._engine.start(_container_id(unit))
            await self._look(unit)
        else:
            async with self._calls:
                await self._engine.remove(_container_id(unit))
            self._see(unit, None)

    async def _refused(self, unit: _Unit, action: Action, exc: EngineError | NotFound) -> None:
        """Judge an answer that repeating will not change."""
        no_image = isinstance(exc, NotFound) and "no such image" in exc.message.lower()
        if action is Action.CREATE and no_image and not unit.pulled:
            unit.learn(image_missing=True)
        elif action is Action.CREATE and isinstance(exc, EngineError) and exc.status == 409:
            await self._adopt_by_name(unit, exc)
        elif action in (Action.CREATE, Action.PULL, Action.START):
            unit.learn(failure=Failure(action=action, message=exc.message))
            if action is Action.START:
                await self._look(unit)
        elif isinstance(exc, NotFound):
            self._see(unit, None)
        else:
            raise exc  # a stop or a removal that the engine cannot do now: again, later

    async def _create(self, unit: _Unit) -> None:
        async with self._creates:
            container_id = await self._engine.create(unit.task.name, convert.create_body(unit.task))
        task_id = unit.task.task_id
        self._see(unit, Container(id=container_id, task_id=task_id, state="created"))

    async def _adopt_by_name(self, unit: _Unit, conflict: EngineError) -> None:
        """The name is taken: by this task, when a create was cut off before its answer came."""
        try:
            found = convert.container(await self._engine.inspect(unit.task.name))
        except NotFound:
            return  # it went away meanwhile: create again
        if found.task_id == unit.task.task_id:
            self._see(unit, found)
        else:
            unit.learn(failure=Failure(action=Action.CREATE, message=conflict.message))

    async def _pull(self, unit: _Unit) -> None:
        image = unit.task.spec.container.image
        lock = self._pulling.setdefault(image, trio.Lock())
        with trio.CancelScope() as scope:
            unit.pulling = scope
            try:
                async with lock, self._pulls:
                    if not await self._has_image(image):
                        await self._pull_image(image, unit.task)
                unit.pulled = True
                unit.learn(image_missing=False)
            finally:
                unit.pulling = None

    async def _pull_image(self, image: str, task: Assignment) -> None:
        try:
            digest = await self._engine.pull(image, auth=task.registry_auth)
            log.info("pulled", image=image, digest=digest)
        except (EngineError, NotFound) as exc:
            log.info("pull-failed", image=image, task=task.task_id, reason=exc.message)
            if not await self._has_image(image):
                # What a user asked for is not there; why the registry could not help comes second.
                raise EngineError(f"No such image: {image}: {exc.message}", status=404) from exc

    async def _has_image(self, image: str) -> bool:
        try:
            await self._engine.image(image)
        except NotFound:
            return False
        return True

    # --- what the engine shows ------------------------------------------------------------------

    async def _look(self, unit: _Unit) -> None:
        """Inspect a unit's container, over a new connection: see :class:`Engine`."""
        turn = self._turn
        unit.stale = False
        name = unit.known.container.id if unit.known.container else unit.task.name
        found: Container | None
        try:
            found = convert.container(await self._engine.inspect(name, fresh=True))
        except NotFound:
            found = None
        if turn != self._turn or not self._ready.is_set():
            unit.stale = True  # the engine was replaced meanwhile: whose doing is it?
            return
        if found is None or found.task_id == unit.task.task_id:
            self._see(unit, found)

    def _see(self, unit: _Unit, found: Container | None) -> None:
        unit.learn(container=found)
        if found is not None and found.running:
            unit.learn(host_ended=False)
            if unit.seen_in != self._incarnation.name:
                unit.seen_in = self._incarnation.name
                self._dirty.set()
        else:
            self._wake_slot(unit)

    async def _follow_engine(self) -> None:
        """Read the stream of events, for good; after each break look at everything anew."""
        retry = Backoff(self._rng)
        self._away_since = trio.current_time()
        while True:
            try:
                async with self._engine.events(
                    labels=[convert.TASK_LABEL], actions=ACTIONS
                ) as events:
                    await self._resync()
                    self._away_since = None
                    retry.reset()
                    async for event in events:
                        self._on_event(event)
            except (EngineUnavailable, EngineError, NotFound) as exc:
                log.info("engine-stream-broken", reason=exc.message)
            if self._away_since is None:
                self._away_since = trio.current_time()
            if self._ready.is_set():  # never replace one that supervisors wait for
                self._ready = trio.Event()
            await retry.wait()

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
        unit.wake()

    async def _resync(self) -> None:
        """Learn which containers there are, and who ended those that ended."""
        incarnation = await self._engine.incarnation()
        listed = await self._engine.containers(labels=[convert.TASK_LABEL])
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
            for entry in listed:
                nursery.start_soon(inspect, entry["Id"])
        if failures:
            raise failures[0]
        for entry in listed:
            self._meet(convert.task_of(entry), convert.stranger(entry))
        self._incarnation = incarnation
        self._attribute_deaths(found)
        for unit in [*self._units.values(), *self._strangers.values()]:
            self._see(unit, found.get(unit.task.task_id))
            unit.stale = False
            unit.wake()
        self._turn += 1
        if self._told.is_set():
            self._adopt_strangers()
        self._ready.set()

    def _meet(self, task_id: str, origin: tuple[str, str, str]) -> None:
        """Note a container of a task that nobody named so far."""
        if task_id in self._units or task_id in self._strangers:
            return
        service_id, service_name, place = origin
        task = Assignment(
            task_id=task_id,
            service_id=service_id,
            service_name=service_name,
            slot=int(place) if place.isdigit() else 0,
            node_id="" if place.isdigit() else place,
            spec=TaskSpec(),
            desired=TaskState.RUNNING,
            state=TaskState.ASSIGNED,
        )
        self._strangers[task_id] = _Unit(task, Known())

    def _attribute_deaths(self, found: dict[str, Container]) -> None:
        deaths = [
            Death(
                task_id=task_id,
                exit_code=container.exit_code,
                finished_at=container.finished_at,
                seen_in=self._units[task_id].seen_in,
            )
            for task_id, container in found.items()
            if not (container.running or container.created)
            and task_id in self._units
            and not self._units[task_id].known.state(self._units[task_id].task).ended
        ]
        for task_id in ended_by_host(deaths, self._incarnation):
            log.warning("task-ended-by-host", task=task_id)
            self._units[task_id].learn(host_ended=True)

    # --- the disk -------------------------------------------------------------------------------

    async def _keep(self) -> None:
        while True:
            await self._dirty.wait()
            await self._save()
            await trio.sleep(SAVE_EVERY)

    async def _save(self) -> None:
        self._dirty = trio.Event()
        kept = [
            Kept(task=unit.task, status=unit.known.status, seen_in=unit.seen_in)
            for unit in self._units.values()
        ]
        try:
            await trio.to_thread.run_sync(self._storage.save, kept)
        except DiskFailed as exc:
            # Running tasks matter more than the memory of them.
            log.warning("assignments-not-kept", reason=exc.message)


class Backoff:
    """Waits that grow from :data:`RETRY_FIRST` to :data:`RETRY_MOST`, spread by a half."""

    def __init__(self, rng: Rng) -> None:
        self._rng = rng
        self._next = RETRY_FIRST

    def reset(self) -> None:
        """Begin again with the shortest wait."""
        self._next = RETRY_FIRST

    async def wait(self) -> None:
        """Sleep, and longer the next time."""
        delay = self._next * (0.75 + self._rng.random() / 2)
        self._next = Seconds(min(self._next * 2, RETRY_MOST))
        await trio.sleep(delay)


def _container_id(unit: _Unit) -> str:
    container = unit.known.container
    return container.id if container else unit.task.name
