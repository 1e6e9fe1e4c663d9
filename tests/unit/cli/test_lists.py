"""Lists: Docker's columns, for people, for programs, for narrow terminals."""

import json

import pytest
from swarmlet.cli import ago
from swarmlet.cli.problems import BadValue
from swarmlet.cli.table import Column, render
from swarmlet.cli.template import parse

from tests.fakes import swarm
from tests.fakes.api_server import FakeApi
from tests.unit.cli.conftest import Cli


def test_service_ls_prints_dockers_columns(api: FakeApi, cli: Cli) -> None:
    ports = {"Ports": [{"TargetPort": 80, "PublishedPort": 8080, "PublishMode": "host"}]}
    api.on(
        "GET /services",
        [
            swarm.service("web10", replicas=None),
            swarm.service("web2", replicas=3, running=1, EndpointSpec=ports),
        ],
    )
    assert cli("service", "ls").out.splitlines() == [
        "ID             NAME    MODE         REPLICAS   IMAGE        PORTS",
        "svc-web20000   web2    replicated   1/3        nginx:1.29   *:8080->80/tcp host",
        "svc-web10000   web10   global       1/1        nginx:1.29",
    ]


def test_node_ls_marks_itself_and_the_leader(api: FakeApi, cli: Cli) -> None:
    del api
    assert cli("node", "ls").out.splitlines() == [
        (
            "ID                            HOSTNAME   STATUS   AVAILABILITY   MANAGER STATUS"
            "   ENGINE VERSION"
        ),
        "id-mgr-100000000000000000 *   mgr-1      Ready    Active         Leader           29.0.1",
        "id-wrk-100000000000000000     wrk-1      Ready    Active                          29.0.1",
    ]


def test_service_ps_shows_history_states_and_errors(api: FakeApi, cli: Cli) -> None:
    web = swarm.service("web")
    api.on("GET /services/web", web)
    api.on("GET /services", [web])
    api.on(
        "GET /tasks",
        [
            swarm.task(web, 1, "failed", err="exit 1: no such file", age=90, desired="shutdown"),
            swarm.task(web, 1, age=3, number=1),
        ],
    )
    assert cli("service", "ps", "web").out.splitlines() == [
        (
            "ID             NAME        IMAGE        NODE    DESIRED STATE   CURRENT STATE"
            "               ERROR"
        ),
        "tsk1-1-web00   web.1       nginx:1.29   wrk-1   Running         Running 3 seconds ago",
        (
            "tsk0-1-web00    \\_ web.1   nginx:1.29   wrk-1   Shutdown        "
            'Failed about a minute ago   "exit 1: no such file"'
        ),
    ]
    assert api.sent("GET /tasks")[0].filters == {"service": [web["ID"]]}


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--format", "json"], ('{"ID": "svc-web00000", "Name": "web", "Mode": "replicated", '
         '"Replicas": "1/1", "Image": "nginx:1.29", "Ports": ""}\n')),
        (["--format", "{{.Name}}\\t{{upper .Mode}}"], "web\tREPLICATED\n"),
        (["--format", "{{.Image | truncate 5}}"], "nginx\n"),
        (["--format", "table {{.Name}}\\t{{.Replicas}}"], "NAME   REPLICAS\nweb    1/1\n"),
        (["-q"], "svc-web00000\n"),
        (["-q", "--no-trunc"], "svc-web000000000000000000\n"),
    ],
)  # fmt: skip
def test_formats(api: FakeApi, cli: Cli, args: list[str], expected: str) -> None:
    api.on("GET /services", [swarm.service("web")])
    assert cli("service", "ls", *args).out == expected


def test_the_global_format_serves_where_a_command_has_none(api: FakeApi, cli: Cli) -> None:
    api.on("GET /services", [swarm.service("web")])
    web = swarm.service("web", Labels={"com.docker.stack.namespace": "shop"})
    api.on("GET /services", [web])
    assert json.loads(cli("--format", "json", "stack", "ls").out) == {
        "Name": "shop",
        "Services": "1",
    }


def test_filters_are_sent_in_dockers_form(api: FakeApi, cli: Cli) -> None:
    cli("service", "ls", "-f", "name=web", "-f", "label=a=b")
    assert api.sent("GET /services")[0].filters == {"name": ["web"], "label": ["a=b"]}


def test_inspect_prints_an_array(api: FakeApi, cli: Cli) -> None:
    api.on("GET /nodes/wrk-1", swarm.node("wrk-1"))
    [node] = json.loads(cli("node", "inspect", "wrk-1").out)
    assert node["Description"]["Hostname"] == "wrk-1"


WIDE = [{"N": "shop_api", "I": "registry.example.com/shop/api:1.9.1", "E": "exit 1: out of memory"}]
COLUMNS = (Column("NAME", "N", 0), Column("IMAGE", "I", 2), Column("ERROR", "E", 1))


@pytest.mark.parametrize("width", [20, 30, 40, 50, 60, 70, 80])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    lines = render(COLUMNS, WIDE, width=width)
    assert all(len(line) <= width for line in lines)
    assert "shop_api" in lines[1]


def test_the_column_that_matters_least_shrinks_first() -> None:
    assert render(COLUMNS, WIDE, width=55)[1] == (
        "shop_api   registry.example.co…   exit 1: out of memory"
    )


def test_a_pipe_gets_everything() -> None:
    assert WIDE[0]["I"] in render(COLUMNS, WIDE, width=None)[1]


def test_control_characters_in_cells_become_blanks() -> None:
    [_, line] = render((Column("NAME", "N"),), [{"N": "a\x1b[31mb\nc"}], width=None)
    assert line == "a [31mb c"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "less than a second"), (1, "1 second"), (59, "59 seconds"), (60, "about a minute"),
        (150, "2 minutes"), (3600, "about an hour"), (7200, "2 hours"), (172_800, "2 days"),
        (14 * 86_400, "2 weeks"), (90 * 86_400, "3 months"), (800 * 86_400, "2 years"),
    ],
)  # fmt: skip
def test_ages_are_dockers_words(seconds: int, words: str) -> None:
    assert ago.span(seconds) == words


@pytest.mark.parametrize(
    "stamp",
    ["", "never", "0001-01-01T00:00:00Z", "2025-13-01"],
    ids=["none", "word", "zero", "bad"],
)
def test_no_time_is_no_age(stamp: str) -> None:
    assert ago.age(stamp) == ""


@pytest.mark.parametrize(
    "source", ["plain", "{{", "{{.Name", "{{if .A}}x{{end}}", "{{join .A}}", "{{truncate .A x}}"]
)
def test_a_template_that_is_not_understood_is_refused(source: str) -> None:
    with pytest.raises(BadValue, match="--format does not understand"):
        parse(source)


def test_templates_reach_into_objects() -> None:
    data = {"Spec": {"Labels": {"zone": "a"}, "Args": ["x", "y"]}, "N": 3}
    assert parse("{{.Spec.Labels.zone}} {{.N}}").render(data) == "a 3"
    assert parse('{{join .Spec.Args ","}}').render(data) == "x,y"
    assert json.loads(parse("{{json .}}").render(data)) == data
    with pytest.raises(BadValue) as caught:
        parse("{{.Nmae}}").render(data)
    assert caught.value.why == "there are N, Spec"
