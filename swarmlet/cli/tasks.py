"""The table of tasks that ``service ps``, ``node ps``, ``stack ps`` and ``task ls`` print."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from swarmlet.cli import ago
from swarmlet.cli.app import App
from swarmlet.cli.table import Column, Row, show
from swarmlet.errors import SwarmletError

Json = Any

COLUMNS: Final = (
    Column("ID", "ID"),
    Column("NAME", "Name", 0),
    Column("IMAGE", "Image", 3),
    Column("NODE", "Node", 1),
    Column("DESIRED STATE", "DesiredState"),
    Column("CURRENT STATE", "CurrentState", 2),
    Column("ERROR", "Error", 4),
    Column("PORTS", "Ports", 5),
)
#: Docker cuts errors here, on a pipe too; ``--no-trunc`` shows all.
ERROR_CELLS: Final = 75
SHORT_ID: Final = 12
FILTERS: Final = ("id", "name", "node", "service", "desired-state", "label")


class Names:
    """Names of services and nodes by identifier, read at most once each."""

    def __init__(self, app: App) -> None:
        self.services = {s["ID"]: str(s["Spec"]["Name"]) for s in _safely(app, "/services")}
        self.nodes = {n["ID"]: _hostname(n) for n in _safely(app, "/nodes")}

    def task(self, task: Json) -> str:
        """``service.slot``, or ``service.node`` for a global service."""
        service_id = str(task.get("ServiceID", ""))
        service = self.services.get(service_id, service_id)
        return f"{service}.{task.get('Slot') or task.get('NodeID', '')}"

    def node(self, task: Json) -> str:
        """The name of a task's node."""
        node_id = str(task.get("NodeID", ""))
        return self.nodes.get(node_id, node_id)


def _safely(app: App, path: str) -> Sequence[Json]:
    """Objects that only lend their names: a list without them is better than none."""
    try:
        return list(app.client.get(path) or ())
    except SwarmletError:
        return ()


def _hostname(node: Json) -> str:
    return str((node.get("Description") or {}).get("Hostname") or node["ID"])


def fetch(app: App, query: Mapping[str, str]) -> list[Json]:
    """Tasks that fit a query, sorted as Docker sorts them."""
    return list(app.client.get("/tasks", dict(query) or None) or ())


def ordered(tasks: Sequence[Json], names: Names) -> list[Json]:
    """By name, and the newest of a slot first (a global service names its tasks by node)."""
    newest = sorted(tasks, key=lambda t: str(t.get("CreatedAt", "")), reverse=True)
    return sorted(newest, key=lambda t: _natural(names.task(t)))


def _natural(name: str) -> tuple[str, int]:
    head, _, tail = name.rpartition(".")
    return (head, int(tail)) if tail.isdigit() else (name, 0)


def rows(tasks: Sequence[Json], names: Names, *, no_trunc: bool = False) -> list[Row]:
    """Cells of tasks; earlier tasks of the same slot are drawn below it with a branch."""
    result: list[Row] = []
    before = ""
    for task in ordered(tasks, names):
        name = names.task(task)
        shown = f" \\_ {name}" if name == before else name
        before = name
        result.append(_row(task, shown, names.node(task), no_trunc=no_trunc))
    return result


def _row(task: Json, name: str, node: str, *, no_trunc: bool) -> Row:
    status = task.get("Status") or {}
    state = str(status.get("State", "")).capitalize()
    since = ago.age(str(status.get("Timestamp", "")))
    error = error_of(task)
    image = str(container(task).get("Image", ""))
    if not no_trunc:
        image = image.partition("@sha256:")[0]
        if len(error) > ERROR_CELLS:
            error = error[: ERROR_CELLS - 1] + "…"
    return {
        "ID": task["ID"] if no_trunc else task["ID"][:SHORT_ID],
        "Name": name,
        "Image": image,
        "Node": node,
        "DesiredState": str(task.get("DesiredState", "")).capitalize(),
        "CurrentState": f"{state} {since}".strip(),
        "Error": f'"{error}"' if error else "",
        "Ports": _ports(status),
    }


def container(task: Json) -> Json:
    """The container spec of a task."""
    return ((task.get("Spec") or {}).get("ContainerSpec")) or {}


def error_of(task: Json) -> str:
    """What went wrong with a task, in one line; "" if nothing did."""
    status = task.get("Status") or {}
    error = " ".join(str(status.get("Err", "")).split())
    code = (status.get("ContainerStatus") or {}).get("ExitCode")
    if not error and status.get("State") == "failed" and code:
        error = f"task: non-zero exit ({code})"
    return error


def _ports(status: Json) -> str:
    ports = (status.get("PortStatus") or {}).get("Ports") or ()
    return ",".join(
        f"*:{p.get('PublishedPort', '')}->{p['TargetPort']}/{p.get('Protocol', 'tcp')}"
        for p in ports
    )


def print_tasks(
    app: App, tasks: Sequence[Json], *, style: str, quiet: bool, no_trunc: bool
) -> None:
    """Print tasks as a list command prints them."""
    names = Names(app)
    cells = rows(tasks, names, no_trunc=no_trunc)
    ids = [row["ID"] for row in cells] if quiet or app.quiet else None
    columns = COLUMNS if any(row["Ports"] for row in cells) else COLUMNS[:-1]
    show(app, columns, cells, style=style, ids=ids, whole=no_trunc)
