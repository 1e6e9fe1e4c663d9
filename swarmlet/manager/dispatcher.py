"""The leader's end of all agent sessions: assignments out, statuses and heartbeats in.

One session a node. An agent first gets everything that is assigned to its node, then what changed;
what it reports is committed together with what other agents report in that moment, and only then
acknowledged. See docs/architecture.md, steps 5 and 6.
"""

from collections.abc import Awaitable, Callable, Iterable
from typing import Final, Protocol

import structlog
import trio

from swarmlet.clock import Seconds, WallClock
from swarmlet.control import roles
from swarmlet.errors import Unavailable
from swarmlet.manager import briefing, hearing
from swarmlet.manager.committer import Committer
from swarmlet.manager.replica import Replica
from swarmlet.manager.session import Session
from swarmlet.manager.withdrawals import Withdrawals
from swarmlet.model.objects import NodeDescription, NodeState, NodeStatus, Task, TaskState
from swarmlet.rpc.channel import Channel, ConnectionLost
from swarmlet.rpc.frames import RemoteProtocolError
from swarmlet.rpc.messages import (
    REPORT_WINDOW,
    Acknowledged,
    Beat,
    Described,
    Forwarded,
    FromAgent,
    Goodbye,
    GoodbyeReason,
    Hello,
    ProbeAnswer,
    ProbeRequest,
    Pulse,
    Refused,
    Report,
    Welcome,
)
from swarmlet.state.commands import ChangeNodes, NodeChange
from swarmlet.state.store import Change, everything

log = structlog.get_logger()

#: Reports of one agent that may wait for their commit (agents send at most REPORT_WINDOW).
MAX_OPEN_REPORTS: Final = 2 * REPORT_WINDOW

#: Seconds between two descriptions of a node that go into the log.
DESCRIBE_EVERY: Final = Seconds(0.5)

#: Seconds for an agent to introduce itself.
HELLO_TIMEOUT: Final = 10.0

#: Where a daemon listens unless it says otherwise.
DEFAULT_PORT: Final = 2377


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
        self._withdrawals = Withdrawals()
        self._expiry = trio.Event()
        #: Where the daemons of nodes that said hello listen.
        self.ports: dict[str, int] = {}
        self._begun = trio.Event()
        self._over = False
        self.sessions: dict[str, Session] = {}

    async def run(self) -> None:
        """Pass changes of the state on to the sessions, until cancelled (all sessions end then)."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._end_withdrawals)
                with self._replica.watch() as watch:
                    # What an earlier leader ordered may not be known everywhere.
                    self._withdraw(self._replica.view.tasks())
                    self._begun.set()
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
        if reset:
            change = everything(view)
        self._spread_records(change)
        for task in change.tasks.values():
            session = self.sessions.get(task.node_id)
            if session is not None:
                session.touch(task.id)
        if reset or change.nodes or change.cluster:
            settings = briefing.settings_of(view)
            for session in self.sessions.values():
                node = view.node(session.node_id)
                if node is None:
                    session.scope.cancel()  # removed: its next connection is told so
                else:
                    session.set_settings(settings[roles.acting_role(node)])

    def _spread_records(self, change: Change) -> None:
        """What nodes forward by, before the tasks: a stop waits for it."""
        placed = [task for task in change.tasks.values() if task.attachments]
        others = (change.networks, change.services, change.nodes, change.containers)
        touched = {t.id for t in placed}.union(*others)
        if not touched:
            return
        self._do_not_wait_for_lost(change.nodes)
        self._withdraw(placed)
        for session in self.sessions.values():
            session.touch_records(touched)

    def _withdraw(self, tasks: Iterable[Task]) -> None:
        """Hold the tasks that are to stop while a node may send connections to them."""
        view, now = self._replica.view, trio.current_time()
        leaving = [
            task
            for task in tasks
            if task.attachments
            and task.desired > TaskState.RUNNING
            and task.status.state is TaskState.RUNNING
        ]
        if not leaving:
            return
        # A node that is not lost forwards by what it was told, whether it is connected or not.
        silent = dict.fromkeys(
            node.id
            for node in view.nodes()
            if node.status.state is NodeState.READY and node.id not in self.sessions
        )
        for task in leaving:
            told = {
                node_id: session.feed.told_by(task.id)
                for node_id, session in self.sessions.items()
                if session.feed.may_send_to(task.id)
            }
            self._withdrawals.begin(task.id, silent | told, now)
        self._expiry.set()

    def _do_not_wait_for_lost(self, node_ids: Iterable[str]) -> None:
        """No clients come by nodes that are lost, or were removed."""
        for node_id in node_ids:
            node = self._replica.view.node(node_id)
            if node is None or node.status.state is not NodeState.READY:
                self._withdrawals.down(node_id, trio.current_time())
                self._expiry.set()

    async def _end_withdrawals(self) -> None:
        """Stop tasks that no node sends connections to, or that waited long enough for that."""
        while True:
            with trio.move_on_at(self._withdrawals.wake_at):
                await self._expiry.wait()
            self._expiry = trio.Event()
            self._stop(self._withdrawals.expired(trio.current_time()))

    def _stop(self, task_ids: list[str]) -> None:
        for task_id in task_ids:
            task = self._replica.view.task(task_id)
            session = self.sessions.get(task.node_id) if task else None
            if session is not None:
                session.touch(task_id)

    async def serve(self, stream: trio.abc.Stream, node_id: str, host: str) -> None:
        """Serve one agent until its connection ends or another takes its place."""
        channel: Channel[FromAgent] = Channel(stream, FromAgent, peer=node_id)
        try:
            await self._serve(channel, node_id, host)
        finally:
            await channel.aclose()

    async def _serve(self, channel: Channel[FromAgent], node_id: str, host: str) -> None:
        hello = await _hello(channel)
        await self._begun.wait()
        if self._over:
            raise ConnectionLost("this manager does not lead any more")
        if not await self._is_known(node_id):
            await channel.send(_REMOVED)
            return
        with trio.CancelScope() as scope:
            session = Session(node_id, channel, scope, self._withdrawals)
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
            except Unavailable as exc:
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
        self.ports[session.node_id] = hello.listen_port
        await self._register(session.node_id, hello, host)
        view = self._replica.view
        node = view.node(session.node_id)
        if node is None:
            await session.channel.send(_REMOVED)
            return
        settings = briefing.settings_of(view)[roles.acting_role(node)]
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
        description = self._checked(node_id, hello.description)
        if node.description == description and same_status:
            return
        change = NodeChange(
            id=node_id,
            description=description,
            status=node.status if same_status else status,
        )
        await self._committer.submit(ChangeNodes(changes=(change,))).wait()

    def _hear_description(
        self, session: Session, description: NodeDescription, nursery: trio.Nursery
    ) -> None:
        """Take what a node says of itself. Raises RemoteProtocolError."""
        hearing.check_description(description, session.node_id)
        session.described = description
        if not session.describing:
            nursery.start_soon(self._describe, session)

    def _checked(self, node_id: str, description: NodeDescription) -> NodeDescription:
        """What a node may say of itself."""
        checked = hearing.with_own_keys(self._replica.view, node_id, description)
        if checked != description:
            log.warning(
                "key-of-another-node",
                node=node_id,
                consequence="it takes no part in encrypted networks",
                fix="leave the cluster with that node and join again: it then makes new keys",
            )
        return checked

    async def _describe(self, session: Session) -> None:
        """Record what a node said of itself, if that is news: one at a time, and the newest."""
        session.describing = True
        while (description := session.described) is not None:
            session.described = None
            node = self._replica.view.node(session.node_id)
            description = self._checked(session.node_id, description)
            if node is not None and node.description != description:
                change = NodeChange(id=session.node_id, description=description)
                await self._committer.submit(ChangeNodes(changes=(change,))).wait()
                await trio.sleep(DESCRIBE_EVERY)
        session.describing = False

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
                case Described():
                    self._hear_description(session, message.description, nursery)
                case Goodbye():
                    session.goodbye = message.reason
                    return
                case ProbeAnswer():
                    self._ears.probed(message.seq, heard=message.heard)
                case Forwarded():
                    session.feed.confirm(message.seq)
                    now = trio.current_time()
                    self._withdrawals.confirmed(session.node_id, message.seq, now)
                    self._expiry.set()
                case Hello():
                    return

    async def _report(self, session: Session, report: Report, open_reports: set[int]) -> None:
        for command in hearing.commands(self._replica.view, session.node_id, report):
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
        return f"{host}:{self.ports.get(node_id, DEFAULT_PORT)}"


async def _hello(channel: Channel[FromAgent]) -> Hello:
    """The first message of a session. Raises ConnectionLost or RemoteProtocolError."""
    with trio.move_on_after(HELLO_TIMEOUT):
        return hearing.checked_hello(await channel.receive(), channel.peer)
    raise ConnectionLost(f"{channel.peer} did not say hello in time")


_REMOVED: Final = Refused(
    code="node-removed", message="this node was removed from the cluster; leave it and join again"
)
