"""The tasks of this node: taken over from managers and from disk, each with its supervisor.

The rooms beside it: :mod:`.units` (what is known of each task), :mod:`.lifecycle` (what to do
next), :mod:`.supervisor` (who does it), :mod:`.actions` and :mod:`.pulls` (calls to the engine),
:mod:`.watch` (what the engine shows), :mod:`.files` (secrets and configs), :mod:`.keeping` and
:mod:`.storage` (the disk).
"""

import os
from collections.abc import Callable, Collection
from typing import Final

import msgspec
import structlog
import trio

from swarmlet.agent.actions import Actions
from swarmlet.agent.files import Files
from swarmlet.agent.keeping import Keeper
from swarmlet.agent.lifecycle import Known
from swarmlet.agent.places import Places
from swarmlet.agent.storage import Kept, Storage
from swarmlet.agent.supervisor import Supervisor
from swarmlet.agent.units import Unit, Units
from swarmlet.agent.watch import EngineWatch
from swarmlet.clock import Rng, Seconds, WallClock
from swarmlet.engine.client import Engine
from swarmlet.engine.convert import Container
from swarmlet.model.objects import TaskState, TaskStatus
from swarmlet.rpc.messages import Assignment, Assignments, Payloads

#: How long a node that starts waits for a manager before it runs its tasks from disk.
ALONE_AFTER: Final = Seconds(5.0)

#: Seconds between two looks whether the last container is gone when a node leaves.
IDLE_CHECK: Final = 0.05

#: Creating and starting are bound by the processors of runc and by the disk; a few more calls than
#: processors keep both busy, many more only make each slower (and delay a stop).
PARALLEL: Final = (os.cpu_count() or 1) * 2 + 2

#: Said of a task whose process ended, before it is known why.
HALTED: Final = "its container ended"

log = structlog.get_logger(__name__)

Report = Callable[[str, TaskStatus], None]


class Worker:
    """The tasks of this node on its engine.

    ``report`` is called at each change of a task's status, on the event loop; it must not block.
    """

    def __init__(  # noqa: PLR0913 - what it stands on, and two settings by name
        self,
        engine: Engine,
        storage: Storage,
        report: Report,
        places: Places,
        files: Files,
        *,
        clock: WallClock,
        rng: Rng,
        alone_after: Seconds = ALONE_AFTER,
        parallel: int = PARALLEL,
    ) -> None:
        self.parallel = parallel
        self._report = report
        self._places = places
        self._files = files
        self._alone_after = alone_after
        self._told = trio.Event()  # a manager named all tasks since the start
        self._nursery: trio.Nursery | None = None
        self._units = Units()
        self._keeper = Keeper(storage, self._units.kept)
        calls = trio.CapacityLimiter(parallel)
        self._watch = EngineWatch(
            engine,
            self._units,
            calls=calls,
            clock=clock,
            rng=rng,
            changed=self._keeper.changed,
            halted=self._halted,
            resynced=self._resynced,
        )
        self._supervisor = Supervisor(
            self._units,
            self._watch,
            Actions(engine, self._watch, places, files, self._keeper, calls=calls),
            publish=self._publish,
            clock=clock,
            rng=rng,
        )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run tasks until cancelled, which touches no container.

        Started once the tasks on disk are known.
        """
        for kept in await self._keeper.load():
            self._remember(kept)
        self._files.sweep(unit.task.task_id for unit in self._units if _may_start(unit))
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._keeper.run)
                nursery.start_soon(self._watch.follow)
                nursery.start_soon(self._wait_for_managers)
                for unit in self._units:
                    self._supervise_soon(unit)
                task_status.started()
        finally:
            self._nursery = None
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 2):
                await self._keeper.save()

    # --- what is known --------------------------------------------------------------------------

    def engine_away(self) -> Seconds:
        """For how long the engine is of no use; 0 while it is."""
        return self._watch.away()

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
            unit.task.task_id: unit.known.status
            for unit in self._units
            if unit.known.status is not None and not unit.gone
        }

    def tasks(self) -> dict[str, Assignment]:
        """The tasks that this node has, ended ones too."""
        return {unit.task.task_id: unit.task for unit in self._units if not unit.gone}

    @property
    def busy(self) -> bool:
        """Whether tasks that are gone still have something to remove."""
        return any(unit.gone for unit in self._units) or bool(self._units.strangers)

    def container_of(self, task_id: str) -> Container | None:
        """The container of a task, as last seen."""
        unit = self._units.get(task_id)
        return unit.known.container if unit else None

    # --- who names the tasks --------------------------------------------------------------------

    def take(self, payloads: Payloads) -> None:
        """Take over data that tasks need which are assigned next."""
        self._files.take(payloads)

    def assign(self, assignments: Assignments) -> None:
        """Take over what a manager wants of this node."""
        for task in assignments.tasks:
            self._take(task)
        gone = set(assignments.gone)
        if assignments.full:
            named = {task.task_id for task in assignments.tasks} | set(assignments.others)
            gone |= self._units.ids() - named
            self._files.keep(assignments.payloads)
            self._told.set()
            self._adopt_strangers(named)
        for task_id in gone:
            if unit := self._units.get(task_id):
                self._dismiss(unit)
        if self._told.is_set():
            self._supervisor.release()
        self._keeper.changed()

    def _remember(self, kept: Kept) -> None:
        """Take over what was on disk; a manager may have spoken before."""
        unit = self._units.get(kept.task.task_id)
        if unit is not None:
            unit.learn(status=kept.status)
            unit.seen_in = kept.seen_in
            return
        unit = Unit(kept.task, Known(status=kept.status), seen_in=kept.seen_in)
        self._units.add(unit)
        if self._told.is_set():
            self._dismiss(unit)

    def _take(self, task: Assignment) -> None:
        unit = self._units.get(task.task_id)
        if unit is None:
            unit = self._units.strangers.pop(task.task_id, None) or Unit(task, Known())
            unit.task = task  # a stranger's slot was read from its labels: now it is known
            self._units.add(unit)
        unit.task = task
        unit.gone = False
        if task.desired > TaskState.RUNNING and unit.pulling is not None:
            unit.pulling.cancel()  # nobody wants the image any more
        if not _may_start(unit):
            self._files.release(task.task_id)
        self._supervise_soon(unit)
        unit.wake()

    def _dismiss(self, unit: Unit) -> None:
        self._take(msgspec.structs.replace(unit.task, desired=TaskState.REMOVE))
        unit.gone = True
        if unit.relieving is not None:
            unit.relieving.cancel()  # its record is gone: nobody knows others to go to any more

    def _resynced(self) -> None:
        if self._told.is_set():
            self._adopt_strangers()

    def _adopt_strangers(self, named: Collection[str] = ()) -> None:
        """Containers of tasks that a full assignment does not name: stop and remove them."""
        for task_id, unit in list(self._units.strangers.items()):
            if task_id in named:
                continue
            del self._units.strangers[task_id]
            self._units.add(unit)
            self._dismiss(unit)

    async def _wait_for_managers(self) -> None:
        with trio.move_on_after(self._alone_after):
            await self._told.wait()
        if not self._told.is_set():
            log.warning("no-manager", consequence="running the tasks kept on disk")
            self._supervisor.release()

    # --- supervisors ----------------------------------------------------------------------------

    def _supervise_soon(self, unit: Unit) -> None:
        if self._nursery is not None and not unit.supervised:
            unit.supervised = True
            self._nursery.start_soon(self._supervise, unit)

    async def _supervise(self, unit: Unit) -> None:
        try:
            await self._supervisor.supervise(unit)
            self._units.wake_slot(unit)
            self._units.forget(unit)
            self._places.set_halted(self._units.halted())
            self._keeper.changed()
        finally:
            unit.supervised = False

    def _halted(self, unit: Unit) -> None:
        """A task lost its process, or has one again. When it serves again, its supervisor says."""
        self._places.set_halted(self._units.halted())
        status = unit.known.status
        if status is None or status.state is not TaskState.RUNNING or status.halted:
            return
        if unit.halted and unit.task.desired <= TaskState.RUNNING:
            self._publish(unit, msgspec.structs.replace(status, halted=True, message=HALTED))

    def _publish(self, unit: Unit, status: TaskStatus) -> None:
        unit.learn(status=status)
        self._keeper.changed()
        if status.state.ended:
            self._files.release(unit.task.task_id)
            self._units.wake_slot(unit)
        if not unit.gone:
            self._report(unit.task.task_id, status)


def _may_start(unit: Unit) -> bool:
    """Whether a container of a task may be started, for the first time or again."""
    return unit.task.desired <= TaskState.RUNNING and not unit.known.state(unit.task).ended
