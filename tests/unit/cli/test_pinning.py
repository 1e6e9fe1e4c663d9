"""Digests of images: who is asked, what is sent, and what happens when nobody answers."""

import base64
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from swarmlet.cli import pinning
from swarmlet.cli.pinning import same_name, tagged
from swarmlet.cli.problems import BadValue
from swarmlet.cli.registry import auth_header

from tests.fakes import swarm
from tests.fakes.api_server import FakeApi, Request
from tests.unit.cli.conftest import Cli

Json = Any
DIGEST = f"sha256:{'a' * 64}"
OTHER = f"sha256:{'b' * 64}"
AMD64 = {"Architecture": "amd64", "OS": "linux"}
WARNING = (
    "image {0} could not be accessed on a registry to record its digest. Each node will access {0}"
    " independently, possibly leading to different nodes running different versions of the image."
)
FILE = """
services:
  web: {image: nginx}
  api: {image: nginx}
  db: {image: "reg.example:5000/team/postgres:17"}
"""
POSTGRES = "reg.example:5000/team/postgres:17"


def _known(api: FakeApi, name: str, digest: str = DIGEST) -> None:
    found = {
        "Descriptor": {"mediaType": "…", "digest": digest, "size": 1},
        "Platforms": [{"architecture": "amd64", "os": "linux", "variant": "v1"}],
    }
    api.on(f"GET /distribution/{name}/json", found)


def _service(api: FakeApi, image: str = "nginx", **how: Json) -> Json:
    template = {"ContainerSpec": {"Image": image}, "Placement": how.pop("placement", {})}
    web = swarm.service("web", TaskTemplate=template, **how)
    api.on("POST /services/create", (201, {"ID": web["ID"]}))
    api.on("GET /services/web", web)
    api.on(f"POST /services/{web['ID']}/update", {"Warnings": None})
    return web


def _sent(api: FakeApi, route: str) -> Json:
    [request] = api.sent(route)
    return request.body


def _image(spec: Json) -> str:
    return str(spec["TaskTemplate"]["ContainerSpec"]["Image"])


@pytest.fixture
def stack(api: FakeApi, tmp_path: Path) -> tuple[str, ...]:
    """A stack of three services that is not deployed yet; the command that deploys it."""
    path = tmp_path / "stack.yml"
    path.write_text(FILE)
    api.on("POST /services/create", lambda r: (201, {"ID": f"id-of-{r.body['Name']}"}))
    return ("stack", "deploy", "-d", "-c", str(path), "shop")


def _deployed(api: FakeApi) -> dict[str, Json]:
    """Let the services that were created be those that exist; returns them by name."""
    found = {}
    for request in api.sent("POST /services/create"):
        service = {"ID": f"id-of-{request.body['Name']}", "Version": {"Index": 11}}
        service["Spec"] = request.body
        found[request.body["Name"]] = service
        api.on(f"POST /services/{service['ID']}/update", {"Warnings": None})
    api.on("GET /services", list(found.values()))
    api.requests.clear()
    return found


def _updates(api: FakeApi) -> dict[str, Json]:
    return {r.body["Name"]: r.body for r in api.requests if r.path.endswith("/update")}


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("nginx", "nginx:latest"),
        ("nginx:1.29", "nginx:1.29"),
        ("docker.io/library/nginx", "nginx:latest"),
        ("docker.io/team/app:1", "team/app:1"),
        ("index.docker.io/nginx", "nginx:latest"),
        ("reg.example:5000/library/x", "reg.example:5000/library/x:latest"),
        ("localhost/x:2", "localhost/x:2"),
    ],
)
def test_names_are_written_as_docker_writes_them(image: str, name: str) -> None:
    assert tagged(image) == name
    assert same_name(f"{name}@{DIGEST}", image)


def test_create_records_the_digest_and_the_platforms(api: FakeApi, cli: Cli) -> None:
    _service(api)
    _known(api, POSTGRES)
    result = cli("service", "create", "-d", "--constraint", "node.role==worker", POSTGRES)
    assert result.err == ""
    spec = _sent(api, "POST /services/create")
    assert _image(spec) == f"{POSTGRES}@{DIGEST}"
    placement = {"Constraints": ["node.role==worker"], "Platforms": [AMD64]}
    assert spec["TaskTemplate"]["Placement"] == placement


@pytest.mark.parametrize("image", [f"nginx@{DIGEST}", f"nginx:1.29@{DIGEST}"])
def test_a_pinned_image_is_nobodys_question(api: FakeApi, cli: Cli, image: str) -> None:
    _service(api)
    assert cli("service", "create", "-d", image).err == ""
    assert _image(_sent(api, "POST /services/create")) == image
    assert len(api.requests) == 1


def test_nobody_is_asked_who_shall_not_be(api: FakeApi, cli: Cli) -> None:
    web = _service(api, f"nginx:1@{DIGEST}", placement={"Platforms": [AMD64]})
    cli("service", "create", "-d", "--no-resolve-image", "nginx")
    assert _image(_sent(api, "POST /services/create")) == "nginx"
    cli("service", "update", "-d", "--no-resolve-image", "--image", "nginx:2", "web")
    spec = _sent(api, f"POST /services/{web['ID']}/update")
    assert _image(spec) == "nginx:2"
    assert spec["TaskTemplate"]["Placement"] == {}, "the platforms were the old image's"
    assert not [r for r in api.requests if "distribution" in r.path]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ((500, {"message": "dial tcp: connection refused"}), "dial tcp: connection refused"),
        ((403, {"message": "no basic auth credentials"}), "no basic auth credentials"),
        ({"Descriptor": {"digest": "../../x"}}, "the engine's answer has no digest"),
        ({}, "the engine's answer has no digest"),
        ([], "the engine's answer has no digest"),
    ],
)
def test_without_a_digest_the_name_stays_and_a_warning_is_given(
    api: FakeApi, cli: Cli, answer: Json, why: str
) -> None:
    _service(api)
    api.on("GET /distribution/nginx:latest/json", answer)
    result = cli("service", "create", "-d", "nginx")
    assert result.status == 0
    assert result.err == f"warning: {WARNING.format('nginx:latest')} ({why})\n"
    assert _image(_sent(api, "POST /services/create")) == "nginx"


def test_registries_are_asked_at_the_same_time(
    api: FakeApi, cli: Cli, stack: tuple[str, ...]
) -> None:
    """So silent ones cost one time-out in all: here none answers before both were asked."""
    together = threading.Barrier(2)

    def answer(_: Request) -> Json:
        together.wait(timeout=30)
        return {"Descriptor": {"digest": DIGEST}}

    api.on("GET /distribution/nginx:latest/json", answer)
    api.on(f"GET /distribution/{POSTGRES}/json", answer)
    assert "warning" not in cli(*stack).err


def test_a_silent_registry_is_given_up_and_named_once(
    api: FakeApi, cli: Cli, stack: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though two services have the image."""
    monkeypatch.setattr(pinning, "PATIENCE", 1.0)
    over = threading.Event()
    _known(api, POSTGRES)
    api.on("GET /distribution/nginx:latest/json", lambda _: over.wait(timeout=30))
    result = cli(*stack)
    over.set()
    assert result.status == 0
    warning = f"warning: {WARNING.format('nginx:latest')} (no answer within 1 s)"
    assert [line for line in result.err.splitlines() if "warning" in line] == [warning]
    assert len(api.sent("GET /distribution/nginx:latest/json")) == 1


def test_a_daemon_that_is_not_there_is_no_registrys_fault(tmp_path: Path) -> None:
    result = Cli(tmp_path / "none.sock")("service", "create", "-d", "nginx")
    assert result.status != 0
    assert "registry" not in result.err
    assert "cannot reach the swarmlet daemon" in result.err


def test_update_asks_for_a_new_image_only(api: FakeApi, cli: Cli) -> None:
    web = _service(api, f"nginx:1@{OTHER}", placement={"Platforms": [AMD64]})
    route = f"POST /services/{web['ID']}/update"
    cli("service", "update", "-d", "--env-add", "A=1", "web")
    spec = _sent(api, route)
    assert _image(spec) == f"nginx:1@{OTHER}"
    assert spec["TaskTemplate"]["Placement"] == {"Platforms": [AMD64]}
    assert not [r for r in api.requests if "distribution" in r.path]

    api.requests.clear()
    _known(api, "nginx:1")
    cli("service", "update", "-d", "--image", "nginx:1", "web")
    assert _image(_sent(api, route)) == f"nginx:1@{DIGEST}"


def test_an_update_that_is_repeated_asks_once(api: FakeApi, cli: Cli) -> None:
    web = _service(api)
    answers = iter([(500, {"message": "update out of sequence"}), None])
    api.on(f"POST /services/{web['ID']}/update", lambda _: next(answers))
    assert cli("service", "update", "-d", "--image", "nginx:2", "web").err.count("warning") == 1
    assert len(api.sent("GET /distribution/nginx:2/json")) == 1


def test_a_stack_keeps_what_was_written_in_its_label(
    api: FakeApi, cli: Cli, stack: tuple[str, ...]
) -> None:
    _known(api, "nginx:latest")
    _known(api, POSTGRES)
    assert cli(*stack).status == 0
    specs = {r.body["Name"]: r.body for r in api.sent("POST /services/create")}
    assert _image(specs["shop_web"]) == _image(specs["shop_api"]) == f"nginx:latest@{DIGEST}"
    assert _image(specs["shop_db"]) == f"{POSTGRES}@{DIGEST}"
    assert specs["shop_web"]["Labels"]["com.docker.stack.image"] == "nginx"
    assert len(api.sent("GET /distribution/nginx:latest/json")) == 1


@pytest.mark.parametrize(
    ("when", "moves"), [("always", True), ("changed", False), ("never", False)]
)
def test_a_tag_that_moved_counts_only_when_always_is_said(
    api: FakeApi, cli: Cli, stack: tuple[str, ...], when: str, *, moves: bool
) -> None:
    _known(api, "nginx:latest")
    _known(api, POSTGRES)
    cli(*stack)
    _deployed(api)
    _known(api, "nginx:latest", OTHER)
    result = cli(*stack, "--resolve-image", when)
    assert result.err.count("unchanged") == (1 if moves else 3)
    moved = f"nginx:latest@{OTHER}"
    updated = {name: _image(spec) for name, spec in _updates(api).items()}
    assert updated == ({"shop_web": moved, "shop_api": moved} if moves else {})
    assert bool([r for r in api.requests if "distribution" in r.path]) == moves


def test_a_redeployment_without_the_registry_restarts_nothing(
    api: FakeApi, cli: Cli, stack: tuple[str, ...]
) -> None:
    _known(api, "nginx:latest")
    _known(api, POSTGRES)
    cli(*stack)
    _deployed(api)
    api.refuse("GET /distribution/nginx:latest/json", 500, "dial tcp: i/o timeout")
    result = cli(*stack)
    assert result.err.count("unchanged") == 3
    assert not _updates(api)
    assert result.err.splitlines()[0] == (
        "warning: image nginx:latest could not be accessed on a registry:"
        " its digest stays the one it had (dial tcp: i/o timeout)"
    )


def test_changed_asks_for_new_services_and_leaves_the_others_alone(
    api: FakeApi, cli: Cli, stack: tuple[str, ...]
) -> None:
    """Though both have the same image."""
    _known(api, "nginx:latest")
    _known(api, POSTGRES)
    cli(*stack)
    old = _deployed(api)
    api.on("GET /services", [s for name, s in old.items() if name != "shop_api"])
    _known(api, "nginx:latest", OTHER)
    result = cli(*stack, "--resolve-image", "changed")
    assert result.err.count("unchanged") == 2
    assert _image(_sent(api, "POST /services/create")) == f"nginx:latest@{OTHER}"


def test_an_image_that_somebody_else_set_goes_back_to_the_files(
    api: FakeApi, cli: Cli, stack: tuple[str, ...]
) -> None:
    _known(api, "nginx:latest")
    _known(api, POSTGRES)
    cli(*stack)
    old = _deployed(api)
    old["shop_web"]["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"] = f"httpd:2@{OTHER}"
    cli(*stack, "--resolve-image", "changed")
    updated = {name: _image(spec) for name, spec in _updates(api).items()}
    assert updated == {"shop_web": f"nginx:latest@{DIGEST}"}


# -- logins ------------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Docker's configuration file, to be written."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    return tmp_path / "config.json"


def _login(headers: dict[str, str]) -> Json:
    return json.loads(base64.urlsafe_b64decode(headers["X-Registry-Auth"]))


def test_the_registry_is_asked_with_the_users_login(api: FakeApi, cli: Cli, config: Path) -> None:
    auth = base64.b64encode(b"me:pass:word").decode()
    config.write_text(json.dumps({"auths": {"reg.example:5000": {"auth": auth}}}))
    _service(api)
    _known(api, POSTGRES)
    cli("service", "create", "-d", "--with-registry-auth", POSTGRES)
    asked, created = api.requests
    assert _login(asked.headers) == _login(created.headers)
    assert _login(asked.headers)["password"] == "pass:word"
    api.requests.clear()
    cli("service", "create", "-d", POSTGRES)
    assert not [r for r in api.requests if "X-Registry-Auth" in r.headers]


@pytest.mark.parametrize(
    ("image", "entry", "login"),
    [
        ("nginx", {"https://index.docker.io/v1/": {"username": "u", "password": "p"}},
         {"username": "u", "password": "p"}),
        ("reg.example/x", {"https://reg.example/v1/": {"identitytoken": "t"}},
         {"identitytoken": "t"}),
        ("reg.example/x", {"reg.example": {"registrytoken": "t"}}, {"registrytoken": "t"}),
    ],
)  # fmt: skip
def test_logins_in_every_form_docker_wrote(
    config: Path, image: str, entry: Json, login: Json
) -> None:
    config.write_text(json.dumps({"auths": entry}))
    assert login.items() <= _login(auth_header(image)).items()


@pytest.mark.parametrize("image", ["nginx", "other.example/x"])
def test_the_login_of_another_registry_stays_at_home(config: Path, image: str) -> None:
    config.write_text(json.dumps({"auths": {"reg.example": {"username": "u"}}}))
    assert auth_header(image) == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "cannot read"),
        ("[]", "cannot read"),
        ('{"auths": {"reg.example": {"auth": "%%%"}}}', "cannot read the login for reg.example"),
        ('{"auths": {"reg.example": "x"}}', "cannot read the login for reg.example"),
        ('{"credsStore": "desktop"}', "is kept by a credential helper"),
        ('{"credHelpers": {"reg.example": "ecr"}}', "is kept by a credential helper"),
    ],
)
def test_a_login_that_cannot_be_had_is_said(config: Path, text: str, said: str) -> None:
    config.write_text(text)
    with pytest.raises(BadValue, match=said):
        auth_header("reg.example/x")
