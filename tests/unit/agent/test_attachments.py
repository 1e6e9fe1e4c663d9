"""The node's part in attached containers: the cluster hears first, then what the engine shows."""

import random
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from msgspec.structs import replace
from swarmlet.agent.attachments import Attachments
from swarmlet.control import forwarding
from swarmlet.engine.attached import ATTACHED_LABEL, DNS_LABEL
from swarmlet.engine.client import Engine
from swarmlet.engine.convert import TASK_LABEL
from swarmlet.engine.networks import NETWORK_LABEL, Endpoint
from swarmlet.errors import EngineError, EngineUnavailable, FailedPrecondition, Unavailable
from swarmlet.model.forwarding import Attachment, Tables
from swarmlet.model.objects import AttachedContainer
from swarmlet.rpc.calls import (
    Answer,
    AskAttach,
    AskContainers,
    AskDetach,
    AskNetwork,
    ContainersAre,
    Done,
    NetworkIs,
    OfContainers,
    TellContainers,
)
from swarmlet.state.commands import (
    AttachContainer,
    DetachContainers,
    ReportContainers,
)

from tests.fakes.fake_engine import FakeEngine, Refusal
from tests.fakes.world import World, a_network, a_node
from tests.waiting import eventually

Json = Any
IDENT = "c" * 25


class FakeNetworks:
    """The node's networks: what it was told, and an engine's copy of ``front``."""

    def __init__(self) -> None:
        self.tables = Tables(me=1)
        self.nameservers: dict[str, tuple[str, ...]] = {}
        self.failure: Exception | None = None

    async def places(
        self, ident: str, attachments: Sequence[Attachment], nameservers: tuple[str, ...]
    ) -> list[Endpoint]:
        self.know_nameservers({ident: nameservers})
        if self.failure is not None:
            raise self.failure
        return [Endpoint("f" * 64, a.address, "10.9.0.1", "front") for a in attachments]

    def know_nameservers(self, nameservers: Mapping[str, tuple[str, ...]]) -> None:
        self.nameservers |= {k: v for k, v in nameservers.items() if v}


class Rig:
    """A node ``n1``, its engine, and managers that are one state machine.

    ``deaf``: no manager answers; ``wrong``: it answers something else. ``late``: what is committed
    is not told to the node.
    """

    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine
        self.world = World()
        self.world.nodes(a_node("n1"), a_node("n2"))
        self.world.networks(a_network("front", subnet="10.9.0.0/24", attachable=True))
        self.networks = FakeNetworks()
        self.asked: list[OfContainers] = []
        self.deaf = self.late = self.wrong = False
        self.attachments: Attachments
        engine.networks["f" * 64] = {
            "Id": "f" * 64,
            "Name": "front",
            "Labels": {NETWORK_LABEL: "id-front"},
        }

    async def ask(self, request: OfContainers) -> Answer:
        await trio.lowlevel.checkpoint()
        if self.deaf:
            raise Unavailable("no manager answers")
        self.asked.append(request)
        if self.wrong:
            return Done()
        match request:
            case AskAttach():
                self._do(AttachContainer(container=request.container))
                found = self.world.store.container(request.container.id)
                assert found is not None
                return ContainersAre(containers=(found,))
            case AskDetach():
                self._do(
                    DetachContainers(node_id="n1", ids=request.ids, network_id=request.network_id)
                )
            case TellContainers():
                self._do(ReportContainers(node_id="n1", reports=request.reports))
            case AskContainers():
                return ContainersAre(containers=tuple(self.world.store.containers_on_node("n1")))
            case AskNetwork():
                named = self.world.store.network_named(request.wanted)
                return NetworkIs(network=forwarding.network(named) if named else None)
        return Done()

    def _do(self, command: AttachContainer | DetachContainers | ReportContainers) -> None:
        (outcome,) = self.world.do(command)
        if outcome is not None:
            raise FailedPrecondition(outcome.message)
        self.tell()

    def tell(self) -> None:
        """Tell the node what to forward by."""
        if not self.late:
            self.networks.tables = self.tables()
            self.attachments.told()

    def tables(self) -> Tables:
        """What managers say now."""
        store = self.world.store
        records = [forwarding.container(store, c) for c in store.attached()]
        return Tables(me=1, tasks={r.id: r for r in records if r is not None})

    @property
    def known(self) -> dict[str, AttachedContainer]:
        """What the cluster knows, by name."""
        return {c.name: c for c in self.world.store.attached()}

    async def create(self, name: str = "box", **labels: str) -> str:
        """Create a container as the API does; its identifier at the engine."""
        async with self.attachments.attaching(a_container(name), ("9.9.9.9",)) as [place]:
            return await self.put(name, place.address, **{ATTACHED_LABEL: IDENT, **labels})

    async def put(self, name: str, address: str, **labels: str) -> str:
        """Put a container into the engine's copy of the network, by itself."""
        async with Engine(self.engine.socket_path) as engine:
            endpoint = {"IPAMConfig": {"IPv4Address": address}}
            return await engine.create(
                name,
                {
                    "Image": "busybox:lab",
                    "Labels": labels,
                    "NetworkingConfig": {"EndpointsConfig": {"front": endpoint}},
                },
            )

    def places(self, container_id: str) -> Json:
        return self.engine.containers[container_id]["NetworkSettings"]["Networks"]

    async def start(self, container_id: str) -> None:
        async with Engine(self.engine.socket_path) as engine:
            await engine.start(container_id)

    async def remove(self, container_id: str) -> None:
        async with Engine(self.engine.socket_path) as engine:
            await engine.remove(container_id)


def a_container(name: str = "box", address: str = "") -> AttachedContainer:
    places = (Attachment("id-front", address),)
    return AttachedContainer(id=IDENT, node_id="n1", name=name, attachments=places)


@pytest.fixture
async def rig(directory: Path) -> AsyncIterator[Rig]:
    async with (
        FakeEngine(directory / "docker.sock").serve() as fake,
        Engine(fake.socket_path) as engine,
        trio.open_nursery() as nursery,
    ):
        rig = Rig(fake)
        rig.attachments = Attachments(engine, rig.networks, rig.ask, rng=random.Random(1))
        nursery.start_soon(rig.attachments.run)
        yield rig
        nursery.cancel_scope.cancel()


async def test_the_life_of_a_container_is_told(rig: Rig) -> None:
    rig.tell()
    container_id = await rig.create()
    await eventually(lambda: rig.known["box"].container_id == container_id)
    assert not rig.known["box"].running
    await rig.start(container_id)
    await eventually(lambda: rig.known["box"].running)
    rig.engine.rename(container_id, "new")
    await eventually(lambda: "new" in rig.known)
    rig.engine.end(container_id, 0)
    await eventually(lambda: not rig.known["new"].running)
    await rig.remove(container_id)
    await eventually(lambda: rig.known == {})
    assert rig.networks.nameservers == {IDENT: ("9.9.9.9",)}


async def test_what_the_engine_refuses_gives_its_place_back_at_once(rig: Rig) -> None:
    rig.tell()
    with pytest.raises(EngineError):
        async with rig.attachments.attaching(a_container()):
            raise EngineError("no", status=409)
    assert rig.known == {}


async def test_when_the_engine_breaks_off_it_is_looked_at(rig: Rig) -> None:
    """Nobody knows then whether it made the container."""
    rig.tell()

    async def broken_off(*, made: bool) -> None:
        async with rig.attachments.attaching(a_container()) as [place]:
            if made:
                await rig.put("box", place.address, **{ATTACHED_LABEL: IDENT})
            raise EngineUnavailable("it went away")

    with pytest.raises(EngineUnavailable):
        await broken_off(made=False)
    await eventually(lambda: rig.known == {})
    with pytest.raises(EngineUnavailable):
        await broken_off(made=True)
    await eventually(lambda: rig.known["box"].container_id)


async def test_what_managers_refuse_reaches_the_user(rig: Rig) -> None:
    rig.tell()
    with pytest.raises(FailedPrecondition, match="is no address"):
        async with rig.attachments.attaching(a_container(address="10.9.0.1")):
            pytest.fail("it has no place")
    assert rig.known == {}


async def test_a_node_that_hears_nothing_attaches_nothing(rig: Rig, autojump_clock: object) -> None:
    """What was committed all the same is found by comparing, later."""
    rig.tell()
    rig.late = True
    with pytest.raises(Unavailable, match="their news do not reach this node"):
        async with rig.attachments.attaching(a_container()):
            pytest.fail("its network is not ready")
    rig.late = False
    rig.tell()
    await eventually(lambda: rig.known == {})


async def test_a_bridge_that_cannot_be_made_gives_the_place_back(rig: Rig) -> None:
    rig.tell()
    rig.networks.failure = EngineError("Pool overlaps", status=403)
    with pytest.raises(EngineError, match="Pool overlaps"):
        async with rig.attachments.attaching(a_container()):
            pytest.fail("it has no bridge")
    assert rig.known == {}


async def test_nobody_is_touched_before_managers_have_spoken(rig: Rig) -> None:
    """A node that boots alone leaves its containers where they are."""
    container_id = await rig.put("box", "10.9.0.2", **{ATTACHED_LABEL: IDENT})
    await eventually(lambda: rig.engine.count("GET /events"))
    await rig.start(container_id)
    assert rig.engine.count("GET /containers/json") == 0
    rig.tell()
    await eventually(lambda: rig.places(container_id) == {})


async def test_an_old_leaders_word_expels_nobody(rig: Rig) -> None:
    """Its news lack a container that a quorum knows."""
    rig.tell()
    container_id = await rig.create()
    await eventually(lambda: rig.known["box"].container_id)
    rig.networks.tables = Tables(me=1)
    rig.attachments.told()
    await eventually(lambda: AskContainers() in rig.asked)
    rig.tell()
    await rig.start(container_id)
    await eventually(lambda: rig.known["box"].running)
    assert list(rig.places(container_id)) == ["front"]


async def test_an_engine_that_keeps_an_intruder_does_not_keep_the_rest(rig: Rig) -> None:
    """What is to be told is told meanwhile."""
    rig.world.ok(AttachContainer(container=a_container()))
    stray = await rig.put("stray", "10.9.0.7")

    def refuse() -> None:
        raise Refusal(500, "no")

    with rig.engine.fault("POST /networks/front/disconnect", refuse):
        rig.tell()
        await eventually(lambda: rig.engine.count("disconnect"))
        await eventually(lambda: rig.known == {})
        assert rig.places(stray)
    await eventually(lambda: rig.places(stray) == {})


async def test_a_task_is_nobodys_business(rig: Rig) -> None:
    rig.tell()
    task = await rig.put("web.1", "10.9.0.9", **{TASK_LABEL: "t1"})
    stray = await rig.put("stray", "10.9.0.7", **{ATTACHED_LABEL: "d" * 25})
    await rig.start(stray)
    await eventually(lambda: rig.places(stray) == {})
    assert list(rig.places(task)) == ["front"]


async def test_managers_that_were_away_hear_of_it_later(rig: Rig) -> None:
    rig.tell()
    container_id = await rig.create()
    await eventually(lambda: rig.known["box"].container_id)
    rig.deaf = True
    await rig.remove(container_id)
    await rig.attachments.left(IDENT, "id-front")
    assert "box" in rig.known
    rig.deaf = False
    await eventually(lambda: rig.known == {})


async def test_a_broken_stream_of_events_is_made_up_for(rig: Rig) -> None:
    rig.tell()
    container_id = await rig.create()
    await eventually(lambda: rig.known["box"].container_id)
    streams = rig.engine.count("GET /events")
    rig.engine.cut_streams()
    del rig.engine.containers[container_id]
    await eventually(lambda: rig.engine.count("GET /events") > streams)
    await eventually(lambda: rig.known == {})


async def test_one_that_was_just_removed_gives_its_address_to_the_next(rig: Rig) -> None:
    """Before the engine's event of that has been heard."""
    rig.tell()
    rig.world.ok(AttachContainer(container=replace(a_container(address="10.9.0.7"), id="a" * 25)))
    rig.networks.tables = rig.tables()
    async with rig.attachments.attaching(a_container(address="10.9.0.7")) as [place]:
        assert place.address == "10.9.0.7"
        await rig.put("box", place.address, **{ATTACHED_LABEL: IDENT})
    await eventually(lambda: rig.known["box"].container_id)


async def test_name_servers_are_known_again_after_a_restart(rig: Rig) -> None:
    rig.world.ok(AttachContainer(container=a_container()))
    labels = {ATTACHED_LABEL: IDENT, DNS_LABEL: "9.9.9.9,8.8.8.8"}
    await rig.put("box", "10.9.0.2", **labels)
    rig.tell()
    await eventually(lambda: rig.networks.nameservers == {IDENT: ("9.9.9.9", "8.8.8.8")})


async def test_who_leaves_takes_its_containers_out(rig: Rig) -> None:
    rig.tell()
    container_id = await rig.create()
    stray = await rig.put("stray", "10.9.0.7")
    await eventually(lambda: rig.known["box"].container_id)
    await rig.attachments.leave(known=True)
    assert rig.places(container_id) == rig.places(stray) == {}
    assert rig.known == {}


async def test_a_wrong_answer_ends_nothing(rig: Rig) -> None:
    """It is an error like any, and asked for again."""
    rig.wrong = True
    await rig.put("intruder", "10.9.0.9")
    rig.tell()
    await eventually(lambda: sum(isinstance(one, AskContainers) for one in rig.asked) > 1)
    with pytest.raises(Unavailable, match="answered AskNetwork with Done"):
        await rig.attachments.network("front")
    with pytest.raises(Unavailable, match="answered AskAttach with Done"):
        async with rig.attachments.attaching(a_container()):
            pytest.fail("it has no place")
    rig.wrong = False
    async with rig.attachments.attaching(a_container()) as [place]:
        assert place.address


async def test_one_container_is_attached_once_at_a_time(rig: Rig) -> None:
    """Two that connect it wait for each other; another container waits for nobody."""
    rig.tell()
    inside: list[str] = []
    second = trio.Event()

    async def connect() -> None:
        async with rig.attachments.attaching(a_container()):
            inside.append("second")
            second.set()

    async with trio.open_nursery() as nursery:
        async with rig.attachments.attaching(a_container()):
            nursery.start_soon(connect)
            await trio.testing.wait_all_tasks_blocked()
            async with rig.attachments.attaching(replace(a_container("other"), id="d" * 25)):
                assert inside == []
            asked = [one for one in rig.asked if isinstance(one, AskAttach)]
            assert len(asked) == 2
        await second.wait()
