"""What to do next for one task: pure, and the only place that knows the life of a task on a node.

``step`` is handed what is known and answers with the status to report, if that is news, and the
next action. It remembers nothing: a daemon that restarts at any point goes on from what the engine
shows. Observed states only grow; a restart by policy is a new task, made by a manager. The one
exception starts a container again *within* its task: when the host or the engine went down and
took it along (:mod:`swarmlet.agent.reboot`).
"""

import enum
from typing import Final

import msgspec

from swarmlet.clock import Instant
from swarmlet.engine.convert import Container
from swarmlet.model.objects import TaskState, TaskStatus
from swarmlet.rpc.messages import Assignment

UNHEALTHY: Final = "unhealthy container"


class Action(enum.Enum):
    """What the worker does next. Each is safe to repeat."""

    WAIT = enum.auto()  # nothing, until something changes
    PULL = enum.auto()
    CREATE = enum.auto()
    START = enum.auto()
    STOP = enum.auto()  # stop signal, grace period, SIGKILL
    REMOVE = enum.auto()


class Failure(msgspec.Struct, frozen=True):
    """An action that the engine refused for good, in its words."""

    action: Action
    message: str


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one task.

    ``hold``: nothing new may begin before a manager spoke. ``slot_busy``: another task of the slot
    must stop first. ``host_ended``: the container went down with its host or engine.
    """

    status: TaskStatus | None = None
    container: Container | None = None
    image_missing: bool = False
    failure: Failure | None = None
    host_ended: bool = False
    hold: bool = False
    slot_busy: bool = False

    def state(self, task: Assignment) -> TaskState:
        """The furthest state that anybody saw."""
        return max(self.status.state, task.state) if self.status else task.state


class Step(msgspec.Struct, frozen=True):
    """A decision: report ``status`` unless None, then act, then ask again."""

    action: Action
    status: TaskStatus | None = None


def step(task: Assignment, known: Known, now: Instant) -> Step:
    """Decide the next step of one task."""
    if known.state(task).ended:
        return _ended(task, known)
    if task.desired > TaskState.RUNNING:
        return _stopping(known, now)
    found = known.container
    if found is None:
        return _absent(task, known, now)
    if found.running:
        return _running(task, known, now)
    if found.created or (known.failure is not None and known.failure.action is Action.START):
        return _created(task, known, now)
    return _exited(task, known, found, now)


def settled(task: Assignment, known: Known) -> bool:
    """Whether a task that is gone leaves nothing behind."""
    return known.container is None and known.state(task).ended


def _ended(task: Assignment, known: Known) -> Step:
    found = known.container
    if found is None:
        return Step(Action.WAIT)
    if found.running:
        return Step(Action.STOP)
    # Ended containers stay while their task is kept: its logs can still be read.
    return Step(Action.REMOVE if task.desired >= TaskState.REMOVE else Action.WAIT)


def _stopping(known: Known, now: Instant) -> Step:
    if known.container is not None and known.container.running:
        return Step(Action.STOP)
    return _report(known, now, TaskState.SHUTDOWN, "shutdown", Action.WAIT)


def _absent(task: Assignment, known: Known, now: Instant) -> Step:
    """No container yet, or no more."""
    state = known.state(task)
    if state >= TaskState.STARTING:
        return _fail(known, now, "the container was removed behind the task's back")
    if state < TaskState.ACCEPTED:
        return _report(known, now, TaskState.ACCEPTED, "accepted", Action.WAIT)
    if state < TaskState.PREPARING:
        return _report(known, now, TaskState.PREPARING, "preparing", Action.WAIT)
    if known.failure is not None:
        return _report(
            known, now, TaskState.REJECTED, "preparing", Action.WAIT, err=known.failure.message
        )
    if known.hold:
        return Step(Action.WAIT)
    return Step(Action.PULL if known.image_missing else Action.CREATE)


def _created(task: Assignment, known: Known, now: Instant) -> Step:
    """A container that was not started, or could not be."""
    state = known.state(task)
    if known.failure is not None:
        return _fail(known, now, known.failure.message)
    if state < TaskState.READY:
        return _report(known, now, TaskState.READY, "prepared", Action.WAIT)
    if task.desired <= TaskState.READY or known.hold or known.slot_busy:
        return Step(Action.WAIT)
    if state < TaskState.STARTING:
        return _report(known, now, TaskState.STARTING, "starting", Action.START)
    return Step(Action.START)


def _running(task: Assignment, known: Known, now: Instant) -> Step:
    """A container with a process: running, unless its health check has yet to say so."""
    found = known.container
    match found and found.health:
        case "unhealthy":
            return Step(Action.STOP)
        case "starting" if known.state(task) > TaskState.STARTING:
            return Step(Action.WAIT)  # it was started again in place
        case "starting":
            return _report(known, now, TaskState.STARTING, "starting", Action.WAIT)
        case _:
            return _report(known, now, TaskState.RUNNING, "started", Action.WAIT)


def _exited(task: Assignment, known: Known, found: Container, now: Instant) -> Step:
    if known.host_ended and found.health != "unhealthy":
        wanted = task.desired is TaskState.RUNNING and not (known.hold or known.slot_busy)
        return Step(Action.START if wanted else Action.WAIT)
    if found.health == "unhealthy":
        return _fail(known, now, UNHEALTHY)
    if found.exit_code == 0 and not found.error and not found.oom_killed:
        return _report(known, now, TaskState.COMPLETE, "finished", Action.WAIT)
    return _fail(known, now, _cause(found))


def _cause(found: Container) -> str:
    """Why a container failed, as Docker words it and a little more."""
    words = f"task: non-zero exit ({found.exit_code})"
    if found.error:
        words += f": {found.error}"
    if found.oom_killed:
        limit = f" of {found.memory_limit} bytes" if found.memory_limit else ""
        words += f": out of memory, its limit{limit} was reached"
    return words


def _fail(known: Known, now: Instant, err: str) -> Step:
    return _report(known, now, TaskState.FAILED, "started", Action.WAIT, err=err)


def _report(
    known: Known, now: Instant, state: TaskState, message: str, action: Action, *, err: str = ""
) -> Step:
    """Act, and report unless the managers were told: forward only, or the container changed."""
    told = known.status
    found = known.container.status if known.container is not None else None
    if told is not None and (
        told.state > state or (told.state is state and told.container == found and not told.halted)
    ):
        return Step(action)
    status = TaskStatus(state=state, at=now, message=message, err=err, container=found)
    return Step(action, status)
