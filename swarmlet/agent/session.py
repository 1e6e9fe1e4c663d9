"""The agent's end of its session with the leader: finds it, says hello, beats, reports, listens.

A session that ends is followed by the next one; nothing that happens here touches a container.
"""

import math
from collections.abc import Sequence
from typing import Final, Protocol

import structlog
import trio

from swarmlet import __version__
from swarmlet.clock import Nanos, Rng, Seconds
from swarmlet.errors import EngineUnavailable, SwarmletError
from swarmlet.model.defaults import HEARTBEAT
from swarmlet.model.objects import NodeDescription, TaskStatus
from swarmlet.rpc.channel import Channel, ConnectionLost
from swarmlet.rpc.frames import RemoteProtocolError
from swarmlet.rpc.messages import (
    REPORT_WINDOW,
    Acknowledged,
    Assignments,
    Beat,
    Described,
    Forwarded,
    Forwarding,
    FromManager,
    Goodbye,
    GoodbyeReason,
    Hello,
    Payloads,
    Peer,
    ProbeAnswer,
    ProbeRequest,
    Pulse,
    Redirect,
    Refused,
    Report,
    Settings,
    Welcome,
)

log = structlog.get_logger()

#: Heartbeats without any word from the manager after which the session is given up.
SILENCE: Final = 2.2

#: Seconds between two rounds of tries, jittered: a whole cluster must not knock at once.
RETRY: Final = 0.25

#: Seconds that a goodbye waits for a leader to say it to.
GOODBYE_WAIT: Final = 1.5

#: Seconds for a manager to take a connection. A host without power says nothing at all, and the
#: next must be tried long before the leader gives this node up; the slow get more each time.
DIAL_FIRST: Final = 0.75
DIAL_MOST: Final = 5.0

#: Seconds for a manager to answer hello: a commit, if what the node says is news.
ANSWER_TIMEOUT: Final = 5.0

#: Statuses in one report; a node that returns with thousands sends several.
MAX_REPORT: Final = 500


class NodeRemoved(SwarmletError):
    """The cluster does not know this node any more."""

    code = "node-removed"


class Reporter:
    """Statuses that the leader has not acknowledged. Only the newest of a task counts."""

    def __init__(self) -> None:
        self._pending: dict[str, TaskStatus] = {}
        self._sent: dict[int, dict[str, TaskStatus]] = {}
        self._seq = 0
        self._wake = trio.Event()
        self._room = trio.Event()

    def put(self, task_id: str, status: TaskStatus) -> None:
        """Queue a status."""
        self._pending[task_id] = status
        self._wake.set()

    def restart(self) -> None:
        """A new session: what was not acknowledged is sent again."""
        for seq in sorted(self._sent, reverse=True):
            self._pending = self._sent[seq] | self._pending
        self._sent.clear()
        self._room.set()
        self._room = trio.Event()
        if self._pending:
            self._wake.set()

    def acknowledged(self, seq: int) -> None:
        """The leader has committed a report."""
        self._sent.pop(seq, None)
        self._room.set()
        self._room = trio.Event()

    async def next(self) -> Report:
        """Wait for the next report to send."""
        while len(self._sent) >= REPORT_WINDOW:
            await self._room.wait()
        await self._wake.wait()
        chosen = dict(list(self._pending.items())[:MAX_REPORT])
        for task_id in chosen:
            del self._pending[task_id]
        if not self._pending:
            self._wake = trio.Event()
        self._seq += 1
        self._sent[self._seq] = chosen
        return Report(seq=self._seq, statuses=tuple(chosen.items()))


class NodeSide(Protocol):
    """What a session needs of its node."""

    @property
    def listen_port(self) -> int:
        """Where this node's daemon listens."""
        ...

    async def dial(self, addr: str) -> trio.abc.Stream:
        """Connect to ``host:port`` on the AGENT protocol. Raises ConnectionLost."""
        ...

    async def probe(self, node_id: str, addr: str) -> bool:
        """Whether the daemon of another node answers at an address."""
        ...

    async def describe(self) -> NodeDescription:
        """What this node says of itself. Raises EngineUnavailable or EngineError."""
        ...

    async def engine_lost(self) -> None:
        """Return once the engine is away for longer than its restart takes."""
        ...

    def statuses(self) -> dict[str, TaskStatus]:
        """The last status of each task here."""
        ...

    def on_work(self, work: Payloads | Assignments) -> None:
        """The leader assigned tasks, or gave data for those that it assigns next."""
        ...

    def on_forwarding(self, forwarding: Forwarding) -> None:
        """The leader said what to forward by."""
        ...

    async def forwards(self) -> None:
        """Return once the kernel forwards by all that was said so far."""
        ...

    def on_settings(self, settings: Settings) -> None:
        """The leader said how to behave: heartbeat, managers, wanted role."""
        ...


class AgentSession:
    """Keeps one session with whichever manager leads."""

    def __init__(self, node: NodeSide, *, managers: Sequence[Peer], rng: Rng) -> None:
        self._node = node
        self._managers = list(managers)
        self._rng = rng
        self._reporter = Reporter()
        self._channel: Channel[FromManager] | None = None
        self._hint: str | None = None
        self._period = HEARTBEAT
        self._patience = DIAL_FIRST
        self._connected = trio.Event()
        self._changed = trio.Event()
        self._over = False
        self._alone_since = -math.inf  # nobody knows how long: no session yet

    def alone(self) -> Seconds:
        """For how long there is no session; 0 while there is one."""
        return Seconds(0 if self._channel else trio.current_time() - self._alone_since)

    @property
    def manager(self) -> str:
        """The address of the leader that holds the session; "" while there is none."""
        return self._channel.peer if self._channel is not None else ""

    def describe_again(self) -> None:
        """What this node says of itself has changed: tell the leader, if there is a session."""
        self._changed.set()

    def report(self, task_id: str, status: TaskStatus) -> None:
        """Report a task's status, now or as soon as there is a session."""
        self._reporter.put(task_id, status)

    async def goodbye(self, reason: GoodbyeReason) -> None:
        """Tell the leader why the session ends, for good; silent when no leader is found.

        A leader that has just handed over has no session yet with the next one. After a goodbye no
        session follows: it would take it back.
        """
        with trio.move_on_after(GOODBYE_WAIT):
            await self._connected.wait()
        self._over = True
        if self._channel is not None:
            try:
                await self._channel.send(Goodbye(reason=reason))
            except ConnectionLost:
                log.info("goodbye-not-sent")

    async def run(self) -> None:
        """Hold sessions until cancelled or goodbye was said. Raises NodeRemoved."""
        failed: set[str] = set()
        while not self._over:
            for addr in self._candidates():
                refused = ""
                try:
                    await self._hold(addr)
                except* NodeRemoved as group:
                    refused = str(group.exceptions[0])
                except* SwarmletError as group:
                    # The connection broke, the manager talks rubbish, or the local engine does not
                    # answer: none of it ends the agent.
                    log.info("session-ended", manager=addr, reason=str(group.exceptions[0]))
                if refused:
                    raise NodeRemoved(refused)
                failed.add(addr)
                if self._hint in failed:
                    self._hint = None  # a follower that still believes in a dead leader
                if self._hint is not None or self._over:
                    break
            if self._hint is None:
                failed.clear()
                await trio.sleep(RETRY * (0.5 + self._rng.random()))

    def _candidates(self) -> list[str]:
        """Addresses to try: the hinted leader first, the others in an order of their own."""
        addresses = [peer.addr for peer in self._managers]
        start = int(self._rng.random() * len(addresses)) if addresses else 0
        order = addresses[start:] + addresses[:start]
        hint, self._hint = self._hint, None
        return [hint, *(a for a in order if a != hint)] if hint else order

    async def _hold(self, addr: str) -> None:
        """One session. Raises NodeRemoved, or another SwarmletError that ends only the session."""
        # First the engine, then the manager: who has dialled must not keep it waiting.
        self._changed = trio.Event()
        description = await self._node.describe()
        stream = await self._dial(addr)
        channel: Channel[FromManager] = Channel(stream, FromManager, peer=addr)
        try:
            if not await self._introduce(channel, description):
                return
            log.info("session-started", manager=addr)
            self._channel = channel
            self._connected.set()
            await self._converse(channel)
        finally:
            if self._channel is not None:
                self._channel = None
                self._alone_since = trio.current_time()
            self._connected = trio.Event()
            await channel.aclose()

    async def _dial(self, addr: str) -> trio.abc.Stream:
        with trio.move_on_after(self._patience):
            return await self._node.dial(addr)
        self._patience = min(self._patience * 1.5, DIAL_MOST)
        raise ConnectionLost(f"{addr} does not answer")

    async def _introduce(self, channel: Channel[FromManager], description: NodeDescription) -> bool:
        """Say hello; whether the other side is the leader and welcomes us."""
        await channel.send(
            Hello(
                description=description,
                listen_port=self._node.listen_port,
                swarmlet_version=__version__,
            )
        )
        answer = await _answer(channel)
        self._patience = DIAL_FIRST
        match answer:
            case Welcome():
                self._learn(
                    Settings(heartbeat=answer.heartbeat, managers=answer.managers, role=answer.role)
                )
                return True
            case Redirect():
                self._managers = list(answer.managers) or self._managers
                self._hint = answer.leader.addr if answer.leader else None
                return False
            case Refused():
                raise _refusal(answer)
            case _:
                raise RemoteProtocolError("the manager did not answer hello")

    async def _converse(self, channel: Channel[FromManager]) -> None:
        self._reporter.restart()
        for task_id, status in self._node.statuses().items():
            self._reporter.put(task_id, status)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._beat, channel)
            nursery.start_soon(self._send_reports, channel)
            nursery.start_soon(self._send_descriptions, channel)
            nursery.start_soon(self._end_without_engine)
            while True:
                self._take(await self._listen(channel), channel, nursery)

    async def _listen(self, channel: Channel[FromManager]) -> FromManager:
        """Wait for a message. Raises ConnectionLost after too long a silence."""
        with trio.move_on_after(_seconds(self._period) * SILENCE):
            return await channel.receive()
        raise ConnectionLost(f"{channel.peer} is silent")

    def _take(
        self, message: FromManager, channel: Channel[FromManager], nursery: trio.Nursery
    ) -> None:
        match message:
            case Payloads() | Assignments():
                self._node.on_work(message)
            case Forwarding():
                self._node.on_forwarding(message)
                if message.last:
                    nursery.start_soon(self._confirm, channel, message.seq)
            case Acknowledged():
                self._reporter.acknowledged(message.seq)
            case Settings():
                self._learn(message)
            case ProbeRequest():
                nursery.start_soon(self._answer_probe, channel, message)
            case Pulse():
                pass
            case Refused():
                raise _refusal(message)
            case Redirect() | Welcome():
                raise RemoteProtocolError("the manager greeted twice")

    def _learn(self, settings: Settings) -> None:
        self._managers = list(settings.managers) or self._managers
        self._period = settings.heartbeat
        self._node.on_settings(settings)

    async def _confirm(self, channel: Channel[FromManager], seq: int) -> None:
        await self._node.forwards()
        await channel.send(Forwarded(seq=seq))

    async def _beat(self, channel: Channel[FromManager]) -> None:
        while True:
            await channel.send(Beat())
            await trio.sleep(_seconds(self._period))

    async def _end_without_engine(self) -> None:
        """A node that can run nothing must fall silent, or tasks would wait on it for ever."""
        await self._node.engine_lost()
        raise EngineUnavailable("the Docker Engine does not answer")

    async def _send_reports(self, channel: Channel[FromManager]) -> None:
        while True:
            await channel.send(await self._reporter.next())

    async def _send_descriptions(self, channel: Channel[FromManager]) -> None:
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            await channel.send(Described(description=await self._node.describe()))

    async def _answer_probe(self, channel: Channel[FromManager], request: ProbeRequest) -> None:
        heard = await self._node.probe(request.node_id, request.addr)
        await channel.send(ProbeAnswer(seq=request.seq, heard=heard))


async def _answer(channel: Channel[FromManager]) -> FromManager:
    """What the manager says to hello. Raises ConnectionLost when that takes too long."""
    with trio.move_on_after(ANSWER_TIMEOUT):
        return await channel.receive()
    raise ConnectionLost(f"{channel.peer} does not answer hello")


def _refusal(refused: Refused) -> SwarmletError:
    """What a refusal means: only a node that was removed has to let its tasks go."""
    if refused.code == NodeRemoved.code:
        return NodeRemoved(refused.message)
    return RemoteProtocolError(f"the manager refuses this session: {refused.message}")


def _seconds(period: Nanos) -> float:
    return period / 1e9
