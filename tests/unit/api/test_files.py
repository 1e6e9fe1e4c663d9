"""Secrets and configs through the API."""

import base64
from typing import Any

import pytest
from swarmlet.api import wording
from swarmlet.api.backend import LocalState
from swarmlet.api.server import Api
from swarmlet.model.specs import Role
from swarmlet.state.commands import PutConfig, PutSecret, PutService

from tests.fakes.backend import FakeBackend
from tests.fakes.world import a_config, a_secret, a_service
from tests.unit.api.http_client import Reply, ask
from tests.unit.api.test_swarm_routes import create, get, spec, template

Json = Any

KINDS = pytest.mark.parametrize("kind", ["secret", "config"])
PREFIX = "rpc error: code = InvalidArgument desc = "


def body(name: str = "one", data: bytes = b"data", **fields: Json) -> Json:
    return {"Name": name, "Labels": {}, "Data": base64.b64encode(data).decode(), **fields}


async def post(api: Api, kind: str, sent: Json) -> Reply:
    return await ask(api, "POST", f"/{kind}s/create", sent)


async def make(api: Api, kind: str, *args: Any, **fields: Json) -> str:
    reply = await post(api, kind, body(*args, **fields))
    assert reply.status == 201, reply.body
    answer: Json = reply.json
    return str(answer["ID"])


# --- create -------------------------------------------------------------------------------------


@KINDS
async def test_what_was_created_is_shown(api: Api, kind: str) -> None:
    ident = await make(api, kind, "one", b"\0\xff", Labels={"a": "b"})
    (listed,) = await get(api, f"/{kind}s")
    assert listed == await get(api, f"/{kind}s/{ident}")
    assert listed == await get(api, f"/{kind}s/one")
    assert listed == await get(api, f"/{kind}s/{ident[:6]}")
    assert listed.keys() == {"ID", "Version", "CreatedAt", "UpdatedAt", "Spec"}
    assert listed["ID"] == ident
    shown = {"Name": "one", "Labels": {"a": "b"}}
    assert listed["Spec"] == (shown if kind == "secret" else {**shown, "Data": "AP8="})


@KINDS
@pytest.mark.parametrize("text", ["-_-_", "+/+/", "+/-_", "+/\r\n+/"])
async def test_data_comes_in_either_base64(
    api: Api, backend: FakeBackend, kind: str, text: str
) -> None:
    assert (await post(api, kind, body(Data=text))).status == 201
    table = backend.store.secrets if kind == "secret" else backend.store.configs
    assert [one.data for one in table.all()] == [b"\xfb\xff\xbf"]


@KINDS
@pytest.mark.parametrize("text", ["cGFzc3dvcmQ==x", "Ä", "cGF zc3dvcmQ"])
async def test_a_refusal_does_not_quote_data(api: Api, kind: str, text: str) -> None:
    reply = await post(api, kind, body(Data=text))
    assert (reply.status, reply.message) == (
        400,
        "Data: base64 is needed (standard or url-safe)",
    )


@KINDS
@pytest.mark.parametrize(
    "name", ["-a", "a-", ".a", "a b", "a/b", "ä", "a" * 65, "a\n", "a$", "_a", "a_"]
)
async def test_names_are_those_of_docker(api: Api, kind: str, name: str) -> None:
    reply = await post(api, kind, body(name))
    text = "only 64 [a-zA-Z0-9-_.] characters allowed, and the start and end character must be"
    assert (reply.status, reply.message) == (400, f"{PREFIX}invalid name, {text} [a-zA-Z0-9]")


@KINDS
@pytest.mark.parametrize("name", ["a", "A1", "a.b-c_d", "a" * 64, "site.conf"])
async def test_names_with_dots_and_dashes_are_fine(api: Api, kind: str, name: str) -> None:
    assert (await post(api, kind, body(name))).status == 201


@pytest.mark.parametrize(("kind", "limit"), [("secret", 500 * 1024), ("config", 1000 * 1024)])
async def test_data_has_a_size(api: Api, kind: str, limit: int) -> None:
    text = f"{PREFIX}{kind} data must be larger than 0 and less than {limit} bytes"
    for data in (b"", bytes(limit)):
        reply = await post(api, kind, body(data=data))
        assert (reply.status, reply.message) == (400, text)
    assert (await post(api, kind, body(data=bytes(limit - 1)))).status == 201


@KINDS
async def test_a_name_is_taken_once(api: Api, kind: str) -> None:
    other = "config" if kind == "secret" else "secret"
    await make(api, other)
    await make(api, kind)
    reply = await post(api, kind, body())
    assert (reply.status, reply.message) == (
        409,
        f"rpc error: code = AlreadyExists desc = {kind} one already exists",
    )


@KINDS
async def test_what_cannot_be_honoured_is_refused(api: Api, kind: str) -> None:
    if kind == "secret":
        reply = await post(api, kind, body(Driver={"Name": "vault"}))
        assert (reply.status, reply.message) == (
            400,
            f"{PREFIX}Driver: secret drivers are not supported yet by swarmlet",
        )
    reply = await post(api, kind, body("", Labels={"": "x"}))
    assert reply.message == f"{PREFIX}name must be provided; Labels: a label needs a name"


@KINDS
async def test_templates_are_read_when_they_come(api: Api, kind: str) -> None:
    driver = {"Name": "golang"}
    ident = await make(api, kind, "one", b'{{ env "A" }}', Templating=driver)
    assert (await get(api, f"/{kind}s/{ident}"))["Spec"]["Templating"] == driver
    for data, given, reason in (
        (b"hidden {{", driver, "Data: template, line 1, column 10: its }} is missing"),
        (b"\xff", driver, "Data: a template must be UTF-8"),
        (b"x", {"Name": "jinja"}, 'Templating.Name: "jinja": golang is needed'),
        (b"x", {}, 'Templating.Name: "": golang is needed'),
    ):
        reply = await post(api, kind, body("two", data, Templating=given))
        assert (reply.status, reply.message) == (400, PREFIX + reason)
    await make(api, kind, "two", b"\xff {{ is no template")


# --- read ---------------------------------------------------------------------------------------


@KINDS
async def test_filters_name_any_and_label_all(api: Api, kind: str) -> None:
    idents = {name: await make(api, kind, name) for name in ("app", "app2", "db")}
    await make(api, kind, "box", Labels={"a": "1", "b": ""})

    async def found(**wanted: Json) -> list[str]:
        return sorted(one["Spec"]["Name"] for one in await get(api, f"/{kind}s", **wanted))

    assert await found(name=["app"]) == ["app", "app2"]
    assert await found(names=["app"]) == ["app"]
    assert await found(names={"app": True, "db": True}) == ["app", "db"]
    assert await found(id=[idents["db"][:7]]) == ["db"]
    assert await found(id=[idents["db"]], names=["app"]) == ["app", "db"]
    assert await found(label=["a"]) == ["box"]
    assert await found(label={"a=1": True, "b": True}, name=["b"]) == ["box"]
    assert await found(label=["a=2"]) == []
    assert await found(name=["x"]) == []
    assert len(await found()) == 4


@KINDS
async def test_an_unknown_filter_is_refused(api: Api, kind: str) -> None:
    reply = await ask(api, "GET", f"/{kind}s?filters=%7B%22x%22%3A%5B%22y%22%5D%7D")
    assert (reply.status, reply.message) == (400, "invalid filter 'x'")


@KINDS
@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_what_is_not_there_is_not_found(api: Api, kind: str, method: str) -> None:
    reply = await ask(api, method, f"/{kind}s/none")
    assert (reply.status, reply.message) == (404, f"{kind} none not found")


@KINDS
@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "s"), ("GET", "s/x"), ("POST", "s/create"), ("POST", "s/x/update"), ("DELETE", "s/x")],
)
async def test_only_managers_know(
    api: Api, backend: FakeBackend, kind: str, method: str, path: str
) -> None:
    backend.become(LocalState(state="active", node_id="w", role=Role.WORKER))
    reply = await ask(api, method, f"/{kind}{path}", body() if method == "POST" else None)
    assert (reply.status, reply.message) == (503, wording.WORKER_ONLY)


# --- update, remove -----------------------------------------------------------------------------


async def update(api: Api, kind: str, sent: Json, version: int | None = None) -> Reply:
    if version is None:
        version = (await get(api, f"/{kind}s/one"))["Version"]["Index"]
    return await ask(api, "POST", f"/{kind}s/one/update?version={version}", sent)


@KINDS
async def test_labels_change_and_nothing_else(api: Api, kind: str) -> None:
    await make(api, kind)
    assert (await update(api, kind, body(Labels={"a": "b"}))).status == 200
    without_data = {"Name": "one", "Labels": {"a": "c"}}
    assert (await update(api, kind, without_data)).status == 200
    now = await get(api, f"/{kind}s/one")
    assert now["Spec"]["Labels"] == {"a": "c"}
    assert (await update(api, kind, without_data)).status == 200  # as a stack that is deployed anew
    assert await get(api, f"/{kind}s/one") == now
    others: list[Json] = [body("two"), body(data=b"other"), {"Labels": {}}]
    for refused in others:
        reply = await update(api, kind, refused)
        assert (reply.status, reply.message) == (
            400,
            f"{PREFIX}only updates to Labels are allowed",
        )
    assert await get(api, f"/{kind}s/one") == now


@KINDS
async def test_an_update_names_the_version_that_it_changes(api: Api, kind: str) -> None:
    await make(api, kind)
    old = (await get(api, f"/{kind}s/one"))["Version"]["Index"]
    await update(api, kind, body(Labels={"a": "b"}))
    reply = await update(api, kind, body(), version=old)
    assert reply.status == 500
    assert "update out of sequence" in reply.message


@KINDS
async def test_what_is_removed_is_gone_and_its_name_free(api: Api, kind: str) -> None:
    await make(api, kind)
    reply = await ask(api, "DELETE", f"/{kind}s/one")
    assert (reply.status, reply.body) == (204, b"")
    assert await get(api, f"/{kind}s") == []
    await make(api, kind)


@KINDS
async def test_what_services_use_stays(api: Api, backend: FakeBackend, kind: str) -> None:
    backend.apply(
        PutSecret(secret=a_secret("one"), expect=0), PutConfig(config=a_config("one"), expect=0)
    )
    user = a_service("web", **{f"{kind}s": ("one",)})  # type: ignore[arg-type]
    backend.apply(PutService(service=user, expect=0))
    reply = await ask(api, "DELETE", f"/{kind}s/one")
    assert (reply.status, reply.message) == (
        400,
        f"{PREFIX}{kind} 'one' is in use by the following service: name-web",
    )
    other = "config" if kind == "secret" else "secret"
    assert (await ask(api, "DELETE", f"/{other}s/one")).status == 204


# --- services -----------------------------------------------------------------------------------


def reference(kind: str, ident: str, name: str, **file: Json) -> Json:
    target = {"Name": name, "UID": "0", "GID": "0", "Mode": 292, **file}
    return {f"{kind.title()}ID": ident, f"{kind.title()}Name": name, "File": target}


@KINDS
async def test_references_come_back_as_they_were_given(api: Api, kind: str) -> None:
    ident = await make(api, kind)
    given = [
        reference(kind, ident, "one"),
        reference(kind, ident, "one", Name="/a", UID="", Mode=0),
    ]
    await create(api, spec(TaskTemplate=template(**{f"{kind.title()}s": given})))
    shown = await get(api, "/services/web")
    assert shown["Spec"]["TaskTemplate"]["ContainerSpec"][f"{kind.title()}s"] == given
    task = (await get(api, "/tasks"))[0]
    assert task["Spec"]["ContainerSpec"][f"{kind.title()}s"] == given
    reply = await ask(api, "DELETE", f"/{kind}s/one")
    assert reply.message.endswith("is in use by the following service: web")
    assert (await update(api, kind, body(Labels={"a": "b"}))).status == 200


@KINDS
async def test_a_service_names_what_is_there(api: Api, kind: str) -> None:
    ident = await make(api, kind)
    for wrong in (reference(kind, "none", "two"), reference(kind, ident, "two")):
        sent = spec(TaskTemplate=template(**{f"{kind.title()}s": [wrong]}))
        reply = await ask(api, "POST", "/services/create", sent)
        assert (reply.status, reply.message) == (400, f"{PREFIX}{kind} not found: two")
    assert await get(api, "/services") == []
