"""Logs of services and tasks: what is asked of engines, and what clients get."""

import itertools

import h11
import pytest
from swarmlet.api import log_lines
from swarmlet.api.log_lines import Frames, Line
from swarmlet.api.server import Api
from swarmlet.model.objects import Service, Task, TaskState

from tests.fakes.backend import FakeBackend
from tests.fakes.engine import FakeEngine, Script, Visit
from tests.unit.api.http_client import Client, ask, connected

CONTAINER = "c" * 64
PATH = f"/containers/{CONTAINER}/logs"


def at(second: int) -> bytes:
    return b"2026-11-22T13:10:%02d.000000000Z" % second


def said(second: int, text: bytes, stream: int = 1) -> bytes:
    """A line as the engine sends it."""
    return log_lines.framed(Line(stream, at(second) + b" " + text + b"\n"))


def script(*answers: bytes | int) -> Script:
    """Answer each request with the next of these: a body, or a status."""
    left = itertools.chain(answers, itertools.repeat(answers[-1]))

    async def logs(visit: Visit) -> None:
        answer = next(left)
        if isinstance(answer, int):
            await visit.answer(answer, b'{"message":"no such thing"}')
        else:
            await visit.answer(200, answer)

    return logs


@pytest.fixture
async def service(api: Api, engine: FakeEngine, backend: FakeBackend) -> Service:
    backend.engine_socket = engine.path
    body = {"Name": "web", "TaskTemplate": {"ContainerSpec": {"Image": "busybox"}}}
    await ask(api, "POST", "/services/create", body)
    found = backend.store.service_named("web")
    assert found is not None
    return found


def task_of(backend: FakeBackend, service: Service) -> Task:
    return next(iter(backend.store.tasks_of_service(service.id)))


async def lines(api: Api, query: str, path: str = "/v1.43/services/web/logs") -> list[Line]:
    reply = await ask(api, "GET", f"{path}?{query}")
    assert reply.status == 200
    return Frames().feed(reply.body)


@pytest.mark.parametrize(
    ("version", "kind"), [("v1.41", "raw"), ("v1.42", "multiplexed"), ("v1.47", "multiplexed")]
)
async def test_each_line_is_a_frame(
    api: Api, engine: FakeEngine, service: Service, version: str, kind: str
) -> None:
    del service
    engine.scripts[PATH] = script(said(1, b"out") + said(2, b"err", 2))
    reply = await ask(api, "GET", f"/{version}/services/web/logs?stdout=1&stderr=1")
    assert Frames().feed(reply.body) == [Line(1, b"out\n"), Line(2, b"err\n")]
    assert reply.headers["content-type"] == f"application/vnd.docker.{kind}-stream"


async def test_details_say_whose_a_line_is(
    api: Api, engine: FakeEngine, backend: FakeBackend, service: Service
) -> None:
    task = task_of(backend, service)
    line = Line(1, at(1) + b" env=prod out\n")
    engine.scripts[PATH] = script(log_lines.framed(line))
    (found,) = await lines(api, "stdout=1&details=1", f"/tasks/{task.id}/logs")
    assert found.text.decode() == (
        f"com.docker.swarm.node.id={task.node_id},com.docker.swarm.service.id={service.id},"
        f"com.docker.swarm.task.id={task.id},env=prod out\n"
    )


async def test_the_engine_is_asked_for_what_the_client_wants(
    api: Api, engine: FakeEngine, service: Service
) -> None:
    del service
    engine.scripts[PATH] = script(said(1, b"out"))
    found = await lines(api, "stderr=1&tail=5&since=1795353033.5&timestamps=1")
    assert found == [Line(1, at(1) + b" out\n")]
    assert engine.visits[-1].target == (
        f"{PATH}?stdout=0&stderr=1&follow=0&details=0&timestamps=1&since=1795353033.5&tail=5"
    )


@pytest.mark.parametrize(
    ("query", "said_in"),
    [
        ("", "you must choose at least one stream"),
        ("stdout=1&tail=-3", "negative tail values not supported"),
        ("stdout=1&tail=some", 'tail value must be a positive integer or "all"'),
        ("stdout=1&since=yesterday", "could not parse since timestamp"),
    ],
)
async def test_a_bad_query_is_refused(api: Api, service: Service, query: str, said_in: str) -> None:
    del service
    reply = await ask(api, "GET", f"/services/web/logs?{query}")
    assert (reply.status, said_in in reply.message) == (400, True)


async def test_unknown_services_and_tasks(api: Api) -> None:
    for path in ("/services/nope/logs", "/tasks/nope/logs"):
        assert (await ask(api, "GET", f"{path}?stdout=1")).status == 404


async def test_a_node_that_does_not_answer_is_named_at_the_end(
    api: Api, engine: FakeEngine, backend: FakeBackend, service: Service
) -> None:
    """What there is comes first; the client prints the rest as an error."""
    engine.scripts[PATH] = script(said(1, b"out"))
    silent = backend.add_node("n2")
    backend.start(service, slot=2, node_id=silent.id)
    backend.silent.add(silent.id)
    first, last = await lines(api, "stdout=1")
    assert first == Line(1, b"out\n")
    assert last.stream == log_lines.SYSTEM_ERROR
    assert f"node {silent.id} is down" in last.text.decode()


async def test_a_container_that_is_gone_has_no_log(
    api: Api, engine: FakeEngine, service: Service
) -> None:
    del service
    engine.scripts[PATH] = script(404)
    assert await lines(api, "stdout=1") == []


async def test_a_driver_that_cannot_read_is_told(
    api: Api, engine: FakeEngine, service: Service
) -> None:
    del service
    engine.scripts[PATH] = script(501)
    (line,) = await lines(api, "stdout=1")
    assert b"no such thing" in line.text


async def test_a_log_that_is_followed_goes_on_where_it_broke_off(
    api: Api, engine: FakeEngine, backend: FakeBackend, service: Service, autojump_clock: object
) -> None:
    """Until the task has ended: then what is left is read once more, and the answer ends."""
    del autojump_clock
    task = task_of(backend, service)
    before, after = said(1, b"one"), said(2, b"two") + said(3, b"three")
    answers = script(before, 500, before + said(2, b"two"), after)

    async def logs(visit: Visit) -> None:
        await answers(visit)
        if len([one for one in engine.visits if PATH in one.target]) == 3:
            backend.end(task, TaskState.COMPLETE)

    engine.scripts[PATH] = logs
    found = await lines(api, "stdout=1&follow=1", f"/tasks/{task.id}/logs")
    assert [line.text for line in found] == [b"one\n", b"two\n", b"three\n"]
    asked = [visit.target for visit in engine.visits if PATH in visit.target]
    assert "since=0&" in asked[0]
    assert "since=1795353001.000000000&tail=all" in asked[1]


async def test_tasks_that_come_later_are_followed_too(
    api: Api, engine: FakeEngine, backend: FakeBackend, service: Service
) -> None:
    engine.scripts[PATH] = script(said(1, b"out"))
    async with connected(api.http) as client:
        await begin(client, "/v1.43/services/web/logs?stdout=1&follow=1")
        assert await next_lines(client) == [Line(1, b"out\n")]
        backend.start(service, slot=2)
        assert await next_lines(client) == [Line(1, b"out\n")]


async def test_a_client_that_leaves_ends_the_reading(
    api: Api, engine: FakeEngine, service: Service
) -> None:
    del service
    ended = []

    async def endless(visit: Visit) -> None:
        await visit.send(h11.Response(status_code=200, headers=[]), h11.Data(data=said(1, b"out")))
        ended.append(await visit.stream.receive_some(1))

    engine.scripts[PATH] = endless
    async with connected(api.http) as client:
        await begin(client, "/v1.43/services/web/logs?stdout=1&follow=1")
        assert await next_lines(client) == [Line(1, b"out\n")]
        await client.stream.aclose()
    assert ended == [b""]


async def begin(client: Client, target: str) -> None:
    await client.send(
        h11.Request(method="GET", target=target, headers=[("Host", "x")]), h11.EndOfMessage()
    )
    head = await client.event()
    assert isinstance(head, h11.Response)
    assert head.status_code == 200


async def next_lines(client: Client) -> list[Line]:
    event = await client.event()
    assert isinstance(event, h11.Data)
    return Frames().feed(bytes(event.data))
