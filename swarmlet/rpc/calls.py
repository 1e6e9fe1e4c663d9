"""Calls over a channel: numbered requests, answers in any order, errors that keep their code."""

import itertools
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
import trio

from swarmlet.errors import SwarmletError
from swarmlet.model.checks import NodeCheck
from swarmlet.model.forwarding import NetworkRecord
from swarmlet.model.objects import AttachedContainer
from swarmlet.model.specs import Availability, Role
from swarmlet.rpc.channel import Channel, ConnectionLost
from swarmlet.rpc.frames import MAX_FRAME
from swarmlet.rpc.messages import Peer
from swarmlet.state.commands import ContainerReport

#: Calls that one connection may have open; more stay unread.
MAX_OPEN_CALLS: Final = 1024


class Body(msgspec.Struct, frozen=True, kw_only=True, tag=True, omit_defaults=True):
    """Base of requests and answers."""


# On JOIN, without a certificate.


class AskCa(Body, frozen=True, kw_only=True):
    """Question for the certificate authority of the cluster."""


class CaIs(Body, frozen=True, kw_only=True):
    """The CA's certificate, PEM. The asker compares its digest with the token's."""

    cert: str


class AskJoin(Body, frozen=True, kw_only=True):
    """Let me in. ``addr`` is ``host:port`` of the asker's own listener."""

    token: str
    csr: bytes
    addr: str
    availability: Availability


class Joined(Body, frozen=True, kw_only=True):
    """Welcome: your name, your certificate, and where managers are."""

    node_id: str
    cluster_id: str
    role: Role
    cert: str
    managers: tuple[Peer, ...]


# On MANAGER.


class AskRenew(Body, frozen=True, kw_only=True):
    """A fresh certificate, please, for the role that I shall have (any node)."""

    csr: bytes


class Renewed(Body, frozen=True, kw_only=True):
    """The fresh certificate."""

    cert: str
    role: Role
    ca: str


class AskAttach(Body, frozen=True, kw_only=True):
    """Let a plain container of mine into these networks (any node)."""

    container: AttachedContainer


class AskDetach(Body, frozen=True, kw_only=True):
    """Take containers of mine out of one network, or of all: "" (any node)."""

    ids: tuple[str, ...]
    network_id: str = ""


class TellContainers(Body, frozen=True, kw_only=True):
    """What my engine shows of my attached containers (any node)."""

    reports: tuple[ContainerReport, ...]


class AskContainers(Body, frozen=True, kw_only=True):
    """Question which containers of mine are attached, by what a quorum knows (any node)."""


class ContainersAre(Body, frozen=True, kw_only=True):
    """These; in answer to an attachment, that one, with its addresses."""

    containers: tuple[AttachedContainer, ...]


class AskNetwork(Body, frozen=True, kw_only=True):
    """Question which network has this name, or this beginning of an identifier (any node)."""

    wanted: str


class NetworkIs(Body, frozen=True, kw_only=True):
    """This one, by what a quorum knows; None: there is none."""

    network: NetworkRecord | None


class Forward(Body, frozen=True, kw_only=True):
    """Propose this for me; repeated with one identity until the outcome is known (managers)."""

    client: str
    seq: int
    floor: int
    command: bytes


class Committed(Body, frozen=True, kw_only=True):
    """The proposal was applied at ``index`` with this answer."""

    index: int
    value: bytes


class AskReadIndex(Body, frozen=True, kw_only=True):
    """Question how far a replica must be to be up to date (managers)."""


class ReadIndexIs(Body, frozen=True, kw_only=True):
    """So far."""

    index: int


class AskAddresses(Body, frozen=True, kw_only=True):
    """Question where nodes' daemons listen: only the leader has been told (managers)."""


class AddressesAre(Body, frozen=True, kw_only=True):
    """There: all nodes that are not down."""

    peers: tuple[Peer, ...] = ()


class BecomeMember(Body, frozen=True, kw_only=True):
    """My Raft member listens on ``addr``: make it a voter (managers, for themselves)."""

    addr: str


class RemoveMember(Body, frozen=True, kw_only=True):
    """Take a member out of the Raft configuration (managers)."""

    member: str


# On PROBE, behind the sign of life.


class AskCheck(Body, frozen=True, kw_only=True):
    """Look at your networks, and at your way to these nodes; ``fix``: repair them (managers)."""

    peers: tuple[Peer, ...] = ()
    fix: bool = False


class Checked(Body, frozen=True, kw_only=True):
    """What was found."""

    check: NodeCheck = NodeCheck()


class AskConnections(Body, frozen=True, kw_only=True):
    """How many connections do these tasks of yours have? (managers)."""

    tasks: tuple[str, ...] = ()


class ConnectionsAre(Body, frozen=True, kw_only=True):
    """How many TCP connections, by task."""

    tasks: dict[str, int]


# On all.


class Done(Body, frozen=True, kw_only=True):
    """It is done."""


class Failed(Body, frozen=True, kw_only=True):
    """It was refused. ``leader`` is set when another manager may do it."""

    code: str
    message: str
    advice: str = ""
    leader: str = ""


#: What any node may ask for its plain containers.
OfContainers = AskAttach | AskDetach | TellContainers | AskContainers | AskNetwork

Request = (
    AskCa
    | AskJoin
    | AskRenew
    | OfContainers
    | Forward
    | AskReadIndex
    | AskAddresses
    | BecomeMember
    | RemoveMember
    | AskCheck
    | AskConnections
)
Answer = (
    CaIs
    | Joined
    | Renewed
    | ContainersAre
    | NetworkIs
    | Committed
    | ReadIndexIs
    | AddressesAre
    | Checked
    | ConnectionsAre
    | Done
    | Failed
)


class NumberedRequest(msgspec.Struct, frozen=True, array_like=True):
    """A request and the number that its answer will carry."""

    number: int
    body: Request


class NumberedAnswer(msgspec.Struct, frozen=True, array_like=True):
    """An answer and the number of its request."""

    number: int
    body: Answer


class CallRefused(SwarmletError):
    """The other side refused a call; it said why."""

    def __init__(self, failed: Failed) -> None:
        super().__init__(failed.message, advice=failed.advice)
        self.remote_code = failed.code
        self.leader = failed.leader or None


class Caller:
    """Makes calls on one connection; many at once. ``run`` reads the answers."""

    def __init__(self, stream: trio.abc.Stream, *, peer: str) -> None:
        self._channel: Channel[NumberedAnswer] = Channel(stream, NumberedAnswer, peer=peer)
        self._numbers = itertools.count(1)
        self._open: dict[int, tuple[trio.Event, list[Answer]]] = {}
        self.lost = False

    async def run(self) -> None:
        """Deliver answers until the connection ends. Raises ConnectionLost."""
        try:
            while True:
                answer = await self._channel.receive()
                waiter = self._open.pop(answer.number, None)
                if waiter is not None:
                    waiter[1].append(answer.body)
                    waiter[0].set()
        finally:
            self.lost = True
            for event, _ in self._open.values():
                event.set()
            await self._channel.aclose()

    async def call(self, body: Request) -> Answer:
        """Ask and wait for the answer. Raises CallRefused or ConnectionLost."""
        if self.lost:
            raise ConnectionLost(f"connection to {self._channel.peer} is gone")
        number = next(self._numbers)
        event, answers = self._open[number] = (trio.Event(), [])
        try:
            await self._channel.send(NumberedRequest(number, body))
            await event.wait()
        finally:
            self._open.pop(number, None)
        if not answers:
            raise ConnectionLost(f"connection to {self._channel.peer} broke before the answer")
        if isinstance(answers[0], Failed):
            raise CallRefused(answers[0])
        return answers[0]


async def call_once(stream: trio.abc.Stream, body: Request, *, peer: str) -> Answer:
    """Make one call on a stream of its own and close it. Raises CallRefused or ConnectionLost."""
    channel: Channel[NumberedAnswer] = Channel(stream, NumberedAnswer, peer=peer)
    try:
        await channel.send(NumberedRequest(0, body))
        answer = (await channel.receive()).body
    finally:
        await channel.aclose()
    if isinstance(answer, Failed):
        raise CallRefused(answer)
    return answer


async def serve_calls(
    stream: trio.abc.Stream,
    handle: Callable[[Request], Awaitable[Answer]],
    *,
    peer: str,
    limit: int = MAX_FRAME,
    calls: int = MAX_OPEN_CALLS,
) -> None:
    """Answer requests of at most ``limit`` bytes, ``calls`` at once, until the connection ends.

    Raises ConnectionLost or RemoteProtocolError then.

    A SwarmletError of ``handle`` is the caller's answer, not the connection's end.
    """
    channel: Channel[NumberedRequest] = Channel(stream, NumberedRequest, peer=peer, limit=limit)
    room = trio.Semaphore(calls)

    async def answer(request: NumberedRequest) -> None:
        try:
            body = await handle(request.body)
        except SwarmletError as exc:
            leader = getattr(exc, "leader", None) or ""
            body = Failed(code=exc.code, message=exc.message, advice=exc.advice, leader=leader)
        finally:
            room.release()
        await channel.send(NumberedAnswer(request.number, body))

    try:
        async with trio.open_nursery() as nursery:
            while True:
                await room.acquire()  # what is too much stays unread: back-pressure
                nursery.start_soon(answer, await channel.receive())
    finally:
        await channel.aclose()
