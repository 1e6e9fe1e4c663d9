"""Containers that join and leave the cluster's networks through the API, on any node."""

from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import msgspec
import pytest
from swarmlet.api import wording
from swarmlet.api.backend import LocalState
from swarmlet.api.server import Api
from swarmlet.engine.attached import ATTACHED_LABEL
from swarmlet.engine.convert import TASK_LABEL
from swarmlet.model.objects import AttachedContainer, Service
from swarmlet.model.specs import (
    ContainerSpec,
    EndpointSpec,
    PortConfig,
    Role,
    ServiceSpec,
    TaskSpec,
)
from swarmlet.state.commands import PutService

from tests.fakes.backend import FakeBackend
from tests.fakes.engine import FakeEngine, Visit
from tests.unit.api.http_client import Reply, ask
from tests.unit.api.test_networks import engine_network, has
from tests.unit.api.test_swarm_routes import get

Json = Any

BOX = "0123456789ab" + "0" * 52


def answers(engine: FakeEngine, path: str, status: int, body: Json = None) -> None:
    """Let the engine answer one path so."""

    async def answer(visit: Visit) -> None:
        await visit.read_body()
        await visit.answer(status, b"" if body is None else msgspec.json.encode(body))

    engine.scripts[path] = answer


def has_box(engine: FakeEngine, *networks: str, **labels: str) -> None:
    """Let the engine have a container ``box``, in these networks."""
    seen = {
        "Id": BOX,
        "Name": "/box",
        "Config": {"Labels": labels, "Hostname": BOX[:12]},
        "NetworkSettings": {"Networks": {name: {} for name in networks}},
    }
    answers(engine, "/v1.41/containers/box/json", 200, seen)


@pytest.fixture
def front(backend: FakeBackend, engine: FakeEngine) -> str:
    """An attachable network; the engine has one of its own, and creates containers."""
    has(engine, engine_network("mine"))
    answers(engine, "/v1.41/containers/create", 201, {"Id": BOX, "Warnings": []})
    return backend.add_network("front", attachable=True).id


def attached(backend: FakeBackend) -> list[AttachedContainer]:
    return backend.store.attached()


def sent(engine: FakeEngine, path: str) -> Json:
    """The body that the engine got at a path, last."""
    found = [v.body for v in engine.visits if v.target.partition("?")[0] == f"/v1.41{path}"]
    return msgspec.json.decode(found[-1])


async def create(api: Api, mode: str = "front", **endpoints: Json) -> Reply:
    body = {
        "Image": "i",
        "Hostname": "h",
        "HostConfig": {"NetworkMode": mode, "Dns": ["9.9.9.9"]},
        "NetworkingConfig": {"EndpointsConfig": endpoints or None},
    }
    return await ask(api, "POST", "/containers/create?name=box&platform=", body)


async def test_a_container_has_its_place_before_the_engine_hears_of_it(
    api: Api, backend: FakeBackend, engine: FakeEngine, front: str
) -> None:
    reply = await create(api, front={"Aliases": ["db"]})
    assert (reply.status, reply.json) == (201, {"Id": BOX, "Warnings": []})
    (one,) = attached(backend)
    assert (one.name, one.hostname, one.node_id) == ("box", "h", backend.local().node_id)
    assert [(a.network_id, a.address, a.aliases) for a in one.attachments] == [
        (front, "10.0.1.2", ("db",))
    ]
    assert backend.nameservers == {one.id: ("9.9.9.9",)}
    body = sent(engine, "/containers/create")
    assert body["Labels"][ATTACHED_LABEL] == one.id
    assert body["HostConfig"] == {"NetworkMode": "front", "Dns": ["10.0.1.1"]}
    place = {"Aliases": ["db"], "IPAMConfig": {"IPv4Address": "10.0.1.2"}}
    assert body["NetworkingConfig"]["EndpointsConfig"] == {"front": place}
    asked = urlsplit(engine.visits[-1].target)
    assert parse_qs(asked.query, keep_blank_values=True) == {"name": ["box"], "platform": [""]}


async def test_a_network_is_named_by_its_identifier_as_well(
    api: Api, backend: FakeBackend, engine: FakeEngine, front: str
) -> None:
    for spelled in (front, front[:9]):
        assert (await create(api, spelled)).status == 201
        assert sent(engine, "/containers/create")["HostConfig"]["NetworkMode"] == "front"
    assert len(attached(backend)) == 2


async def test_further_networks_are_connected_one_by_one(
    api: Api, backend: FakeBackend, engine: FakeEngine, front: str
) -> None:
    """Engines before API 1.44 take one with the create; also one of the engine's own."""
    backend.add_network("back", attachable=True)
    for name in ("back", "mine"):
        answers(engine, f"/v1.41/networks/{name}/connect", 200)
    reply = await create(api, front={}, back={}, mine={"Aliases": ["m"]})
    assert reply.status == 201
    (one,) = attached(backend)
    assert [a.address for a in one.attachments] == ["10.0.1.2", "10.0.2.2"]
    assert sent(engine, "/networks/back/connect") == {
        "Container": BOX,
        "EndpointConfig": {"IPAMConfig": {"IPv4Address": "10.0.2.2"}},
    }
    assert sent(engine, "/networks/mine/connect")["EndpointConfig"] == {"Aliases": ["m"]}
    assert sent(engine, "/containers/create")["HostConfig"]["Dns"] == ["10.0.1.1", "10.0.2.1"]


async def test_who_cannot_be_connected_everywhere_is_not_there_at_all(
    api: Api, backend: FakeBackend, engine: FakeEngine, front: str
) -> None:
    answers(engine, "/v1.41/networks/mine/connect", 403, {"message": "no, thank you"})
    answers(engine, f"/v1.41/containers/{BOX}", 204)
    refused = await create(api, front={}, mine={})
    assert (refused.status, refused.message) == (403, "no, thank you")
    assert engine.visits[-1].method == "DELETE"
    assert attached(backend) == []


async def test_what_the_engine_refuses_gives_its_place_back(
    api: Api, backend: FakeBackend, engine: FakeEngine, front: str
) -> None:
    answers(engine, "/v1.41/containers/create", 409, {"message": "Conflict."})
    refused = await create(api)
    assert (refused.status, refused.message) == (409, "Conflict.")
    assert attached(backend) == []
    assert backend.store.address_owners(front) == {}


async def test_an_address_that_is_taken_is_refused_with_its_owner(
    api: Api, backend: FakeBackend, engine: FakeEngine, front: str
) -> None:
    asked = {"IPAMConfig": {"IPv4Address": "10.0.1.9"}}
    assert (await create(api, front=asked)).status == 201
    seen = len(engine.visits)
    refused = await create(api, front=asked)
    assert refused.status == 400
    assert "address 10.0.1.9 of network front is in use by container box" in refused.message
    assert not any("create" in visit.target for visit in engine.visits[seen:])


@pytest.mark.parametrize("name", ["closed", "ingress"])
async def test_what_is_not_attachable_is_refused_in_dockers_words(
    api: Api, backend: FakeBackend, engine: FakeEngine, front: str, name: str
) -> None:
    backend.add_network("closed")
    has_box(engine)
    text = wording.NOT_ATTACHABLE.format(name=name)
    refused = await create(api, name)
    assert (refused.status, refused.message) == (403, text)
    refused = await ask(api, "POST", f"/networks/{name}/connect", {"Container": "box"})
    assert (refused.status, refused.message) == (403, text)


async def test_a_mode_without_networks_excludes_them(
    api: Api, backend: FakeBackend, front: str
) -> None:
    for mode in ("host", "none", "container:x"):
        refused = await create(api, mode, front={})
        assert refused.status == 400
        assert f"network mode {mode} excludes network front" in refused.message
    assert attached(backend) == []


@pytest.mark.parametrize("mode", ["", "default", "host", "container:x", "mine"])
async def test_other_containers_are_the_engines(
    api: Api, engine: FakeEngine, front: str, mode: str
) -> None:
    body = {"Image": "i", "HostConfig": {"NetworkMode": mode}}
    await ask(api, "POST", "/containers/create?name=x", body)
    assert engine.visits[-1].target == "/v1.41/containers/create?name=x"
    assert engine.visits[-1].body == msgspec.json.encode(body)


@pytest.mark.parametrize("body", [b"{", b"[]", b'"x"', b'{"HostConfig":7}'])
async def test_what_is_no_container_the_engine_refuses(
    api: Api, engine: FakeEngine, body: bytes
) -> None:
    await ask(api, "POST", "/containers/create?name=x", body)
    assert engine.visits[-1].body == body


async def test_a_worker_attaches_as_well(
    api: Api, backend: FakeBackend, engine: FakeEngine, front: str
) -> None:
    """It knows the networks that it was told of, a copy or not."""
    node = backend.add_node("w1")
    backend.become(LocalState(state="active", node_id=node.id, role=Role.WORKER))
    for spelled in ("front", front, front[:9]):
        assert (await create(api, spelled)).status == 201
    assert {one.node_id for one in attached(backend)} == {node.id}
    refused = await create(api, "ingress")
    assert refused.message == wording.NOT_ATTACHABLE.format(name="ingress")
    await create(api, "mine")
    assert sent(engine, "/containers/create")["HostConfig"]["NetworkMode"] == "mine"


async def test_a_container_is_connected_and_disconnected(
    api: Api, backend: FakeBackend, engine: FakeEngine, front: str
) -> None:
    has_box(engine)
    answers(engine, "/v1.41/networks/copy-of-front/connect", 200)
    answers(engine, "/v1.41/networks/front/disconnect", 200)
    config = {"Aliases": ["db"]}
    body = {"Container": "box", "EndpointConfig": config}
    assert (await ask(api, "POST", "/networks/front/connect", body)).status == 200
    (one,) = attached(backend)
    assert (one.id, one.name, one.container_id, one.hostname) == (BOX[:25], "box", BOX, "")
    assert one.attachments[0].aliases == ("db",)
    assert sent(engine, "/networks/copy-of-front/connect") == {
        "Container": BOX,
        "EndpointConfig": {**config, "IPAMConfig": {"IPv4Address": "10.0.1.2"}},
    }
    leave = {"Container": "box", "Force": True}
    assert (await ask(api, "POST", "/networks/front/disconnect", leave)).status == 200
    assert sent(engine, "/networks/front/disconnect") == {"Container": BOX, "Force": True}
    assert attached(backend) == []


async def test_a_connection_that_the_engine_refuses_gives_its_place_back(
    api: Api, backend: FakeBackend, engine: FakeEngine, front: str
) -> None:
    has_box(engine)
    answers(engine, "/v1.41/networks/copy-of-front/connect", 403, {"message": "host mode"})
    refused = await ask(api, "POST", "/networks/front/connect", {"Container": "box"})
    assert (refused.status, refused.message) == (403, "host mode")
    assert attached(backend) == []


async def test_who_is_in_a_network_is_not_connected_again(
    api: Api, engine: FakeEngine, front: str
) -> None:
    has_box(engine, "front")
    refused = await ask(api, "POST", "/networks/front/connect", {"Container": "box"})
    assert refused.status == 403
    assert refused.message == "endpoint with name box already exists in network front"


async def test_the_networks_of_a_task_are_its_services(
    api: Api, backend: FakeBackend, engine: FakeEngine, front: str
) -> None:
    has_box(engine, **{TASK_LABEL: "t1"})
    for verb, flag in (("connect", "--network-add"), ("disconnect", "--network-rm")):
        refused = await ask(api, "POST", f"/networks/front/{verb}", {"Container": "box"})
        assert refused.status == 403
        assert isinstance(refused.json, dict)
        assert flag in refused.json["advice"]
    assert attached(backend) == []


async def test_a_container_must_be_named_and_be_there(
    api: Api, engine: FakeEngine, front: str
) -> None:
    answers(engine, "/v1.41/containers/none/json", 404, {"message": "No such container: none"})
    for verb in ("connect", "disconnect"):
        refused = await ask(api, "POST", f"/networks/front/{verb}", {})
        assert (refused.status, refused.message[:10]) == (400, "Container:")
        refused = await ask(api, "POST", f"/networks/front/{verb}", {"Container": "none"})
        assert (refused.status, refused.message) == (404, "No such container: none")


async def test_networks_of_the_engine_are_its_business(
    api: Api, engine: FakeEngine, front: str
) -> None:
    body = {"Container": "c"}
    for verb in ("connect", "disconnect"):
        await ask(api, "POST", f"/networks/mine/{verb}", body)
        assert engine.visits[-1].target == f"/v1.41/networks/mine/{verb}"
        assert engine.visits[-1].body == msgspec.json.encode(body)


async def test_a_network_shows_its_containers_and_is_not_removed_under_them(
    api: Api, backend: FakeBackend, front: str, autojump_clock: object
) -> None:
    await create(api)
    shown = await get(api, "/networks/front?verbose=true")
    assert shown["Services"][""]["Tasks"] == [
        {
            "Name": "box",
            "EndpointID": "",
            "EndpointIP": "10.0.1.2",
            "Info": {"Host IP": "10.66.0.2"},
        }
    ]
    assert [peer["IP"] for peer in shown["Peers"]] == ["10.66.0.2"]
    refused = await ask(api, "DELETE", "/networks/front")
    assert refused.status == 400
    assert "network front is in use by container box on node n1" in refused.message
    used = quote('{"dangling":["true"]}')
    assert "front" not in [n["Name"] for n in await get(api, f"/networks?filters={used}")]


def publishes(backend: FakeBackend, port: int) -> None:
    """Let a service ``web`` have a port of every node."""
    ports = (PortConfig(target_port=80, published_port=port),)
    spec = ServiceSpec(
        name="web",
        task_template=TaskSpec(container_spec=ContainerSpec(image="i")),
        endpoint_spec=EndpointSpec(ports=ports),
    )
    backend.apply(PutService(service=Service(id=backend.new_id(), spec=spec), expect=0))


def has_publishing_box(engine: FakeEngine, port: str, **config: Json) -> None:
    bindings = {"80/tcp": [{"HostIp": "", "HostPort": port}]}
    seen = {"Id": BOX, "Name": "/box", "HostConfig": {"PortBindings": bindings, **config}}
    answers(engine, "/v1.41/containers/box/json", 200, seen)


@pytest.mark.parametrize("verb", ["start", "restart"])
async def test_a_container_does_not_start_on_a_services_port(
    api: Api, backend: FakeBackend, engine: FakeEngine, verb: str
) -> None:
    publishes(backend, 8080)
    has_publishing_box(engine, "8080")
    refused = await ask(api, "POST", f"/containers/box/{verb}")
    assert refused.status == 500
    for word in ("0.0.0.0:8080 failed: port is already allocated", "service web"):
        assert word in refused.message
    assert [v.method for v in engine.visits if "/containers/" in v.target] == ["GET"]


async def test_one_that_removes_itself_is_gone_when_it_does_not_start(
    api: Api, backend: FakeBackend, engine: FakeEngine
) -> None:
    publishes(backend, 8080)
    has_publishing_box(engine, "8080", AutoRemove=True)
    answers(engine, f"/v1.41/containers/{BOX}", 204)
    assert (await ask(api, "POST", "/containers/box/start")).status == 500
    assert (engine.visits[-1].method, BOX in engine.visits[-1].target) == ("DELETE", True)


async def test_containers_on_other_ports_start(
    api: Api, backend: FakeBackend, engine: FakeEngine
) -> None:
    publishes(backend, 8080)
    has_publishing_box(engine, "8081")
    answers(engine, "/v1.41/containers/box/start", 204)
    assert (await ask(api, "POST", "/containers/box/start")).status == 204
