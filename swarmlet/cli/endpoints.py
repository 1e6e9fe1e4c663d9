"""``service endpoints``: by which addresses a service is reached, and who answers there."""

from typing import Any, Final

import click

from swarmlet.cli import services
from swarmlet.cli.app import App, example, pass_app
from swarmlet.cli.options import FORMAT
from swarmlet.cli.table import Column, Row, show
from swarmlet.client import filters

Json = Any

COLUMNS: Final = (
    Column("NETWORK", "Network", 1),
    Column("ADDRESS", "Address", 0),
    Column("ENDPOINT", "Endpoint", 2),
    Column("NODE", "Node"),
    Column("STATE", "State"),
    Column("WEIGHT", "Weight"),
    Column("CONNECTIONS", "Connections"),
)

_WEIGHT: Final = "swarmlet.lb.weight"
_PUBLISH_ADDRESS: Final = "swarmlet.publish.address"
#: Networks of which the API has only the identifier are shown by its beginning.
_SHORT: Final = 12
#: From here on a task's state does not change any more, and it has no address.
_ENDED: Final = ("complete", "shutdown", "failed", "rejected", "remove", "orphaned")


@click.command(epilog=example("swarmlet service endpoints web"))
@click.argument("service")
@FORMAT
@pass_app
def endpoints(app: App, service: str, style: str) -> None:
    """Show by which addresses a service is reached: virtual ones, published ports, its tasks.

    CONNECTIONS are TCP connections that a task has now; "?" when its node does not answer.
    """
    found = services.get(app, service)
    names = {str(n["Id"]): str(n["Name"]) for n in app.client.get("/networks") or ()}
    nodes = {str(n["ID"]): n for n in app.client.get("/nodes") or ()}
    tasks = app.client.get("/tasks", filters(service=[str(found["ID"])])) or ()
    counted = app.client.get(f"/swarmlet/services/{found['ID']}/connections")["Connections"]
    rows = [*_own(found, names), *_published(found)]
    for task in sorted(tasks, key=lambda t: (t.get("Slot", 0), t["ID"])):
        rows += _of_task(task, str(found["Spec"]["Name"]), nodes, counted)
    show(app, COLUMNS, rows, style=style)


def _row(network: str, address: str, endpoint: str, *more: str) -> Row:
    cells = (network, address, endpoint, *more)
    padded = (*cells, *("" for _ in range(len(COLUMNS) - len(cells))))
    return {column.field: cell for column, cell in zip(COLUMNS, padded, strict=True)}


def _own(service: Json, names: dict[str, str]) -> list[Row]:
    addresses = (service.get("Endpoint") or {}).get("VirtualIPs") or ()
    return [
        _row(
            names.get(str(a["NetworkID"]), str(a["NetworkID"])[:_SHORT]),
            _plain(a["Addr"]),
            str(service["Spec"]["Name"]),
            "",
            "virtual",
        )
        for a in addresses
    ]


def _published(service: Json) -> list[Row]:
    name = str(service["Spec"]["Name"])
    ports = services.ports(service)
    at = (service["Spec"].get("Labels") or {}).get(_PUBLISH_ADDRESS)
    return [
        _row("(nodes)", _where(text, at), name, "", "host" if " host" in text else "all")
        for text in (ports.split(", ") if ports else ())
    ]


def _where(port: str, address: str | None) -> str:
    if port.endswith(" host"):
        return port.removesuffix(" host")
    return port.replace("*:", f"{address}:", 1) if address else port


def _of_task(
    task: Json, service: str, nodes: dict[str, Json], counted: dict[str, int]
) -> list[Row]:
    state = str((task.get("Status") or {}).get("State", ""))
    if state in _ENDED:
        return []
    node = nodes.get(str(task.get("NodeID", "")), {})
    host = str((node.get("Description") or {}).get("Hostname", ""))
    is_lost = (node.get("Status") or {}).get("State") == "down"
    labels = ((task.get("Spec") or {}).get("ContainerSpec") or {}).get("Labels") or {}
    where = task.get("Slot") or host
    return [
        _row(
            str(network.get("Spec", {}).get("Name") or network.get("ID", "")[:_SHORT]),
            _plain(address),
            f"{service}.{where}",
            host,
            "node down" if is_lost else _word(state, str(task.get("DesiredState", ""))),
            str(labels.get(_WEIGHT, "1")),
            str(counted.get(str(task["ID"]), "?")),
        )
        for attachment in task.get("NetworksAttachments") or ()
        for network in (attachment.get("Network") or {},)
        for address in attachment.get("Addresses") or ()
    ]


def _word(state: str, desired: str) -> str:
    """New connections go to a task that runs (so it is healthy) and shall go on."""
    if desired != "running":
        return "stopping" if desired in _ENDED else f"{state}, waits"
    return "serving" if state == "running" else state


def _plain(address: str) -> str:
    return address.partition("/")[0]
