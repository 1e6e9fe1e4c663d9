"""``node ls``, ``ps`` and ``inspect``."""

from typing import Any, Final

import click

from swarmlet.cli import tasks
from swarmlet.cli.app import App, example, pass_app
from swarmlet.cli.options import FORMAT, filter_query, lists
from swarmlet.cli.settings import print_objects
from swarmlet.cli.table import Column, Row, show
from swarmlet.client import filters, segment

Json = Any

COLUMNS: Final = (
    Column("ID", "ID", 1),
    Column("HOSTNAME", "Hostname", 0),
    Column("STATUS", "Status"),
    Column("AVAILABILITY", "Availability"),
    Column("MANAGER STATUS", "ManagerStatus"),
    Column("ENGINE VERSION", "EngineVersion", 2),
)
FILTERS: Final = ("id", "label", "membership", "name", "node.label", "role")


@click.command(epilog=example("swarmlet node ls", "swarmlet node ls -f role=manager"))
@lists
@pass_app
def ls(app: App, wanted: tuple[str, ...], style: str, *, quiet: bool, no_trunc: bool) -> None:
    """List nodes. The star marks the one that answers."""
    found = list(app.client.get("/nodes", filter_query(wanted, FILTERS) or None) or ())
    here = app.client.node_id()
    found.sort(key=lambda n: (str((n.get("Description") or {}).get("Hostname", "")), n["ID"]))
    style = style or app.style or "table"
    cells = [_row(node, here, mark=style == "table") for node in found]
    ids = [str(node["ID"]) for node in found] if quiet or app.quiet else None
    show(app, COLUMNS, cells, style=style, ids=ids, whole=no_trunc)


def _row(node: Json, here: str, *, mark: bool) -> Row:
    spec = node.get("Spec") or {}
    self_ = node["ID"] == here
    return {
        "ID": f"{node['ID']} *" if self_ and mark else node["ID"],
        "Hostname": str((node.get("Description") or {}).get("Hostname", "")),
        "Status": str((node.get("Status") or {}).get("State", "")).capitalize(),
        "Availability": str(spec.get("Availability", "")).capitalize(),
        "ManagerStatus": _manager(node),
        "EngineVersion": str(
            ((node.get("Description") or {}).get("Engine") or {}).get("EngineVersion", "")
        ),
        "Self": "true" if self_ else "false",
    }


def _manager(node: Json) -> str:
    status = node.get("ManagerStatus")
    if not status:
        return ""
    return "Leader" if status.get("Leader") else str(status.get("Reachability", "")).capitalize()


@click.command(epilog=example("swarmlet node ps", "swarmlet node ps wrk-1"))
@click.argument("node", nargs=-1)
@lists
@pass_app
def ps(
    app: App, /, node: tuple[str, ...], wanted: tuple[str, ...], style: str, **how: bool
) -> None:
    """List the tasks of nodes; without a name, of this one."""
    found = []
    chosen = filter_query(wanted, ("id", "name", "label", "desired-state"))
    for name in node or ("self",):
        node_id = resolve(app, name)["ID"]
        found += tasks.fetch(app, _also(chosen, node_id))
    tasks.print_tasks(app, found, style=style, quiet=how["quiet"], no_trunc=how["no_trunc"])


def _also(query: dict[str, str], node_id: str) -> dict[str, str]:
    import json

    chosen = json.loads(query.get("filters", "{}"))
    return filters(**chosen, node=[node_id])


def resolve(app: App, name: str) -> Json:
    """A node by name, identifier or unique beginning of one; ``self`` is the one that answers."""
    if name == "self":
        name = app.client.node_id() or name
    return app.client.get(f"/nodes/{segment(name)}")


@click.command(epilog=example("swarmlet node inspect self", "swarmlet node inspect wrk-1 --pretty"))
@click.argument("node", nargs=-1, required=True)
@click.option("--pretty", is_flag=True, help="For people.")
@FORMAT
@pass_app
def inspect(app: App, node: tuple[str, ...], style: str, *, pretty: bool) -> None:
    """Show nodes in full."""
    found = [resolve(app, name) for name in node]
    if not pretty:
        print_objects(app, found, style or app.style)
        return
    for one in found:
        spec, said = one.get("Spec") or {}, one.get("Description") or {}
        status = one.get("Status") or {}
        facts = {
            "ID": one["ID"],
            "Hostname": said.get("Hostname", ""),
            "Role": spec.get("Role", ""),
            "State": " ".join(filter(None, (status.get("State"), status.get("Message")))),
            "Availability": spec.get("Availability", ""),
            "Address": status.get("Addr", ""),
            "Manager": _manager(one) or "no",
            "Engine": (said.get("Engine") or {}).get("EngineVersion", ""),
            "Labels": ", ".join(f"{k}={v}" for k, v in sorted((spec.get("Labels") or {}).items())),
        }
        for name, value in facts.items():
            app.out(f"{name + ':':<14} {value}".rstrip())
