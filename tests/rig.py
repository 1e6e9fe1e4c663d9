"""A worker on an engine, its reports, and tasks to give it."""

import contextlib
import itertools
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import trio
from swarmlet.agent.files import Files
from swarmlet.agent.storage import Storage
from swarmlet.agent.worker import Worker
from swarmlet.clock import Seconds, wall_clock
from swarmlet.engine.client import Engine
from swarmlet.engine.networks import Endpoint
from swarmlet.model.ids import new_id
from swarmlet.model.objects import TaskState, TaskStatus
from swarmlet.model.specs import ContainerSpec, PortConfig, ResourceRequirements, TaskSpec
from swarmlet.rpc.messages import Assignment, Assignments

from tests.waiting import eventually

RNG = random.Random()  # names of containers must differ between runs on one engine
SLOTS = itertools.count(1)
FOREVER = ("sleep", "1000000")


def task(
    *args: str,
    slot: int = 0,
    resources: ResourceRequirements | None = None,
    ports: tuple[PortConfig, ...] = (),
    desired: TaskState = TaskState.RUNNING,
    image: str = "busybox:lab",
    **spec: Any,
) -> Assignment:
    # As the first process of its container, sleep(1) is deaf to SIGTERM.
    spec.setdefault("stop_grace_period", 0)
    container = ContainerSpec(image=image, args=args or FOREVER, **spec)
    return Assignment(
        task_id=new_id(RNG),
        service_id="service0000000000000000000",
        service_name="web",
        slot=slot or next(SLOTS),
        node_id="node000000000000000000000",
        spec=TaskSpec(container_spec=container, resources=resources),
        desired=desired,
        state=TaskState.ASSIGNED,
        ports=ports,
    )


def wanting(assignment: Assignment, desired: TaskState) -> Assignment:
    return msgspec.structs.replace(assignment, desired=desired)


class NoPlaces:
    """A node without networks."""

    def __init__(self) -> None:
        self.halted: frozenset[str] = frozenset()
        self.ever_halted: set[str] = set()

    async def prepare(self, task: Assignment) -> list[Endpoint]:
        assert not task.attachments
        return []

    def set_halted(self, task_ids: frozenset[str]) -> None:
        self.halted = task_ids
        self.ever_halted |= task_ids

    async def ready(self) -> None:
        await trio.lowlevel.checkpoint()

    async def relieve(self, task: Assignment) -> None:
        assert not task.attachments


class Rig:
    """What a manager sees and says."""

    def __init__(
        self,
        engine: Engine,
        directory: Path,
        *,
        alone_after: float = 1e9,
        places: "NoPlaces | None" = None,
        files: Files | None = None,
    ) -> None:
        self.engine = engine
        self.places = places or NoPlaces()
        self.reports: list[tuple[str, TaskStatus]] = []
        self.worker = Worker(
            engine,
            Storage(directory),
            lambda task_id, status: self.reports.append((task_id, status)),
            self.places,
            files or Files(directory / "files"),
            clock=wall_clock,
            rng=RNG,
            alone_after=Seconds(alone_after),
        )

    def assign(
        self,
        *tasks: Assignment,
        full: bool = False,
        gone: tuple[str, ...] = (),
        payloads: tuple[str, ...] = (),
    ) -> None:
        self.worker.assign(Assignments(full=full, tasks=tasks, gone=gone, payloads=payloads))

    def states(self, task_id: str) -> list[TaskState]:
        return [status.state for of, status in self.reports if of == task_id]

    def status(self, task_id: str) -> TaskStatus | None:
        return self.worker.statuses().get(task_id)

    async def until(self, task: Assignment, state: TaskState) -> TaskStatus:
        """The status of a task once it is in ``state``."""

        def reached() -> TaskStatus | None:
            status = self.status(task.task_id)
            if status is not None and status.state.ended and status.state is not state:
                raise AssertionError(status)
            return status if status is not None and status.state is state else None

        return await eventually(reached, what=f"{task.name} {state.name}")

    def container_id(self, task: Assignment) -> str:
        container = self.worker.container_of(task.task_id)
        assert container is not None
        return container.id

    async def inspect(self, task: Assignment) -> Any:
        return await self.engine.inspect(task.name)


@contextlib.asynccontextmanager
async def running(
    socket: Path,
    directory: Path,
    *,
    alone_after: float = 1e9,
    full: bool = True,
    places: NoPlaces | None = None,
    files: Files | None = None,
) -> AsyncIterator[Rig]:
    """A rig whose worker runs; leaving cancels it, as a stop of the daemon does."""
    async with Engine(socket) as engine, trio.open_nursery() as nursery:
        rig = Rig(engine, directory, alone_after=alone_after, places=places, files=files)
        await nursery.start(rig.worker.run)
        if full:
            rig.assign(full=True)
        yield rig
        nursery.cancel_scope.cancel()
