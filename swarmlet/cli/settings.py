"""``update`` (settings of the cluster), ``info``, ``version``, ``completion``."""

import json
from collections.abc import Callable
from typing import Any, Final

import click

from swarmlet import __version__
from swarmlet.cli.app import App, example, pass_app
from swarmlet.cli.options import FORMAT
from swarmlet.cli.problems import BadValue, Usage
from swarmlet.errors import SwarmletError
from swarmlet.stack import quantities

Json = Any

#: Labels of the cluster that set failure detection, in seconds (swarmlet.model.defaults).
SUSPECT_LABEL: Final = "swarmlet.failure.suspect-after"
DOWN_LABEL: Final = "swarmlet.failure.down-after"


def nanos(flag: str, text: str) -> int:
    """The value of an option that is a length of time."""
    return _valued(flag, text, quantities.duration)


def seconds(timeout: str) -> float | None:
    """The value of ``--timeout``; None for no limit."""
    return nanos("--timeout", timeout) / 1e9 if timeout else None


def _valued(flag: str, text: str, parse: Callable[[str], int]) -> int:
    try:
        return parse(text)
    except ValueError as exc:
        raise BadValue(f"{flag}: {exc}") from exc


@click.command(
    epilog=example(
        "swarmlet update --task-history-limit 3",
        "swarmlet update --suspect-after 3s --down-after 10s",
    )
)
@click.option("--task-history-limit", type=click.IntRange(min=0), help="Ended tasks kept a slot.")
@click.option("--dispatcher-heartbeat", metavar="TIME", help="Time between two signs of life.")
@click.option("--cert-expiry", metavar="TIME", help="Life of node certificates.")
@click.option("--suspect-after", metavar="TIME", help="Silence after which a node is suspect.")
@click.option("--down-after", metavar="TIME", help="Silence after which a node is down.")
@pass_app
def update(app: App, /, task_history_limit: int | None, **given: str | None) -> None:
    """Change settings of the cluster."""
    changes = {
        key: nanos("--" + key.replace("_", "-"), value)
        for key, value in given.items()
        if value is not None
    }
    if task_history_limit is None and not changes:
        raise Usage("nothing to change", advice="give at least one option; --help lists them")
    swarm = app.client.get("/swarm")
    spec = swarm["Spec"]
    if task_history_limit is not None:
        spec.setdefault("Orchestration", {})["TaskHistoryRetentionLimit"] = task_history_limit
    for key, value in changes.items():
        _set(spec, key, value)
    app.client.post("/swarm/update", spec, {"version": str(swarm["Version"]["Index"])})
    app.note("The cluster's settings were changed.")


def _set(spec: Json, key: str, value: int) -> None:
    seconds = f"{value / quantities.NANOS:g}"
    match key:
        case "dispatcher_heartbeat":
            spec.setdefault("Dispatcher", {})["HeartbeatPeriod"] = value
        case "cert_expiry":
            spec.setdefault("CAConfig", {})["NodeCertExpiry"] = value
        case "suspect_after":
            spec["Labels"] = (spec.get("Labels") or {}) | {SUSPECT_LABEL: seconds}
        case _:
            spec["Labels"] = (spec.get("Labels") or {}) | {DOWN_LABEL: seconds}


@click.command(epilog=example("swarmlet info", "swarmlet info --format json"))
@FORMAT
@pass_app
def info(app: App, style: str) -> None:
    """Show this node's part in the cluster."""
    found = app.client.get("/info")
    style = style or app.style
    if style and style != "table":
        print_object(app, found, style)
        return
    swarm = found.get("Swarm") or {}
    cluster = swarm.get("Cluster") or {}
    facts = [
        ("Node", f"{found.get('Name', '')} ({swarm.get('NodeID') or 'none'})"),
        ("Address", swarm.get("NodeAddr") or "-"),
        ("Swarm", swarm.get("LocalNodeState", "inactive")),
        ("Manager", "yes" if swarm.get("ControlAvailable") else "no"),
        ("Cluster", cluster.get("ID") or "-"),
        ("Managers", swarm.get("Managers", "-") if swarm.get("ControlAvailable") else "-"),
        ("Nodes", swarm.get("Nodes", "-") if swarm.get("ControlAvailable") else "-"),
        ("Error", swarm.get("Error") or ""),
        ("Engine", found.get("ServerVersion") or "does not answer"),
    ]
    for name, value in facts:
        if value != "":
            app.out(f"{name + ':':<10} {value}")


@click.command(epilog=example("swarmlet version"))
@FORMAT
@pass_app
def version(app: App, style: str) -> None:
    """Show the versions of the command line and of the daemon."""
    try:
        daemon: Json = app.client.get("/version")
        trouble = ""
    except SwarmletError as error:
        daemon, trouble = {}, error.message
    style = style or app.style
    if style and style != "table":
        print_object(app, {"Client": {"Version": __version__}, "Server": daemon or None}, style)
        return
    app.out(f"Client: swarmlet {__version__}")
    if trouble:
        app.out("Server: does not answer")
        app.note(trouble)
        return
    parts = {str(c.get("Name")): str(c.get("Version")) for c in daemon.get("Components") or ()}
    app.out(f"Server: swarmlet {parts.get('swarmlet', '?')}, API {daemon.get('ApiVersion', '?')}")
    if "Engine" in parts:
        app.out(f"Engine: {parts['Engine']}")


@click.command(
    epilog=example('eval "$(swarmlet completion bash)"', "swarmlet completion fish | source")
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@pass_app
def completion(app: App, shell: str) -> None:
    """Print what makes a shell complete swarmlet's commands and options."""
    from click.shell_completion import get_completion_class

    from swarmlet.cli.main import cli

    kind = get_completion_class(shell)
    if kind is not None:
        app.out(kind(cli, {}, "swarmlet", "_SWARMLET_COMPLETE").source())


def print_object(app: App, value: Json, style: str) -> None:
    """One object as JSON on one line, or through a template."""
    if style == "json":
        app.out(json.dumps(value))
        return
    from swarmlet.cli import template

    app.out(template.parse(style).render(value))


def print_objects(app: App, values: list[Json], style: str) -> None:
    """What ``inspect`` prints: a JSON array, or one line for each object."""
    if style and style != "table":
        for value in values:
            print_object(app, value, style)
    else:
        app.out(json.dumps(values, indent=4, ensure_ascii=False))
