"""service create, update, scale, rollback, rm, why: what is sent, and the wait after it."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import swarm
from tests.fakes.api_server import FakeApi, Request
from tests.unit.cli.conftest import Cli

Json = Any


def _created(api: FakeApi, tasks: Callable[[Json], list[Json]] | None = None, **how: Json) -> Json:
    """Let a service be created; its tasks run at once unless told otherwise."""
    web = swarm.service("web", **how)
    api.on("POST /services/create", (201, {"ID": web["ID"]}))
    api.on(f"GET /services/{web['ID']}", web)
    api.on("GET /services/web", web)
    api.on(f"POST /services/{web['ID']}/update", {"Warnings": None})
    count = how.get("replicas", 1)
    api.on("GET /tasks", (tasks or (lambda s: [swarm.task(s, i + 1) for i in range(count)]))(web))
    return web


def _spec(api: FakeApi) -> Json:
    return api.sent("POST /services/create")[0].body


def test_create_prints_the_id_and_waits(api: FakeApi, cli: Cli) -> None:
    web = _created(api, replicas=2)
    api.on("GET /distribution/nginx:1.29/json", {"Descriptor": {"digest": f"sha256:{'a' * 64}"}})
    result = cli("service", "create", "--name", "web", "--replicas", "2", "nginx:1.29")
    assert result.status == 0
    assert result.out == f"{web['ID']}\n"
    assert result.err.splitlines() == [
        "service web: 2/2  running",
        "watching for 5 s that they stay up",
        "service web: 2/2 converged",
    ]
    assert 5 <= cli.now < 6


def test_create_asks_for_tasks_that_are_up_to_date(api: FakeApi, cli: Cli) -> None:
    web = _created(api)
    cli("service", "create", "nginx")
    assert api.sent("GET /tasks")[0].filters == {"service": [web["ID"]], "_up-to-date": ["true"]}


def test_detached_means_at_once(api: FakeApi, cli: Cli) -> None:
    _created(api)
    assert cli("service", "create", "-d", "--no-resolve-image", "nginx").err == ""
    assert not api.sent("GET /tasks")


FLAGS = [
    (["--name", "web"], {"Name": "web"}),
    (["--mode", "global"], {"Mode": {"Global": {}}}),
    (["--replicas", "3"], {"Mode": {"Replicated": {"Replicas": 3}}}),
    (["--label", "a=b", "-l", "c"], {"Labels": {"a": "b", "c": ""}}),
    (["-e", "A=b=c"], "Env", ["A=b=c"]),
    (["--container-label", "a=b"], "Labels", {"a": "b"}),
    (["--user", "nobody"], "User", "nobody"),
    (["--workdir", "/srv"], "Dir", "/srv"),
    (["--hostname", "h"], "Hostname", "h"),
    (["--entrypoint", "sh -c 'a b'"], "Command", ["sh", "-c", "a b"]),
    (["--stop-signal", "SIGQUIT"], "StopSignal", "SIGQUIT"),
    (["--stop-grace-period", "1m30s"], "StopGracePeriod", 90_000_000_000),
    (["--init"], "Init", True),
    (["--no-init"], "Init", False),
    (["--read-only"], "ReadOnly", True),
    (["--cap-add", "net_admin"], "CapabilityAdd", ["CAP_NET_ADMIN"]),
    (["--cap-drop", "ALL"], "CapabilityDrop", ["ALL"]),
    (["--ulimit", "nofile=1024:2048"], "Ulimits", [
        {"Name": "nofile", "Soft": 1024, "Hard": 2048}]),
    (["--sysctl", "net.core.somaxconn=1"], "Sysctls", {"net.core.somaxconn": "1"}),
    (["--dns", "1.1.1.1", "--dns-search", "x"], "DNSConfig", {
        "Nameservers": ["1.1.1.1"], "Search": ["x"]}),
    (["--host", "db:10.0.0.5"], "Hosts", ["10.0.0.5 db"]),
    (["--no-healthcheck"], "Healthcheck", {"Test": ["NONE"]}),
    (["--health-cmd", "true", "--health-interval", "5s"], "Healthcheck", {
        "Test": ["CMD-SHELL", "true"], "Interval": 5_000_000_000}),
    (["--mount", "type=bind,src=/a,dst=/b,ro"], "Mounts", [
        {"Type": "bind", "Source": "/a", "Target": "/b", "ReadOnly": True}]),
    (["--mount", "type=tmpfs,target=/t,tmpfs-size=1M,tmpfs-mode=1777"], "Mounts", [
        {"Type": "tmpfs", "Target": "/t",
         "TmpfsOptions": {"SizeBytes": 1 << 20, "Mode": 0o1777}}]),
    (["--limit-cpu", ".5", "--limit-memory", "64m", "--limit-pids", "9"], "Resources", {
        "Limits": {"NanoCPUs": 500_000_000, "MemoryBytes": 64 << 20, "Pids": 9}}),
    (["--reserve-cpu", "1", "--reserve-memory", "1g"], "Resources", {
        "Reservations": {"NanoCPUs": 1_000_000_000, "MemoryBytes": 1 << 30}}),
    (["--constraint", "node.role == worker"], "Placement", {
        "Constraints": ["node.role == worker"]}),
    (["--placement-pref", "spread=node.labels.zone", "--replicas-max-per-node", "2"], "Placement", {
        "Preferences": [{"Spread": {"SpreadDescriptor": "node.labels.zone"}}], "MaxReplicas": 2}),
    (["--restart-condition", "on-failure", "--restart-delay", "0s"], "RestartPolicy", {
        "Condition": "on-failure", "Delay": 0}),
    (["--update-parallelism", "2", "--update-order", "start-first"], {
        "UpdateConfig": {"Parallelism": 2, "Order": "start-first"}}),
    (["--rollback-failure-action", "continue"], {
        "RollbackConfig": {"FailureAction": "continue", "Parallelism": 1}}),
    (["--update-parallelism", "0", "--update-delay", "1s"], {
        "UpdateConfig": {"Parallelism": 0, "Delay": 1_000_000_000}}),
    (["-p", "published=8080,target=80,mode=host"], {"EndpointSpec": {"Ports": [
        {"Protocol": "tcp", "TargetPort": 80, "PublishMode": "host", "PublishedPort": 8080}]}}),
    (["-p", "8080:80/udp"], {"EndpointSpec": {"Ports": [
        {"Protocol": "udp", "TargetPort": 80, "PublishedPort": 8080, "PublishMode": "ingress"}]}}),
    (["-p", "80-81:80-81", "-p", "8080:80"], {"EndpointSpec": {"Ports": [
        {"Protocol": "tcp", "TargetPort": t, "PublishedPort": p, "PublishMode": "ingress"}
        for p, t in ((80, 80), (81, 81), (8080, 80))]}}),
    (["-p", "target=80-81,mode=host"], {"EndpointSpec": {"Ports": [
        {"Protocol": "tcp", "TargetPort": t, "PublishMode": "host"} for t in (80, 81)]}}),
    (["--endpoint-mode", "dnsrr"], {"EndpointSpec": {"Mode": "dnsrr"}}),
    (["--network", "a", "--network", "name=b,alias=x,alias=y"], "Networks", [
        {"Target": "a"}, {"Target": "b", "Aliases": ["x", "y"]}]),
]  # fmt: skip
_OUTSIDE = ("Resources", "Placement", "RestartPolicy", "Networks")


@pytest.mark.parametrize("case", FLAGS, ids=lambda case: " ".join(case[0]))
def test_flags_become_dockers_fields(api: FakeApi, cli: Cli, case: Json) -> None:
    _created(api)
    result = cli("service", "create", "-d", *case[0], "nginx", "sleep", "-v")
    assert result.status == 0, result.err
    spec = _spec(api)
    assert spec["TaskTemplate"]["ContainerSpec"]["Args"] == ["sleep", "-v"]
    if len(case) == 2:
        assert case[1].items() <= spec.items()
    elif case[1] in _OUTSIDE:
        assert spec["TaskTemplate"][case[1]] == case[2]
    else:
        assert spec["TaskTemplate"]["ContainerSpec"][case[1]] == case[2]


def test_an_env_file_comes_before_single_values(api: FakeApi, cli: Cli, tmp_path: Path) -> None:
    _created(api)
    file = tmp_path / "env"
    file.write_text("# comment\nA=1\n\nB=2\n")
    cli("service", "create", "-d", "--env-file", str(file), "-e", "B=3", "nginx")
    assert _spec(api)["TaskTemplate"]["ContainerSpec"]["Env"] == ["A=1", "B=3"]


def test_the_login_goes_along_when_asked(
    api: FakeApi, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _created(api)
    auth = base64.b64encode(b"me:secret").decode()
    config = {"auths": {"reg.example:5000": {"auth": auth}}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    cli("service", "create", "-d", "--with-registry-auth", "reg.example:5000/x")
    cli("service", "create", "-d", "--with-registry-auth", "nginx")
    first, second = api.sent("POST /services/create")
    login = json.loads(base64.urlsafe_b64decode(first.headers["X-Registry-Auth"]))
    assert login["username"] == "me"
    assert "X-Registry-Auth" not in second.headers


def _update(api: FakeApi, cli: Cli, *args: str, **spec: Json) -> Json:
    web = _created(api, **spec)
    result = cli("service", "update", "-d", *args, "web")
    assert result.status == 0, result.err
    [sent] = api.sent(f"POST /services/{web['ID']}/update")
    assert sent.query["version"] == "11"
    return sent.body


def test_update_adds_and_removes_list_items(api: FakeApi, cli: Cli) -> None:
    container = {"Image": "nginx", "Env": ["A=1", "B=2"], "Mounts": [{"Target": "/x"}]}
    placement = {"Constraints": ["node.role == worker"]}
    template = {"ContainerSpec": container, "Placement": placement, "ForceUpdate": 3}
    body = _update(
        api,
        cli,
        *("--env-add", "B=3", "--env-rm", "A", "--mount-rm", "/x", "--image", "nginx:2"),
        *("--constraint-rm", "node.role==worker", "--label-add", "k=v", "--force"),
        TaskTemplate=template,
    )
    found = body["TaskTemplate"]
    assert found["ContainerSpec"] == {"Image": "nginx:2", "Env": ["B=3"], "Mounts": []}
    assert found["Placement"] == {"Constraints": []}
    assert found["ForceUpdate"] == 4
    assert body["Labels"] == {"k": "v"}


def test_update_without_an_option_for_a_field_keeps_it(api: FakeApi, cli: Cli) -> None:
    body = _update(api, cli, "--hostname", "h", UpdateConfig={"Parallelism": 2})
    assert body["UpdateConfig"] == {"Parallelism": 2}
    assert body["Mode"] == {"Replicated": {"Replicas": 1}}


def test_published_ports_are_removed_by_target(api: FakeApi, cli: Cli) -> None:
    ports = {"Ports": [{"TargetPort": 80, "Protocol": "tcp"}, {"TargetPort": 53}]}
    body = _update(api, cli, "--publish-rm", "80", EndpointSpec=ports)
    assert [p["TargetPort"] for p in body["EndpointSpec"]["Ports"]] == [53]


def test_scale_waits_for_all(api: FakeApi, cli: Cli) -> None:
    web = _created(api, replicas=2)
    result = cli("service", "scale", "web=2")
    assert result.out == "web scaled to 2\n"
    assert "service web: 2/2 converged" in result.err
    [sent] = api.sent(f"POST /services/{web['ID']}/update")
    assert sent.body["Mode"] == {"Replicated": {"Replicas": 2}}


def test_a_global_service_cannot_be_scaled(api: FakeApi, cli: Cli) -> None:
    _created(api, replicas=None, tasks=lambda _: [])
    result = cli("service", "scale", "web=2")
    assert result.status == 2
    assert "is global" in result.err


def test_rollback_asks_for_the_previous_spec(api: FakeApi, cli: Cli) -> None:
    web = _created(api)
    assert cli("service", "rollback", "-d", "web").status == 0
    [sent] = api.sent(f"POST /services/{web['ID']}/update")
    assert sent.query == {"version": "11", "rollback": "previous"}


def test_the_wait_shows_each_change_once_and_the_reason(api: FakeApi, cli: Cli) -> None:
    web = swarm.service("web", replicas=2)
    _created(api, replicas=2)
    why = "no suitable node (insufficient resources on 2 nodes)"
    cycles = [
        [],
        [swarm.task(web, 1, "preparing")],
        [swarm.task(web, 1, "preparing")],
        [swarm.task(web, 1), swarm.task(web, 2, "pending", host="", err=why)],
    ]
    polls: list[int] = []

    def tasks(_: Request) -> Json:
        polls.append(1)
        if len(polls) > len(cycles):
            return [swarm.task(web, 1), swarm.task(web, 2)]
        return cycles[len(polls) - 1]

    api.on("GET /tasks", tasks)
    result = cli("service", "create", "--no-resolve-image", "--replicas", "2", "nginx")
    assert result.err.splitlines() == [
        "service web: 0/2  2 waiting",
        "service web: 0/2  1 preparing · 1 waiting",
        "service web: 1/2  1 pending",
        f"  web.2: {why}",
        "service web: 2/2  running",
        "watching for 5 s that they stay up",
        "service web: 2/2 converged",
    ]


def test_a_task_that_falls_while_watched_starts_the_watch_again(api: FakeApi, cli: Cli) -> None:
    web = _created(api)
    polls: list[int] = []

    def tasks(_: Request) -> Json:
        polls.append(1)
        return [swarm.task(web, 1, "starting" if len(polls) == 10 else "running")]

    api.on("GET /tasks", tasks)
    assert cli("service", "create", "nginx").status == 0
    assert cli.now > 6.5


def test_the_timeout_names_the_task_and_its_error(api: FakeApi, cli: Cli) -> None:
    def failing(web: Json) -> list[Json]:
        return [
            swarm.task(web, 1, "failed", err="exit 1", age=9, desired="shutdown", number=n)
            for n in range(3)
        ]

    _created(api, failing)
    result = cli("service", "create", "--timeout", "3s", "nginx")
    assert result.status == 9
    assert result.err.splitlines()[-4:] == [
        "error: web did not converge within 3 s: 0 of 1 tasks run",
        "  why:  web.1 on wrk-1: exit 1 (3 times)",
        "  fix:  swarmlet service why web; it keeps trying",
        "  code: not-converged   exit status 9",
    ]


def test_a_paused_update_ends_the_wait(api: FakeApi, cli: Cli) -> None:
    web = _created(api)
    web["UpdateStatus"] = {"State": "paused", "Message": "task x failed"}
    result = cli("service", "update", "--image", "bad", "web")
    assert result.status == 9
    assert "the update was paused: task x failed" in result.err


def test_an_update_that_was_rolled_back_is_no_success(api: FakeApi, cli: Cli) -> None:
    """Though the service runs as its spec says in the end: that is not the one that was asked."""
    web = _created(api)
    why = "update rolled back due to failure or early termination of task x"
    polls: list[int] = []

    def service(_: Request) -> Json:
        polls.append(1)
        going = {"State": "rollback_started", "Message": why}
        done = {"State": "rollback_completed", "Message": "rollback completed"}
        return {**web, "UpdateStatus": going if len(polls) < 9 else done}

    api.on(f"GET /services/{web['ID']}", service)
    result = cli("service", "update", "--image", "bad", "web")
    assert result.status == 9
    assert f"the update was rolled back: {why}" in result.err
    assert len(polls) == 9


def test_a_lost_leader_is_waited_for(api: FakeApi, cli: Cli) -> None:
    """A write on the way survives an election; so does the wait for it."""
    web = _created(api)
    polls: list[int] = []

    def service(_: Request) -> Json:
        polls.append(1)
        gone = (503, {"message": "no leader", "code": "no-quorum"})
        return gone if 2 <= len(polls) <= 9 else web

    api.on(f"GET /services/{web['ID']}", service)
    result = cli("service", "create", "nginx")
    assert result.status == 0
    assert result.err.count("no answer at the moment") == 1


def test_silence_that_lasts_is_an_error(api: FakeApi, cli: Cli) -> None:
    web = _created(api)
    refused = (503, {"message": "no leader", "code": "no-quorum"})
    api.on(f"GET /services/{web['ID']}", refused)
    result = cli("service", "create", "nginx")
    assert result.status == 5
    assert cli.now > 30


def test_a_global_service_without_a_node_does_not_wait_for_ever(api: FakeApi, cli: Cli) -> None:
    _created(api, replicas=None, tasks=lambda _: [])
    result = cli("service", "create", "--mode", "global", "nginx")
    assert result.status == 0
    assert "no node fits" in result.err


def test_interrupting_the_wait_tells_how_to_follow(
    api: FakeApi, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    _created(api, replicas=1, tasks=lambda _: [])

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_sleep", interrupt)
    result = cli("service", "create", "--name", "web", "nginx")
    assert result.status == 130
    assert "it goes on without you; see it with: swarmlet service ps web" in result.err


def test_why_explains(api: FakeApi, cli: Cli) -> None:
    web = _created(api, replicas=2)
    why = "no suitable node (scheduling constraints not satisfied on 2 nodes)"
    api.on("GET /tasks", [swarm.task(web, 1), swarm.task(web, 2, "pending", host="", err=why)])
    assert cli("service", "why", "web").out.splitlines() == [
        "web: 1 of 2 tasks run.",
        "The others: 1 pending.",
        f"  web.2: {why}",
    ]


def test_why_tells_what_an_update_waits_for(api: FakeApi, cli: Cli) -> None:
    web = _created(api)
    words = "update in progress; waiting for task x: no suitable node"
    web["UpdateStatus"] = {"State": "updating", "Message": words}
    assert f"It is being updated: {words}." in cli("service", "why", "web").out


def test_task_why_explains(api: FakeApi, cli: Cli) -> None:
    web = _created(api)
    api.on("GET /services", [web])
    task = swarm.task(web, 1, "failed", err="exit 3")
    api.on(f"GET /tasks/{task['ID']}", task)
    told = cli("task", "why", task["ID"]).out
    assert "web.1" in told
    assert "It is failed since 3 seconds" in told
    assert "exit 3" in told


def test_rm_prints_the_names(api: FakeApi, cli: Cli) -> None:
    api.on("DELETE /services/web", None)
    assert cli("service", "rm", "web").out == "web\n"


def test_inspect_pretty_leaves_out_what_is_not_set(api: FakeApi, cli: Cli) -> None:
    _created(api)
    lines = cli("service", "inspect", "--pretty", "web").out.splitlines()
    assert "Image:        nginx:1.29" in lines
    assert not [line for line in lines if line.endswith(":")]


def test_a_task_that_falls_again_and_again_is_told_at_the_end(api: FakeApi, cli: Cli) -> None:
    """It runs at the very moment when the time is up: the reason is told all the same."""
    web = _created(api)
    polls: list[int] = []

    def tasks(_: Request) -> Json:
        polls.append(1)
        bad = swarm.task(web, 1, "failed", err="exit 3", age=9, desired="shutdown")
        state = "starting" if len(polls) % 10 == 1 else "running"
        return [bad, swarm.task(web, 1, state, number=1)]

    api.on("GET /tasks", tasks)
    result = cli("service", "create", "--timeout", "9s", "nginx")
    assert result.status == 9
    assert result.err.splitlines()[-4:-2] == [
        "error: web did not stay up within 9 s",
        "  why:  web.1 on wrk-1: exit 3",
    ]
    assert result.err.splitlines().count("  web.1 on wrk-1: exit 3") == 1


def test_a_timeout_shorter_than_the_watch_says_so(api: FakeApi, cli: Cli) -> None:
    _created(api)
    result = cli("service", "create", "--timeout", "2s", "nginx")
    assert result.status == 9
    assert "too short to see that they stay up" in result.err
