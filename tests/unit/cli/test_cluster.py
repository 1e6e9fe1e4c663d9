"""init, join, leave, join-token, update, node …: what is sent and what is said."""

import json

import pytest

from tests.fakes import swarm
from tests.fakes.api_server import FakeApi
from tests.unit.cli.conftest import Cli

TOKENS = {"Worker": "SWMTKN-1-aaa-worker", "Manager": "SWMTKN-1-aaa-manager"}
SWARM = {"JoinTokens": TOKENS, "Version": {"Index": 9}, "Spec": {"Labels": {"a": "b"}}}


@pytest.fixture(autouse=True)
def swarm_api(api: FakeApi) -> None:
    node = swarm.node("mgr-1", leader=True)
    api.on("POST /swarm/init", node["ID"])
    api.on(f"GET /nodes/{node['ID']}", node)
    api.on("GET /swarm", SWARM)
    for route in ("join", "leave", "update"):
        api.on(f"POST /swarm/{route}", None)


def test_init_prints_the_join_command_alone_on_a_pipe(cli: Cli, api: FakeApi) -> None:
    result = cli("init", "--advertise-addr", "10.0.0.11")
    assert result.status == 0
    assert result.out == "swarmlet join --token SWMTKN-1-aaa-worker 10.0.0.11:2377\n"
    assert "Swarm initialized: node mgr-1 (id-mgr-1" in result.err
    assert "swarmlet join-token manager" in result.err
    [sent] = api.sent("POST /swarm/init")
    assert sent.body["AdvertiseAddr"] == "10.0.0.11"
    assert sent.body["ForceNewCluster"] is False


def test_init_speaks_json(cli: Cli) -> None:
    formed = json.loads(cli("swarm", "init", "--format", "json").out)
    assert formed["JoinTokens"] == TOKENS
    assert formed["Address"] == "10.0.0.11:2377"


def test_force_new_cluster_wants_a_yes(cli: Cli, api: FakeApi) -> None:
    result = cli("init", "--force-new-cluster")
    assert result.status == 7
    assert "add --yes" in result.err
    assert not api.sent("POST /swarm/init")
    assert cli("init", "--force-new-cluster", "--yes").status == 0


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("10.0.0.11", "10.0.0.11:2377"),
        ("10.0.0.11:9", "10.0.0.11:9"),
        ("fd00::1", "[fd00::1]:2377"),
        ("[fd00::1]:9", "[fd00::1]:9"),
        ("mgr.example", "mgr.example:2377"),
    ],
)
def test_join_adds_the_port(cli: Cli, api: FakeApi, given: str, sent: str) -> None:
    api.on("GET /info", swarm.info("wrk-1", manager=False))
    result = cli("join", "--token", "SWMTKN-1-aaa-worker", given)
    assert result.status == 0
    assert "joined the cluster as a worker" in result.err
    assert api.sent("POST /swarm/join")[0].body["RemoteAddrs"] == [sent]


def test_what_a_manager_that_leaves_does_to_its_cluster_is_for_the_daemon_to_say(
    cli: Cli, api: FakeApi
) -> None:
    """It knows whether this is the last one, which nobody can demote."""
    api.refuse(
        "POST /swarm/leave",
        503,
        "Removing the last manager erases all current state of the swarm.",
        code="unavailable",
        advice="add a manager",
    )
    result = cli("leave")
    assert result.status == 6
    assert "erases all current state" in result.err
    assert "fix:  add a manager" in result.err
    assert api.sent("POST /swarm/leave")[0].query == {"force": "0"}


def test_a_manager_leaves_by_force_after_a_yes(cli: Cli, api: FakeApi) -> None:
    assert cli("leave", "--force").status == 7
    assert not api.sent("POST /swarm/leave")
    result = cli("leave", "--force", "--yes")
    assert result.status == 0
    assert api.sent("POST /swarm/leave")[0].query == {"force": "1"}


def test_a_worker_just_leaves(cli: Cli, api: FakeApi) -> None:
    api.on("GET /info", swarm.info("wrk-1", manager=False))
    assert cli("leave").status == 0


def test_join_token_prints_a_line_to_paste(cli: Cli) -> None:
    result = cli("join-token", "manager")
    assert result.out == "swarmlet join --token SWMTKN-1-aaa-manager 10.0.0.11:2377\n"
    assert cli("join-token", "-q", "worker").out == "SWMTKN-1-aaa-worker\n"


def test_rotation_names_the_version_that_was_read(cli: Cli, api: FakeApi) -> None:
    assert cli("join-token", "--rotate", "worker").status == 0
    [sent] = api.sent("POST /swarm/update")
    assert sent.query == {"version": "9", "rotateWorkerToken": "true"}
    assert sent.body == SWARM["Spec"]


def test_update_keeps_what_it_does_not_change(cli: Cli, api: FakeApi) -> None:
    cli("update", "--suspect-after", "3s", "--down-after", "1500ms", "--task-history-limit", "2")
    [sent] = api.sent("POST /swarm/update")
    assert sent.body == {
        "Labels": {
            "a": "b",
            "swarmlet.failure.suspect-after": "3",
            "swarmlet.failure.down-after": "1.5",
        },
        "Orchestration": {"TaskHistoryRetentionLimit": 2},
    }


def test_update_sets_periods_in_nanoseconds(cli: Cli, api: FakeApi) -> None:
    cli("update", "--dispatcher-heartbeat", "2s", "--cert-expiry", "24h")
    body = api.sent("POST /swarm/update")[0].body
    assert body["Dispatcher"] == {"HeartbeatPeriod": 2_000_000_000}
    assert body["CAConfig"] == {"NodeCertExpiry": 86_400_000_000_000}


def test_info_and_version(cli: Cli, api: FakeApi) -> None:
    assert "Manager:   yes" in cli("info").out
    parts = [{"Name": "Engine", "Version": "29.0.1"}, {"Name": "swarmlet", "Version": "0.2"}]
    api.on("GET /version", {"Version": "29.0.1", "ApiVersion": "1.47", "Components": parts})
    assert cli("version").out.splitlines()[1:] == [
        "Server: swarmlet 0.2, API 1.47",
        "Engine: 29.0.1",
    ]
    assert json.loads(cli("version", "--format", "json").out)["Server"]["ApiVersion"] == "1.47"


def test_version_works_without_a_daemon(cli: Cli) -> None:
    result = cli("-H", "unix:///nonexistent/x.sock", "version")
    assert result.status == 0
    assert "does not answer" in result.out


def _node_routes(api: FakeApi, name: str) -> str:
    node = swarm.node(name)
    api.on(f"GET /nodes/{name}", node)
    api.on(f"GET /nodes/{node['ID']}", node)
    api.on(f"POST /nodes/{node['ID']}/update", None)
    api.on(f"DELETE /nodes/{node['ID']}", None)
    return f"POST /nodes/{node['ID']}/update"


@pytest.mark.parametrize(
    ("args", "field", "value"),
    [
        (["promote", "wrk-1"], "Role", "manager"),
        (["drain", "wrk-1"], "Availability", "drain"),
        (["update", "--availability", "pause", "wrk-1"], "Availability", "pause"),
        (["update", "--label-add", "zone=a", "wrk-1"], "Labels", {"zone": "a"}),
    ],
)
def test_node_changes_write_the_whole_spec_back(
    cli: Cli, api: FakeApi, args: list[str], field: str, value: object
) -> None:
    route = _node_routes(api, "wrk-1")
    assert cli("node", *args).status == 0
    [sent] = api.sent(route)
    assert sent.query == {"version": "7"}
    assert sent.body[field] == value
    assert {"Role", "Availability", "Labels"} <= set(sent.body)


def test_a_change_that_meets_another_is_repeated(cli: Cli, api: FakeApi) -> None:
    """Heartbeats change a node's version at any moment; the user should not see that."""
    route = _node_routes(api, "wrk-1")
    answers = iter([(500, {"message": "rpc error: update out of sequence"}), None])
    api.on(route, lambda _: next(answers))
    assert cli("node", "drain", "wrk-1").status == 0
    assert len(api.sent(route)) == 2


def test_what_is_so_already_is_not_written(cli: Cli, api: FakeApi) -> None:
    route = _node_routes(api, "wrk-1")
    assert "already a worker" in cli("node", "demote", "wrk-1").out
    assert not api.sent(route)


def test_one_failure_of_several_does_not_stop_the_others(cli: Cli, api: FakeApi) -> None:
    _node_routes(api, "wrk-1")
    result = cli("node", "rm", "nope", "wrk-1")
    assert result.status == 1
    assert result.out == "wrk-1\n"
    assert "1 of 2 failed" in result.err


def test_drain_can_wait_until_the_node_is_empty(cli: Cli, api: FakeApi) -> None:
    _node_routes(api, "wrk-1")
    web = swarm.service("web")
    answers = iter([[swarm.task(web, 1), swarm.task(web, 2)], [swarm.task(web, 1)], []])
    api.on("GET /tasks", lambda _: next(answers))
    result = cli("node", "drain", "--wait", "wrk-1")
    assert result.err.splitlines() == [
        "wrk-1: 2 tasks still there",
        "wrk-1: 1 task still there",
    ]
    assert result.out == "Node wrk-1 is empty.\n"


@pytest.mark.parametrize(
    "args", [["node", "ls"], ["node", "ps"], ["node", "inspect", "self"], ["join-token", "worker"]]
)
def test_which_node_answers_is_not_asked_of_its_engine(
    cli: Cli, api: FakeApi, args: list[str]
) -> None:
    """``/info`` waits for the engine, which may hang: just then people want to see the nodes."""
    assert cli(*args).status == 0
    assert not api.sent("GET /info")


def test_node_ps_asks_for_this_node(cli: Cli, api: FakeApi) -> None:
    assert cli("node", "ps").status == 0
    assert api.sent("GET /tasks")[0].filters == {"node": [swarm.node("mgr-1")["ID"]]}


def test_node_inspect_pretty(cli: Cli, api: FakeApi) -> None:
    _node_routes(api, "wrk-1")
    assert "Role:          worker" in cli("node", "inspect", "--pretty", "wrk-1").out
