"""The calls to the engine that carry out what :mod:`swarmlet.agent.lifecycle` decided."""

from typing import assert_never

import trio
from msgspec.structs import replace

from swarmlet.agent.facts import FactFinder
from swarmlet.agent.files import Files
from swarmlet.agent.keeping import Keeper
from swarmlet.agent.lifecycle import Action, Failure
from swarmlet.agent.places import Places
from swarmlet.agent.pulls import Pulls
from swarmlet.agent.units import Unit
from swarmlet.agent.watch import EngineWatch
from swarmlet.engine import convert
from swarmlet.engine.client import Engine
from swarmlet.engine.convert import Container
from swarmlet.errors import EngineError, NotFound, PreparationFailed
from swarmlet.model.expansion import expanded, has_templates
from swarmlet.model.objects import TaskState
from swarmlet.model.templates import BadTemplate
from swarmlet.rpc.messages import Assignment


class Actions:
    """Acts on a unit's container, and lets the unit learn what came of it."""

    def __init__(
        self,
        engine: Engine,
        watch: EngineWatch,
        places: Places,
        files: Files,
        keeper: Keeper,
        *,
        calls: trio.CapacityLimiter,
    ) -> None:
        self._engine = engine
        self._watch = watch
        self._places = places
        self._files = files
        self._facts = FactFinder(engine)
        self._keeper = keeper
        self._pulls = Pulls(engine)
        self._calls = calls
        # Fewer creates at once than starts, so that the first tasks start while others are created.
        self._creates = trio.CapacityLimiter(max(1, int(calls.total_tokens) // 3))

    def awaits(self, unit: Unit) -> bool:
        """Whether a task needs something that only managers have, and none has spoken yet."""
        return self._files.awaits(unit.task)

    async def act(self, unit: Unit, action: Action) -> None:
        """Do one thing. Raises EngineUnavailable, or an EngineError that a later try may not get.

        A refusal that repeating will not change is noted on the unit instead.
        """
        unit.acting = True
        try:
            await self._call(unit, action)
        except (EngineError, PreparationFailed, NotFound) as exc:
            await self._refused(unit, action, exc)
        finally:
            unit.acting = False

    async def _call(self, unit: Unit, action: Action) -> None:
        match action:
            case Action.WAIT:
                pass
            case Action.PULL:
                await self._pull(unit)
            case Action.CREATE:
                await self._create(unit)
            case Action.START:
                self._will_run(unit)
                await self._keeper.keep(unit)
                if self._watch.revive(unit):
                    await self._places.ready()  # else its own first connections would be refused
                async with self._calls:
                    await self._start(unit)
                await self._watch.look(unit)
            case Action.STOP:
                await self._stop(unit)
            case Action.REMOVE:
                async with self._calls:
                    await self._engine.remove(unit.container_ref)
                self._watch.see(unit, None)
            case _:
                assert_never(action)

    async def _pull(self, unit: Unit) -> None:
        with trio.CancelScope() as scope:
            unit.pulling = scope
            try:
                await self._pulls.fetch(unit.task)
                unit.pulled = True
                unit.learn(image_missing=False)
            finally:
                unit.pulling = None

    async def _create(self, unit: Unit) -> None:
        async with self._creates:
            self._will_run(unit)  # so that it is on disk when the container is made
            task = await self._filled_in(unit.task)
            endpoints = await self._places.prepare(task)
            mounted = await self._files.prepare(unit.task, self._facts.of)
            files = [(one.source, one.target) for one in mounted]
            body = convert.create_body(task, endpoints, files)
            container_id = await self._engine.create(unit.task.name, body)
        task_id = unit.task.task_id
        self._watch.see(unit, Container(id=container_id, task_id=task_id, state="created"))

    async def _filled_in(self, task: Assignment) -> Assignment:
        """A task with the templates of its spec filled in. Raises PreparationFailed."""
        container = task.spec.container
        if not has_templates(container):
            return task
        try:
            container = expanded(container, await self._facts.of(task))
        except BadTemplate as exc:
            raise PreparationFailed(str(exc)) from exc
        return replace(task, spec=replace(task.spec, container_spec=container))

    def _will_run(self, unit: Unit) -> None:
        """Note under which engine a container is about to run: one that dies with it says no more.

        (:mod:`swarmlet.agent.reboot`.)
        """
        if unit.seen_in != self._watch.incarnation:
            unit.seen_in = self._watch.incarnation
            self._keeper.changed()

    async def _start(self, unit: Unit) -> None:
        """Start a container in all of its networks: a daemon may have died after the create.

        And with its files: a host that went down has lost them.
        """
        await self._files.prepare(unit.task, self._facts.of)
        if len(unit.task.attachments) > 1:
            has = convert.networks_of(await self._engine.inspect(unit.container_ref))
            for place in await self._places.prepare(unit.task):
                if place.network not in has:
                    await self._engine.connect(place.network, unit.container_ref, place.address)
        await self._engine.start(unit.container_ref)

    async def _stop(self, unit: Unit) -> None:
        # Not under the limit: a stop waits for the grace period, not for the engine.
        known = unit.task.spec.container_spec is not None  # else a stranger: the engine knows
        grace = convert.stop_seconds(unit.task.spec) if known else None
        if known and _may_have_clients(unit):
            with trio.CancelScope() as scope:
                unit.relieving = scope
                await self._places.relieve(unit.task)
            unit.relieving = None
        await self._engine.stop(unit.container_ref, grace=grace)
        await self._watch.look(unit)

    # --- refusals -------------------------------------------------------------------------------

    async def _refused(
        self, unit: Unit, action: Action, exc: EngineError | PreparationFailed | NotFound
    ) -> None:
        """Judge an answer that repeating will not change."""
        no_image = isinstance(exc, NotFound) and "no such image" in exc.message.lower()
        if action is Action.CREATE and no_image and not unit.pulled:
            unit.learn(image_missing=True)
        elif action is Action.CREATE and isinstance(exc, EngineError) and exc.status == 409:
            await self._adopt_by_name(unit, exc)
        elif action in (Action.CREATE, Action.PULL, Action.START):
            unit.learn(failure=Failure(action=action, message=exc.message))
            if action is Action.START:
                await self._watch.look(unit)
        elif isinstance(exc, NotFound):
            self._watch.see(unit, None)
        else:
            raise exc  # a stop or a removal that the engine cannot do now: again, later

    async def _adopt_by_name(self, unit: Unit, conflict: EngineError) -> None:
        """The name is taken: by this task, when a create was cut off before its answer came."""
        try:
            found = convert.container(await self._engine.inspect(unit.task.name))
        except NotFound:
            return  # it went away meanwhile: create again
        if found.task_id == unit.task.task_id:
            self._watch.see(unit, found)
        else:
            unit.learn(failure=Failure(action=Action.CREATE, message=conflict.message))


def _may_have_clients(unit: Unit) -> bool:
    """Whether a manager took a task out of service; one that failed has nothing to answer with."""
    told = unit.task.desired > TaskState.RUNNING and not unit.gone
    return told and not unit.known.state(unit.task).ended
