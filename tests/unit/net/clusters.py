"""Clusters for hypothesis: records that fit together, of every sort."""

import base64

from hypothesis import strategies as st
from swarmlet.model.forwarding import (
    Attachment,
    NetworkRecord,
    PeerRecord,
    PublishedPort,
    Reach,
    ServiceRecord,
    Tables,
    TaskRecord,
)
from swarmlet.model.tunnels import TunnelKeys
from swarmlet.net.facts import HostFacts, Owner, OwnTunnel, Port
from swarmlet.net.numbers import bridge_name

NETWORKS = 4


def key(lane: int, number: int) -> str:
    return base64.b64encode(bytes([lane + 1]) * 30 + number.to_bytes(2, "big")).decode()


def keys(number: int, lane: int = 0, *, both: bool = False) -> TunnelKeys:
    """The keys of a node, which may be about to change its lane."""
    first, second = (key(n, number) if both or n == lane else "" for n in (0, 1))
    return TunnelKeys(lanes=(first, second), lane=lane)


def network(n: int, *, internal: bool = False, encrypted: bool = False) -> NetworkRecord:
    return NetworkRecord(
        id=f"net{n}",
        name=f"net-{n}",
        subnet=f"10.{n}.0.0/16",
        gateway=f"10.{n}.0.1",
        internal=internal,
        encrypted=encrypted,
    )


@st.composite
def clusters(draw: st.DrawFn) -> Tables:
    """A cluster, seen by one of its nodes."""
    numbers = draw(st.lists(st.integers(1, 4095), min_size=1, max_size=5, unique=True))
    networks = {
        f"net{n}": network(n, internal=draw(st.booleans()), encrypted=draw(st.booleans()))
        for n in range(1, NETWORKS)
    }
    services: dict[str, ServiceRecord] = {}
    tasks: dict[str, TaskRecord] = {}
    for s in range(draw(st.integers(0, 4))):
        joined = draw(st.lists(st.integers(1, NETWORKS - 1), min_size=1, max_size=3, unique=True))
        services[f"s{s}"] = ServiceRecord(
            id=f"s{s}",
            name=f"service-{s}",
            attachments=tuple(
                Attachment(f"net{n}", f"10.{n}.255.{s + 1}" if draw(st.booleans()) else "")
                for n in joined
            ),
            ports=tuple(
                PublishedPort(draw(st.sampled_from(["tcp", "udp", "sctp"])), 8000 + 10 * s + p, 80)
                for p in range(draw(st.integers(0, 2)))
            ),
            sticky=draw(st.booleans()),
            publish_address=draw(st.sampled_from(["", "192.0.2.1"])),
        )
        for t in range(draw(st.integers(0, 4))):
            key = f"s{s}t{t}"
            tasks[key] = TaskRecord(
                id=key,
                service_id=f"s{s}",
                name=f"service-{s}.{t}",
                node=draw(st.sampled_from(numbers)),
                attachments=tuple(Attachment(f"net{n}", f"10.{n}.{s}.{t + 10}") for n in joined),
                serving=draw(st.booleans()),
                weight=draw(st.integers(0, 1000)),
            )
    for c in range(draw(st.integers(0, 3))):
        joined = draw(st.lists(st.integers(1, NETWORKS - 1), min_size=1, max_size=3, unique=True))
        tasks[f"c{c}"] = TaskRecord(
            id=f"c{c}",
            service_id="",
            name=f"plain-{c}",
            node=draw(st.sampled_from(numbers)),
            attachments=tuple(Attachment(f"net{n}", f"10.{n}.200.{c}") for n in joined),
            serving=draw(st.booleans()),
        )
    return Tables(
        me=numbers[0],
        peers={
            f"p{n}": PeerRecord(
                id=f"p{n}",
                number=n,
                addr=f"192.0.2.{i + 1}",
                reach=draw(st.sampled_from(list(Reach))),
                tunnel=draw(
                    st.none() | st.builds(keys, st.just(n), st.integers(0, 1), both=st.booleans())
                ),
            )
            for i, n in enumerate(numbers)
        },
        networks=networks,
        services=services,
        tasks=tasks,
    )


@st.composite
def hosts(draw: st.DrawFn) -> HostFacts:
    """A host, with ports of bridges that may be anybody's."""
    own = draw(st.none() | st.builds(keys, st.just(5000), st.integers(0, 1), both=st.booleans()))
    return HostFacts(
        tunnel=OwnTunnel(own, warming=draw(st.booleans())) if own else None,
        has_address=draw(st.booleans()),
        underlay_mtu=draw(st.sampled_from([1400, 1500, 9000])),
        bridge_nf=draw(st.booleans()),
        gateways=frozenset({"02:42:00:00:00:01"}) if draw(st.booleans()) else frozenset(),
        accept_chain=draw(st.sampled_from(["", "DOCKER-USER", "FORWARD"])),
        ports={
            f"veth{n}": Port(
                bridge_name(f"net{n}"),
                number=n,
                owner=draw(st.none() | st.just(Owner(f"10.{n}.0.10", f"02:42:0a:{n:02x}:00:0a"))),
            )
            for n in draw(st.sets(st.integers(1, NETWORKS - 1)))
        },
    )
