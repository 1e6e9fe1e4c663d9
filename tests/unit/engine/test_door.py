"""What managers on other nodes may ask of an engine."""

from collections.abc import AsyncIterator
from pathlib import Path

import h11
import msgspec
import pytest
import trio
from swarmlet.engine.client import Engine
from swarmlet.engine.convert import TASK_LABEL
from swarmlet.engine.door import HEAD_BYTES, Door
from swarmlet.engine.tunnel import EngineGate, at_socket
from swarmlet.errors import EngineError, NotFound
from swarmlet.rpc.halves import Halves
from trio.testing import memory_stream_pair

from tests.fakes.engine import FakeEngine, Visit, fake_engine

OURS, THEIRS = "a" * 64, "b" * 64


async def inspected(visit: Visit) -> None:
    labels = {TASK_LABEL: "t1"} if OURS in visit.target else None
    await visit.answer(200, msgspec.json.encode({"Id": OURS, "Config": {"Labels": labels}}))


async def logs(visit: Visit) -> None:
    await visit.answer(200, b"what it said")


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[FakeEngine]:
    async with fake_engine(tmp_path / "engine.sock") as running:
        for container in (OURS, THEIRS):
            running.scripts[f"/v1.41/containers/{container}/json"] = inspected
            running.scripts[f"/v1.41/containers/{container}/logs"] = logs
        yield running


@pytest.fixture
async def gate(engine: FakeEngine, nursery: trio.Nursery) -> AsyncIterator[EngineGate]:
    """The engine, for a manager: through the door, over a connection of the other kind."""
    async with Engine(engine.path) as client:
        door = Door(client, EngineGate(at_socket(engine.path)))

        async def connect() -> trio.abc.HalfCloseableStream:
            near, far = memory_stream_pair()
            nursery.start_soon(door.serve, Halves(far))
            return Halves(near)

        yield EngineGate(connect)


async def ask(gate: EngineGate, target: str, method: str = "GET") -> bytes:
    return (await gate.ask(method, target, seconds=5)).body


async def test_the_log_of_a_task_is_passed_on(gate: EngineGate, engine: FakeEngine) -> None:
    target = f"/v1.41/containers/{OURS}/logs?stdout=1"
    assert await ask(gate, target) == b"what it said"
    assert engine.visits[-1].target == target


async def test_a_container_of_nobodys_is_not_there(gate: EngineGate) -> None:
    with pytest.raises(EngineError, match="No such container") as refusal:
        await ask(gate, f"/v1.41/containers/{THEIRS}/logs")
    assert refusal.value.status == 404


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/v1.41/info"),
        ("POST", f"/v1.41/containers/{OURS}/kill"),
        ("DELETE", f"/v1.41/containers/{OURS}"),
        ("POST", f"/v1.41/containers/{OURS}/update"),
        ("GET", f"/v1.41/containers/{OURS}/../{OURS}/logs"),
        ("GET", f"/v1.41/v1.41/containers/{OURS}/logs"),
        ("GET", "/v1.41/containers/web/logs"),
        ("POST", f"/v1.41/containers/{OURS}/logs"),
        ("POST", "/v1.41/containers/create"),
    ],
)
async def test_nothing_else_is(
    gate: EngineGate, engine: FakeEngine, method: str, target: str
) -> None:
    with pytest.raises(EngineError, match="managers may not ask this"):
        await ask(gate, target, method)
    assert engine.visits == []


@pytest.mark.parametrize(
    "target",
    [
        f"//h/containers/{OURS}/logs",
        f"/v1.41//h/containers/{OURS}/logs",
        f"/containers/{OURS}/logs#/x",
    ],
)
async def test_a_target_that_others_may_read_otherwise_is_refused(
    gate: EngineGate, engine: FakeEngine, target: str
) -> None:
    with pytest.raises(EngineError, match="this is no path"):
        await ask(gate, target)
    assert engine.visits == []


async def test_a_connection_is_for_one_request(gate: EngineGate, engine: FakeEngine) -> None:
    """The engine is told to end it after its answer, whatever the manager wants."""
    await ask(gate, f"/v1.41/containers/{OURS}/logs")
    assert engine.visits[-1].headers[b"connection"] == b"close"


@pytest.mark.parametrize("head", [b"\x16\x03\x01" * 10 + b"\r\n\r\n", b"x" * (HEAD_BYTES + 1)])
async def test_what_is_no_request_is_refused(engine: FakeEngine, head: bytes) -> None:
    async with Engine(engine.path) as client:
        near, far = memory_stream_pair()
        await near.send_all(head)
        await Door(client, EngineGate(at_socket(engine.path))).serve(far)
        http = h11.Connection(h11.CLIENT)
        http.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
        http.receive_data(bytes(await near.receive_some()))
        answer = http.next_event()
    assert isinstance(answer, h11.Response)
    assert answer.status_code == 400


async def test_an_engine_that_is_not_there_is_an_answer(tmp_path: Path) -> None:
    async with Engine(tmp_path / "none.sock") as client:
        near, far = memory_stream_pair()
        await near.send_all(f"GET /containers/{OURS}/logs HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await Door(client, EngineGate(at_socket(tmp_path / "none.sock"))).serve(far)
        assert b"503" in await near.receive_some()


async def test_a_stream_that_is_refused_has_the_engines_words(
    gate: EngineGate, engine: FakeEngine
) -> None:
    async def gone(visit: Visit) -> None:
        await visit.answer(404, b'{"message":"No such container: a"}')

    engine.scripts[f"/v1.41/containers/{OURS}/logs"] = gone
    tunnel = await gate.open()
    target = f"/v1.41/containers/{OURS}/logs"
    await tunnel.send(h11.Request(method="GET", target=target, headers=[("Host", "x")]))
    await tunnel.send(h11.EndOfMessage())
    with pytest.raises(NotFound, match="No such container: a"):
        await tunnel.accepted()
    await tunnel.aclose()
