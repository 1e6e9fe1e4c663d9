"""The leader's end of all agent sessions: assignments out, statuses and heartbeats in.

One session a node. An agent first gets everything that is assigned to its node, then what changed;
what it reports is committed together with what other agents report in that moment, and only then
acknowledged. Design: "Flow of a wish", steps 4 and 5.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Final

import msgspec
import structlog
import trio
from msgspec.structs import replace

from swarmlet.clock import WallClock
from swarmlet.manager.committer import Committer
from swarmlet.manager.replica import Replica
from swarmlet.model import defaults
from swarmlet.model.objects import Node, NodeState, NodeStatus, Task, TaskState, TaskStatus
from swarmlet.model.specs import ClusterSpec, Role
from swarmlet.rpc.channel import Channel, ConnectionLost
from swarmlet.rpc.frames import RemoteProtocolError
from swarmlet.rpc.messages import (
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

#: Reports of one agent that may wait for their commit; more stay unread.
MAX_OPEN_REPORTS: Final = 8

#: What one status may say, in characters, and what a description may weigh, in bytes: a worker
#: must not be able to fill the log of the managers.
MAX_TEXT: Final = 2_000
MAX_DESCRIPTION: Final = 64 << 10

#: Statuses in one command.
MAX_REPORTED: Final = 200

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
        full = Assignments(full=True, tasks=tuple(assignment(view, task) for task in tasks))
        await self.channel.send(full)

    async def send_changes(self, view: Callable[[], View]) -> None:
        """Send differences as they come. Raises ConnectionLost."""
        known = self._settings
        while True:
            await self._wake.wait()
            await trio.sleep(FLUSH_DELAY)
            self._wake = trio.Event()
            dirty, self._dirty = self._dirty, {}
            update = self._difference(view(), dirty)
            if update.tasks or update.gone:
                await self.channel.send(update)
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


class Dispatcher:
    """All sessions of one leadership. ``heard`` tells the failure detector who lives."""

    def __init__(
        self,
        replica: Replica,
        committer: Committer,
        *,
        now: WallClock,
        heard: Callable[[str], None],
        ended: Callable[[str, GoodbyeReason | None], None],
        probed: Callable[[int, bool], None],
    ) -> None:
        self._replica = replica
        self._committer = committer
        self._now = now
        self._heard = heard
        self._ended = ended
        self._probed = probed
        self._ports: dict[str, int] = {}
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
        hello = await channel.receive()
        node = self._replica.view.node(node_id)
        if node is None or not isinstance(hello, Hello):
            await channel.send(_REMOVED)
            return
        if len(msgspec.msgpack.encode(hello.description)) > MAX_DESCRIPTION:
            raise RemoteProtocolError(f"node {node_id} describes itself at too great length")
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
                    self._ended(node_id, session.goodbye)

    def _replace(self, session: Session) -> None:
        """The newest connection of a node counts: an older one may be dead without knowing it."""
        old = self.sessions.get(session.node_id)
        self.sessions[session.node_id] = session
        if old is not None:
            old.scope.cancel()

    async def _serve_session(self, session: Session, hello: Hello, host: str) -> None:
        self._heard(session.node_id)
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
            nursery.start_soon(session.send_changes, lambda: self._replica.view)
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
        room = trio.Semaphore(MAX_OPEN_REPORTS)
        while True:
            message = await session.channel.receive()
            self._heard(session.node_id)
            match message:
                case Beat():
                    await session.channel.send(Pulse())
                case Report():
                    await room.acquire()
                    nursery.start_soon(self._report, session, message, room)
                case Goodbye():
                    session.goodbye = message.reason
                    return
                case ProbeAnswer():
                    self._probed(message.seq, message.heard)
                case Hello():
                    return

    async def _report(self, session: Session, report: Report, room: trio.Semaphore) -> None:
        try:
            for command in _commands(session.node_id, report):
                await self._committer.submit(command).wait()
        finally:
            room.release()
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


def _commands(node_id: str, report: Report) -> Iterator[ReportTasks]:
    """A report as commands that fit in the log, whatever the agent said."""
    reports = [TaskReport(id_, _bounded(status)) for id_, status in report.statuses]
    for start in range(0, len(reports), MAX_REPORTED):
        part = tuple(reports[start : start + MAX_REPORTED])
        yield ReportTasks(node_id=node_id, reports=part)


def _bounded(status: TaskStatus) -> TaskStatus:
    return replace(status, message=status.message[:MAX_TEXT], err=status.err[:MAX_TEXT])


_REMOVED: Final = Refused(
    code="node-removed", message="this node was removed from the cluster; leave it and join again"
)
