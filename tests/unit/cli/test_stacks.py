"""stack deploy, ls, ps, services, rm, validate, config against a fake daemon."""

import json
from pathlib import Path
from typing import Any

import pytest
from swarmlet.cli.stack_deploy import comparable, kept

from tests.fakes import swarm
from tests.fakes.api_server import FakeApi
from tests.unit.cli.conftest import Cli

Json = Any
SHOP = """
services:
  web: {image: "nginx:1.29", deploy: {replicas: 2}}
  db: {image: "postgres:17"}
"""
NAMESPACE = {"com.docker.stack.namespace": "shop"}


@pytest.fixture
def shop(tmp_path: Path) -> str:
    path = tmp_path / "shop.yml"
    path.write_text(SHOP)
    return str(path)


def _member(name: str, image: str, **how: Json) -> Json:
    """A service of the stack as the server shows it: with its defaults filled in."""
    found = swarm.service(f"shop_{name}", image=image, **how)
    found["Spec"]["Labels"] = NAMESPACE | {"com.docker.stack.image": image}
    found["Spec"]["TaskTemplate"] = {
        "ContainerSpec": {"Image": image, "Labels": NAMESPACE, "Isolation": "default"},
        "Placement": {},
        "Networks": [{"Target": swarm.network("shop_default")["Id"], "Aliases": [name]}],
        "ForceUpdate": 0,
        "Runtime": "container",
    }
    return found


def _running(api: FakeApi, *members: Json) -> None:
    """Services that exist and whose tasks run."""
    api.on("GET /services", list(members))
    tasks = {m["ID"]: _tasks(m) for m in members}
    for member in members:
        api.on(f"GET /services/{member['ID']}", member)
        api.on(f"POST /services/{member['ID']}/update", {"Warnings": None})
        api.on(f"DELETE /services/{member['ID']}", None)
    api.on(f"DELETE /networks/{swarm.network('shop_default')['Id']}", (204, None))
    every = [task for found in tasks.values() for task in found]
    api.on(
        "GET /tasks",
        lambda r: tasks[r.filters["service"][0]] if "_up-to-date" in r.filters else every,
    )


def _tasks(member: Json) -> list[Json]:
    count = member["Spec"]["Mode"]["Replicated"]["Replicas"]
    return [swarm.task(member, slot + 1) for slot in range(count)]


def _shop() -> tuple[Json, Json]:
    return _member("web", "nginx:1.29", replicas=2), _member("db", "postgres:17")


def test_deploy_creates_and_waits(api: FakeApi, cli: Cli, shop: str) -> None:
    web, db = _shop()
    _running(api, web, db)
    api.on("GET /services", [])
    created = iter([web, db])
    api.on("POST /services/create", lambda _: (201, {"ID": next(created)["ID"]}))
    result = cli("stack", "deploy", "--resolve-image", "never", "-c", shop, "shop")
    assert result.status == 0
    assert result.out == ""
    assert result.err.splitlines() == [
        "service shop_web  created",
        "service shop_db  created",
        "service shop_web: 2/2  running",
        "service shop_db: 1/1  running",
        "watching for 5 s that they stay up",
        "service shop_web: 2/2 converged",
        "service shop_db: 1/1 converged",
        "shop: 2 services converged in 5 s",
    ]
    first, _ = api.sent("POST /services/create")
    assert first.body["Name"] == "shop_web"
    assert first.body["Labels"] == NAMESPACE | {"com.docker.stack.image": "nginx:1.29"}


def test_deploying_the_same_again_changes_nothing(api: FakeApi, cli: Cli, shop: str) -> None:
    """Nothing may restart: not one update is sent."""
    _running(api, *_shop())
    result = cli("stack", "deploy", "-c", shop, "shop")
    assert result.status == 0
    assert result.err.count("unchanged") == 2
    assert not [r for r in api.requests if r.method == "POST"]


def test_deploying_a_change_updates_that_service_only(api: FakeApi, cli: Cli, shop: str) -> None:
    web, db = _member("web", "nginx:1.28", replicas=2), _member("db", "postgres:17")
    _running(api, web, db)
    assert cli("stack", "deploy", "-d", "-c", shop, "shop").status == 0
    [sent] = [r for r in api.requests if r.method == "POST"]
    assert sent.path == f"/services/{web['ID']}/update"
    assert sent.query == {"version": "11", "registryAuthFrom": "spec"}
    assert sent.body["TaskTemplate"]["ContainerSpec"]["Image"] == "nginx:1.29"


def test_an_update_that_meets_another_is_repeated(api: FakeApi, cli: Cli, shop: str) -> None:
    web, db = _member("web", "nginx:1.28", replicas=2), _member("db", "postgres:17")
    _running(api, web, db)
    answers = iter([(500, {"message": "update out of sequence"}), None])
    api.on(f"POST /services/{web['ID']}/update", lambda _: next(answers))
    assert cli("stack", "deploy", "-d", "-c", shop, "shop").status == 0


def test_an_image_stays_pinned_while_the_file_says_the_same() -> None:
    before = _member("web", "nginx:1.29")["Spec"]
    before["TaskTemplate"]["ContainerSpec"]["Image"] = "nginx:1.29@sha256:abc"
    spec = _member("web", "nginx:1.29")["Spec"]
    assert kept(spec, before) == comparable(before)


def test_what_has_the_users_own_keys_is_not_tidied() -> None:
    spec = {"Labels": {"Mode": "vip", "empty": ""}, "EndpointSpec": {"Mode": "vip"}, "X": 0}
    assert comparable(spec) == {"Labels": {"Mode": "vip", "empty": ""}}
    assert comparable({"Replicated": {"Replicas": 0}}) == {"Replicated": {"Replicas": 0}}


def test_services_that_left_the_file_are_named_or_pruned(api: FakeApi, cli: Cli, shop: str) -> None:
    old = _member("old", "x")
    _running(api, *_shop(), old)
    assert "shop_old  is not in the file" in cli("stack", "deploy", "-d", "-c", shop, "shop").err
    assert not api.sent(f"DELETE /services/{old['ID']}")
    assert cli("stack", "deploy", "-d", "--prune", "-c", shop, "shop").status == 0
    assert api.sent(f"DELETE /services/{old['ID']}")


def test_a_bad_file_names_all_and_deploys_nothing(api: FakeApi, cli: Cli) -> None:
    text = "services:\n  web:\n    image: x\n    depend_on: [a]\n    secrets: [n]\n"
    result = cli("stack", "deploy", "-c", "-", "shop", stdin=text)
    assert result.status == 8
    assert result.err.splitlines() == [
        "stdin:4:5: services.web.depend_on: unknown key; did you mean depends_on?",
        "    4 |     depend_on: [a]",
        "      |     ^^^^^^^^^",
        "stdin:5:5: services.web.secrets: not supported yet",
        "    5 |     secrets: [n]",
        "      |     ^^^^^^^",
        "error: 2 problems, nothing was deployed.",
        "  fix:  correct the file; the lines above say where",
        "  code: invalid   exit status 8",
    ]
    assert not api.requests


def test_a_stack_that_does_not_converge_names_the_task(api: FakeApi, cli: Cli, shop: str) -> None:
    web, db = _shop()
    _running(api, web, db)
    bad = swarm.task(db, 1, "failed", err="KeyError: 'DATABASE_URL'", desired="shutdown")
    api.on("GET /tasks", lambda r: [bad] if r.filters["service"] == [db["ID"]] else _tasks(web))
    result = cli("stack", "deploy", "--timeout", "2s", "-c", shop, "shop")
    assert result.status == 9
    assert "error: shop_db did not converge within 2 s: 0 of 1 tasks run" in result.err
    assert "why:  shop_db.1 on wrk-1: KeyError: 'DATABASE_URL'" in result.err


def test_ls_services_and_ps(api: FakeApi, cli: Cli) -> None:
    _running(api, *_shop())
    assert cli("stack", "ls").out.splitlines() == ["NAME   SERVICES", "shop   2"]
    assert [line.split()[1] for line in cli("stack", "services", "shop").out.splitlines()] == [
        "NAME",
        "shop_db",
        "shop_web",
    ]
    assert [line.split()[1] for line in cli("stack", "ps", "shop").out.splitlines()] == [
        "NAME",
        "shop_db.1",
        "shop_web.1",
        "shop_web.2",
    ]


@pytest.mark.parametrize("verb", ["ps", "services", "rm"])
def test_an_unknown_stack_is_exit_status_3(cli: Cli, verb: str) -> None:
    result = cli("stack", verb, "nope")
    assert result.status == 3
    assert "there is no stack nope" in result.err


def test_rm_wants_a_yes_on_a_pipe(api: FakeApi, cli: Cli) -> None:
    _running(api, *_shop())
    result = cli("stack", "rm", "shop")
    assert result.status == 7
    assert "add --yes" in result.err
    assert not [r for r in api.requests if r.method == "DELETE"]


def test_rm_waits_until_the_last_container_stopped(api: FakeApi, cli: Cli) -> None:
    web, db = _shop()
    _running(api, web, db)
    answers = iter([[swarm.task(web, 1), swarm.task(db, 1, "shutdown")], []])
    api.on("GET /tasks", lambda _: next(answers))
    result = cli("stack", "rm", "--yes", "--wait", "shop")
    assert result.status == 0
    assert result.out == "shop\n"
    assert result.err.splitlines() == [
        "Removing service shop_db",
        "Removing service shop_web",
        "stack shop: 1 task still stopping",
        "Removing network shop_default",
    ]


NETWORKS = """
services:
  web: {image: "nginx:1.29", networks: [front, theirs]}
networks:
  front: {internal: true}
  theirs: {external: true}
"""


def test_networks_come_before_services_and_are_named_by_identifier(api: FakeApi, cli: Cli) -> None:
    front, theirs = swarm.network("shop_front"), swarm.network("theirs")
    api.on("GET /networks/theirs", theirs)
    api.on("POST /networks/create", (201, {"Id": front["Id"], "Warning": "it rains"}))
    api.on("POST /services/create", (201, {"ID": "x"}))
    result = cli(
        *("stack", "deploy", "-d", "--resolve-image", "never", "-c", "-", "shop"), stdin=NETWORKS
    )
    assert result.status == 0, result.err
    assert result.err.splitlines()[:3] == [
        "warning: it rains",
        "network shop_front  created",
        "service shop_web  created",
    ]
    [made] = api.sent("POST /networks/create")
    assert (made.body["Name"], made.body["Internal"]) == ("shop_front", True)
    [sent] = api.sent("POST /services/create")
    assert sent.body["TaskTemplate"]["Networks"] == [
        {"Target": front["Id"], "Aliases": ["web"]},
        {"Target": theirs["Id"], "Aliases": ["web"]},
    ]


def test_a_network_of_others_must_exist(api: FakeApi, cli: Cli) -> None:
    result = cli("stack", "deploy", "-c", "-", "shop", stdin=NETWORKS)
    assert result.status == 3
    assert "the external network theirs does not exist, nothing was deployed" in result.err
    assert not [r for r in api.requests if r.method == "POST"]


def test_a_network_with_other_settings_is_named_and_stays(api: FakeApi, cli: Cli) -> None:
    text = NETWORKS.replace("theirs", "back").replace("external", "attachable")
    nets = [swarm.network("shop_front"), swarm.network("shop_back") | {"Attachable": True}]
    api.on("GET /networks", nets)
    api.on("POST /services/create", (201, {"ID": "x"}))
    result = cli(
        *("stack", "deploy", "-d", "--resolve-image", "never", "-c", "-", "shop"), stdin=text
    )
    assert result.status == 0
    assert "warning: network shop_front stays as it is" in result.err
    assert "shop_back" not in result.err


def test_rm_removes_networks_after_services(api: FakeApi, cli: Cli) -> None:
    web, _ = _shop()
    network = swarm.network("shop_default")
    _running(api, web)
    api.refuse(
        f"DELETE /networks/{network['Id']}", 400, "in use by service other", code="precondition"
    )
    refused = cli("stack", "rm", "--yes", "shop")
    assert refused.status == 1
    assert "in use by service other" in refused.err
    api.on("GET /services", [])
    api.on(f"DELETE /networks/{network['Id']}", (204, None))
    assert cli("stack", "rm", "--yes", "shop").err == "Removing network shop_default\n"
    paths = [r.path for r in api.requests if r.method == "DELETE"]
    assert paths == [f"/services/{web['ID']}", *[f"/networks/{network['Id']}"] * 2]


def test_validate_and_config_need_no_daemon(cli: Cli, api: FakeApi, shop: str) -> None:
    assert cli("stack", "validate", shop).err == "fine: 2 services\n"
    specs = json.loads(cli("stack", "config", "-c", shop, "shop").out)
    assert [s["Name"] for s in specs] == ["shop_web", "shop_db"]
    assert not api.requests
