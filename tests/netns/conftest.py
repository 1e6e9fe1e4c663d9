from collections.abc import Iterator

import pytest
from swarmlet.model.forwarding import Attachment, PublishedPort

from tests.netns.rig import Lan, lan_of

MODES = ("bridge-nf off", "bridge-nf on")


@pytest.fixture(scope="module", params=MODES)
def lan(request: pytest.FixtureRequest) -> Iterator[Lan]:
    """Three hosts with two services in two networks, and one in an internal network."""
    for lan in lan_of(3):
        bridge_nf(lan, request.param)
        populate(lan)
        yield lan


@pytest.fixture(params=MODES)
def fresh(request: pytest.FixtureRequest) -> Iterator[Lan]:
    """Two hosts of a test's own, which it may break."""
    for lan in lan_of(2):
        bridge_nf(lan, request.param)
        lan.network("red", 9)
        lan.service(
            "web",
            Attachment("red", "10.10.9.200"),
            ports=(PublishedPort("tcp", 8080, 80), PublishedPort("udp", 5353, 80)),
        )
        lan.task("web1", 1, Attachment("red", "10.10.9.11"))
        lan.task("web2", 2, Attachment("red", "10.10.9.12"))
        lan.give()
        yield lan


@pytest.fixture
def empty() -> Iterator[Lan]:
    """Two hosts that know each other."""
    yield from lan_of(2)


def bridge_nf(lan: Lan, mode: str) -> None:
    """Whether bridged packets pass iptables: some hosts need it, some cannot have it."""
    for host in lan.hosts.values():
        host.space.sysctl("net/bridge/bridge-nf-call-iptables", "1" if "on" in mode else "0")


def populate(lan: Lan) -> None:
    lan.network("red", 9)
    lan.network("blue", 10)
    lan.network("dark", 11, internal=True)
    lan.service(
        "web",
        Attachment("red", "10.10.9.200"),
        ports=(PublishedPort("tcp", 8080, 80), PublishedPort("udp", 5353, 80)),
    )
    lan.service(
        "far",
        Attachment("red", "10.10.9.201"),
        ports=(PublishedPort("tcp", 8081, 80), PublishedPort("sctp", 7777, 38_412)),
    )
    lan.service(
        "sticky",
        Attachment("red", "10.10.9.202"),
        ports=(PublishedPort("tcp", 8082, 80),),
        sticky=True,
    )
    lan.service(
        "none",
        Attachment("red", "10.10.9.203"),
        ports=(PublishedPort("tcp", 8083, 80), PublishedPort("udp", 8083, 80)),
    )
    lan.service(
        "one",
        Attachment("red", "10.10.9.204"),
        ports=(PublishedPort("tcp", 8084, 80),),
        publish_address="10.88.0.1",
    )
    # In both networks; published by the second, while its task's default route is in the first.
    lan.service(
        "both",
        Attachment("blue", "10.10.10.205"),
        Attachment("red", "10.10.9.205"),
        ports=(PublishedPort("tcp", 8085, 80),),
    )
    lan.service("dark", Attachment("dark", "10.10.11.206"), ports=(PublishedPort("tcp", 8086, 80),))
    lan.service("blue", Attachment("blue", "10.10.10.207"))
    for n in (1, 2, 3):
        lan.task(f"web{n}", n, Attachment("red", f"10.10.9.1{n}"))
        lan.task(f"sticky{n}", n, Attachment("red", f"10.10.9.3{n}"))
    lan.task("far3", 3, Attachment("red", "10.10.9.23"))
    lan.task("one2", 2, Attachment("red", "10.10.9.42"))
    lan.task("both2", 2, Attachment("red", "10.10.9.52"), Attachment("blue", "10.10.10.52"))
    lan.task("dark1", 1, Attachment("dark", "10.10.11.61"))
    lan.task("dark2", 2, Attachment("dark", "10.10.11.62"))
    lan.task("blue1", 1, Attachment("blue", "10.10.10.71"))
    lan.task("blue3", 3, Attachment("blue", "10.10.10.73"))
    lan.give()
    lan.settle()
