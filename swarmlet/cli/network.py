"""``network create``, ``ls``, ``inspect``, ``rm`` and ``prune``."""

from collections.abc import Callable
from typing import Any, Final

import click

from swarmlet.cli import service_values
from swarmlet.cli.app import App, each, example, pass_app
from swarmlet.cli.options import FORMAT, YES, F, filter_query, lists
from swarmlet.cli.problems import BadValue
from swarmlet.cli.settings import print_objects
from swarmlet.cli.table import Column, show
from swarmlet.client import segment

Json = Any

COLUMNS: Final = (
    Column("NETWORK ID", "ID", 1),
    Column("NAME", "Name", 0),
    Column("DRIVER", "Driver"),
    Column("SCOPE", "Scope"),
)
SHORT_ID: Final = 12
FILTERS: Final = ("dangling", "driver", "id", "label", "name", "scope", "type")

#: Seconds that the removal of a network may wait for its last tasks to stop.
REMOVING: Final = 120.0


def _many(flag: str, name: str, metavar: str, text: str) -> Callable[[F], F]:
    return click.option(flag, name, multiple=True, metavar=metavar, help=text)


@click.command(
    epilog=example(
        "swarmlet network create backend",
        "swarmlet network create --subnet 10.80.0.0/24 --attachable --label team=shop backend",
    )
)
@click.option("-d", "--driver", default="overlay", show_default=True, help="Kind of network.")
@_many("--subnet", "subnets", "CIDR", "Its range of addresses; a free one if not given.")
@_many("--ip-range", "ranges", "CIDR", "The part of it that tasks get.")
@_many("--gateway", "gateways", "ADDRESS", "The way out (default: the first address).")
@_many("--aux-address", "aux", "NAME=ADDRESS", "Addresses in it that are taken.")
@click.option("--attachable", is_flag=True, help="Single containers may join it too.")
@click.option("--internal", is_flag=True, help="No way out of it.")
@click.option("--ingress", is_flag=True, help="The network of published ports; there is one.")
@_many("--opt", "options", "KEY=VALUE", "Option of the driver.")
@_many("--label", "labels", "KEY=VALUE", "Label of the network.")
@click.argument("name")
@pass_app
def create(app: App, /, name: str, **given: Json) -> None:
    """Create a network that services on all nodes can join."""
    body = {
        "Name": name,
        "Driver": given["driver"],
        "IPAM": {"Driver": "default", "Config": _ranges(given)},
        "Attachable": given["attachable"],
        "Internal": given["internal"],
        "Ingress": given["ingress"],
        "Options": _pairs("--opt", given["options"]),
        "Labels": _pairs("--label", given["labels"]),
        "CheckDuplicate": True,
    }
    answer = app.client.post("/networks/create", body)
    if answer.get("Warning"):
        app.warn(str(answer["Warning"]))
    app.out(str(answer["Id"]))


def _ranges(given: Json) -> list[Json]:
    """One range of addresses for each subnet; what belongs to it is found by its order."""
    count = max(len(given[key]) for key in ("subnets", "ranges", "gateways"))
    fields = (("Subnet", "subnets"), ("IPRange", "ranges"), ("Gateway", "gateways"))
    found: list[Json] = [
        {name: given[key][i] for name, key in fields if i < len(given[key])} for i in range(count)
    ]
    aux = _pairs("--aux-address", given["aux"])
    if aux:
        found = found or [{}]
        found[0]["AuxiliaryAddresses"] = aux
    return found


def _pairs(flag: str, texts: tuple[str, ...]) -> dict[str, str]:
    try:
        return dict(service_values.pair(text) for text in texts)
    except ValueError as exc:
        raise BadValue(f"{flag}: {exc}") from exc


@click.command(epilog=example("swarmlet network ls", "swarmlet network ls -f scope=swarm"))
@lists
@pass_app
def ls(app: App, wanted: tuple[str, ...], style: str, *, quiet: bool, no_trunc: bool) -> None:
    """List networks: those of the cluster, and those of this node's engine."""
    found = app.client.get("/networks", filter_query(wanted, FILTERS) or None) or ()
    rows = [
        {
            "ID": one["Id"] if no_trunc else one["Id"][:SHORT_ID],
            "Name": one["Name"],
            "Driver": one["Driver"],
            "Scope": one["Scope"],
            "Internal": "true" if one.get("Internal") else "false",
        }
        for one in sorted(found, key=lambda n: str(n["Name"]))
    ]
    ids = [row["ID"] for row in rows] if quiet or app.quiet else None
    show(app, COLUMNS, rows, style=style, ids=ids, whole=no_trunc)


@click.command(
    epilog=example("swarmlet network inspect backend", "swarmlet network inspect -v backend")
)
@click.option("-v", "--verbose", is_flag=True, help="Also its services and their tasks.")
@click.argument("network", nargs=-1, required=True)
@FORMAT
@pass_app
def inspect(app: App, network: tuple[str, ...], style: str, *, verbose: bool) -> None:
    """Show networks in full."""
    query = {"verbose": "true"} if verbose else None
    found = [app.client.get(f"/networks/{segment(name)}", query) for name in network]
    print_objects(app, found, style or app.style)


@click.command(epilog=example("swarmlet network rm backend"))
@click.argument("network", nargs=-1, required=True)
@pass_app
def rm(app: App, network: tuple[str, ...]) -> None:
    """Remove networks that nothing uses."""

    def act(name: str) -> None:
        app.client_with(timeout=REMOVING).delete(f"/networks/{segment(name)}")
        app.out(name)

    each(app, network, act)


@click.command(epilog=example("swarmlet network prune --yes --filter until=24h"))
@click.option(
    "-f", "--filter", "wanted", multiple=True, metavar="KEY=VALUE",
    help="until=TIME, label=KEY[=VALUE] or label!=KEY.",
)  # fmt: skip
@YES
@pass_app
def prune(app: App, wanted: tuple[str, ...], *, yes: bool) -> None:
    """Remove all networks that nothing uses: the cluster's, and those of this node's engine."""
    query = filter_query(wanted, ("until", "label", "label!"))
    app.confirm("This removes every network that no service and no container uses.", yes=yes)
    answer = app.client_with(timeout=REMOVING).post("/networks/prune", query=query or None)
    for name in (answer or {}).get("NetworksDeleted") or ():
        app.out(str(name))
