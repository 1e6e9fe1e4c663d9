"""Which engine is asked about a container, and what it is asked."""

import msgspec
import pytest
from swarmlet.api.backend import LocalState
from swarmlet.api.server import Api
from swarmlet.model.objects import Task
from swarmlet.model.specs import Role

from tests.fakes.backend import FakeBackend
from tests.fakes.engine import FakeEngine, Visit
from tests.unit.api.http_client import ask

CONTAINER = "c" * 64
COMMAND = "e" * 64


@pytest.fixture
async def task(api: Api, engine: FakeEngine, backend: FakeBackend) -> Task:
    """A task on another node, whose engine is the fake one, too."""
    backend.engine_socket = engine.path
    away = backend.add_node("w1")
    body = {"Name": "web", "TaskTemplate": {"ContainerSpec": {"Image": "busybox"}}}
    await ask(api, "POST", "/services/create", body)
    service = backend.store.service_named("web")
    assert service is not None
    for one in list(backend.store.tasks_of_service(service.id)):
        backend.store.delete_task(one.id)
    return backend.start(service, node_id=away.id)


async def shown(visit: Visit) -> None:
    await visit.answer(200, b'{"Id": "shown"}')


async def created(visit: Visit) -> None:
    await visit.read_body()
    await visit.answer(201, msgspec.json.encode({"Id": COMMAND}))


async def test_a_task_has_its_containers_names(api: Api, engine: FakeEngine, task: Task) -> None:
    """In the client's version: the node's own door knows which one its engine speaks."""
    engine.scripts[f"/v1.44/containers/{CONTAINER}/json"] = shown
    for ref in (task.id, task.name, CONTAINER, CONTAINER[:12]):
        reply = await ask(api, "GET", f"/v1.44/containers/{ref}/json?size=1")
        assert (reply.status, reply.json) == (200, {"Id": "shown"})
        assert engine.visits[-1].target == f"/v1.44/containers/{CONTAINER}/json?size=1"


async def test_a_command_is_found_again(api: Api, engine: FakeEngine, task: Task) -> None:
    engine.scripts[f"/v1.44/containers/{CONTAINER}/exec"] = created
    engine.scripts[f"/v1.44/exec/{COMMAND}/json"] = shown
    wish = {"Cmd": ["true"]}
    reply = await ask(api, "POST", f"/v1.44/containers/{task.id}/exec", wish)
    assert (reply.status, reply.json) == (201, {"Id": COMMAND})
    assert msgspec.json.decode(engine.visits[-1].body) == wish
    assert (await ask(api, "GET", f"/v1.44/exec/{COMMAND}/json")).json == {"Id": "shown"}


async def test_a_refused_command_has_the_engines_words(
    api: Api, engine: FakeEngine, task: Task
) -> None:
    async def paused(visit: Visit) -> None:
        await visit.read_body()
        await visit.answer(409, b'{"message": "Container is paused"}')

    engine.scripts[f"/v1.44/containers/{CONTAINER}/exec"] = paused
    reply = await ask(api, "POST", f"/v1.44/containers/{task.id}/exec", {"Cmd": ["true"]})
    assert (reply.status, reply.message) == (409, "Container is paused")


@pytest.mark.parametrize("ref", ["nobody", "c" * 11, "e" * 64])
async def test_others_are_the_local_engines(
    api: Api, engine: FakeEngine, task: Task, ref: str
) -> None:
    del task
    await ask(api, "GET", f"/v1.44/containers/{ref}/json")
    assert engine.visits[-1].target == f"/v1.41/containers/{ref}/json"


@pytest.mark.parametrize(
    ("method", "what"), [("POST", "stop"), ("POST", "kill"), ("POST", "rename")]
)
async def test_what_ends_or_changes_it_is_not_passed_on(
    api: Api, engine: FakeEngine, task: Task, method: str, what: str
) -> None:
    await ask(api, method, f"/v1.44/containers/{task.id}/{what}")
    assert engine.visits[-1].target == f"/v1.41/containers/{task.id}/{what}"


async def test_a_task_of_this_node_is_asked_for_here(
    api: Api, engine: FakeEngine, backend: FakeBackend, task: Task
) -> None:
    backend.become(
        LocalState(state="active", node_id=task.node_id, node_addr="10.0.0.9", role=Role.MANAGER)
    )
    engine.scripts[f"/v1.41/containers/{CONTAINER}/json"] = shown
    reply = await ask(api, "GET", f"/v1.44/containers/{task.id}/json")
    assert reply.json == {"Id": "shown"}


async def test_a_worker_asks_its_own_engine(
    api: Api, engine: FakeEngine, backend: FakeBackend, task: Task
) -> None:
    backend.become(LocalState(state="active", node_id="w9", node_addr="10.0.0.9", role=Role.WORKER))
    await ask(api, "GET", f"/v1.44/containers/{task.id}/json")
    assert engine.visits[-1].target == f"/v1.41/containers/{task.id}/json"


async def test_a_node_that_is_down_is_named(api: Api, backend: FakeBackend, task: Task) -> None:
    backend.silent.add(task.node_id)
    reply = await ask(api, "GET", f"/v1.44/containers/{task.id}/json")
    assert (reply.status, reply.message) == (503, f"node {task.node_id} is down")
