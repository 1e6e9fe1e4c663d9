"""Plain containers of this node in the cluster's attachable networks.

A container gets its place from the managers before the engine gets to know of it: nothing of it is
unknown to the cluster at any moment. What the engine then does with it (start, stop, rename,
remove), and what was cut off by a crash, is found by comparing (:mod:`.counterparts`) what the
engine shows with what the managers say: when the engine tells of a change, after each break of its
stream of events, and when the managers' news differ.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final, NoReturn, Protocol, TypeVar

import structlog
import trio
from msgspec.structs import replace

from swarmlet.agent.backoff import Backoff
from swarmlet.agent.counterparts import Differences, Intruder, differences, identify
from swarmlet.clock import Rng, Seconds
from swarmlet.control.forwarding import container_on
from swarmlet.engine import attached
from swarmlet.engine.attached import ATTACHED_LABEL, Found
from swarmlet.engine.client import Engine, Event
from swarmlet.engine.convert import TASK_LABEL
from swarmlet.engine.networks import NETWORK_LABEL, Endpoint
from swarmlet.errors import (
    EngineError,
    EngineUnavailable,
    FailedPrecondition,
    NotFound,
    SwarmletError,
    Unavailable,
)
from swarmlet.model.forwarding import Attachment, NetworkRecord, Tables, TaskRecord
from swarmlet.model.objects import AttachedContainer
from swarmlet.rpc.calls import (
    Answer,
    AskAttach,
    AskContainers,
    AskDetach,
    AskNetwork,
    ContainersAre,
    NetworkIs,
    OfContainers,
    TellContainers,
)

log = structlog.get_logger(__name__)

#: What the engine's events are about that managers must hear of.
ACTIONS: Final = ("start", "die", "destroy", "rename", "pause", "unpause")

#: Seconds for what managers have committed to come back as this node's news.
NEWS_WITHIN: Final = Seconds(10.0)

#: Events that follow each other within this time are looked at together.
GATHER: Final = Seconds(0.02)

#: Seconds that a refused place is waited for: its owner may be gone, and nobody heard of it yet.
SETTLE_WITHIN: Final = 2.0

#: Containers in one call: a worker's calls are small.
MAX_TOLD: Final = 100

#: Seconds for a place to be given back when the engine has refused its container.
GIVE_BACK_WITHIN: Final = 10.0

#: Seconds for the containers of a node that leaves to be disconnected, and for managers to hear it.
LEFT_WITHIN: Final = 10.0

#: Makes a call to whichever manager answers. Raises what that refused with, or Unavailable.
Ask = Callable[[OfContainers], Awaitable[Answer]]


_Told = TypeVar("_Told", ContainersAre, NetworkIs)


class Networks(Protocol):
    """This node's networks (:class:`swarmlet.agent.networking.Networking`)."""

    @property
    def tables(self) -> Tables:
        """What this node forwards by."""
        ...

    async def places(
        self, ident: str, attachments: Sequence[Attachment], nameservers: tuple[str, ...]
    ) -> list[Endpoint]:
        """Bring up networks on this node for a container."""
        ...

    def know_nameservers(self, nameservers: Mapping[str, tuple[str, ...]]) -> None:
        """Ask these for what is not the cluster's, for each of these containers."""
        ...


class Attachments:
    """This node's attached containers. ``ask`` reaches the managers."""

    def __init__(self, engine: Engine, networks: Networks, ask: Ask, *, rng: Rng) -> None:
        self._engine = engine
        self._networks = networks
        self._ask = ask
        self._rng = rng
        self._told = False  # managers have said what this node forwards by, since the start
        self._leaving = False
        self._busy: dict[str, int] = {}
        self._turns: dict[str, trio.Lock] = {}  # one at a time for each container that is busy
        self._touched: set[str] = set()  # were busy since the last look began
        self._known: dict[str, TaskRecord] = {}
        self._stale: set[str] = set()  # containers that the engine told of since the last look
        self._wake = trio.Event()
        self._comparing = False
        self._compared = trio.Event()
        self._news = trio.Event()

    # --- who tells ------------------------------------------------------------------------------

    def told(self) -> None:
        """Managers have said what to forward by; the tables are whole."""
        known = self._attached()
        if not self._told or known != self._known:
            self._told, self._known = True, known
            self._look()
        self._news.set()
        self._news = trio.Event()

    def _attached(self) -> dict[str, TaskRecord]:
        tables = self._networks.tables
        return {
            ident: record
            for ident, record in tables.tasks.items()
            if record.is_plain and record.node == tables.me
        }

    def _look(self) -> None:
        self._wake.set()

    async def run(self) -> None:
        """Keep cluster and engine in line, until cancelled, which touches no container."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow_engine)
            nursery.start_soon(self._follow_changes)

    async def _follow_engine(self) -> NoReturn:
        """Have a look whenever the engine tells of a container that may be attached."""
        retry = Backoff(self._rng)
        while True:
            try:
                async with self._engine.events(actions=ACTIONS) as events:
                    self._look()  # at what happened meanwhile
                    retry.reset()
                    async for event in events:
                        if self._concerns(event):
                            self._stale.add(event.container_id)
                            self._look()
            except (EngineUnavailable, EngineError, NotFound) as exc:
                log.debug("engine-events-broken", reason=exc.message)
            await retry.wait()

    def _concerns(self, event: Event) -> bool:
        """Whether an event is about a container that is attached, or says of itself that it is."""
        if TASK_LABEL in event.attributes:
            return False
        ident = self.identify(event.attributes, event.container_id)
        return ATTACHED_LABEL in event.attributes or ident in self._known

    async def _follow_changes(self) -> NoReturn:
        retry = Backoff(self._rng)
        while True:
            await self._wake.wait()
            await trio.sleep(GATHER)
            self._wake = trio.Event()
            self._comparing = True
            try:
                if self._told and not self._leaving:
                    await self._compare()
            except SwarmletError as exc:
                log.info("containers-not-compared", reason=exc.message)
                self._look()
            else:
                retry.reset()
            finally:
                self._comparing = False
                self._compared.set()
                self._compared = trio.Event()
            if self._wake.is_set():
                await retry.wait()

    def identify(self, labels: Mapping[str, str], container_id: str) -> str:
        """The identifier in the cluster of a container of this engine."""
        return identify(self._attached(), labels.get(ATTACHED_LABEL, ""), container_id)

    async def network(self, wanted: str) -> NetworkRecord | None:
        """The network of the cluster that has this name or identifier, by what managers know now.

        This node's own news may be of before it was made, or of one that had the name before.
        Raises Unavailable.
        """
        return (await self._answer(AskNetwork(wanted=wanted), NetworkIs)).network

    async def _answer(self, request: OfContainers, kind: type[_Told]) -> _Told:
        """Ask for an answer of this kind. Raises Unavailable when it is another."""
        answer = await self._ask(request)
        if not isinstance(answer, kind):
            asked, got = type(request).__name__, type(answer).__name__
            raise Unavailable(f"a manager answered {asked} with {got}: versions that do not match?")
        return answer

    # --- attaching ------------------------------------------------------------------------------

    @asynccontextmanager
    async def attaching(
        self, container: AttachedContainer, nameservers: tuple[str, ...] = ()
    ) -> AsyncIterator[list[Endpoint]]:
        """Get a container places in networks, then let the caller have the engine put it there.

        When the caller fails because the engine refused, the places are given back; after another
        error the engine is asked what became of it. Raises what the managers refused with,
        Unavailable, EngineError or EngineUnavailable.
        """
        ident = container.id
        self._busy[ident] = self._busy.get(ident, 0) + 1
        turn = self._turns.setdefault(ident, trio.Lock())
        try:
            async with turn:
                before = self._networks_of(ident)
                given = await self._attach(container)
                try:
                    yield await self._places(given, container, nameservers)
                except (EngineError, NotFound):
                    with trio.CancelScope(
                        shield=True, deadline=trio.current_time() + GIVE_BACK_WITHIN
                    ):
                        await self._give_back(container, kept=before)
                    raise
        finally:
            self._touched.add(ident)
            self._busy[ident] -= 1
            if not self._busy[ident]:
                del self._busy[ident], self._turns[ident]
            self._look()

    def _networks_of(self, ident: str) -> frozenset[str]:
        """The networks that a container has places in, as far as this node was told."""
        record = self._attached().get(ident)
        return frozenset(a.network_id for a in record.attachments) if record else frozenset()

    async def _attach(self, container: AttachedContainer) -> AttachedContainer:
        """Have managers give it its places. One that was just removed here may still have them."""
        request = AskAttach(container=container)
        try:
            answer = await self._answer(request, ContainersAre)
        except FailedPrecondition:
            await self._settle()
            answer = await self._answer(request, ContainersAre)
        if not answer.containers:
            raise Unavailable("a manager gave a place to no container")
        return answer.containers[0]

    async def _settle(self) -> None:
        """Look at the engine, and wait until managers know of what was found."""
        self._look()
        with trio.move_on_after(SETTLE_WITHIN):
            while self._wake.is_set() or self._comparing:
                await self._compared.wait()

    async def _places(
        self,
        given: AttachedContainer,
        asked: AttachedContainer,
        nameservers: tuple[str, ...],
    ) -> list[Endpoint]:
        """The places that were asked for, once this node knows of them and is ready."""
        addresses = {a.network_id: a for a in given.attachments}
        wanted = [addresses[a.network_id] for a in asked.attachments]
        with trio.move_on_after(NEWS_WITHIN):
            while not self._knows(given.id, wanted):
                await self._news.wait()
            return await self._networks.places(given.id, wanted, nameservers)
        raise Unavailable(
            "the managers gave the container an address, but their news do not reach this node",
            advice="try again; node ls shows whether this node is Ready",
        )

    def _knows(self, ident: str, wanted: Sequence[Attachment]) -> bool:
        record = self._attached().get(ident)
        return record is not None and set(wanted) <= set(record.attachments)

    async def _give_back(self, container: AttachedContainer, *, kept: frozenset[str]) -> None:
        """Give places back, but for those that it had before."""
        try:
            for attachment in container.attachments:
                if attachment.network_id not in kept:
                    await self._detach(container.id, attachment.network_id)
        except SwarmletError as exc:
            log.info("place-not-given-back", container=container.name, reason=exc.message)

    async def left(self, ident: str, network_id: str) -> None:
        """A container has left a network. Who cannot say so now finds it again by comparing."""
        try:
            await self._detach(ident, network_id)
        except SwarmletError as exc:
            log.info("not-detached-yet", reason=exc.message)
            self._look()

    async def _detach(self, ident: str, network_id: str) -> None:
        await self._ask(AskDetach(ids=(ident,), network_id=network_id))

    # --- comparing ------------------------------------------------------------------------------

    async def _compare(self) -> None:
        """Look at the engine, and act on what differs."""
        self._touched = set(self._busy)
        networks = await self._engine.networks(label=NETWORK_LABEL)
        copies = {str(n["Name"]): str(n["Labels"][NETWORK_LABEL]) for n in networks}
        found = await self._found()
        here = self._attached()
        self._networks.know_nameservers(
            {identify(here, one.label, one.container_id): one.nameservers for one in found}
        )
        known = differences(here, found, copies, busy=self._touched | self._busy.keys())
        await self._tell(known)
        if known.intruders:
            sure = await self._by_quorum()
            again = differences(sure, found, copies, busy=self._touched | self._busy.keys())
            await self._expel(again.intruders)

    async def _found(self) -> list[Found]:
        """The engine's plain containers.

        It tells of an end before its list shows it; who inspects a container waits for that.
        """
        stale, self._stale = self._stale, set()
        listed = await self._engine.containers()
        found = [one for entry in listed if (one := attached.found(entry)) is not None]
        return [await self._inspected(one) if one.container_id in stale else one for one in found]

    async def _inspected(self, one: Found) -> Found:
        try:
            return attached.inspected(one, await self._engine.inspect(one.container_id))
        except NotFound:
            return replace(one, running=False)  # the engine will tell that it is gone

    async def _by_quorum(self) -> dict[str, TaskRecord]:
        """This node's attached containers: what was said last may be an old leader's word."""
        answer = await self._answer(AskContainers(), ContainersAre)
        me = self._networks.tables.me
        return {one.id: container_on(one, me) for one in answer.containers}

    async def _expel(self, intruders: Sequence[Intruder]) -> None:
        """Disconnect containers; one that the engine keeps does not keep the others."""
        failures: list[EngineError] = []
        for intruder in intruders:
            log.warning(
                "container-disconnected",
                container=intruder.name,
                network=intruder.network,
                address=intruder.address,
                reason="the cluster has not given it that address",
            )
            try:
                await self._engine.disconnect(intruder.network, intruder.container_id)
            except EngineError as exc:
                failures.append(exc)
        if failures:
            raise failures[0]
        self._look()

    async def _tell(self, known: Differences) -> None:
        for start in range(0, len(known.gone), MAX_TOLD):
            await self._ask(AskDetach(ids=known.gone[start : start + MAX_TOLD]))
        for ident, network_id in known.left:
            await self._detach(ident, network_id)
        for start in range(0, len(known.news), MAX_TOLD):
            await self._ask(TellContainers(reports=known.news[start : start + MAX_TOLD]))

    # --- leaving --------------------------------------------------------------------------------

    async def leave(self, *, known: bool) -> None:
        """Take all containers out of the cluster's networks: the node leaves.

        ``known``: managers know this node still, and are told. What cannot be done is said.
        """
        self._leaving = True
        try:
            with trio.fail_after(LEFT_WITHIN):
                await self._let_go()
                if known:
                    await self._tell(Differences(gone=tuple(sorted(self._attached()))))
        except (SwarmletError, trio.TooSlowError) as exc:
            log.warning("containers-not-detached", reason=str(exc) or "the engine hangs")

    async def _let_go(self) -> None:
        networks = await self._engine.networks(label=NETWORK_LABEL)
        for one in await self._found():
            for network in networks:
                if network["Name"] in one.places:
                    await self._engine.disconnect(network["Id"], one.container_id)
