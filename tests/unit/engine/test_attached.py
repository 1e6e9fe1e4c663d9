"""Plain containers as an engine is asked for them, and as it shows them."""

from typing import Any

import pytest
from swarmlet.engine import attached
from swarmlet.engine.attached import ATTACHED_LABEL, DNS_LABEL, Found
from swarmlet.engine.convert import TASK_LABEL
from swarmlet.engine.networks import Endpoint

Json = Any

FRONT = Endpoint("f" * 64, "10.9.0.5", "10.9.0.1", "front")
BACK = Endpoint("b" * 64, "10.9.1.5", "10.9.1.1", "back")


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ({}, []),
        ({"HostConfig": None, "NetworkingConfig": {"EndpointsConfig": None}}, []),
        ({"HostConfig": {"NetworkMode": "default"}}, []),
        ({"HostConfig": {"NetworkMode": "container:c"}}, []),
        ({"HostConfig": {"NetworkMode": "front"}}, ["front"]),
        (
            {
                "hostconfig": {"networkmode": "front"},
                "NetworkingConfig": {"EndpointsConfig": {"back": None, "front": {}}},
            },
            ["front", "back"],
        ),
        (
            {
                "HostConfig": {"NetworkMode": "bridge"},
                "NetworkingConfig": {"EndpointsConfig": {"front": {}, "bridge": {}}},
            },
            ["bridge", "front"],
        ),
        ({"NetworkingConfig": {"EndpointsConfig": {"front": {}}}}, ["front"]),
    ],
)
def test_a_create_names_its_networks_that_of_its_mode_first(body: Json, names: list[str]) -> None:
    assert attached.named(body) == names


def test_what_is_asked_for_in_a_network_is_read() -> None:
    config = {"IPAMConfig": {"IPv4Address": "10.9.0.7"}, "Aliases": ["a", "b"]}
    body = {"NetworkingConfig": {"EndpointsConfig": {"front": config, "back": None}}}
    asked = attached.place(body, "front")
    assert (asked.address, asked.aliases) == ("10.9.0.7", ("a", "b"))
    asked = attached.place(body, "back")
    assert (asked.address, asked.aliases) == ("", ())


def test_a_body_for_the_engine_has_the_address_the_resolver_and_who_it_is() -> None:
    """All else stays as it was asked for; further networks are connected later."""
    body: Json = {
        "Image": "i",
        "labels": {"a": "b"},
        "HostConfig": {"NetworkMode": "f-id", "Dns": ["9.9.9.9", "8.8.8.8"], "Memory": 7},
        "NetworkingConfig": {
            "EndpointsConfig": {
                "f-id": {"Aliases": ["x"], "IPAMConfig": {"LinkLocalIPs": ["l"]}},
                "back": None,
                "own": {"Aliases": ["y"]},
            }
        },
    }
    own, further = attached.create_body(
        body,
        ident="c1",
        names={"f-id": "front", "back": "back", "own": "own"},
        endpoints={"front": FRONT, "back": BACK},
    )
    assert own == {
        "Image": "i",
        "Labels": {"a": "b", ATTACHED_LABEL: "c1", DNS_LABEL: "9.9.9.9,8.8.8.8"},
        "HostConfig": {"NetworkMode": "front", "Dns": ["10.9.0.1", "10.9.1.1"], "Memory": 7},
        "NetworkingConfig": {
            "EndpointsConfig": {
                "front": {
                    "Aliases": ["x"],
                    "IPAMConfig": {"LinkLocalIPs": ["l"], "IPv4Address": "10.9.0.5"},
                }
            }
        },
    }
    assert further == {
        "back": {"IPAMConfig": {"IPv4Address": "10.9.1.5"}},
        "own": {"Aliases": ["y"]},
    }


def test_without_a_mode_the_first_network_becomes_it() -> None:
    body: Json = {"NetworkingConfig": {"EndpointsConfig": {"front": {}}}}
    own, _ = attached.create_body(
        body, ident="c1", names={"front": "front"}, endpoints={"front": FRONT}
    )
    assert own["HostConfig"] == {"NetworkMode": "front", "Dns": ["10.9.0.1"]}
    assert own["Labels"] == {ATTACHED_LABEL: "c1"}


def test_a_listed_container_is_read_and_a_tasks_is_not() -> None:
    listed = {
        "Id": "0123",
        "Names": ["/box"],
        "State": "exited",
        "Labels": {ATTACHED_LABEL: "c1", DNS_LABEL: "9.9.9.9"},
        "NetworkSettings": {
            "Networks": {
                "front": {"IPAMConfig": {"IPv4Address": "10.9.0.5"}, "IPAddress": ""},
                "bridge": {"IPAMConfig": None, "IPAddress": "172.17.0.2"},
                "none": None,
            }
        },
    }
    found = attached.found(listed)
    assert found == Found(
        label="c1",
        container_id="0123",
        name="box",
        places={"front": "10.9.0.5", "bridge": "172.17.0.2", "none": ""},
        nameservers=("9.9.9.9",),
    )
    seen = {"Name": "/new", "State": {"Status": "paused"}}
    assert found is not None
    assert attached.inspected(found, seen).running
    assert attached.inspected(found, seen).name == "new"
    assert attached.found({**listed, "Labels": {TASK_LABEL: "t1"}}) is None
