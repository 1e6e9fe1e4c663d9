"""Our JSON against recordings of a real Swarm (``SWARMLET_TRACES`` names their directory)."""

import base64
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from swarmlet.api import bodies, network_shapes, shapes
from swarmlet.api.backend import LocalState, ManagerHealth
from swarmlet.clock import Instant
from swarmlet.model.forwarding import Attachment
from swarmlet.model.networks import NetworkSpec
from swarmlet.model.objects import (
    Cluster,
    Config,
    ContainerStatus,
    JoinTokens,
    Network,
    Node,
    NodeDescription,
    NodeState,
    NodeStatus,
    Plugin,
    RootCa,
    Secret,
    Service,
    Task,
    TaskState,
    TaskStatus,
    UpdateState,
    UpdateStatus,
)
from swarmlet.model.specs import (
    ClusterSpec,
    ConfigSpec,
    NodeSpec,
    Platform,
    Resources,
    Role,
    SecretSpec,
    ServiceSpec,
    TaskSpec,
)
from swarmlet.state.store import Store

Json = Any

#: Recordings are not part of the repository; they may lie beside it.
TRACES = Path(os.environ.get("SWARMLET_TRACES", "../shared/docker-api/traces"))

pytestmark = pytest.mark.skipif(not TRACES.is_dir(), reason="no recordings here")


def recorded(kind: str) -> Iterator[Json]:
    """Every recorded object of ``services``, ``tasks``, ``nodes``, ``swarm`` or ``info``."""
    for path in sorted(TRACES.glob("*.jsonl")):
        for line in path.read_bytes().splitlines():
            call = msgspec.json.decode(line)
            segments = call["p"].partition("?")[0].split("/")
            if call["m"] != "GET" or call["st"] != 200 or kind not in segments[2:3]:
                continue
            if len(segments) <= 4 and segments[-1] not in {"logs", "unlockkey"}:
                answer = call["resp"]
                yield from answer if isinstance(answer, list) else [answer]


def one(kind: str, *keys: str) -> Json:
    """A recorded object that has these keys."""
    return next(o for o in recorded(kind) if all(k in o for k in keys))


def wire(value: Json) -> Json:
    """A value as a client reads it."""
    return msgspec.json.decode(msgspec.json.encode(value))


def form(value: Json) -> Json:
    """Keys and types, recursively; a list has the form of its first item."""
    value = wire(value)
    if isinstance(value, dict):
        return {key: form(inner) for key, inner in sorted(value.items())}
    if isinstance(value, list):
        return [form(item) for item in value[:1]]
    return type(value).__name__


def distinct(objects: Iterator[Json]) -> list[Json]:
    return [msgspec.json.decode(o) for o in sorted({msgspec.json.encode(o) for o in objects})]


def test_every_recorded_service_spec_goes_out_as_it_came_in() -> None:
    specs = [s[key] for s in recorded("services") for key in ("Spec", "PreviousSpec") if key in s]
    checked = 0
    for spec in distinct(iter(specs)):
        decoded = shapes.accepted(bodies.decode(msgspec.json.encode(spec), ServiceSpec))
        assert wire(shapes.service_spec(decoded)) == spec
        checked += 1
    assert checked > 10


def test_every_recorded_task_spec_goes_out_as_it_came_in() -> None:
    for spec in distinct(task["Spec"] for task in recorded("tasks")):
        decoded = bodies.decode(msgspec.json.encode(spec), TaskSpec)
        task = shapes.task(a_task(spec=decoded), Store())
        assert wire(task["Spec"]) == spec


def a_task(*, spec: TaskSpec, **fields: Json) -> Task:
    status = TaskStatus(
        state=TaskState.RUNNING,
        at=Instant(1_763_816_583_251_402_312),
        message="started",
        container=ContainerStatus(container_id="c" * 64, pid=9, exit_code=0),
    )
    return Task(
        id="t",
        created_at=Instant(1),
        updated_at=Instant(2),
        service_id="s",
        service_name="web",
        spec=spec,
        status=status,
        **fields,
    )


def test_every_recorded_secret_and_config_goes_out_as_it_came_in() -> None:
    checked = 0
    for body in distinct(recorded("secrets")):
        spec = bodies.decode(msgspec.json.encode(body["Spec"]), SecretSpec)
        shaped = wire(shapes.file(Secret(id=body["ID"], spec=spec, data=b"hidden")))
        assert (shaped["Spec"], form(shaped)) == (body["Spec"], form(body))
        checked += 1
    for body in distinct(recorded("configs")):
        spec_of_config = bodies.decode(msgspec.json.encode(body["Spec"]), ConfigSpec)
        data = base64.b64decode(body["Spec"]["Data"])
        shaped = wire(shapes.file(Config(id=body["ID"], spec=spec_of_config, data=data)))
        assert (shaped["Spec"], form(shaped)) == (body["Spec"], form(body))
        checked += 1
    assert checked > 2


#: The kernel's number of a network; ours are not a user's business.
VXLAN = "com.docker.network.driver.overlay.vxlanid_list"


def a_network() -> Network:
    """The one that was recorded."""
    body = one("networks", "IPAM")
    assert body["Name"] == "ov"
    spec = NetworkSpec(name="ov", labels={"a": "b"}, options={"encrypted": ""}, attachable=True)
    return Network(
        id="n1",
        created_at=Instant(1_763_816_583_251_402_312),
        updated_at=Instant(1_763_816_583_251_402_312),
        spec=spec,
        subnet="10.80.0.0/24",
        gateway="10.80.0.1",
        pool="10.80.0.0/24",
    )


def with_network() -> Store:
    store = Store()
    store.put_network(a_network())
    return store


def test_a_network_has_the_recorded_form() -> None:
    for real in (n for n in recorded("networks") if n["Name"] == "ov"):
        shaped = network_shapes.network(a_network())
        del real["Options"][VXLAN]
        real["Containers"] = None  # one recording is of a node with a task in it
        real.pop("Peers", None)
        assert wire(shaped | {"Id": "", "Created": ""}) == real | {"Id": "", "Created": ""}


def test_a_task_has_the_recorded_form() -> None:
    real = next(
        task
        for task in recorded("tasks")
        if "NetworksAttachments" in task and "ContainerStatus" in task["Status"]
    )
    spec = bodies.decode(msgspec.json.encode(real["Spec"]), TaskSpec)
    del real["NetworksAttachments"][0]["Network"]["DriverState"]["Options"][VXLAN]
    task = a_task(spec=spec, slot=1, node_id="n", attachments=(Attachment("n1", "10.80.0.8"),))
    assert form(shapes.task(task, with_network())) == form(real)


def test_a_service_under_update_has_the_recorded_form() -> None:
    real = one("services", "UpdateStatus", "PreviousSpec")
    spec, previous = (
        bodies.decode(msgspec.json.encode(real[key]), ServiceSpec)
        for key in ("Spec", "PreviousSpec")
    )
    service = Service(
        id="s",
        spec=shapes.accepted(spec),
        previous_spec=shapes.accepted(previous),
        attachments=(Attachment("n1", "10.80.0.6"),),
        update_status=UpdateStatus(
            state=UpdateState.UPDATING, started_at=Instant(1), message="update in progress"
        ),
    )
    assert form(shapes.service(service, with_network())) == form(real)
    assert shapes.service(service, Store())["UpdateStatus"].keys() == real["UpdateStatus"].keys()


def test_every_recorded_state_of_an_update_has_its_form_and_words() -> None:
    seen = set()
    for real in (s["UpdateStatus"] for s in recorded("services") if "UpdateStatus" in s):
        ended = Instant(2 if "CompletedAt" in real else 0)
        status = UpdateStatus(
            state=UpdateState(real["State"]),
            started_at=Instant(1),
            completed_at=ended,
            message=real["Message"],
        )
        one = Service(id="s", spec=ServiceSpec(), update_status=status)
        shown = shapes.service(one, Store())
        assert form(shown["UpdateStatus"]) == form(real)
        assert bool(ended) == (not status.state.in_progress)
        seen.add((real["State"], real["Message"]))
    assert seen == {
        ("updating", "update in progress"),
        ("completed", "update completed"),
        ("rollback_started", "manually requested rollback"),
        ("rollback_completed", "rollback completed"),
    }


def test_insert_defaults_fills_what_the_engine_fills() -> None:
    path = TRACES / "21-service-inspect-pretty.jsonl"
    calls = [msgspec.json.decode(line) for line in path.read_bytes().splitlines()]
    real = next(c["resp"]["Spec"] for c in calls if "insertDefaults=true" in c["p"])
    given = wire(real)
    del given["UpdateConfig"], given["RollbackConfig"]
    del given["TaskTemplate"]["RestartPolicy"]
    del given["TaskTemplate"]["ContainerSpec"]["StopGracePeriod"]
    spec = shapes.accepted(bodies.decode(msgspec.json.encode(given), ServiceSpec))
    assert wire(shapes.service_spec(spec, with_defaults=True)) == real


def a_cluster(real: Json) -> Cluster:
    return Cluster(
        id="c",
        created_at=Instant(1),
        updated_at=Instant(2),
        spec=bodies.decode(msgspec.json.encode(real["Spec"]), ClusterSpec),
        root_ca=RootCa(cert=real["TLSInfo"]["TrustRoot"], key=""),
        tokens=JoinTokens(worker="w", manager="m"),
    )


def test_the_swarm_has_the_recorded_form_and_settings() -> None:
    real = one("swarm", "JoinTokens")
    shown = shapes.swarm(a_cluster(real))
    assert form(shown) == form(real)
    assert shown["Spec"] == real["Spec"]
    assert shown["TLSInfo"] == real["TLSInfo"]


def test_a_manager_has_the_recorded_form() -> None:
    real = one("nodes", "ManagerStatus")
    about = real["Description"]
    node = Node(
        id="n",
        created_at=Instant(1),
        updated_at=Instant(2),
        spec=msgspec.convert(real["Spec"], NodeSpec),
        role=Role.MANAGER,
        description=NodeDescription(
            hostname="h",
            platform=msgspec.convert(about["Platform"], Platform),
            resources=msgspec.convert(about["Resources"], Resources),
            engine_version="20.10.24",
            plugins=(Plugin("Log", "local"),),
        ),
        status=NodeStatus(state=NodeState.READY, addr="10.66.0.2"),
        manager_addr="10.66.0.2:2377",
    )
    cluster = a_cluster(one("swarm", "JoinTokens"))
    health = {"n": ManagerHealth(leader=True, reachable=True)}
    assert form(shapes.node(node, cluster, health)) == form(real)
    follower = shapes.node(node, cluster, {"n": ManagerHealth(leader=False, reachable=False)})
    assert follower["ManagerStatus"] == {
        "Reachability": "unreachable",
        "Addr": "10.66.0.2:2377",
    }


def test_the_swarm_section_of_info_has_the_recorded_form() -> None:
    real = next(i["Swarm"] for i in recorded("info") if i["Swarm"]["ControlAvailable"])
    cluster = a_cluster(one("swarm", "JoinTokens"))
    store = Store()
    store.put_cluster(cluster)
    local = LocalState(
        state="active", node_id="n", node_addr="a", role=Role.MANAGER, managers=(("n", "a:1"),)
    )
    assert form(shapes.swarm_info(local, store)) == form(real)
    away = next(i["Swarm"] for i in recorded("info") if not i["Swarm"]["ControlAvailable"])
    assert shapes.swarm_info(LocalState(state="inactive"), None) == away


@pytest.mark.parametrize(
    ("at", "text"),
    [
        (0, "0001-01-01T00:00:00Z"),
        (1_763_814_522_422_455_520, "2025-11-22T12:28:42.42245552Z"),
        (1_763_814_522_000_000_000, "2025-11-22T12:28:42Z"),
        (1_763_814_522_000_000_001, "2025-11-22T12:28:42.000000001Z"),
    ],
)
def test_times_are_written_as_go_writes_them(at: int, text: str) -> None:
    assert shapes.rfc3339(Instant(at)) == text
