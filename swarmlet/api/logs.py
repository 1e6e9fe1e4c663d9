"""``/services/{id}/logs`` and ``/tasks/{id}/logs``: what containers on all nodes have said, merged.

Each container's log is read from its node's engine over a connection of its own, as fast as the
client takes it: a slow client slows its own readers and nobody else. Lines of one container stay in
order; those of several come as they come, as in Docker.
"""

import re
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from typing import Final
from urllib.parse import urlencode

import h11
import msgspec
import structlog
import trio

from swarmlet.api import log_lines
from swarmlet.api.calls import Answer, Call
from swarmlet.api.freshness import fresh_view
from swarmlet.api.log_lines import Line
from swarmlet.clock import Seconds
from swarmlet.engine.tunnel import EngineGate
from swarmlet.errors import InvalidInput, NotFound, SwarmletError
from swarmlet.model.objects import Task
from swarmlet.state.lookup import find_service, find_task
from swarmlet.state.store import View

log = structlog.get_logger(__name__)

#: Containers whose logs are read at once, unless they are followed.
AT_ONCE: Final = 32

#: Seconds before a log that is followed is asked for again.
RETRY: Final = Seconds(1.0)

#: Versions from which on clients learn from the answer's type whether it has frames.
_TYPED: Final = (1, 42)

_TAIL: Final = re.compile("[0-9]+|all")
_NEGATIVE: Final = re.compile("-[0-9]+")
_SINCE: Final = re.compile(r"-?\d{1,18}(\.\d{1,9})?")


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What a client asked for. ``since`` is in seconds since the epoch; "0" is all."""

    stdout: bool
    stderr: bool
    follow: bool
    timestamps: bool
    details: bool
    tail: str
    since: str


def wanted(call: Call) -> Wanted:
    """Read a query. Raises InvalidInput, in the words of Docker's daemon/cluster/services.go."""
    found = Wanted(
        stdout=call.flag("stdout"),
        stderr=call.flag("stderr"),
        follow=call.flag("follow"),
        timestamps=call.flag("timestamps"),
        details=call.flag("details"),
        tail=call.query.get("tail") or "all",
        since=call.query.get("since") or "0",
    )
    if not (found.stdout or found.stderr):
        raise InvalidInput("Bad parameters: you must choose at least one stream")
    if _NEGATIVE.fullmatch(found.tail):
        raise InvalidInput("negative tail values not supported")
    if not _TAIL.fullmatch(found.tail):
        raise InvalidInput('tail value must be a positive integer or "all"')
    if not _SINCE.fullmatch(found.since):
        raise InvalidInput(f'could not parse since timestamp: "{found.since}"')
    return found


async def of_service(call: Call) -> Answer:
    """``GET /services/{id}/logs``: of tasks that have a container; followed, of later ones too."""
    asked = wanted(call)
    view = await fresh_view(call)
    service = find_service(view, call.params["id"])

    def tasks(view: View) -> Iterable[Task]:
        return view.tasks_of_service(service.id)

    def over(view: View) -> bool:
        return view.service(service.id) is None

    tty = service.spec.task_template.container.tty
    return _answer(call, _Reading(call, asked, tasks, over, tty=tty), tty=tty)


async def of_task(call: Call) -> Answer:
    """``GET /tasks/{id}/logs``."""
    asked = wanted(call)
    task = find_task(await fresh_view(call), call.params["id"])

    def tasks(view: View) -> Iterable[Task]:
        found = view.task(task.id)
        return [found] if found else []

    def over(view: View) -> bool:
        found = view.task(task.id)
        return found is None or found.status.state.ended

    tty = task.spec.container.tty
    return _answer(call, _Reading(call, asked, tasks, over, tty=tty), tty=tty)


def _answer(call: Call, reading: "_Reading", *, tty: bool) -> Answer:
    multiplexed = call.version >= _TYPED and not tty
    kind = "multiplexed" if multiplexed else "raw"
    headers = [(b"Content-Type", f"application/vnd.docker.{kind}-stream".encode())]
    return Answer(headers=headers, stream=reading.run)


class _Reading:
    """One client that reads logs."""

    def __init__(
        self,
        call: Call,
        asked: Wanted,
        tasks: Callable[[View], Iterable[Task]],
        over: Callable[[View], bool],
        *,
        tty: bool,
    ) -> None:
        self._call = call
        self._asked = asked
        self._tasks = tasks
        self._over = over
        self._tty = tty
        self._failures: dict[str, str] = {}

    async def run(self) -> None:
        """Send everything, and if it is followed go on until the client leaves."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._end_with_client, nursery.cancel_scope)
            send, receive = trio.open_memory_channel[Line](0)
            nursery.start_soon(self._read_all, send)
            async with receive:
                async for line in receive:
                    await self._send(line)
            for reason in sorted(set(self._failures.values())):
                await self._send(_incomplete(reason))
            nursery.cancel_scope.cancel()

    async def _end_with_client(self, everything: trio.CancelScope) -> None:
        await self._call.exchange.receive_body()
        await self._call.exchange.wait_gone()
        everything.cancel()

    async def _send(self, line: Line) -> None:
        data = line.text if self._tty else log_lines.framed(line)
        await self._call.exchange.send(data)

    async def _read_all(self, send: trio.MemorySendChannel[Line]) -> None:
        begun: set[str] = set()
        limit = trio.CapacityLimiter(AT_ONCE)
        backend = self._call.backend
        async with send, trio.open_nursery() as nursery:
            with backend.changes() as changed:
                while True:
                    await changed()
                    for task in self._tasks(backend.view()):
                        if task.id not in begun and task.status.container is not None:
                            begun.add(task.id)
                            nursery.start_soon(self._read, task, send.clone(), limit)
                    if not self._asked.follow or self._over(backend.view()):
                        break

    async def _read(
        self, task: Task, send: trio.MemorySendChannel[Line], limit: trio.CapacityLimiter
    ) -> None:
        log_of = _Log(self._call, self._asked, task, tty=self._tty)
        async with send:
            if self._asked.follow:
                await self._follow(log_of, task, send)
                return
            async with limit:
                try:
                    await log_of.read(send)
                except NotFound:
                    return  # the container was removed, and its log with it
                except SwarmletError as exc:
                    log.info("log-not-read", task=task.id, reason=exc.message)
                    self._failures[task.id] = f"node {task.node_id}: {exc.message}"

    async def _follow(self, log_of: "_Log", task: Task, send: trio.MemorySendChannel[Line]) -> None:
        """Read until the task has ended, whatever happens to the connection."""
        while True:
            now = self._call.backend.view().task(task.id)
            ended = now is None or now.status.state.ended
            try:
                await log_of.read(send)
            except NotFound:
                return
            except SwarmletError as exc:
                log.info("log-not-read", task=task.id, reason=exc.message)
            if ended:
                return
            await trio.sleep(RETRY)


class _Log:
    """The log of one task's container; read again, it goes on where it broke off."""

    def __init__(self, call: Call, asked: Wanted, task: Task, *, tty: bool) -> None:
        self._call = call
        self._asked = asked
        self._task = task
        self._tty = tty
        self._last = b""
        self._context = log_lines.context(
            (
                ("com.docker.swarm.node.id", task.node_id),
                ("com.docker.swarm.service.id", task.service_id),
                ("com.docker.swarm.task.id", task.id),
            )
        )

    async def read(self, send: trio.MemorySendChannel[Line]) -> None:
        """Read to the end. Raises NotFound, Unavailable, EngineError."""
        gate = await self._call.backend.engine_of(self._task.node_id)
        async with aclosing(_lines(gate, self._target(), tty=self._tty)) as lines:
            resumed_after = self._last
            async for line in lines:
                time = log_lines.time_of(line)
                if time <= resumed_after:
                    continue
                self._last = time
                await send.send(
                    log_lines.worded(
                        line,
                        self._context,
                        details=self._asked.details,
                        timestamps=self._asked.timestamps,
                    )
                )

    def _target(self) -> str:
        asked, container = self._asked, self._task.status.container
        assert container is not None
        query = {
            "stdout": int(asked.stdout),
            "stderr": int(asked.stderr),
            "follow": int(asked.follow),
            "details": int(asked.details),
            "timestamps": 1,
            "since": log_lines.unix(self._last) or asked.since,
            "tail": "all" if self._last else asked.tail,
        }
        return f"/containers/{container.container_id}/logs?{urlencode(query)}"


async def _lines(gate: EngineGate, target: str, *, tty: bool) -> AsyncGenerator[Line, None]:
    """Ask an engine for a log. Raises as :meth:`_Log.read`."""
    tunnel = await gate.open()
    try:
        await tunnel.send(h11.Request(method="GET", target=target, headers=[("Host", "docker")]))
        await tunnel.send(h11.EndOfMessage())
        await tunnel.accepted()
        cutter = log_lines.TerminalLines() if tty else log_lines.Frames()
        while not isinstance(event := await tunnel.next_event(), h11.EndOfMessage):
            if isinstance(event, h11.Data):
                for line in cutter.feed(bytes(event.data)):
                    yield line
        for line in cutter.rest():
            yield line
    finally:
        await tunnel.aclose()


def _incomplete(reason: str) -> Line:
    """What a client prints as an error; the words are Docker's (swarmkit, manager/logbroker)."""
    text = (
        "Error grabbing logs: rpc error: code = Unknown desc = warning: incomplete log stream. "
        f"some logs could not be retrieved for the following reasons: {reason}\n"
    )
    return Line(log_lines.SYSTEM_ERROR, text.encode())
