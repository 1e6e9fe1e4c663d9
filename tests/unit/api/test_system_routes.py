"""Ping, version, info and version negotiation."""

from pathlib import Path

import pytest
import trio
import trio.testing
from swarmlet.api.backend import LocalState
from swarmlet.api.server import Api
from swarmlet.errors import Unavailable
from swarmlet.model.specs import Role

from tests.fakes.backend import FakeBackend
from tests.fakes.engine import FakeEngine, Visit
from tests.unit.api.http_client import ask


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_ping_carries_what_clients_negotiate_with(
    api: Api, backend: FakeBackend, method: str
) -> None:
    reply = await ask(api, method, "/_ping")
    assert reply.status == 200
    assert reply.body == (b"OK" if method == "GET" else b"")
    headers = {k: v for k, v in reply.headers.items() if k != "server"}
    assert headers == {
        "api-version": "1.47",
        "docker-experimental": "false",
        "ostype": "linux",
        "content-type": "text/plain; charset=utf-8",
        "cache-control": "no-cache, no-store, must-revalidate",
        "pragma": "no-cache",
        "swarm": "active/manager",
        "swarmlet-node": backend.local().node_id,
        "builder-version": "2",
        "content-length": "2" if method == "GET" else "0",
    }


@pytest.mark.parametrize(
    ("local", "word"),
    [
        (LocalState(state="inactive"), "inactive"),
        (LocalState(state="active", role=Role.WORKER), "active/worker"),
        (LocalState(state="locked"), "locked"),
    ],
)
async def test_ping_says_what_part_the_node_has(
    api: Api, backend: FakeBackend, local: LocalState, word: str
) -> None:
    backend.become(local)
    assert (await ask(api, "GET", "/_ping")).headers["swarm"] == word


@pytest.mark.parametrize(
    ("version", "text"),
    [
        ("1.48", "client version 1.48 is too new. Maximum supported API version is 1.47"),
        ("2.0", "client version 2.0 is too new. Maximum supported API version is 1.47"),
        (
            "1.40",
            (
                "client version 1.40 is too old. Minimum supported API version is 1.41, "
                "please upgrade your client to a newer version"
            ),
        ),
    ],
)
async def test_versions_out_of_range_are_refused(api: Api, version: str, text: str) -> None:
    for path in ("/nodes", "/containers/json", "/_ping"):
        reply = await ask(api, "GET", f"/v{version}{path}")
        assert (reply.status, reply.message) == (400, text)


async def test_version_is_the_engines_with_our_range_and_component(api: Api) -> None:
    body = (await ask(api, "GET", "/v1.45/version")).json
    assert isinstance(body, dict)
    assert (body["ApiVersion"], body["MinAPIVersion"]) == ("1.47", "1.41")
    assert body["Version"] == "20.10.24"
    assert [c["Name"] for c in body["Components"]] == ["Engine", "swarmlet"]
    assert body["Components"][0]["Details"]["ApiVersion"] == "1.47"


async def test_info_is_the_engines_with_our_swarm(api: Api, backend: FakeBackend) -> None:
    body = (await ask(api, "GET", "/info")).json
    assert isinstance(body, dict)
    assert (body["ID"], body["Containers"]) == ("ENGINE", 3)
    swarm = body["Swarm"]
    assert swarm["NodeID"] == backend.local().node_id
    assert swarm["ControlAvailable"] is True
    assert (swarm["Nodes"], swarm["Managers"]) == (1, 1)
    assert "JoinTokens" not in swarm["Cluster"]


async def test_info_of_a_node_in_no_swarm(api: Api, backend: FakeBackend) -> None:
    backend.become(LocalState(state="inactive"))
    body = (await ask(api, "GET", "/info")).json
    assert isinstance(body, dict)
    assert body["Swarm"] == {
        "NodeID": "",
        "NodeAddr": "",
        "LocalNodeState": "inactive",
        "ControlAvailable": False,
        "Error": "",
        "RemoteManagers": None,
    }


async def test_our_part_answers_without_an_engine(tmp_path: Path) -> None:
    api = Api(FakeBackend(), tmp_path / "none.sock")
    assert (await ask(api, "GET", "/_ping")).status == 200
    assert (await ask(api, "GET", "/nodes")).status == 200
    version, info = await ask(api, "GET", "/version"), await ask(api, "GET", "/info")
    assert isinstance(version.json, dict)
    assert isinstance(info.json, dict)
    assert version.json["ApiVersion"] == "1.47"
    assert info.json["Swarm"]["LocalNodeState"] == "active"
    assert "Docker Engine" in info.json["Warnings"][0]


async def test_every_answer_of_ours_says_which_node_gives_it(
    api: Api, backend: FakeBackend
) -> None:
    """Without asking the engine, and not at all outside of a cluster."""
    for path in ("/nodes", "/nodes/nope", "/_ping"):
        headers = (await ask(api, "GET", path)).headers
        assert headers["swarmlet-node"] == backend.local().node_id
    backend.become(LocalState(state="inactive"))
    assert "swarmlet-node" not in (await ask(api, "GET", "/nodes")).headers


@pytest.mark.parametrize("path", ["/_ping", "/version", "/info"])
async def test_an_engine_that_hangs_is_given_up_soon(
    api: Api, engine: FakeEngine, path: str, autojump_clock: trio.testing.MockClock
) -> None:
    """It takes connections and says nothing, not even to a ping; a slow one answers pings."""

    async def hang(_: Visit) -> None:
        await trio.sleep_forever()

    engine.scripts = dict.fromkeys(("/_ping", "/version", "/info"), hang)
    began = trio.current_time()
    assert (await ask(api, "GET", path)).status == 200
    assert trio.current_time() - began < 3


async def test_an_engine_with_much_to_tell_is_waited_for(
    api: Api, engine: FakeEngine, autojump_clock: trio.testing.MockClock
) -> None:
    async def slow(visit: Visit) -> None:
        await trio.sleep(8)
        await visit.answer(200, b'{"Containers": 5000}')

    engine.scripts["/info"] = slow
    body = (await ask(api, "GET", "/info")).json
    assert isinstance(body, dict)
    assert body["Containers"] == 5000


async def test_an_engine_that_fails_is_quoted_with_its_status(api: Api, engine: FakeEngine) -> None:
    async def fail(visit: Visit) -> None:
        await visit.answer(500, b'{"message":"disk on fire"}')

    engine.scripts["/info"] = fail
    reply = await ask(api, "GET", "/info")
    assert (reply.status, reply.message) == (500, "disk on fire")


@pytest.mark.parametrize(
    ("method", "path"),
    [("PUT", "/nodes"), ("GET", "/swarm/x"), ("POST", "/services"), ("DELETE", "/tasks/x")],
)
async def test_what_the_engine_api_does_not_have_is_not_found(
    api: Api, method: str, path: str
) -> None:
    reply = await ask(api, method, path)
    assert (reply.status, reply.message) == (404, "page not found")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/swarm/unlockkey"),
        ("POST", "/swarm/unlock"),
    ],
)
async def test_what_is_not_there_yet_says_so(api: Api, method: str, path: str) -> None:
    reply = await ask(api, method, path)
    assert reply.status == 501
    assert "not supported yet by swarmlet" in reply.message


async def test_an_error_that_a_nursery_wrapped_is_told_like_any_other(
    api: Api, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def barrier(**_: float) -> None:
        async with trio.open_nursery():
            raise Unavailable("not now")

    monkeypatch.setattr(backend, "barrier", barrier)
    reply = await ask(api, "GET", "/nodes/n1")
    assert (reply.status, reply.message) == (503, "not now")
