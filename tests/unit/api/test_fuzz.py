"""Garbage never crashes the API: every answer to it is a refusal."""

from contextlib import suppress
from pathlib import Path

import h11
import msgspec
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from swarmlet.api import bodies, filters, network_shapes, shapes
from swarmlet.api.server import Api
from swarmlet.clock import Instant
from swarmlet.engine import attached
from swarmlet.engine.networks import Endpoint
from swarmlet.errors import FailedPrecondition, InvalidInput
from swarmlet.model.networks import NetworkSpec
from swarmlet.model.objects import Network, Service
from swarmlet.model.specs import ClusterSpec, ServiceSpec
from swarmlet.model.validate import cluster_problems, service_problems
from swarmlet.model.validate_network import network_problems
from swarmlet.state.commands import PutNetwork, PutService, decode, encode
from swarmlet.state.store import Store

from tests.fakes.backend import FakeBackend
from tests.unit.api.http_client import ask

KEYS = st.sampled_from(
    [
        "Name", "labels", "TaskTemplate", "ContainerSpec", "Image", "Env", "Mounts", "Target",
        "Type", "Mode", "Replicated", "Replicas", "EndpointSpec", "Ports", "TargetPort",
        "Resources",
        "Limits", "NanoCPUs", "Healthcheck", "Test", "Placement", "Constraints", "UpdateConfig",
        "MaxFailureRatio", "Raft", "CAConfig", "NodeCertExpiry", "ForceUpdate", "Sysctls", "Init",
        "Networks", "Aliases", "PublishedPort",
    ]
)  # fmt: skip

LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.just("bind")
)

JSON = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(KEYS, st.text(max_size=5)), inner, max_size=6),
    ),
    max_leaves=30,
)

#: Nearly a container that names networks, with anything in any place.
CONTAINERS = st.fixed_dictionaries(
    {},
    optional={
        "Hostname": LEAVES,
        "Labels": JSON,
        "HostConfig": JSON
        | st.fixed_dictionaries({"NetworkMode": LEAVES, "Dns": st.lists(LEAVES) | LEAVES}),
        "networkingconfig": JSON
        | st.fixed_dictionaries(
            {
                "EndpointsConfig": JSON
                | st.dictionaries(
                    st.text(max_size=5),
                    JSON | st.fixed_dictionaries({"IPAMConfig": JSON, "Aliases": JSON}),
                )
            }
        ),
    },
)


@given(JSON)
def test_any_json_is_a_sound_service_or_a_refusal(value: object) -> None:
    """What is accepted survives the log and can be shown."""
    try:
        spec = bodies.decode(msgspec.json.encode(value), ServiceSpec)
    except InvalidInput:
        return
    if not service_problems(spec):
        service = Service(id="x", spec=shapes.accepted(spec))
        decode(encode((PutService(service=service, expect=0),), Instant(1)))
        msgspec.json.encode(shapes.service(service, Store(), with_defaults=True))


RANGES = st.one_of(
    st.ip_addresses(v=4).map(str),
    st.builds("{}/{}".format, st.ip_addresses(), st.integers(0, 33)),
    st.sampled_from(
        ["", "10.9.0.0/24", "10.9.0.0/29", "10.9.0.1", "10.9.0.128/25", "10.9.0.9/32", "10/8"]
    ),
)


@given(RANGES, RANGES, RANGES, st.dictionaries(st.sampled_from("ab"), RANGES))
def test_any_addresses_are_a_sound_network_or_a_refusal(
    subnet: str, ip_range: str, gateway: str, others: dict[str, str]
) -> None:
    """What is accepted the state machine can read."""
    config = {
        "Subnet": subnet,
        "IPRange": ip_range,
        "Gateway": gateway,
        "AuxiliaryAddresses": others,
    }
    body = {"Name": "ov", "Driver": "overlay", "IPAM": {"Config": [config]}}
    spec = bodies.decode(msgspec.json.encode(body), NetworkSpec)
    if not network_problems(spec):
        backend = FakeBackend()
        with suppress(FailedPrecondition):
            backend.apply(PutNetwork(network=Network(id="n", spec=spec)))
            network = backend.store.network("n")
            assert network is not None
            msgspec.json.encode(network_shapes.network(network))


#: Nearly a secret or a config, with anything in any place.
FILES = JSON | st.fixed_dictionaries(
    {"Name": st.just("one"), "Data": st.sampled_from(["eA==", "eA", "-_", "="]) | LEAVES},
    optional={"Labels": JSON, "Driver": JSON, "Templating": JSON},
)


@given(FILES)
async def test_any_json_is_a_sound_secret_or_a_refusal(value: object) -> None:
    for kind in ("secrets", "configs"):
        backend = FakeBackend()
        api = Api(backend, Path("/nonexistent"))
        reply = await ask(api, "POST", f"/{kind}/create", value)
        assert reply.status in {201, 400}
        assert (reply.status == 400) is ((await ask(api, "GET", f"/{kind}")).json == [])


@given(JSON)
def test_any_json_is_a_sound_cluster_or_a_refusal(value: object) -> None:
    with suppress(InvalidInput):
        spec = bodies.decode(msgspec.json.encode(value), ClusterSpec)
        if not cluster_problems(spec):
            msgspec.json.encode(shapes.cluster_spec(spec))


@given(CONTAINERS)
def test_any_json_is_a_container_with_networks_or_without(body: dict[str, object]) -> None:
    """What of it is for the engine to refuse goes there as it came."""
    names = {name: name for name in attached.named(body)}
    attached.hostname(body)
    place = Endpoint("f" * 64, "10.9.0.5", "10.9.0.1", "front")
    for name in names:
        asked = attached.place(body, name)
        msgspec.json.encode((asked.address, asked.aliases))
        own, _ = attached.create_body(body, ident="c", names=names, endpoints={name: place})
        assert own["HostConfig"]["Dns"] == ["10.9.0.1"]
        msgspec.json.encode(own)


@given(st.binary(max_size=200))
def test_any_bytes_are_json_or_a_refusal(data: bytes) -> None:
    with suppress(InvalidInput):
        bodies.decode(data, ServiceSpec)


@given(st.one_of(st.text(max_size=100), JSON.map(lambda v: msgspec.json.encode(v).decode())))
def test_any_filter_is_understood_or_refused(text: str) -> None:
    view = FakeBackend().view()
    for known, matching in (
        (filters.NODE_FILTERS, filters.nodes),
        (filters.SERVICE_FILTERS, filters.services),
        (filters.TASK_FILTERS, filters.tasks),
    ):
        with suppress(InvalidInput):
            matching(view, filters.parse(text, known))


TOKEN = st.text("abcdefgXYZ-_.:%/?&={}\"'0123456789é \x00", max_size=30)

HEADS = st.builds(
    lambda method, path, query: f"{method} /{path}?{query} HTTP/1.1\r\nHost: x\r\n\r\n".encode(),
    st.sampled_from(["GET", "POST", "DELETE", "HEAD", "PUT"]),
    st.one_of(
        TOKEN,
        st.sampled_from(["v1.44/nodes", "services", "tasks/%ff", "v1.41/nodes/%2e%2e/update"]),
    ),
    st.one_of(TOKEN, TOKEN.map(lambda t: f"filters={t}"), TOKEN.map(lambda t: f"version={t}")),
)


@given(st.lists(st.one_of(HEADS, st.binary(max_size=60)), min_size=1, max_size=4))
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_bytes_on_a_connection_are_answered_or_refused(pieces: list[bytes]) -> None:
    """No handler breaks, and every status is one for clients' faults or an engine that is away."""

    async def main() -> bytes:
        api = Api(FakeBackend(), Path("/nonexistent/engine.sock"))
        near, far = trio.testing.memory_stream_pair()
        received = bytearray()

        async def send() -> None:
            with suppress(trio.BrokenResourceError):
                for piece in pieces:
                    await near.send_all(piece)
                await near.send_eof()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(api.http.serve_stream, far)
            nursery.start_soon(send)
            while data := await near.receive_some(65_536):
                received += data
        assert api.http.statistics().broken_handlers == 0
        assert api.http.statistics().broken_connections == 0
        assert api.http.statistics().connections == 0
        return bytes(received)

    received = trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    if received:
        client = h11.Connection(h11.CLIENT)
        client.send(h11.Request(method="POST", target="/", headers=[("Host", "x")]))
        client.receive_data(received)
        first = client.next_event()
        assert isinstance(first, h11.Response)
        assert first.status_code in {200, 400, 404, 408, 431, 500, 501, 503}
