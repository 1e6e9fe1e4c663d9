"""``node update``, ``promote``, ``demote``, ``drain``, ``activate``, ``rm``."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import click

from swarmlet.cli import emptying, tasks
from swarmlet.cli.app import App, each, example, pass_app
from swarmlet.cli.node import resolve
from swarmlet.cli.options import TIMEOUT
from swarmlet.cli.problems import BadValue, DidNotConverge, Usage
from swarmlet.cli.settings import seconds
from swarmlet.client import RemoteError, filters, segment
from swarmlet.errors import OutOfSequence

Json = Any

#: Heartbeats change a node's version at any moment: a change that meets one is simply repeated.
ATTEMPTS: Final = 5
NODES: Final = click.argument("node", nargs=-1, required=True)


def change(app: App, name: str, edit: Callable[[Json], bool]) -> bool:
    """Read a node, edit its spec, write it back. ``edit`` says whether there is a change."""
    for attempt in range(ATTEMPTS):
        node = resolve(app, name)
        spec = node["Spec"]
        if not edit(spec):
            return False
        query = {"version": str(node["Version"]["Index"])}
        try:
            app.client.post(f"/nodes/{segment(node['ID'])}/update", spec, query)
        except RemoteError as error:
            if not out_of_sequence(error) or attempt == ATTEMPTS - 1:
                raise
        else:
            return True
    return False


def out_of_sequence(error: RemoteError) -> bool:
    """Whether an update was refused because the object changed meanwhile."""
    return error.remote_code == OutOfSequence.code or "update out of sequence" in error.message


@click.command(
    epilog=example("swarmlet node update --label-add zone=a wrk-1", "swarmlet node update --help")
)
@click.option("--availability", type=click.Choice(["active", "pause", "drain"]))
@click.option("--role", type=click.Choice(["worker", "manager"]))
@click.option("--label-add", multiple=True, metavar="KEY=VALUE", help="Add or change a label.")
@click.option("--label-rm", multiple=True, metavar="KEY", help="Remove a label.")
@click.argument("node")
@pass_app
def update(app: App, /, node: str, **given: Json) -> None:
    """Change a node's availability, role or labels."""
    if not any(given.values()):
        raise Usage("nothing to change", advice="give at least one option; --help lists them")
    for label in given["label_add"]:
        if not label.partition("=")[0]:
            raise BadValue(f"--label-add {label!r}: a label is written KEY=VALUE")

    def edit(spec: Json) -> bool:
        _edit(spec, given)
        return True

    change(app, node, edit)
    app.out(node)


def _edit(spec: Json, given: Mapping[str, Any]) -> None:
    labels = dict(spec.get("Labels") or {})
    for key in given["label_rm"]:
        labels.pop(key, None)
    labels |= {k: v for k, _, v in (one.partition("=") for one in given["label_add"])}
    spec["Labels"] = labels
    if given["availability"]:
        spec["Availability"] = given["availability"]
    if given["role"]:
        spec["Role"] = given["role"]


def _set(key: str, value: str) -> Callable[[Json], bool]:
    def edit(spec: Json) -> bool:
        before, spec[key] = spec.get(key), value
        return bool(before != value)

    return edit


def _role(app: App, names: tuple[str, ...], role: str) -> None:
    def act(name: str) -> None:
        changed = change(app, name, _set("Role", role))
        app.out(f"Node {name} {'is now' if changed else 'was already'} a {role}.")

    each(app, names, act)


@click.command(epilog=example("swarmlet node promote wrk-1"))
@NODES
@pass_app
def promote(app: App, node: tuple[str, ...]) -> None:
    """Make nodes managers."""
    _role(app, node, "manager")


@click.command(epilog=example("swarmlet node demote mgr-3"))
@NODES
@pass_app
def demote(app: App, node: tuple[str, ...]) -> None:
    """Make managers workers. One that the quorum needs stays a manager."""
    _role(app, node, "worker")


@click.command(epilog=example("swarmlet node drain wrk-2", "swarmlet node drain --wait wrk-2"))
@NODES
@click.option("--wait", is_flag=True, help="Wait until nothing runs there.")
@TIMEOUT
@pass_app
def drain(app: App, node: tuple[str, ...], timeout: str, *, wait: bool) -> None:
    """Move all tasks off nodes and give them no new ones."""

    def act(name: str) -> None:
        change(app, name, _set("Availability", "drain"))
        if wait:
            _wait_empty(app, name, seconds(timeout))
        app.out(f"Node {name} is {'empty' if wait else 'draining'}.")

    each(app, node, act)


def _wait_empty(app: App, name: str, limit: float | None) -> None:
    node_id = resolve(app, name)["ID"]

    def live() -> int:
        found = tasks.fetch(app, filters(node=[node_id]))
        return sum(1 for t in found if (t.get("Status") or {}).get("State") in LIVE)

    emptying.until_gone(
        app,
        live,
        say=lambda left: f"{name}: {emptying.tasks(left)} still there",
        late=lambda left: DidNotConverge(
            f"{name} still runs {left} tasks", advice=f"swarmlet node ps {name}"
        ),
        limit=limit,
    )


#: States of a task that has a container, or soon will.
LIVE: Final = frozenset({"accepted", "preparing", "ready", "starting", "running"})


@click.command(epilog=example("swarmlet node activate wrk-2"))
@NODES
@pass_app
def activate(app: App, node: tuple[str, ...]) -> None:
    """Let nodes take tasks again."""

    def act(name: str) -> None:
        change(app, name, _set("Availability", "active"))
        app.out(f"Node {name} takes tasks.")

    each(app, node, act)


@click.command(epilog=example("swarmlet node rm wrk-2", "swarmlet node rm --force wrk-2"))
@NODES
@click.option("-f", "--force", is_flag=True, help="Also a node that is not down.")
@pass_app
def rm(app: App, node: tuple[str, ...], *, force: bool) -> None:
    """Remove nodes that left or died from the list."""

    def act(name: str) -> None:
        app.client.delete(f"/nodes/{segment(resolve(app, name)['ID'])}", {"force": str(int(force))})
        app.out(name)

    each(app, node, act)
