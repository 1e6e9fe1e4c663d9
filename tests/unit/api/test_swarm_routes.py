"""Swarm, nodes, services and tasks, against the real state machine."""

from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from msgspec.structs import replace
from swarmlet.api import wording
from swarmlet.api.backend import LocalState
from swarmlet.api.freshness import READ_PATIENCE
from swarmlet.api.server import Api
from swarmlet.errors import LeaderSilent, ReplicaBehind, SwarmletError
from swarmlet.model.objects import NodeState, NodeStatus, Service, TaskState, UpdateState
from swarmlet.model.specs import Availability, Role
from swarmlet.state.commands import ChangeNodes, NodeChange, SetUpdateStatus

from tests.fakes.backend import FakeBackend
from tests.unit.api.http_client import Reply, ask

Json = Any

SPEC: Json = {
    "Name": "web",
    "Labels": {"l": "1"},
    "TaskTemplate": {"ContainerSpec": {"Image": "busybox:latest", "Args": ["sleep", "9"]}},
    "Mode": {"Replicated": {"Replicas": 2}},
}


def spec(**changes: Json) -> Json:
    return {**SPEC, **changes}


def template(**changes: Json) -> Json:
    return {"ContainerSpec": {**SPEC["TaskTemplate"]["ContainerSpec"], **changes}}


async def get(api: Api, path: str, **filters: Json) -> Json:
    query = f"?filters={quote(msgspec.json.encode(filters).decode())}" if filters else ""
    reply = await ask(api, "GET", path + query)
    assert reply.status == 200, reply.body
    return reply.json


async def create(api: Api, body: Json = SPEC, **headers: str) -> str:
    reply = await ask(api, "POST", "/services/create", body, **headers)
    assert reply.status == 201, reply.body
    assert isinstance(reply.json, dict)
    return str(reply.json["ID"])


async def update(api: Api, name: str, body: Json, query: str = "", **headers: str) -> Reply:
    current = await get(api, f"/services/{name}")
    version = current["Version"]["Index"]
    path = f"/services/{name}/update?version={version}{query}"
    return await ask(api, "POST", path, body, **headers)


def service(backend: FakeBackend, name: str = "web") -> Service:
    found = backend.store.service_named(name)
    assert found is not None
    return found


# --- swarm ---


async def test_init_join_and_leave_reach_the_daemon(api: Api, backend: FakeBackend) -> None:
    assert (await ask(api, "POST", "/swarm/init", {})).message == wording.ALREADY_IN_SWARM
    refused = await ask(api, "POST", "/swarm/leave", {})
    assert (refused.status, refused.message) == (503, wording.LEAVING_LAST_MANAGER)
    assert (await ask(api, "POST", "/swarm/leave?force=1")).status == 200
    gone = await ask(api, "GET", "/nodes")
    assert (gone.status, gone.message) == (503, wording.NOT_A_MANAGER)
    body = {
        "RemoteAddrs": ["10.0.0.1:2377"],
        "JoinToken": " SWMTKN-1-x ",
        "ListenAddr": "0.0.0.0:2377",
        "Availability": "drain",
    }
    assert (await ask(api, "POST", "/swarm/join", body)).status == 200
    assert backend.joined is not None
    assert backend.joined.token == "SWMTKN-1-x"
    assert backend.joined.availability is Availability.DRAIN


async def test_init_takes_what_the_stock_client_sends(api: Api, backend: FakeBackend) -> None:
    backend.become(LocalState(state="inactive"))
    backend.store = FakeBackend(active=False).store
    body = {
        "ListenAddr": "0.0.0.0:2377",
        "AdvertiseAddr": "10.66.0.2",
        "DataPathAddr": "",
        "DataPathPort": 0,
        "ForceNewCluster": False,
        "Spec": {"Labels": None, "Orchestration": {}, "Raft": {"ElectionTick": 0}},
        "AutoLockManagers": False,
        "Availability": "",
        "DefaultAddrPool": [],
        "SubnetSize": 24,
    }
    assert (await ask(api, "POST", "/swarm/init", body)).json == backend.local().node_id


async def test_init_takes_where_networks_get_their_addresses(
    api: Api, backend: FakeBackend
) -> None:
    backend.become(LocalState(state="inactive"))
    backend.store = FakeBackend(active=False).store
    body = {"DefaultAddrPool": ["10.20.0.0/16"], "SubnetSize": 26, "DataPathPort": 7789}
    assert (await ask(api, "POST", "/swarm/init", body)).status == 200
    for shown in (await get(api, "/swarm"), (await get(api, "/info"))["Swarm"]["Cluster"]):
        assert {key: shown[key] for key in body} == body
    assert (await get(api, "/networks/ingress"))["IPAM"]["Config"][0]["Subnet"] == "10.20.0.0/26"


@pytest.mark.parametrize(
    ("path", "body", "status", "text"),
    [
        ("init", {"AutoLockManagers": True}, 501, "autolock"),
        ("init", {"DataPathAddr": "10.0.0.1"}, 501, "DataPathAddr"),
        ("init", {"DataPathPort": 80}, 400, "Datapath port should be between 1024 and 49151"),
        ("init", {"SubnetSize": 30}, 400, "subnet size is out of range: 30"),
        ("init", {"DefaultAddrPool": ["10.0.0.0/25"]}, 400, "Subnet size is too small for pool"),
        ("init", {"DefaultAddrPool": ["10.0.0.0"]}, 400, "invalid CIDR address: 10.0.0.0"),
        ("init", {"DefaultAddrPool": ["10.0.0.0/8", "10.1.0.0/16"]}, 400, "overlap"),
        ("join", {"DataPathAddr": "10.0.0.1"}, 501, "DataPathAddr"),
        ("init", {"Availability": "maybe"}, 400, 'invalid Availability: "maybe"'),
        ("init", {"Spec": {"CAConfig": {"NodeCertExpiry": 1}}}, 400, "minimum certificate expiry"),
        ("join", {"RemoteAddrs": []}, 400, "RemoteAddr"),
        ("join", {"RemoteAddrs": ["a"], "JoinToken": ""}, 400, "token"),
        ("update?version=x", {}, 400, "invalid version"),
        ("update?version=1&rotateManagerUnlockKey=1", {}, 501, "autolock"),
        ("update?version=99", {}, 500, "update out of sequence"),
    ],
)
async def test_wrong_swarm_requests_are_refused(
    api: Api, path: str, body: Json, status: int, text: str
) -> None:
    reply = await ask(api, "POST", f"/swarm/{path}", body)
    assert reply.status == status
    assert text in reply.message


async def test_swarm_update_changes_settings_and_rotates_tokens(
    api: Api, backend: FakeBackend
) -> None:
    before = await get(api, "/swarm")
    changed = {**before["Spec"], "Orchestration": {"TaskHistoryRetentionLimit": 2}}
    version = before["Version"]["Index"]
    query = f"?version={version}&rotateWorkerToken=true&rotateManagerToken=false"
    assert (await ask(api, "POST", f"/swarm/update{query}", changed)).status == 200
    after = await get(api, "/swarm")
    assert after["Spec"] == changed
    assert after["JoinTokens"]["Worker"] != before["JoinTokens"]["Worker"]
    assert after["JoinTokens"]["Manager"] == before["JoinTokens"]["Manager"]
    assert backend.rotated == [(True, False)]


# --- nodes ---


async def test_a_node_is_found_by_id_name_and_prefix(api: Api, backend: FakeBackend) -> None:
    node = backend.add_node("worker1")
    for wanted in (node.id, "worker1", node.id[:6]):
        assert (await get(api, f"/nodes/{wanted}"))["ID"] == node.id
    missing = await ask(api, "GET", "/nodes/nope")
    assert (missing.status, missing.message) == (404, "node nope not found")


async def test_two_nodes_of_one_name_are_ambiguous(api: Api, backend: FakeBackend) -> None:
    for _ in range(2):
        backend.add_node("twin")
    reply = await ask(api, "GET", "/nodes/twin")
    assert (reply.status, reply.message) == (400, "node twin is ambiguous (2 matches found)")


async def test_node_update_replaces_labels_and_availability(api: Api, backend: FakeBackend) -> None:
    node = backend.add_node("worker1")
    body = {"Labels": {"a": "b"}, "Role": "worker", "Availability": "drain"}
    path = f"/nodes/{node.id}/update?version="
    assert (await ask(api, "POST", path + str(node.version), body)).status == 200
    after = await get(api, "/nodes/worker1")
    assert after["Spec"] == body
    assert "ManagerStatus" not in after
    stale = await ask(api, "POST", path + str(node.version), body)
    assert stale.message == "rpc error: code = Unknown desc = update out of sequence"


async def test_a_changed_role_goes_to_the_daemon(api: Api, backend: FakeBackend) -> None:
    node = backend.add_node("worker1")
    body = {"Labels": {"x": "y"}, "Role": "manager", "Availability": "active"}
    before = backend.store.index
    reply = await ask(api, "POST", f"/nodes/worker1/update?version={node.version}", body)
    assert reply.status == 200
    assert backend.store.index == before + 1  # all or nothing: nobody's update gets between
    after = await get(api, "/nodes/worker1")
    assert after["Spec"] == body
    assert after["ManagerStatus"]["Reachability"] == "reachable"


async def test_refusals_of_the_daemon_come_through(api: Api, backend: FakeBackend) -> None:
    own = backend.local().node_id
    version = (await get(api, f"/nodes/{own}"))["Version"]["Index"]
    body = {"Role": "worker", "Availability": "active"}
    last = await ask(api, "POST", f"/nodes/{own}/update?version={version}", body)
    assert (last.status, last.message) == (400, wording.LAST_MANAGER)
    manager = await ask(api, "DELETE", f"/nodes/{own}")
    assert manager.message == wording.NODE_IS_MANAGER.format(id=own)
    node = backend.add_node("up")
    assert (await ask(api, "DELETE", "/nodes/up")).status == 400
    assert (await ask(api, "DELETE", "/nodes/up?force=1")).status == 200
    assert backend.store.node(node.id) is None


@pytest.mark.parametrize("body", [{"Role": "boss"}, {"Role": "worker", "Availability": ""}])
async def test_a_node_needs_a_role_and_an_availability(api: Api, body: Json) -> None:
    reply = await ask(api, "POST", "/nodes/n1/update?version=1", body)
    assert reply.status == 400
    assert reply.message.startswith("invalid ")


async def test_node_filters(api: Api, backend: FakeBackend) -> None:
    node = backend.add_node("worker1")
    body = {"Labels": {"zone": "a"}, "Role": "worker", "Availability": "active"}
    await ask(api, "POST", f"/nodes/worker1/update?version={node.version}", body)

    async def names(**filters: Json) -> list[str]:
        found = await get(api, "/nodes", **filters)
        return sorted(n["Description"]["Hostname"] for n in found)

    assert await names() == ["n1", "worker1"]
    assert await names(name=["work"]) == ["worker1"]
    assert await names(name={"n1": True, "work": True}) == ["n1", "worker1"]
    assert await names(role=["manager"]) == ["n1"]
    assert await names(membership=["accepted"]) == ["n1", "worker1"]
    assert await names(membership=["pending"]) == []
    assert await names(**{"node.label": ["zone"]}) == ["worker1"]
    assert await names(**{"node.label": ["zone=b"]}) == []
    assert await names(id=[node.id[:5]]) == ["worker1"]


# --- services ---


async def test_a_service_is_created_as_asked(api: Api, backend: FakeBackend) -> None:
    service_id = await create(api, X_Registry_Auth="e30=")
    assert service(backend).registry_auth == "e30="
    for wanted in (service_id, "web", service_id[:7]):
        shown = await get(api, f"/services/{wanted}")
        assert shown["ID"] == service_id
    shown = await get(api, "/services/web")
    assert shown["Spec"]["Mode"] == {"Replicated": {"Replicas": 2}}
    assert shown["Spec"]["Labels"] == {"l": "1"}
    assert "UpdateStatus" not in shown
    assert "PreviousSpec" not in shown


async def test_field_names_match_without_case_and_null_is_absent(
    api: Api, backend: FakeBackend
) -> None:
    body = {
        "name": "web",
        "LABELS": None,
        "taskTemplate": {
            "containerspec": {"image": "busybox", "HealthCheck": {"test": ["CMD", "true"]}}
        },
        "Unknown": {"x": [1]},
    }
    await create(api, body)
    container = service(backend).spec.task_template.container
    assert container.image == "busybox"
    assert container.healthcheck is not None
    assert container.healthcheck.test == ("CMD", "true")


async def test_a_taken_name_is_a_conflict(api: Api) -> None:
    await create(api)
    reply = await ask(api, "POST", "/services/create", SPEC)
    assert reply.status == 409
    assert "name conflicts with an existing object: service web already exists" in reply.message
    assert isinstance(reply.json, dict)
    assert reply.json["code"] == "exists"


async def test_all_problems_come_in_one_message(api: Api) -> None:
    body = spec(Name="-", TaskTemplate=template(Image=""), EndpointSpec={"Ports": [{}]})
    body["TaskTemplate"]["Placement"] = {"Constraints": ["node.role=manager"]}
    reply = await ask(api, "POST", "/services/create", body)
    assert reply.status == 400
    for text in (
        "name must be valid as a DNS name component",
        "TaskTemplate.ContainerSpec.Image: image reference must be provided",
        "EndpointSpec.Ports[0].TargetPort",
        "constraint expected one operator from ==, !=",
    ):
        assert text in reply.message


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "EOF"),
        (b"{", "invalid JSON"),
        (b"[]", "body: expected object, got array"),
        (b'{"Name": 3}', "Name: expected str, got int"),
        (
            b'{"TaskTemplate": {"ContainerSpec": {"Image": 3}}}',
            "TaskTemplate.ContainerSpec.Image: expected str, got int",
        ),
        (b'{"Name": NaN}', "invalid JSON"),
        (b'{"Name": "\xff"}', "invalid JSON"),
        (b'{"Name": "\\ud800"}', "invalid JSON"),
        (b'{"TaskTemplate": {"ForceUpdate": 99999999999999999999}}', "does not fit 64 bits"),
        (b"[" * 100_000, "levels deep"),
        (
            b'{"TaskTemplate": {"PluginSpec": ' + b'{"x":' * 40 + b"1" + b"}" * 42,
            "more than 32 levels deep",
        ),
        (b'{"UpdateConfig": {"Order": "backwards"}}', "UpdateConfig.Order: invalid enum value"),
    ],
)
async def test_wrong_json_is_refused_with_the_place(api: Api, body: bytes, text: str) -> None:
    reply = await ask(api, "POST", "/services/create", body)
    assert reply.status == 400, reply.body
    assert text in reply.message


async def test_a_body_beyond_bounds_is_refused(api: Api) -> None:
    reply = await ask(api, "POST", "/services/create", b'{"Name": "' + b"x" * 5_000_000)
    assert reply.status == 413


async def test_how_to_update_is_kept_as_it_was_said(api: Api) -> None:
    config = {
        "Parallelism": 4,
        "Delay": 1,
        "FailureAction": "rollback",
        "Monitor": 2,
        "MaxFailureRatio": 0.5,
        "Order": "start-first",
    }
    body = spec(UpdateConfig=config, RollbackConfig={**config, "FailureAction": "continue"})
    reply = await ask(api, "POST", "/services/create", body)
    assert isinstance(reply.json, dict)
    assert "Warnings" not in reply.json
    shown = (await get(api, "/services/web"))["Spec"]
    assert shown["UpdateConfig"] == config
    assert shown["RollbackConfig"] == {**config, "FailureAction": "continue"}


async def test_any_update_goes_on_with_a_paused_one(api: Api, backend: FakeBackend) -> None:
    await create(api)
    backend.works = False
    await update(api, "web", spec(TaskTemplate=template(Env=["A=b"])))
    found = service(backend)
    assert found.update_status is not None
    stopped = replace(found.update_status, state=UpdateState.PAUSED, message="update paused")
    backend.apply(SetUpdateStatus(id=found.id, expect=found.version, update_status=stopped))
    shown = await get(api, "/services/web")
    assert shown["UpdateStatus"]["State"] == "paused"
    assert "CompletedAt" not in shown["UpdateStatus"]
    await update(api, "web", spec(TaskTemplate=template(Env=["A=b"]), Labels={"a": "b"}))
    status = (await get(api, "/services/web"))["UpdateStatus"]
    assert (status["State"], status["Message"]) == ("updating", "update in progress")


async def test_a_task_is_up_to_date_when_it_is_what_would_be_made_now(
    api: Api, backend: FakeBackend
) -> None:
    """After a change and back, though its version is another."""
    await create(api)
    backend.works = False
    await update(api, "web", spec(TaskTemplate=template(Env=["A=b"])))
    current = {"service": {"web": True}, "_up-to-date": {"true": True}}
    assert await get(api, "/tasks", **current) == []
    await update(api, "web", SPEC)
    assert len(await get(api, "/tasks", **current)) == 2


async def test_insert_defaults_shows_what_is_left_open(api: Api) -> None:
    await create(api)
    plain = (await get(api, "/services/web"))["Spec"]
    assert "UpdateConfig" not in plain
    full = (await ask(api, "GET", "/services/web?insertDefaults=true")).json
    assert isinstance(full, dict)
    assert full["Spec"]["TaskTemplate"]["RestartPolicy"] == {
        "Condition": "any",
        "Delay": 5_000_000_000,
        "MaxAttempts": 0,
    }
    assert full["Spec"]["UpdateConfig"] == full["Spec"]["RollbackConfig"]
    assert full["Spec"]["EndpointSpec"] == {"Mode": "vip"}


async def test_what_the_stock_client_reads_and_sends_back_restarts_nothing(
    api: Api, backend: FakeBackend
) -> None:
    await create(api)
    tasks = {t.id for t in backend.store.tasks()}
    shown = (await get(api, "/services/web"))["Spec"]
    assert shown["TaskTemplate"]["Runtime"] == "container"
    reply = await update(api, "web", {**shown, "Labels": {"new": "1"}})
    assert reply.json == {"Warnings": None}
    assert {t.id for t in backend.store.tasks()} == tasks
    assert service(backend).update_status is None


async def test_scaling_replaces_no_task(api: Api, backend: FakeBackend) -> None:
    await create(api)
    await update(api, "web", spec(Mode={"Replicated": {"Replicas": 3}}))
    status = (await ask(api, "GET", "/services?status=true")).json
    assert isinstance(status, list)
    assert status[0]["ServiceStatus"] == {
        "RunningTasks": 3,
        "DesiredTasks": 3,
        "CompletedTasks": 0,
    }
    assert service(backend).update_status is None


async def test_an_update_is_underway_before_it_is_answered(api: Api, backend: FakeBackend) -> None:
    await create(api)
    backend.works = False
    await update(api, "web", spec(TaskTemplate=template(Env=["A=b"])))
    shown = await get(api, "/services/web")
    assert shown["UpdateStatus"]["State"] == "updating"
    assert shown["UpdateStatus"]["Message"] == "update in progress"
    assert "CompletedAt" not in shown["UpdateStatus"]
    assert "Env" not in shown["PreviousSpec"]["TaskTemplate"]["ContainerSpec"]
    current = {"service": {"web": True}, "_up-to-date": {"true": True}}
    assert await get(api, "/tasks", **current) == []
    backend.work()
    assert len(await get(api, "/tasks", **current)) == 2
    assert (await get(api, "/services/web"))["UpdateStatus"]["State"] == "completed"


async def test_rollback_exchanges_the_specs(api: Api, backend: FakeBackend) -> None:
    await create(api)
    refused = await update(api, "web", SPEC, "&rollback=previous")
    assert (refused.status, refused.message) == (400, "service web does not have a previous spec")
    await update(api, "web", spec(TaskTemplate=template(Env=["A=b"])), X_Registry_Auth="bmV3")
    backend.works = False
    assert (await update(api, "web", {}, "&rollback=previous")).status == 200
    found = service(backend)
    assert found.spec.task_template.container.env == ()
    assert found.previous_spec is not None
    assert found.previous_spec.task_template.container.env == ("A=b",)
    assert (found.registry_auth, found.previous_registry_auth) == ("", "bmV3")
    shown = (await get(api, "/services/web"))["UpdateStatus"]
    assert (shown["State"], shown["Message"]) == (
        "rollback_started",
        "manually requested rollback",
    )


async def test_registry_auth_comes_from_the_header_or_a_spec(
    api: Api, backend: FakeBackend
) -> None:
    await create(api, X_Registry_Auth="one")
    await update(api, "web", SPEC, X_Registry_Auth="two")
    await update(api, "web", SPEC)
    assert service(backend).registry_auth == "two"
    await update(api, "web", SPEC, "&registryAuthFrom=spec")
    assert service(backend).registry_auth == "two"
    await update(api, "web", SPEC, X_Registry_Auth="three")
    await update(api, "web", SPEC, "&registryAuthFrom=previous-spec")
    assert service(backend).registry_auth == "two"
    assert (await update(api, "web", SPEC, "&registryAuthFrom=moon")).status == 400


async def test_what_an_update_may_not_do(api: Api) -> None:
    await create(api)
    rename = await update(api, "web", spec(Name="other"))
    assert (rename.status, rename.message) == (400, "renaming services is not supported")
    mode = await update(api, "web", spec(Mode={"Global": {}}))
    assert (mode.status, mode.message) == (400, "service mode change is not allowed")
    stale = await ask(api, "POST", "/services/web/update?version=1", SPEC)
    assert stale.status == 500
    assert stale.message == "rpc error: code = Unknown desc = update out of sequence"


async def test_a_removed_service_takes_its_tasks(api: Api, backend: FakeBackend) -> None:
    await create(api)
    assert (await ask(api, "DELETE", "/services/web")).status == 200
    assert await get(api, "/services") == []
    assert await get(api, "/tasks") == []
    gone = await ask(api, "DELETE", "/services/web")
    assert (gone.status, gone.message) == (404, "service web not found")


async def test_service_filters(api: Api) -> None:
    await create(api)
    await create(api, spec(Name="api", Labels={}, Mode={"Global": {}}))

    async def names(**filters: Json) -> list[str]:
        return sorted(s["Spec"]["Name"] for s in await get(api, "/services", **filters))

    assert await names(name=["we"]) == ["web"]
    assert await names(mode=["global"]) == ["api"]
    assert await names(mode=["global", "replicated"]) == ["api", "web"]
    assert await names(label=["l=1", "l"]) == ["web"]
    assert await names(label=["l=1", "m"]) == []
    assert await names(runtime=["plugin"]) == []


@pytest.mark.parametrize(
    ("path", "filters"),
    [
        ("/services", '{"nope":["x"]}'),
        ("/nodes", '{"name":"x"}'),
        ("/tasks", '{"desired-state":["asleep"]}'),
        ("/nodes", '{"role":["boss"]}'),
        ("/tasks", "["),
        ("/tasks", "3"),
    ],
)
async def test_wrong_filters_are_refused(api: Api, path: str, filters: str) -> None:
    reply = await ask(api, "GET", f"{path}?filters={quote(filters)}")
    assert reply.status == 400
    assert "filter" in reply.message


# --- tasks ---


async def test_tasks_are_listed_by_every_filter(api: Api, backend: FakeBackend) -> None:
    service_id = await create(api)
    await create(api, spec(Name="other", Labels={}, Mode={"Replicated": {"Replicas": 1}}))
    first = next(iter(backend.store.tasks_of_service(service_id)))
    backend.end(first, TaskState.FAILED)

    async def count(**filters: Json) -> int:
        return len(await get(api, "/tasks", **filters))

    assert await count() == 3
    assert await count(service=["web"]) == 2
    assert await count(service=["web", "other"]) == 3
    assert await count(label=["l=1"]) == 2
    assert await count(node=["n1"]) == 3
    assert await count(id=[first.id]) == 1
    assert await count(name=["web"]) == 2
    assert await count(name=[first.name]) == 1
    assert await count(**{"desired-state": ["running"]}) == 2
    assert await count(**{"desired-state": ["shutdown"], "service": ["web"]}) == 1
    assert await count(**{"_up-to-date": ["true"]}) == 3
    assert await count(**{"_up-to-date": ["false"]}) == 0
    assert (await ask(api, "GET", "/tasks?filters=%7B%22node%22:[%22x%22]%7D")).status == 404
    for wanted in (first.id, first.id[:9], first.name):
        assert (await get(api, f"/tasks/{wanted}"))["Status"]["State"] == "failed"


# --- staleness and quorum ---


async def test_a_stale_read_is_answered_at_once_and_says_so(api: Api, backend: FakeBackend) -> None:
    await create(api)
    backend.quorum, backend.behind, backend.barriers = False, 'no "leader"\n(1 of 2)', 0
    for path in ("/services", "/services/web", "/nodes", "/swarm", "/info", "/tasks"):
        reply = await ask(api, "GET", path)
        assert reply.status == 200
        assert reply.headers["swarmlet-stale"] == "no 'leader' (1 of 2)"
        assert reply.headers["warning"].startswith("110 swarmlet")
    assert backend.barriers == 0


@pytest.mark.parametrize(
    "path", ["/services/web", "/services", "/tasks", "/nodes", "/nodes/n1", "/swarm"]
)
async def test_a_read_waits_for_writes_made_elsewhere(
    api: Api, backend: FakeBackend, path: str
) -> None:
    await create(api)
    backend.barriers = 0
    reply = await ask(api, "GET", path)
    assert backend.barriers == 1
    assert "swarmlet-stale" not in reply.headers


@pytest.mark.parametrize("path", ["/services", "/services/web", "/tasks", "/nodes", "/swarm"])
@pytest.mark.parametrize("why", [LeaderSilent(), ReplicaBehind(applied=3, known=5)])
async def test_a_read_does_not_wait_long_for_a_leader_or_a_replica(
    api: Api,
    backend: FakeBackend,
    path: str,
    why: SwarmletError,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is known is told, and marked with the reason; a write begins with no such look."""
    await create(api)
    waits: list[float] = []

    async def barrier(*, within: float = 2.0) -> None:
        waits.append(within)
        raise why

    monkeypatch.setattr(backend, "barrier", barrier)
    reply = await ask(api, "GET", path)
    assert reply.status == 200
    assert reply.headers["swarmlet-stale"] == why.message
    reply = await ask(api, "DELETE", "/services/web")
    assert (reply.status, reply.message) == (503, why.message)
    assert waits == [READ_PATIENCE, 2.0]


async def test_a_quorum_that_goes_during_a_read_leaves_a_marked_answer(
    api: Api, backend: FakeBackend
) -> None:
    await create(api)
    backend.quorum = False  # and nobody has noticed yet
    reply = await ask(api, "GET", "/services/web")
    assert reply.status == 200
    assert "no leader" in reply.headers["swarmlet-stale"]
    assert (await ask(api, "DELETE", "/services/web")).status == 503


async def test_a_label_change_leaves_a_running_update_to_its_end(
    api: Api, backend: FakeBackend
) -> None:
    await create(api)
    backend.works = False
    changed = spec(TaskTemplate=template(Env=["A=b"]))
    await update(api, "web", changed)
    await update(api, "web", {**changed, "Labels": {"x": "y"}})
    assert (await get(api, "/services/web"))["UpdateStatus"]["State"] == "updating"
    backend.work()
    await update(api, "web", {**changed, "Labels": {"x": "z"}})
    assert "UpdateStatus" not in await get(api, "/services/web")


async def test_a_write_without_quorum_says_what_is_missing(api: Api, backend: FakeBackend) -> None:
    backend.quorum = False
    reply = await ask(api, "POST", "/services/create", SPEC)
    assert reply.status == 503
    assert reply.json == {
        "message": "the swarm has no leader: 1 of 2 needed managers answer",
        "code": "no-quorum",
        "advice": "start the missing managers (node ls shows them); "
        "running tasks go on, nothing new can be started until then",
    }


async def test_a_worker_refuses_in_dockers_words(api: Api, backend: FakeBackend) -> None:
    backend.become(LocalState(state="active", role=Role.WORKER))
    for method, path in (("GET", "/nodes"), ("GET", "/services/x"), ("GET", "/secrets")):
        reply = await ask(api, method, path)
        assert (reply.status, reply.message) == (503, wording.WORKER_ONLY)


async def test_a_node_that_is_down_is_shown_so(api: Api, backend: FakeBackend) -> None:
    node = backend.add_node("w")
    down = NodeStatus(state=NodeState.DOWN, message="heartbeat failure", addr="10.0.0.1")
    backend.apply(ChangeNodes(changes=(NodeChange(id=node.id, status=down),)))
    assert (await get(api, "/nodes/w"))["Status"] == {
        "State": "down",
        "Message": "heartbeat failure",
        "Addr": "10.0.0.1",
    }
