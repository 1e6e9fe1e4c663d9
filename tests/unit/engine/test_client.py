"""Calls to an engine: errors mapped at the edge, versions negotiated, streams that end."""

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio
from swarmlet.engine.client import Engine
from swarmlet.errors import EngineError, EngineUnavailable, NotFound

from tests.fakes.fake_engine import Dropped, FakeEngine, Refusal


@pytest.fixture
def socket_path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="swlt-") as path:
        yield Path(path) / "docker.sock"


@pytest.fixture
async def fake(socket_path: Path) -> AsyncIterator[FakeEngine]:
    async with FakeEngine(socket_path).serve() as fake:
        yield fake


@pytest.fixture
async def engine(fake: FakeEngine) -> AsyncIterator[Engine]:
    async with Engine(fake.socket_path) as engine:
        yield engine


def drop() -> None:
    raise Dropped


def refuse() -> None:
    raise Refusal(500, "disk is on fire")


@pytest.mark.parametrize(
    ("offered", "used"), [("1.41", "1.41"), ("1.44", "1.44"), ("1.47", "1.47"), ("1.52", "1.47")]
)
async def test_the_newest_version_that_both_know_is_used(
    engine: Engine, fake: FakeEngine, offered: str, used: str
) -> None:
    fake.api_version = offered
    await engine.containers()
    assert engine.api_version == used


async def test_an_engine_too_old_is_refused_by_name(engine: Engine, fake: FakeEngine) -> None:
    fake.api_version = "1.40"
    with pytest.raises(EngineError, match=r"offers API 1\.40, swarmlet needs 1\.41"):
        await engine.containers()


async def test_no_engine_is_unavailable(socket_path: Path) -> None:
    async with Engine(socket_path) as engine:
        with pytest.raises(EngineUnavailable, match="cannot reach the Docker Engine"):
            await engine.ping()
        with pytest.raises(EngineUnavailable):
            await engine.incarnation()


async def test_a_dropped_connection_is_unavailable(engine: Engine, fake: FakeEngine) -> None:
    with fake.fault("GET /containers", drop), pytest.raises(EngineUnavailable):
        await engine.containers()


async def test_an_engines_error_keeps_its_words_and_status(
    engine: Engine, fake: FakeEngine
) -> None:
    with fake.fault("GET /containers", refuse), pytest.raises(EngineError) as caught:
        await engine.containers()
    assert (caught.value.message, caught.value.status) == ("disk is on fire", 500)


async def test_what_is_not_there_is_not_found(engine: Engine) -> None:
    with pytest.raises(NotFound, match="No such container: x"):
        await engine.inspect("x")
    with pytest.raises(NotFound, match="No such image: x"):
        await engine.image("x")


async def test_removing_what_is_gone_is_fine(engine: Engine) -> None:
    await engine.remove("x")


async def test_a_pull_reports_progress_and_the_digest(engine: Engine, fake: FakeEngine) -> None:
    fake.registry["web:2"] = ""
    seen: list[object] = []
    assert await engine.pull("web:2", progress=seen.append) == "sha256:0"
    assert seen
    await engine.image("web:2")


async def test_a_pull_that_fails_in_its_stream_raises(engine: Engine, fake: FakeEngine) -> None:
    fake.registry["web:2"] = "unexpected EOF"
    with pytest.raises(EngineError, match="unexpected EOF"):
        await engine.pull("web:2")


async def test_events_are_streamed_until_the_engine_goes(engine: Engine, fake: FakeEngine) -> None:
    async with engine.events(actions=("start",)) as events:
        container = await engine.create("a", {"Image": "busybox:lab", "Labels": {"k": "v"}})
        await engine.start(container)
        await engine.remove(container)
        event = await anext(events)
        assert (event.action, event.container_id) == ("start", container)
        assert event.attributes["k"] == "v"
        fake.cut_streams()
        with pytest.raises(EngineUnavailable):
            await anext(events)


async def test_many_calls_at_once_share_connections(engine: Engine, fake: FakeEngine) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(engine.containers)
    assert fake.count("GET /containers/json") == 100
    assert fake.count("GET /version") == 1
