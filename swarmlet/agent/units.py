"""The tasks of a node: what is known of each, and which share a slot. No engine, no disk."""

from collections.abc import Iterator

import msgspec
import trio

from swarmlet.agent.lifecycle import Known
from swarmlet.agent.storage import Kept
from swarmlet.model.objects import TaskState
from swarmlet.model.specs import TaskSpec
from swarmlet.rpc.messages import Assignment


class Unit:
    """One task: what is known of it, and its supervisor's alarm clock."""

    def __init__(self, task: Assignment, known: Known, *, seen_in: str = "") -> None:
        self.task = task
        self.known = known
        self.seen_in = seen_in  # the engine's incarnation under which its container last ran
        self.gone = False
        self.stale = False  # the engine hinted at a change of the container: inspect it
        self.halted = False  # its container had a process and has none
        self.ended_pid = 0  # the last process that was seen to end
        self.watched_pid = 0
        self.acting = False
        self.supervised = False
        self.wakeup = trio.Event()
        self.pulling: trio.CancelScope | None = None
        #: The wait for its clients to leave, if it has to stop.
        self.relieving: trio.CancelScope | None = None
        self.pulled = False  # a second "no such image" is final: it is of another platform

    def wake(self) -> None:
        """Let its supervisor look again."""
        self.wakeup.set()

    def learn(self, **changes: object) -> None:
        """Change what is known of it."""
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

    @property
    def container_ref(self) -> str:
        """What the engine finds its container by: the identifier, or until that is known a name."""
        container = self.known.container
        return container.id if container else self.task.name


class Units:
    """All tasks of a node by identifier, ended and dismissed ones included."""

    def __init__(self) -> None:
        self._by_id: dict[str, Unit] = {}
        self._by_slot: dict[tuple[str, int], set[Unit]] = {}
        #: Units whose containers are ours by label, of tasks that nobody named yet.
        self.strangers: dict[str, Unit] = {}

    def __iter__(self) -> Iterator[Unit]:
        """Those that were named; what comes or goes meanwhile does no harm."""
        return iter(list(self._by_id.values()))

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, task_id: str) -> bool:
        return task_id in self._by_id

    def get(self, task_id: str) -> Unit | None:
        """The unit of a task that was named."""
        return self._by_id.get(task_id)

    def ids(self) -> set[str]:
        """Identifiers of the tasks that were named."""
        return set(self._by_id)

    def add(self, unit: Unit) -> None:
        """Take in a task that was named."""
        self._by_id[unit.task.task_id] = unit
        self._by_slot.setdefault(unit.slot, set()).add(unit)

    def forget(self, unit: Unit) -> None:
        """A task is gone and left nothing behind."""
        del self._by_id[unit.task.task_id]
        others = self._by_slot[unit.slot]
        others.discard(unit)
        if not others:
            del self._by_slot[unit.slot]

    def meet(self, task_id: str, origin: tuple[str, str, str]) -> None:
        """Note a container of a task; one that nobody named so far is a stranger's.

        ``origin`` is the service's identifier, its name, and a slot or a node.
        """
        if task_id in self._by_id or task_id in self.strangers:
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
        self.strangers[task_id] = Unit(task, Known())

    def slot_busy(self, unit: Unit) -> bool:
        """Whether another task of its slot must stop first."""
        return any(other is not unit and other.leaving for other in self._by_slot[unit.slot])

    def wake_slot(self, unit: Unit) -> None:
        """Let the other tasks of its slot look again."""
        for other in self._by_slot.get(unit.slot, ()):
            if other is not unit:
                other.wake()

    def halted(self) -> frozenset[str]:
        """Tasks that have no process any more, or not now."""
        return frozenset(task_id for task_id, unit in self._by_id.items() if unit.halted)

    def kept(self) -> list[Kept]:
        """What is to be on disk."""
        return [
            Kept(task=unit.task, status=unit.known.status, seen_in=unit.seen_in)
            for unit in self._by_id.values()
        ]
