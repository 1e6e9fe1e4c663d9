"""The cluster's networks through the API, beside an engine that has networks of its own."""

from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest
import trio
from msgspec.structs import replace
from swarmlet.api import wording
from swarmlet.api.backend import LocalState
from swarmlet.api.network_shapes import COPY_LABEL
from swarmlet.api.server import Api
from swarmlet.model.objects import Network, TaskState
from swarmlet.model.specs import Role
from swarmlet.state.commands import (
    ChangeNodes,
    ChangeTasks,
    DeleteTasks,
    NodeChange,
    TaskChange,
)

from tests.fakes.backend import FakeBackend
from tests.fakes.engine import FakeEngine, Visit
from tests.unit.api.http_client import ask
from tests.unit.api.test_swarm_routes import create as create_service
from tests.unit.api.test_swarm_routes import get, service, spec, template, update

Json = Any

WORKER = LocalState(state="active", node_id="w", node_addr="10.66.0.3", role=Role.WORKER)


def engine_network(name: str, **fields: Json) -> Json:
    return {
        "Name": name,
        "Id": name.encode().hex().ljust(64, "0"),
        "Scope": "local",
        "Driver": "bridge",
        "Containers": {},
        "Options": {},
        "Labels": {},
        **fields,
    }


def copy_of(network: Network) -> Json:
    name = network.spec.name
    return engine_network(name, Labels={COPY_LABEL: network.id}, Containers={"c1": {"Name": "web"}})


def has(engine: FakeEngine, *networks: Json) -> None:
    """Let the engine have networks: it lists them (by label), finds, removes and prunes them."""

    async def listing(visit: Visit) -> None:
        await visit.read_body()
        query = parse_qs(urlsplit(visit.target).query)
        wanted = msgspec.json.decode(query["filters"][0]) if query else {}
        found = [n for n in networks if set(wanted.get("label", [])) <= n["Labels"].keys()]
        await visit.answer(200, msgspec.json.encode(found))

    async def pruned(visit: Visit) -> None:
        await visit.read_body()
        await visit.answer(200, b'{"NetworksDeleted":["old"]}')

    def one(network: Json) -> Any:
        async def answer(visit: Visit) -> None:
            await visit.read_body()
            await visit.answer(200, msgspec.json.encode(network))

        return answer

    engine.scripts["/v1.41/networks"] = listing
    engine.scripts["/v1.41/networks/prune"] = pruned
    for network in networks:
        for key in ("Name", "Id"):
            engine.scripts[f"/v1.41/networks/{network[key]}"] = one(network)


async def create(api: Api, name: str = "ov", **fields: Json) -> str:
    body = {"Name": name, "Driver": "overlay", **fields}
    reply = await ask(api, "POST", "/networks/create", body)
    assert reply.status == 201, reply.body
    assert isinstance(reply.json, dict)
    return str(reply.json["Id"])


async def names(api: Api, **filters: Json) -> list[str]:
    return [n["Name"] for n in await get(api, "/networks", **filters)]


def with_subnet(subnet: str, **more: Json) -> Json:
    return {"IPAM": {"Driver": "default", "Config": [{"Subnet": subnet, **more}]}}


# --- create ---


async def test_a_network_is_created_as_the_stock_client_asks(api: Api) -> None:
    body = {
        "Name": "app_front",
        "Driver": "overlay",
        "Scope": "",
        "IPAM": None,
        "Internal": False,
        "Attachable": False,
        "Ingress": False,
        "ConfigOnly": False,
        "ConfigFrom": None,
        "Options": None,
        "Labels": {"com.docker.stack.namespace": "app"},
        "CheckDuplicate": True,
    }
    reply = await ask(api, "POST", "/v1.41/networks/create", body)
    assert reply.status == 201
    assert isinstance(reply.json, dict)
    assert reply.json["Warning"] == ""
    shown = await get(api, f"/v1.41/networks/{reply.json['Id']}")
    assert shown["Scope"] == "swarm"
    assert shown["Labels"] == {"com.docker.stack.namespace": "app"}
    assert shown["IPAM"]["Config"] == [{"Subnet": "10.0.1.0/24", "Gateway": "10.0.1.1"}]
    assert "EnableIPv4" not in shown


@pytest.mark.parametrize("value", ["", "true", "false"])
async def test_a_network_is_encrypted_when_that_is_named(api: Api, value: str) -> None:
    """Whatever the value is, as Docker has it."""
    await create(api, Options={"encrypted": value})
    assert (await get(api, "/networks/ov"))["Options"]["encrypted"] == value


async def test_what_a_user_says_of_addresses_counts(api: Api) -> None:
    config = {
        "IPRange": "10.80.0.128/25",
        "Gateway": "10.80.0.2",
        "AuxiliaryAddresses": {"printer": "10.80.0.200"},
    }
    await create(api, **with_subnet("10.80.0.0/24", **config))
    assert (await get(api, "/networks/ov"))["IPAM"]["Config"] == [
        {"Subnet": "10.80.0.0/24", **config}
    ]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"Name": ""}, "Name: name must be provided"),
        ({"Name": "a.b"}, "name must be valid as a DNS name component"),
        ({"Driver": "macvlan", "Scope": "swarm"}, "the driver must be overlay"),
        ({"Scope": "moon"}, 'Scope: "moon" is no overlay'),
        ({"EnableIPv6": True}, "IPv6 in overlay networks is not supported yet"),
        ({"EnableIPv4": False}, "overlay networks have IPv4 addresses"),
        ({"ConfigOnly": True}, "config-only networks are not supported yet"),
        ({"ConfigFrom": {"Network": "x"}}, "ConfigFrom: config-only networks are not"),
        ({"Labels": {"": "x"}}, "Labels: a label needs a name"),
        ({"IPAM": {"Driver": "dhcp"}}, '"dhcp": IPAM drivers are not supported yet'),
        ({"IPAM": {"Config": [{}, {}]}}, "several subnets in one network are not supported yet"),
        ({"IPAM": {"Config": [{"Gateway": "10.9.0.1"}]}}, "ipam configuration: invalid subnet"),
        (with_subnet("10.9.0.0"), "invalid subnet 10.9.0.0: it needs a length"),
        (with_subnet("10.9.0.1/24"), "invalid subnet 10.9.0.1/24: it should be 10.9.0.0/24"),
        (with_subnet("fd00::/64"), "invalid subnet fd00::/64: IPv6 is not supported yet"),
        (with_subnet("10.9.0.0/30"), "must be between a /8 and a /29"),
        (with_subnet("127.1.0.0/16"), "overlaps 127.0.0.0/8, which is not for addresses of hosts"),
        (with_subnet("239.0.0.0/24"), "overlaps 224.0.0.0/4"),
        (with_subnet("169.254.1.0/24"), "overlaps 169.254.0.0/16"),
        (with_subnet("8.0.0.0/6"), "must be between a /8 and a /29"),
        (
            with_subnet("10.9.0.1/32", AuxiliaryAddresses={"a": "10.9.0.2"}),
            "must be between a /8 and a /29",
        ),
        (with_subnet("10.9.0.0/24", Gateway="10.8.0.1"), "does not contain gateway 10.8.0.1"),
        (with_subnet("10.9.0.0/24", Gateway="10.9.0.255"), "does not contain gateway"),
        (with_subnet("10.9.0.0/24", Gateway="x"), "invalid gateway x"),
        (with_subnet("10.9.0.0/24", IPRange="10.8.0.0/25"), "does not contain range 10.8.0.0/25"),
        (with_subnet("10.9.0.0/24", IPRange="x"), "invalid range x"),
        (
            with_subnet("10.9.0.0/24", AuxiliaryAddresses={"a": "10.9.0.1"}),
            "10.9.0.1 is the gateway",
        ),
        (with_subnet("10.0.0.0/23"), "overlaps 10.0.0.0/24 of network ingress"),
        (with_subnet("100.64.3.0/24"), "overlaps 100.64.0.0/16 of the nodes' own overlay"),
    ],
)
async def test_wrong_networks_are_refused(
    api: Api, engine: FakeEngine, fields: Json, text: str
) -> None:
    has(engine)
    body = {"Name": "ov", "Driver": "overlay", **fields}
    reply = await ask(api, "POST", "/networks/create", body)
    assert reply.status == 400
    assert text in reply.message
    assert await names(api, driver=["overlay"]) == ["ingress"]


async def test_all_problems_of_a_network_come_in_one_message(api: Api) -> None:
    body = {"Name": "-", "Driver": "overlay", "EnableIPv6": True, **with_subnet("x")}
    reply = await ask(api, "POST", "/networks/create", body)
    for text in ("DNS name", "IPv6", "invalid subnet x"):
        assert text in reply.message


async def test_a_name_is_taken_once(api: Api, engine: FakeEngine) -> None:
    """By a network of the cluster, and by one of this node's engine."""
    await create(api)
    has(engine, engine_network("mine"))
    for name in ("ov", "mine"):
        body = {"Name": name, "Driver": "overlay"}
        reply = await ask(api, "POST", "/networks/create", body)
        assert (reply.status, reply.message) == (409, f"network with name {name} already exists")
    local = await ask(api, "POST", "/networks/create", {"Name": "ov", "Driver": "bridge"})
    assert (local.status, local.message) == (409, "network with name ov already exists")
    reply = await ask(api, "POST", "/networks/create", {"Name": "bridge", "Driver": "overlay"})
    assert (reply.status, reply.message) == (
        403,
        "operation is not permitted on predefined bridge network",
    )


async def test_there_is_one_ingress_network(api: Api) -> None:
    body = {"Name": "second", "Driver": "overlay", "Ingress": True}
    reply = await ask(api, "POST", "/networks/create", body)
    assert (reply.status, reply.message) == (409, "ingress network is already present")
    assert (await ask(api, "DELETE", "/networks/ingress")).status == 204
    assert (await ask(api, "POST", "/networks/create", body)).status == 201


async def test_what_has_no_effect_is_said(api: Api) -> None:
    body = {
        "Name": "ov",
        "Driver": "overlay",
        "Options": {"com.docker.network.driver.mtu": "1400"},
        "IPAM": {"Options": {"a": "b"}},
    }
    reply = await ask(api, "POST", "/networks/create", body)
    assert isinstance(reply.json, dict)
    assert reply.json["Warning"] == (
        "Options.com.docker.network.driver.mtu has no effect in swarmlet; "
        "IPAM.Options.a has no effect in swarmlet"
    )
    assert (await get(api, "/networks/ov"))["Options"] == body["Options"]


async def test_subnets_keep_clear_of_those_of_the_nodes(api: Api, backend: FakeBackend) -> None:
    """Those that the cluster chooses, and those that a user does."""
    node = backend.add_node("h2")
    assert node.description is not None
    subnets = ("10.0.0.0/22", "192.168.7.0/24", "nonsense")
    changed = NodeChange(id=node.id, description=replace(node.description, subnets=subnets))
    backend.apply(ChangeNodes(changes=(changed,)))
    await create(api)
    assert (await get(api, "/networks/ov"))["IPAM"]["Config"][0]["Subnet"] == "10.0.4.0/24"
    body = {"Name": "two", "Driver": "overlay", **with_subnet("192.168.0.0/16")}
    reply = await ask(api, "POST", "/networks/create", body)
    assert reply.status == 400
    assert "192.168.0.0/16 overlaps 192.168.7.0/24, which node h2 has" in reply.message


async def test_a_worker_creates_the_engines_networks_only(
    api: Api, backend: FakeBackend, engine: FakeEngine
) -> None:
    async def created(visit: Visit) -> None:
        await visit.read_body()
        await visit.answer(201, b'{"Id":"x","Warning":""}')

    engine.scripts["/v1.41/networks/create"] = created
    for state, answer in (
        (WORKER, (403, wording.OVERLAY_ON_WORKER)),
        (LocalState(state="inactive"), (503, wording.NOT_A_MANAGER)),
    ):
        backend.become(state)
        reply = await ask(api, "POST", "/networks/create", {"Name": "n", "Driver": "overlay"})
        assert (reply.status, reply.message) == answer
        reply = await ask(api, "POST", "/networks/create", {"Name": "n", "Driver": "bridge"})
        assert reply.status == 201


# --- list and inspect ---


async def test_the_clusters_networks_come_with_the_engines_each_once(
    api: Api, backend: FakeBackend, engine: FakeEngine
) -> None:
    network = backend.add_network("ov")
    has(engine, engine_network("bridge"), copy_of(network))
    assert await names(api) == ["ingress", "ov", "bridge"]


async def test_a_worker_shows_a_copy_as_the_network_that_it_stands_for(
    api: Api, backend: FakeBackend, engine: FakeEngine
) -> None:
    network = backend.add_network("ov")
    has(engine, engine_network("bridge"), copy_of(network))
    backend.become(WORKER)
    overlay, bridge = await get(api, "/networks")
    assert bridge["Name"] == "bridge"
    assert (overlay["Id"], overlay["Driver"], overlay["Scope"]) == (network.id, "overlay", "swarm")
    assert overlay["Labels"] == {}
    for name in ("ov", network.id, network.id[:5]):
        assert (await get(api, f"/networks/{name}"))["Id"] == network.id
    assert (await get(api, "/networks/bridge"))["Driver"] == "bridge"
    refused = await ask(api, "DELETE", "/networks/ov")
    assert (refused.status, refused.message) == (503, wording.WORKER_ONLY)


async def test_networks_are_filtered(api: Api, backend: FakeBackend, engine: FakeEngine) -> None:
    has(engine)
    network = backend.add_network("app_front", labels={"ns": "app"})
    await create_service(
        api, spec(TaskTemplate={**template(), "Networks": [{"Target": "app_front"}]})
    )
    cases: list[tuple[Json, list[str]]] = [
        ({"name": ["front"]}, ["app_front"]),
        ({"name": ["^app"]}, ["app_front"]),
        ({"name": ["^front"]}, []),
        ({"name": ["ing", "^app_front$"]}, ["app_front", "ingress"]),
        ({"name": ["^app_fron$"]}, []),
        ({"id": [network.id[:4]]}, ["app_front"]),
        ({"label": ["ns=app"]}, ["app_front"]),
        ({"label": ["ns=other"]}, []),
        ({"driver": ["overlay"]}, ["app_front", "ingress"]),
        ({"driver": ["bridge"]}, []),
        ({"scope": ["local"]}, []),
        ({"scope": ["swarm"]}, ["app_front", "ingress"]),
        ({"type": ["custom"]}, ["app_front", "ingress"]),
        ({"type": ["builtin"]}, []),
        ({"dangling": ["true"]}, ["ingress"]),
        ({"dangling": ["0"]}, ["app_front"]),
    ]
    for wanted, expected in cases:
        assert await names(api, **wanted) == expected, wanted
    for wrong in ('{"type":["x"]}', '{"dangling":["x"]}', '{"color":["x"]}'):
        assert (await ask(api, "GET", f"/networks?filters={wrong}")).status == 400


async def test_without_an_engine_the_clusters_networks_are_still_there(
    backend: FakeBackend, tmp_path: Any
) -> None:
    api = Api(backend, tmp_path / "nobody.sock")
    reply = await ask(api, "GET", "/networks")
    assert isinstance(reply.json, list)
    assert [n["Name"] for n in reply.json] == ["ingress"]
    assert "the engine's own networks are missing" in reply.headers["warning"]
    assert (await get(api, "/networks/ingress"))["Containers"] is None
    backend.become(WORKER)
    assert (await ask(api, "GET", "/networks")).status == 503


async def test_a_network_is_found_by_name_identifier_and_unique_prefix(
    api: Api, backend: FakeBackend, engine: FakeEngine
) -> None:
    network = backend.add_network("ov")
    has(engine, engine_network("mine"), copy_of(network))
    copy_id = copy_of(network)["Id"]
    for wanted in ("ov", network.id, network.id[:6], copy_id, "ov?scope=swarm"):
        assert (await get(api, f"/networks/{wanted}"))["Id"] == network.id
    assert (await get(api, "/networks/mine"))["Driver"] == "bridge"
    assert (await ask(api, "GET", "/networks/gone")).status == 404
    refused = await ask(api, "GET", "/networks/mine?scope=swarm")
    assert (refused.status, refused.message) == (404, "network mine not found")


async def test_inspect_shows_containers_here_peers_and_on_demand_services(
    api: Api, backend: FakeBackend, engine: FakeEngine
) -> None:
    network = backend.add_network("ov")
    has(engine, copy_of(network))
    ports = {"Ports": [{"TargetPort": 80, "PublishedPort": 8080}]}
    joined = {**template(), "Networks": [{"Target": "ov"}]}
    await create_service(api, spec(TaskTemplate=joined, EndpointSpec=ports))
    shown = await get(api, "/networks/ov")
    assert shown["Containers"] == {"c1": {"Name": "web"}}
    assert shown["EnableIPv4"] is True
    assert "Services" not in shown
    node_id = backend.local().node_id
    assert shown["Peers"] == [{"Name": f"n1-{node_id[:12]}", "IP": "10.66.0.2"}]
    web = (await get(api, "/networks/ov?verbose=true"))["Services"]["web"]
    assert web["VIP"] == "10.0.1.2"
    assert web["Ports"] == ["Target: 80, Publish: 8080"]
    assert [t["EndpointIP"] for t in web["Tasks"]] == ["10.0.1.3", "10.0.1.4"]
    assert web["Tasks"][0]["Info"] == {"Host IP": "10.66.0.2"}
    assert web["Tasks"][0]["Name"].startswith("web.1.")


# --- remove, prune, connect ---


async def test_a_network_in_use_is_not_removed_and_its_user_is_named(
    api: Api, backend: FakeBackend
) -> None:
    backend.add_network("ov")
    await create_service(api, spec(TaskTemplate={**template(), "Networks": [{"Target": "ov"}]}))
    refused = await ask(api, "DELETE", "/networks/ov")
    assert refused.status == 400
    assert "network ov is in use by service web" in refused.message
    assert (await ask(api, "DELETE", "/services/web")).status == 200
    gone = await ask(api, "DELETE", "/networks/ov")
    assert (gone.status, gone.body) == (204, b"")
    assert "content-length" not in gone.headers
    assert (await ask(api, "DELETE", "/networks/ov")).status == 404


async def test_removal_waits_for_tasks_that_are_stopping(
    api: Api, backend: FakeBackend, autojump_clock: trio.testing.MockClock
) -> None:
    """Stock clients remove a stack's services and networks in one go."""
    backend.works = False
    backend.add_network("ov")
    await create_service(api, spec(TaskTemplate={**template(), "Networks": [{"Target": "ov"}]}))
    task = backend.start(service(backend))
    assert (await ask(api, "DELETE", "/services/web")).status == 200
    refused = await ask(api, "DELETE", "/networks/ov")
    assert (refused.status, f"in use by task {task.name}" in refused.message) == (400, True)
    statuses = []

    async def remove() -> None:
        statuses.append((await ask(api, "DELETE", "/networks/ov")).status)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(remove)
        await trio.sleep(1)
        assert not statuses
        backend.end(task, TaskState.SHUTDOWN)
    assert statuses == [204]
    backend.apply(DeleteTasks(ids=(task.id,)))


async def test_a_network_with_a_task_that_goes_on_is_not_removed(
    api: Api, backend: FakeBackend
) -> None:
    """The service has left it, its old task is not told to stop yet: no need to wait for that."""
    backend.works = False
    backend.add_network("ov")
    body = spec(TaskTemplate={**template(), "Networks": [{"Target": "ov"}]})
    await create_service(api, body)
    task = backend.start(service(backend))
    assert (await update(api, "web", spec())).status == 200
    refused = await ask(api, "DELETE", "/networks/ov")
    assert refused.status == 400
    assert f"in use by task {task.name}" in refused.message
    backend.apply(ChangeTasks(changes=(TaskChange(id=task.id, desired=TaskState.SHUTDOWN),)))
    backend.end(task, TaskState.SHUTDOWN)
    assert (await ask(api, "DELETE", "/networks/ov")).status == 204


async def test_prune_removes_what_nobody_uses_and_no_copy(
    api: Api, backend: FakeBackend, engine: FakeEngine
) -> None:
    backend.add_network("used")
    backend.add_network("free")
    backend.add_network("kept", labels={"keep": "yes"})
    has(engine)
    await create_service(api, spec(TaskTemplate={**template(), "Networks": [{"Target": "used"}]}))
    late = '{"until":["24h"]}'
    assert (await ask(api, "POST", f"/networks/prune?filters={late}")).json == {
        "NetworksDeleted": ["old"]
    }
    reply = await ask(api, "POST", '/networks/prune?filters={"label!":["keep"]}')
    assert reply.json == {"NetworksDeleted": ["free", "old"]}
    asked = parse_qs(urlsplit(engine.visits[-1].target).query)["filters"][0]
    assert msgspec.json.decode(asked) == {"label!": ["keep", COPY_LABEL]}
    assert await names(api) == ["ingress", "kept", "used"]
    assert (await ask(api, "POST", '/networks/prune?filters={"until":["x"]}')).status == 400


async def test_outside_a_cluster_networks_are_the_engines(
    api: Api, backend: FakeBackend, engine: FakeEngine
) -> None:
    has(engine, engine_network("bridge"))
    backend.become(LocalState(state="inactive"))
    assert await names(api) == ["bridge"]
    assert (await get(api, "/networks/bridge"))["Name"] == "bridge"
    reply = await ask(api, "POST", "/networks/prune")
    assert reply.json == {"NetworksDeleted": ["old"]}


# --- services ---


async def test_services_name_networks_and_keep_identifiers(api: Api, backend: FakeBackend) -> None:
    """Sent again by another spelling, nothing changes and no task is replaced."""
    network = backend.add_network("ov")
    attachment = {"Target": "ov", "Aliases": ["w"]}
    await create_service(api, spec(TaskTemplate={**template(), "Networks": [attachment]}))
    shown = await get(api, "/services/web")
    assert shown["Spec"]["TaskTemplate"]["Networks"] == [{**attachment, "Target": network.id}]
    before = service(backend).spec_version
    for name in ("ov", network.id, network.id[:8]):
        body = {**template(), "Networks": [{**attachment, "Target": name}]}
        assert (await update(api, "web", spec(TaskTemplate=body))).status == 200
    assert service(backend).spec_version == before


async def test_a_service_shows_its_addresses_and_published_ports(
    api: Api, backend: FakeBackend
) -> None:
    network = backend.add_network("ov")
    ports = {"Ports": [{"TargetPort": 80}, {"TargetPort": 81, "PublishedPort": 8081}]}
    joined = {**template(), "Networks": [{"Target": "ov"}]}
    await create_service(api, spec(TaskTemplate=joined, EndpointSpec=ports))
    endpoint = (await get(api, "/services/web"))["Endpoint"]
    assert endpoint["VirtualIPs"] == [{"NetworkID": network.id, "Addr": "10.0.1.2/24"}]
    assert [p.get("PublishedPort") for p in endpoint["Spec"]["Ports"]] == [None, 8081]
    assert [p["PublishedPort"] for p in endpoint["Ports"]] == [30_000, 8081]
    first = (await get(api, "/tasks"))[0]["NetworksAttachments"]
    assert [(a["Network"]["ID"], a["Network"]["Spec"]["Name"]) for a in first] == [
        (network.id, "ov")
    ]
    assert first[0]["Addresses"][0] in {"10.0.1.3/24", "10.0.1.4/24"}


async def test_connections_of_a_service_are_asked_of_its_nodes(
    api: Api, backend: FakeBackend
) -> None:
    """One that is silent is named, and does not keep the others' answers back."""
    backend.add_network("ov")
    joined = {**template(), "Networks": [{"Target": "ov"}]}
    await create_service(api, spec(TaskTemplate=joined))
    tasks = await get(api, "/tasks")
    nodes = {task["NodeID"] for task in tasks}
    path = "/swarmlet/services/web/connections"
    assert await get(api, path) == {"Connections": {t["ID"]: 3 for t in tasks}, "Silent": []}
    backend.silent |= nodes
    assert await get(api, path) == {"Connections": {}, "Silent": sorted(nodes)}
    assert (await ask(api, "GET", "/swarmlet/services/nope/connections")).status == 404


async def test_a_published_port_without_a_network_of_its_own_uses_ingress(api: Api) -> None:
    await create_service(api, spec(EndpointSpec={"Ports": [{"TargetPort": 80}]}))
    shown = await get(api, "/services/web")
    ingress = await get(api, "/networks/ingress")
    assert [v["NetworkID"] for v in shown["Endpoint"]["VirtualIPs"]] == [ingress["Id"]]


async def test_a_cluster_without_ingress_says_how_to_get_it(api: Api) -> None:
    """As one that is older than it, or whose user removed it."""
    assert (await ask(api, "DELETE", "/networks/ingress")).status == 204
    body = spec(EndpointSpec={"Ports": [{"TargetPort": 80}]})
    refused = await ask(api, "POST", "/services/create", body)
    assert refused.status == 400
    assert "swarmlet network create --ingress ingress" in refused.message


async def test_a_taken_port_names_its_owner(api: Api) -> None:
    ports = {"Ports": [{"TargetPort": 80, "PublishedPort": 8080}]}
    owner = await create_service(api, spec(EndpointSpec=ports))
    refused = await ask(api, "POST", "/services/create", spec(Name="two", EndpointSpec=ports))
    assert refused.status == 400
    assert f"port '8080' is already in use by service 'web' ({owner})" in refused.message


@pytest.mark.parametrize(
    ("target", "status", "text"),
    [
        ("nowhere", 404, "network nowhere not found"),
        ("mine", 403, "The network mine cannot be used with services."),
        ("host", 501, "network host are not supported yet"),
        ("ingress", 400, "Service cannot be explicitly attached to the ingress network"),
    ],
)
async def test_networks_that_no_service_can_join(
    api: Api, engine: FakeEngine, target: str, status: int, text: str
) -> None:
    has(engine, engine_network("mine"))
    body = spec(TaskTemplate={**template(), "Networks": [{"Target": target}]})
    refused = await ask(api, "POST", "/services/create", body)
    assert refused.status == status
    assert text in refused.message
