"""``service create``, ``update``, ``scale``, ``rollback``, ``rm``."""

from collections.abc import Callable
from typing import Any, Final

import click

from swarmlet.cli import service_edit, service_flags, services
from swarmlet.cli.app import App, each, example, pass_app
from swarmlet.cli.node_change import out_of_sequence
from swarmlet.cli.options import DETACH, TIMEOUT
from swarmlet.cli.problems import BadValue, Usage
from swarmlet.cli.settings import seconds
from swarmlet.client import RemoteError, segment

Json = Any
#: The manager itself changes services too (the state of an update): then the change is repeated.
ATTEMPTS: Final = 5


def settle(app: App, ids: list[str], *, detach: bool, timeout: float | None, follow: str) -> None:
    """Wait for services, unless ``-d`` was given."""
    if detach or not ids:
        return
    from swarmlet.cli.waiting import wait

    for one in wait(app, ids, timeout=timeout, follow=follow):
        if one.wanted == 0 and not one.updating:
            app.note(f"service {one.name}: no tasks are wanted, or no node fits")
        else:
            app.note(f"service {one.name}: {one.running}/{one.wanted} converged")


@click.pass_context
def _create(context: click.Context, /, image: str, args: tuple[str, ...], **given: Json) -> None:
    """Create a service, and wait until it runs."""
    app = context.ensure_object(App)
    app.quiet = app.quiet or given["quiet"]
    timeout = seconds(given["timeout"])
    spec = service_edit.created(image, args, given)
    headers = service_edit.registry_headers(image, wanted=given["with_registry_auth"])
    _pin(app, {**given, "image": image})(spec)
    answer = app.client.post("/services/create", spec, headers=headers)
    for warning in answer.get("Warnings") or ():
        app.warn(str(warning))
    app.out(str(answer["ID"]))
    name = spec.get("Name") or answer["ID"]
    settle(
        app,
        [str(answer["ID"])],
        detach=given["detach"],
        timeout=timeout,
        follow=f"swarmlet service ps {name}",
    )


create: Final = click.Command(
    "create",
    callback=_create,
    params=service_flags.create_params(),
    help="Create a service of IMAGE, and wait until it runs.",
    epilog=example(
        "swarmlet service create --name web --replicas 3 nginx:1.29",
        "swarmlet service create --name api --network backend -p 8080:80 nginx:1.29",
        "swarmlet service create --name agent --mode global --limit-memory 64M busybox sleep 1d",
    ),
    context_settings={"allow_interspersed_args": False},
)


@click.pass_context
def _update(context: click.Context, /, service: str, **given: Json) -> None:
    """Change a service, and wait until the change is through."""
    app = context.ensure_object(App)
    app.quiet = app.quiet or given["quiet"]
    timeout = seconds(given["timeout"])
    if given["rollback"]:
        _roll_back(app, service)
    else:
        if not service_edit.anything(given):
            raise Usage("nothing to change", advice="give at least one option; --help lists them")
        change(app, service, _with_network_ids(app, given))
    app.out(service)
    _settle_one(app, service, detach=given["detach"], timeout=timeout)


update: Final = click.Command(
    "update",
    callback=_update,
    params=service_flags.update_params(),
    help="Change SERVICE, and wait until the change is through.",
    epilog=example(
        "swarmlet service update --image nginx:1.30 web",
        "swarmlet service update --network-add backend --publish-add 8080:80 web",
        "swarmlet service update --env-add DEBUG=1 --constraint-rm node.role==worker web",
    ),
)


def _with_network_ids(app: App, given: Json) -> Json:
    """Options with networks by identifier, as a service's spec has them."""
    from swarmlet.cli import service_values

    def ident(name: str) -> str:
        try:
            return str(app.client.get(f"/networks/{segment(name)}", {"scope": "swarm"})["Id"])
        except RemoteError as error:
            if error.status != 404:
                raise
            return name  # the daemon knows whether a service can join that, and says why not

    changed = dict(given)
    try:
        changed["f_network_add"] = [
            service_values.network_renamed(text, ident) for text in given["f_network_add"]
        ]
    except ValueError as exc:
        raise BadValue(f"--network-add: {exc}") from exc
    changed["f_network_rm"] = [ident(name) for name in given["f_network_rm"]]
    return changed


def change(app: App, name: str, given: Json) -> None:
    """Read a service, apply options to its spec, write it back."""
    pin = _pin(app, given)
    for attempt in range(ATTEMPTS):
        found = services.get(app, name)
        spec = service_edit.updated(found["Spec"], given)
        image = service_edit.image_of(spec)
        headers = service_edit.registry_headers(image, wanted=given.get("with_registry_auth"))
        pin(spec)
        query = {"version": str(found["Version"]["Index"]), "registryAuthFrom": "spec"}
        try:
            answer = app.client.post(
                f"/services/{segment(found['ID'])}/update", spec, query, headers
            )
        except RemoteError as error:
            if not out_of_sequence(error) or attempt == ATTEMPTS - 1:
                raise
        else:
            for warning in (answer or {}).get("Warnings") or ():
                app.warn(str(warning))
            return


def _pin(app: App, given: Json) -> Callable[[Json], None]:
    """Ask once for the digest of a new image; returns what writes the answer into a spec."""
    image = given.get("image")
    if image is None:
        return lambda _: None
    from swarmlet.cli import pinning

    headers = service_edit.registry_headers(image, wanted=given.get("with_registry_auth"))
    wanted = {} if given.get("no_resolve_image") else {image: headers}
    answer = pinning.ask(app, wanted).get(image)
    if isinstance(answer, pinning.Unknown):
        app.warn(pinning.unknown(image, answer))
    return lambda spec: pinning.put(spec, answer)


def _settle_one(app: App, name: str, *, detach: bool, timeout: float | None) -> None:
    if not detach:
        found = str(services.get(app, name)["ID"])
        follow = f"swarmlet service ps {name}"
        settle(app, [found], detach=False, timeout=timeout, follow=follow)


@click.command(epilog=example("swarmlet service scale web=5 worker=2"))
@click.argument("scales", nargs=-1, required=True, metavar="SERVICE=REPLICAS...")
@DETACH
@TIMEOUT
@pass_app
def scale(app: App, scales: tuple[str, ...], timeout: str, *, detach: bool) -> None:
    """Set the number of replicas of services, and wait until they run."""
    limit = seconds(timeout)
    wanted: dict[str, str] = {}
    for one in scales:
        name, equals, number = one.rpartition("=")
        if not equals or not number.isdigit():
            raise Usage(f"SERVICE=REPLICAS is wanted, not {one!r}", advice="such as web=3")
        wanted[name] = number
    done: list[str] = []

    def act(name: str) -> None:
        change(app, name, {"replicas": wanted[name]})
        app.out(f"{name} scaled to {wanted[name]}")
        done.append(str(services.get(app, name)["ID"]))

    each(app, list(wanted), act)
    settle(app, done, detach=detach, timeout=limit, follow="swarmlet service ls")


@click.command(epilog=example("swarmlet service rollback web"))
@click.argument("service")
@DETACH
@TIMEOUT
@pass_app
def rollback(app: App, service: str, timeout: str, *, detach: bool) -> None:
    """Go back to the previous spec of a service."""
    limit = seconds(timeout)
    _roll_back(app, service)
    app.out(service)
    _settle_one(app, service, detach=detach, timeout=limit)


def _roll_back(app: App, name: str) -> None:
    found = services.get(app, name)
    query = {"version": str(found["Version"]["Index"]), "rollback": "previous"}
    app.client.post(f"/services/{segment(found['ID'])}/update", found["Spec"], query)


@click.command(epilog=example("swarmlet service rm web"))
@click.argument("service", nargs=-1, required=True)
@pass_app
def rm(app: App, service: tuple[str, ...]) -> None:
    """Remove services; their tasks are stopped."""

    def act(name: str) -> None:
        app.client.delete(f"/services/{segment(name)}")
        app.out(name)

    each(app, service, act)
