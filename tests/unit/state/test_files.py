"""Secrets and configs in the state machine: names, labels, and the services that hold them."""

from typing import Any

import pytest
from msgspec.structs import replace
from swarmlet.model.objects import Config, Secret, Service, UpdateState
from swarmlet.model.specs import SecretReference
from swarmlet.state import snapshot
from swarmlet.state.commands import (
    AnyCommand,
    DeleteConfig,
    DeleteSecret,
    DeleteService,
    PutConfig,
    PutSecret,
    PutService,
)

from tests.fakes.world import World, a_config, a_file, a_secret, a_service

KINDS = pytest.mark.parametrize("kind", ["secret", "config"])


def make(kind: str, name: str, data: bytes = b"data") -> Secret | Config:
    return a_secret(name, data=data) if kind == "secret" else a_config(name, data=data)


def put(one: Secret | Config, expect: int = 0) -> AnyCommand:
    if isinstance(one, Secret):
        return PutSecret(secret=one, expect=expect)
    return PutConfig(config=one, expect=expect)


def delete(one: Secret | Config) -> AnyCommand:
    return DeleteSecret(id=one.id) if isinstance(one, Secret) else DeleteConfig(id=one.id)


def found(world: World, one: Secret | Config) -> Any:
    table = world.store.secrets if isinstance(one, Secret) else world.store.configs
    return table.get(one.id)


def using(kind: str, name: str, service_id: str = "web") -> Service:
    return a_service(service_id, **{f"{kind}s": (name,)})  # type: ignore[arg-type]


def refusal(world: World, command: AnyCommand) -> tuple[str, str]:
    before = snapshot.freeze(world.store)()
    (outcome,) = world.do(command)
    assert outcome is not None
    world.store.index -= 1
    assert snapshot.freeze(world.store)() == before
    return outcome.code, outcome.message


@KINDS
def test_names_are_unique_within_a_kind(kind: str) -> None:
    world = World()
    world.secrets(a_secret("same"))
    world.configs(a_config("same"))
    again = replace(make(kind, "same"), id="other")
    assert refusal(world, put(again)) == (
        "exists",
        f"rpc error: code = AlreadyExists desc = {kind} same already exists",
    )


@KINDS
def test_of_one_that_is_there_only_labels_change(kind: str) -> None:
    world = World()
    one = make(kind, "one", b"first")
    world.ok(put(one))
    world.pass_time(5)
    spec = replace(one.spec, name="renamed", labels={"a": "b"})
    changed = replace(one, spec=spec, data=b"second")
    assert refusal(world, put(changed, expect=7))[0] == "conflict"
    world.ok(put(changed, expect=found(world, one).version))
    now = found(world, one)
    assert (now.spec.name, now.spec.labels, now.data) == ("one", {"a": "b"}, b"first")
    assert (now.version, now.updated_at) == (world.store.index, world.now)
    assert now.created_at < now.updated_at


@KINDS
def test_one_that_is_used_stays(kind: str) -> None:
    world = World()
    one = make(kind, "one")
    world.ok(put(one))
    world.service(using(kind, "one", "b"))
    text = f"rpc error: code = InvalidArgument desc = {kind} 'one' is in use by the following "
    assert refusal(world, delete(one)) == ("invalid", text + "service: name-b")
    world.service(using(kind, "one", "a"))
    assert refusal(world, delete(one)) == ("invalid", text + "services: name-a, name-b")
    world.ok(DeleteService(id="a"), DeleteService(id="b"), delete(one))
    assert found(world, one) is None
    assert refusal(world, delete(one)) == ("not-found", f"{kind} {one.id} not found")
    world.ok(put(one))  # its name is free again


@KINDS
def test_a_service_cannot_name_what_is_not_there(kind: str) -> None:
    world = World()
    one = PutService(service=using(kind, "one"), expect=0)
    text = "rpc error: code = InvalidArgument desc = "
    assert refusal(world, one) == ("invalid", f"{text}{kind} not found: one")
    both = a_service(**{f"{kind}s": ("two", "one")})  # type: ignore[arg-type]
    many = PutService(service=both, expect=0)
    assert refusal(world, many) == ("invalid", f"{text}{kind}s not found: two, one")


def test_a_reference_names_the_secret_as_it_is_called() -> None:
    world = World()
    world.secrets(a_secret("key"))
    wrong = SecretReference(secret_id="id-key", secret_name="other", file=a_file("key"))
    service = a_service()
    template = service.spec.task_template
    container = replace(template.container, secrets=(wrong,))
    spec = replace(service.spec, task_template=replace(template, container_spec=container))
    command = PutService(service=replace(service, spec=spec), expect=0)
    assert refusal(world, command)[1].endswith("secret not found: other")


def test_a_rollback_to_a_secret_that_is_gone_is_not_refused() -> None:
    """Its tasks say what they miss; a refused rollback would leave the update where it is."""
    world = World()
    world.secrets(a_secret("key"))
    world.service(using("secret", "key"))
    world.update(a_service())
    world.ok(DeleteSecret(id="id-key"))
    world.roll_back()
    status = world.found().update_status
    assert status is not None
    assert status.state is UpdateState.ROLLBACK_STARTED


def test_a_snapshot_holds_secrets_and_configs() -> None:
    world = World()
    world.secrets(a_secret("b"), a_secret("a"))
    world.configs(a_config("a", data=b"\0\xff"))
    again = snapshot.thaw(snapshot.freeze(world.store)())
    assert [one.spec.name for one in again.secrets.ordered()] == ["a", "b"]
    named = again.configs.named("a")
    assert named is not None
    assert named.data == b"\0\xff"


@KINDS
def test_data_is_in_no_text(kind: str) -> None:
    one = make(kind, "one", b"hidden")
    for shown in (repr(one), str(put(one)), f"{[one]}"):
        assert "hidden" not in shown
        assert "one" in shown
