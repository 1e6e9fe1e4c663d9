"""The leader's end of all agent sessions: assignments out, statuses and heartbeats in.

One session a node. An agent first gets everything that is assigned to its node, then what changed;
what it reports is committed together with what other agents report in that moment, and only then
acknowledged. See docs/architecture.md, steps 5 and 6.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Final, Protocol

import msgspec
import structlog
import trio
from msgspec.structs import replace

from swarmlet.clock import WallClock
from swarmlet.errors import NoQuorum
from swarmlet.manager.committer import Committer
from swarmlet.manager.replica import Replica
from swarmlet.model import defaults
from swarmlet.model.objects import Node, NodeState, NodeStatus, Task, TaskState, TaskStatus
from swarmlet.model.specs import ClusterSpec, Role
from swarmlet.rpc.channel import Channel, ConnectionLost
from swarmlet.rpc.frames import RemoteProtocolError
from swarmlet.rpc.messages import (
    REPORT_WINDOW,
    Acknowledged,
    Assignment,
    Assignments,
    Beat,
    FromAgent,
    Goodbye,
    GoodbyeReason,
    Hello,
    Peer,
    ProbeAnswer,
    ProbeRequest,
    Pulse,
    Refused,
    Report,
    Settings,
    Welcome,
)
from swarmlet.state.commands import ChangeNodes, NodeChange, ReportTasks, TaskReport
from swarmlet.state.store import Change, View

log = structlog.get_logger()

#: Changes that follow each other within this time (seconds) go out together (swarmkit: 100 ms).
FLUSH_DELAY: Final = 0.005

#: Reports of one agent that may wait for their commit (agents send at most REPORT_WINDOW).
MAX_OPEN_REPORTS: Final = 2 * REPORT_WINDOW

#: Bytes that one text of a status, and a description as a whole, may have: a worker must not be
#: able to fill the log of the managers.
MAX_TEXT: Final = 2_000
MAX_DESCRIPTION: Final = 64 << 10

#: Statuses in one command.
MAX_REPORTED: Final = 100

#: Bytes of tasks in one message: far below a frame's limit, and a heartbeat fits in between.
MAX_ASSIGNMENTS: Final = 4 << 20

#: Seconds for an agent to introduce itself.
HELLO_TIMEOUT: Final = 10.0

#: Where a daemon listens unless it says otherwise.
DEFAULT_PORT: Final = 2377


class Session:
    """One agent that is connected. Owned by the dispatcher."""

    def __init__(self, node_id: str, channel: Channel[FromAgent], scope: trio.CancelScope) -> None:
        self.node_id = node_id
        self.channel = channel
        self.scope = scope
        self.goodbye: GoodbyeReason | None = None
        self._sent: dict[str, TaskState] = {}
        self._dirty: dict[str, Task] = {}
        self._settings: Settings | None = None
        self._wake = trio.Event()

    def touch(self, tasks: Iterable[Task]) -> None:
        """Note tasks of this node that changed or went."""
        for task in tasks:
            self._dirty[task.id] = task
        self._wake.set()

    def set_settings(self, settings: Settings) -> None:
        """Send these if they differ from what the agent knows."""
        if self._settings != settings:
            self._settings = settings
            self._wake.set()

    async def send_all(self, view: View) -> None:
        """Send the full assignment set."""
        tasks = [t for t in view.tasks_on_node(self.node_id) if _sendable(t)]
        self._sent = {task.id: task.desired for task in tasks}
        pieces = list(_pieces([assignment(view, task) for task in tasks]))
        others = tuple(task.task_id for piece in pieces[1:] for task in piece)
        await self.channel.send(Assignments(full=True, tasks=pieces[0], others=others))
        for piece in pieces[1:]:
            await self.channel.send(Assignments(full=False, tasks=piece))

    async def send_changes(self, view: Callable[[], View], known: Settings) -> None:
        """Send differences as they come; ``known`` was told already. Raises ConnectionLost."""
        while True:
            await self._wake.wait()
            await trio.sleep(FLUSH_DELAY)
            self._wake = trio.Event()
            dirty, self._dirty = self._dirty, {}
            update = self._difference(view(), dirty)
            if update.gone:
                await self.channel.send(Assignments(full=False, gone=update.gone))
            for piece in _pieces(update.tasks):
                if piece:
                    await self.channel.send(Assignments(full=False, tasks=piece))
            if self._settings is not None and self._settings != known:
                known = self._settings
                await self.channel.send(known)

    def _difference(self, view: View, dirty: Iterable[str]) -> Assignments:
        tasks: list[Assignment] = []
        gone: list[str] = []
        for task_id in dirty:
            task = view.task(task_id)
            if task is None:
                if self._sent.pop(task_id, None) is not None:
                    gone.append(task_id)
            elif _sendable(task) and self._sent.get(task_id) is not task.desired:
                self._sent[task_id] = task.desired
                tasks.append(assignment(view, task))
        return Assignments(full=False, tasks=tuple(tasks), gone=tuple(gone))


def _pieces(tasks: Sequence[Assignment]) -> Iterator[tuple[Assignment, ...]]:
    """Tasks cut into messages that fit in a frame; one empty piece when there are none."""
    piece: list[Assignment] = []
    room = MAX_ASSIGNMENTS
    for task in tasks:
        size = len(msgspec.msgpack.encode(task))
        if piece and size > room:
            yield tuple(piece)
            piece, room = [], MAX_ASSIGNMENTS
        piece.append(task)
        room -= size
    yield tuple(piece)


def _sendable(task: Task) -> bool:
    """A task that the scheduler has placed. One that is only preassigned still waits for it."""
    return task.status.state >= TaskState.ASSIGNED


def assignment(view: View, task: Task) -> Assignment:
    """What an agent needs to know of a task."""
    service = view.service(task.service_id)
    return Assignment(
        task_id=task.id,
        service_id=task.service_id,
        service_name=task.service_name,
        slot=task.slot,
        node_id=task.node_id,
        spec=task.spec,
        desired=task.desired,
        state=task.status.state,
        ports=task.ports,
        registry_auth=service.registry_auth if service else "",
    )


def managers(view: View) -> tuple[Peer, ...]:
    """The managers that agents may turn to."""
    return tuple(
        Peer(node.id, node.manager_addr)
        for node in sorted(view.nodes(), key=lambda n: n.id)
        if node.manager_addr
    )


def acting_role(node: Node) -> Role:
    """The role that a node shall act in: a demoted manager acts until Raft has let it go."""
    manager = Role.MANAGER in (node.spec.role, node.role)
    return Role.MANAGER if manager else Role.WORKER


def settings_of(view: View) -> dict[Role, Settings]:
    """What agents are told, by the role that their node shall act in."""
    spec = view.cluster.spec if view.cluster else ClusterSpec()
    heartbeat = defaults.heartbeat(spec, sum(1 for _ in view.nodes()))
    peers = managers(view)
    return {role: Settings(heartbeat=heartbeat, managers=peers, role=role) for role in Role}


class Ears(Protocol):
    """Who wants to know what is heard of nodes: the failure detector's owner."""

    def heard(self, node_id: str) -> None:
        """A node said something."""
        ...

    def ended(self, node_id: str, goodbye: GoodbyeReason | None) -> None:
        """A node's session ended, with a goodbye or without."""
        ...

    def probed(self, number: int, *, heard: bool) -> None:
        """An agent answered a probe."""
        ...


class Dispatcher:
    """All sessions of one leadership."""

    def __init__(
        self,
        replica: Replica,
        committer: Committer,
        *,
        now: WallClock,
        barrier: Callable[[], Awaitable[None]],
        ears: Ears,
    ) -> None:
        self._replica = replica
        self._committer = committer
        self._now = now
        self._barrier = barrier
        self._ears = ears
        self._ports: dict[str, int] = {}
        self._over = False
        self.sessions: dict[str, Session] = {}

    async def run(self) -> None:
        """Pass changes of the state on to the sessions, until cancelled (all sessions end then)."""
        try:
            with self._replica.watch() as watch:
                while True:
                    await watch.wait()
                    change, reset = watch.take()
                    self._spread(change, reset=reset)
        finally:
            self._over = True
            for session in self.sessions.values():
                session.scope.cancel()

    def _spread(self, change: Change, *, reset: bool) -> None:
        view = self._replica.view
        tasks = view.tasks() if reset else change.tasks.values()
        for task in tasks:
            session = self.sessions.get(task.node_id)
            if session is not None:
                session.touch((task,))
        if reset or change.nodes or change.cluster:
            settings = settings_of(view)
            for session in self.sessions.values():
                node = view.node(session.node_id)
                if node is None:
                    session.scope.cancel()  # removed: its next connection is told so
                else:
                    session.set_settings(settings[acting_role(node)])

    async def serve(self, stream: trio.abc.Stream, node_id: str, host: str) -> None:
        """Serve one agent until its connection ends or another takes its place."""
        channel: Channel[FromAgent] = Channel(stream, FromAgent, peer=node_id)
        try:
            await self._serve(channel, node_id, host)
        finally:
            await channel.aclose()

    async def _serve(self, channel: Channel[FromAgent], node_id: str, host: str) -> None:
        hello = await _hello(channel)
        if self._over:
            raise ConnectionLost("this manager does not lead any more")
        if not await self._is_known(node_id):
            await channel.send(_REMOVED)
            return
        with trio.CancelScope() as scope:
            session = Session(node_id, channel, scope)
            self._replace(session)
            try:
                await self._serve_session(session, hello, host)
            except* ConnectionLost:
                log.info("session-lost", node=node_id)
            finally:
                if self.sessions.get(node_id) is session:
                    del self.sessions[node_id]
                    self._ears.ended(node_id, session.goodbye)

    async def _is_known(self, node_id: str) -> bool:
        """Whether the cluster has this node; only a quorum may say that it has not.

        A leader that was deposed without noticing does not know who joined since.
        Raises ConnectionLost while there is no quorum.
        """
        if self._replica.view.node(node_id) is None:
            try:
                await self._barrier()
            except NoQuorum as exc:
                raise ConnectionLost(exc.message) from exc
        return self._replica.view.node(node_id) is not None

    def _replace(self, session: Session) -> None:
        """The newest connection of a node counts: an older one may be dead without knowing it."""
        old = self.sessions.get(session.node_id)
        self.sessions[session.node_id] = session
        if old is not None:
            old.scope.cancel()

    async def _serve_session(self, session: Session, hello: Hello, host: str) -> None:
        self._ears.heard(session.node_id)
        self._ports[session.node_id] = hello.listen_port
        await self._register(session.node_id, hello, host)
        view = self._replica.view
        node = view.node(session.node_id)
        if node is None:
            await session.channel.send(_REMOVED)
            return
        settings = settings_of(view)[acting_role(node)]
        session.set_settings(settings)
        await session.channel.send(
            Welcome(heartbeat=settings.heartbeat, managers=settings.managers, role=settings.role)
        )
        await session.send_all(self._replica.view)
        log.info("session-started", node=session.node_id, host=host)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.send_changes, lambda: self._replica.view, settings)
            await self._read(session, nursery)
            nursery.cancel_scope.cancel()

    async def _register(self, node_id: str, hello: Hello, host: str) -> None:
        """Record what the node says of itself and that it is ready, if that is news."""
        node = self._replica.view.node(node_id)
        if node is None:
            return
        status = NodeStatus(state=NodeState.READY, addr=host, since=self._now())
        same_status = (node.status.state, node.status.addr) == (status.state, status.addr)
        if node.description == hello.description and same_status:
            return
        change = NodeChange(
            id=node_id,
            description=hello.description,
            status=node.status if same_status else status,
        )
        await self._committer.submit(ChangeNodes(changes=(change,))).wait()

    async def _read(self, session: Session, nursery: trio.Nursery) -> None:
        """Take what the agent says until it says goodbye. Raises ConnectionLost."""
        open_reports: set[int] = set()
        while True:
            message = await session.channel.receive()
            self._ears.heard(session.node_id)
            match message:
                case Beat():
                    await session.channel.send(Pulse())
                case Report():
                    # Agents keep a window far below this: to stop reading here would be to stop
                    # hearing their beats.
                    if len(open_reports) >= MAX_OPEN_REPORTS:
                        raise RemoteProtocolError(f"node {session.node_id} floods with reports")
                    open_reports.add(message.seq)
                    nursery.start_soon(self._report, session, message, open_reports)
                case Goodbye():
                    session.goodbye = message.reason
                    return
                case ProbeAnswer():
                    self._ears.probed(message.seq, heard=message.heard)
                case Hello():
                    return

    async def _report(self, session: Session, report: Report, open_reports: set[int]) -> None:
        for command in _commands(self._replica.view, session.node_id, report):
            await self._committer.submit(command).wait()
        open_reports.discard(report.seq)
        await session.channel.send(Acknowledged(seq=report.seq))

    async def ask_probe(self, via: str, seq: int, node_id: str) -> None:
        """Ask an agent to find out whether another node answers it."""
        session = self.sessions.get(via)
        if session is None:
            return
        try:
            await session.channel.send(
                ProbeRequest(seq=seq, node_id=node_id, addr=self._probe_addr(node_id))
            )
        except ConnectionLost:
            log.info("probe-not-asked", via=via)

    def _probe_addr(self, node_id: str) -> str:
        node = self._replica.view.node(node_id)
        host = node.status.addr if node else ""
        return f"{host}:{self._ports.get(node_id, DEFAULT_PORT)}"


async def _hello(channel: Channel[FromAgent]) -> Hello:
    """The first message of a session. Raises ConnectionLost or RemoteProtocolError."""
    with trio.move_on_after(HELLO_TIMEOUT):
        hello = await channel.receive()
        if not isinstance(hello, Hello):
            raise RemoteProtocolError(f"{channel.peer} did not say hello")
        if len(msgspec.msgpack.encode(hello.description)) > MAX_DESCRIPTION:
            raise RemoteProtocolError(f"{channel.peer} describes itself at too great length")
        if not 0 < hello.listen_port < 65_536:
            raise RemoteProtocolError(f"{channel.peer} listens on no port: {hello.listen_port}")
        return hello
    raise ConnectionLost(f"{channel.peer} did not say hello in time")


def _commands(view: View, node_id: str, report: Report) -> list[ReportTasks]:
    """A report as commands that fit in the log, whatever the agent said: of its own tasks only."""
    reports = [
        TaskReport(id_, _bounded(status))
        for id_, status in report.statuses
        if (task := view.task(id_)) is not None and task.node_id == node_id
    ]
    return [
        ReportTasks(node_id=node_id, reports=tuple(reports[start : start + MAX_REPORTED]))
        for start in range(0, len(reports), MAX_REPORTED)
    ]


def _bounded(status: TaskStatus) -> TaskStatus:
    container = status.container
    if container is not None:
        container = replace(container, container_id=_cut(container.container_id))
    return replace(status, message=_cut(status.message), err=_cut(status.err), container=container)


def _cut(text: str) -> str:
    return text.encode()[:MAX_TEXT].decode(errors="ignore")


_REMOVED: Final = Refused(
    code="node-removed", message="this node was removed from the cluster; leave it and join again"
)
