"""Which ports of a host a container cannot have beside services."""

from typing import Any

import pytest
from swarmlet.engine import host_ports
from swarmlet.model.forwarding import PublishedPort, ServiceRecord

Json = Any

WEB = ServiceRecord(id="web", name="web", ports=(PublishedPort("tcp", 8080, 80),))
AT = ServiceRecord(
    id="at", name="at", ports=(PublishedPort("udp", 53, 53),), publish_address="10.0.0.1"
)


def asking(port: str, ip: str = "", *, target: str = "80/tcp", mode: str = "default") -> Json:
    binding = {"HostIp": ip, "HostPort": port}
    return {"NetworkMode": mode, "PortBindings": {target: [binding]}}


@pytest.mark.parametrize(
    ("asked", "at", "service"),
    [
        (asking("8080"), "0.0.0.0:8080", WEB),
        (asking("8080", "127.0.0.1"), "127.0.0.1:8080", WEB),
        (asking("8079-8081", target="80"), "0.0.0.0:8080", WEB),
        (asking("53", target="53/udp"), "0.0.0.0:53", AT),
        (asking("53", "10.0.0.1", target="53/udp"), "10.0.0.1:53", AT),
    ],
)
def test_a_port_that_a_service_has_is_taken(asked: Json, at: str, service: ServiceRecord) -> None:
    assert host_ports.taken(asked, [WEB, AT]) == (at, service)


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"PortBindings": None},
        {"PortBindings": {"80/tcp": None}},
        asking(""),
        asking("0"),
        asking("8081"),
        asking("8080", target="80/udp"),
        asking("8080", "::1"),
        asking("8080", mode="host"),
        asking("8080", mode="container:x"),
        asking("53", "10.0.0.2", target="53/udp"),
        asking("53", target="53/tcp"),
    ],
)
def test_other_ports_are_free(asked: Json) -> None:
    assert host_ports.taken(asked, [WEB, AT]) is None
