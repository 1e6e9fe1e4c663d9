"""network …, the networks of services, service endpoints: what is sent and what is said."""

from typing import Any

import pytest

from tests.fakes import swarm
from tests.fakes.api_server import FakeApi
from tests.unit.cli.conftest import Cli

Json = Any

OV = {"Id": "n".ljust(25, "1"), "Name": "ov", "Driver": "overlay", "Scope": "swarm"}
BRIDGE = {"Id": "b" * 64, "Name": "bridge", "Driver": "bridge", "Scope": "local"}


@pytest.fixture(autouse=True)
def networks(api: FakeApi) -> None:
    api.on("GET /networks", [OV, BRIDGE])
    api.on("GET /networks/ov", OV)
    api.on("POST /networks/create", (201, {"Id": OV["Id"], "Warning": ""}))


def test_create_sends_an_overlay_unless_told_otherwise(api: FakeApi, cli: Cli) -> None:
    result = cli("network", "create", "ov")
    assert (result.status, result.out, result.err) == (0, f"{OV['Id']}\n", "")
    [sent] = api.sent("POST /networks/create")
    assert sent.body == {
        "Name": "ov",
        "Driver": "overlay",
        "IPAM": {"Driver": "default", "Config": []},
        "Attachable": False,
        "Internal": False,
        "Ingress": False,
        "Options": {},
        "Labels": {},
        "CheckDuplicate": True,
    }


def test_create_sends_all_that_was_said(api: FakeApi, cli: Cli) -> None:
    api.on("POST /networks/create", (201, {"Id": "x", "Warning": "Options.a has no effect"}))
    result = cli(
        *("network", "create", "--subnet", "10.9.0.0/24", "--ip-range", "10.9.0.0/25"),
        *("--gateway", "10.9.0.9", "--aux-address", "tv=10.9.0.7", "--attachable", "--internal"),
        *("--opt", "a=b", "--label", "c", "ov"),
    )
    assert "warning: Options.a has no effect" in result.err
    [sent] = api.sent("POST /networks/create")
    assert sent.body["IPAM"]["Config"] == [
        {
            "Subnet": "10.9.0.0/24",
            "IPRange": "10.9.0.0/25",
            "Gateway": "10.9.0.9",
            "AuxiliaryAddresses": {"tv": "10.9.0.7"},
        }
    ]
    assert (sent.body["Attachable"], sent.body["Internal"]) == (True, True)
    assert (sent.body["Options"], sent.body["Labels"]) == ({"a": "b"}, {"c": ""})
    assert cli("network", "create", "--label", "=x", "ov").status == 2


def test_ls_prints_dockers_columns(api: FakeApi, cli: Cli) -> None:
    assert cli("network", "ls").out.splitlines() == [
        "NETWORK ID     NAME     DRIVER    SCOPE",
        "bbbbbbbbbbbb   bridge   bridge    local",
        "n11111111111   ov       overlay   swarm",
    ]
    assert cli("network", "ls", "-q", "--no-trunc", "-f", "name=ov").out == (
        f"{BRIDGE['Id']}\n{OV['Id']}\n"
    )
    assert api.requests[-1].filters == {"name": ["ov"]}


def test_inspect_and_rm(api: FakeApi, cli: Cli) -> None:
    assert '"Name": "ov"' in cli("network", "inspect", "-v", "ov").out
    assert api.requests[-1].query == {"verbose": "true"}
    api.on("DELETE /networks/ov", (204, None))
    assert cli("network", "rm", "ov").out == "ov\n"
    api.refuse("DELETE /networks/ov", 400, "network ov is in use by service web")
    refused = cli("network", "rm", "ov")
    assert refused.status != 0
    assert "in use by service web" in refused.err


def test_prune_asks_and_prints_what_went(api: FakeApi, cli: Cli) -> None:
    api.on("POST /networks/prune", {"NetworksDeleted": ["ov"]})
    assert cli("network", "prune").status == 7
    assert cli("network", "prune", "--yes", "-f", "until=24h").out == "ov\n"
    assert api.requests[-1].filters == {"until": ["24h"]}


def test_update_names_networks_by_identifier(api: FakeApi, cli: Cli) -> None:
    """The spec holds identifiers: a name would not be found in it."""
    other = {**OV, "Id": "o" * 25, "Name": "other"}
    api.on("GET /networks/other", other)
    template = {
        "ContainerSpec": {"Image": "nginx:1.29"},
        "Networks": [{"Target": OV["Id"]}, {"Target": "kept"}],
    }
    web = swarm.service("web", TaskTemplate=template)
    api.on("GET /services/web", web)
    api.on(f"POST /services/{web['ID']}/update", {"Warnings": None})
    result = cli(
        *("service", "update", "-d", "--network-rm", "ov"),
        *("--network-add", "name=other,alias=x", "web"),
    )
    assert result.status == 0, result.err
    [sent] = api.sent(f"POST /services/{web['ID']}/update")
    assert sent.body["TaskTemplate"]["Networks"] == [
        {"Target": "kept"},
        {"Target": other["Id"], "Aliases": ["x"]},
    ]
    assert cli("service", "update", "--network-add", "alias=x", "web").status == 2


def test_init_says_where_networks_get_their_addresses(api: FakeApi, cli: Cli) -> None:
    api.on("POST /swarm/init", swarm.node("mgr-1")["ID"])
    cli(
        *("init", "--default-addr-pool", "172.30.0.0/16", "--default-addr-pool", "10.9.0.0/16"),
        *("--default-addr-pool-mask-length", "26", "--data-path-port", "7789"),
    )
    [sent] = api.sent("POST /swarm/init")
    assert sent.body["DefaultAddrPool"] == ["172.30.0.0/16", "10.9.0.0/16"]
    assert (sent.body["SubnetSize"], sent.body["DataPathPort"]) == (26, 7789)


def test_endpoints_says_whose_node_is_down(api: FakeApi, cli: Cli) -> None:
    """Its tasks may be there still: nobody can tell, and nobody is sent to them."""
    web, lost = swarm.service("web"), swarm.node("wrk-1", state="down")
    task = swarm.task(web, 1, desired="shutdown")
    network = {"ID": OV["Id"], "Spec": {"Name": "ov"}}
    task["NetworksAttachments"] = [{"Network": network, "Addresses": ["10.0.1.3/24"]}]
    task["NodeID"] = lost["ID"]
    api.on("GET /nodes", [lost])
    api.on("GET /services/web", web)
    api.on("GET /tasks", [task])
    api.on(f"GET /swarmlet/services/{web['ID']}/connections", {"Connections": {}})
    *_, row = cli("service", "endpoints", "web").out.splitlines()
    assert row.split() == ["ov", "10.0.1.3", "web.1", "wrk-1", "node", "down", "1", "?"]


def test_endpoints_shows_who_answers_where(api: FakeApi, cli: Cli) -> None:
    web = swarm.service("web", replicas=2)
    web["Endpoint"] = {
        "VirtualIPs": [{"NetworkID": OV["Id"], "Addr": "10.0.1.2/24"}],
        "Ports": [
            {"TargetPort": 80, "PublishedPort": 30000, "PublishMode": "ingress"},
            {"TargetPort": 80, "PublishedPort": 8080, "PublishMode": "host"},
        ],
    }
    web["Spec"]["Labels"] = {"swarmlet.publish.address": "192.0.2.1"}
    tasks = [
        swarm.task(web, 1),
        swarm.task(web, 2, "starting"),
        swarm.task(web, 3, desired="shutdown"),
        swarm.task(web, 1, "shutdown", desired="shutdown"),
    ]
    for number, task in enumerate(tasks):
        labels = {"swarmlet.lb.weight": "3"} if number else {}
        task["Spec"] = {"ContainerSpec": {"Image": "x", "Labels": labels}}
        network = {"ID": OV["Id"], "Spec": {"Name": "ov"}}
        task["NetworksAttachments"] = [
            {"Network": network, "Addresses": [f"10.0.1.{number + 3}/24"]}
        ]
    api.on("GET /services/web", web)
    api.on("GET /tasks", tasks)
    counted = {tasks[0]["ID"]: 12, tasks[1]["ID"]: 0}
    api.on(f"GET /swarmlet/services/{web['ID']}/connections", {"Connections": counted})
    assert cli("service", "endpoints", "web").out.splitlines() == [
        "NETWORK   ADDRESS                   ENDPOINT   NODE    STATE      WEIGHT   CONNECTIONS",
        "ov        10.0.1.2                  web                virtual",
        "(nodes)   192.0.2.1:30000->80/tcp   web                all",
        "(nodes)   *:8080->80/tcp            web                host",
        "ov        10.0.1.3                  web.1      wrk-1   serving    1        12",
        "ov        10.0.1.4                  web.2      wrk-1   starting   3        0",
        "ov        10.0.1.5                  web.3      wrk-1   stopping   3        ?",
    ]
