"""``stack ls``, ``ps``, ``services`` and ``rm``. A stack is the services that carry its label."""

from collections import Counter
from typing import Any, Final

import click

from swarmlet.cli import emptying, stack_networks, tasks
from swarmlet.cli import services as listing
from swarmlet.cli.app import App, each, example, pass_app
from swarmlet.cli.convergence import ENDED
from swarmlet.cli.options import FORMAT, TIMEOUT, YES, filter_query, lists
from swarmlet.cli.problems import Absent, DidNotConverge
from swarmlet.cli.settings import seconds
from swarmlet.cli.table import Column, show
from swarmlet.client import filters, segment

Json = Any
LABEL: Final = "com.docker.stack.namespace"
COLUMNS: Final = (Column("NAME", "Name"), Column("SERVICES", "Services"))


def of_stack(app: App, name: str) -> list[Json]:
    """The services of a stack."""
    return listing.fetch(app, filters(label=[f"{LABEL}={name}"]))


def _present(app: App, name: str) -> list[Json]:
    found = of_stack(app, name)
    if not found:
        raise Absent(f"there is no stack {name}", advice="swarmlet stack ls lists the stacks")
    return found


@click.command(epilog=example("swarmlet stack ls"))
@FORMAT
@pass_app
def ls(app: App, style: str) -> None:
    """List stacks."""
    found = listing.fetch(app, filters(label=[LABEL]))
    counts = Counter(str((s["Spec"].get("Labels") or {}).get(LABEL, "")) for s in found)
    rows = [{"Name": name, "Services": str(n)} for name, n in sorted(counts.items())]
    ids = [row["Name"] for row in rows] if app.quiet else None
    show(app, COLUMNS, rows, style=style, ids=ids)


@click.command(epilog=example("swarmlet stack services shop"))
@click.argument("stack")
@lists
@pass_app
def services(app: App, /, stack: str, wanted: tuple[str, ...], style: str, **how: bool) -> None:
    """List the services of a stack."""
    found = _present(app, stack)
    chosen = filter_query(wanted, listing.FILTERS)
    if chosen:
        fit = {s["ID"] for s in listing.fetch(app, chosen)}
        found = [s for s in found if s["ID"] in fit]
    listing.print_services(app, found, style=style, quiet=how["quiet"], no_trunc=how["no_trunc"])


@click.command(epilog=example("swarmlet stack ps shop"))
@click.argument("stack")
@lists
@pass_app
def ps(app: App, /, stack: str, wanted: tuple[str, ...], style: str, **how: bool) -> None:
    """List the tasks of a stack."""
    import json

    ids = [str(s["ID"]) for s in _present(app, stack)]
    chosen = json.loads(
        filter_query(wanted, ("id", "name", "node", "desired-state")).get("filters", "{}")
    )
    found = tasks.fetch(app, filters(**chosen, service=ids))
    tasks.print_tasks(app, found, style=style, quiet=how["quiet"], no_trunc=how["no_trunc"])


@click.command(epilog=example("swarmlet stack rm shop", "swarmlet stack rm --yes --wait shop"))
@click.argument("stack", nargs=-1, required=True)
@YES
@click.option("--wait", is_flag=True, help="Wait until no container is left.")
@TIMEOUT
@pass_app
def rm(app: App, stack: tuple[str, ...], timeout: str, *, yes: bool, wait: bool) -> None:
    """Remove stacks: all their services, containers and networks."""
    limit = seconds(timeout)

    def act(name: str) -> None:
        nets = stack_networks.of_stack(app, name)
        found = of_stack(app, name) if nets else _present(app, name)
        count = f"{len(found)} service{'s' if len(found) != 1 else ''}"
        app.confirm(f"This removes the stack {name} with {count} and all containers.", yes=yes)
        for service in found:
            app.client.delete(f"/services/{segment(service['ID'])}")
            app.note(f"Removing service {service['Spec']['Name']}")
        if wait:
            _wait_gone(app, [str(s["ID"]) for s in found], name, limit)
        stack_networks.remove(app, nets)
        app.out(name)

    each(app, stack, act)


def _wait_gone(app: App, ids: list[str], name: str, limit: float | None) -> None:
    """Wait until every task of removed services has ended or is forgotten."""

    def running() -> int:
        # the services are gone already, so the API cannot be asked for their tasks by name
        found = [t for t in tasks.fetch(app, {}) if t.get("ServiceID") in ids]
        return sum(1 for t in found if (t.get("Status") or {}).get("State") not in ENDED)

    emptying.until_gone(
        app,
        running,
        say=lambda left: f"stack {name}: {emptying.tasks(left)} still stopping",
        late=lambda left: DidNotConverge(
            f"{name} still has {left} tasks", advice="swarmlet task ls"
        ),
        limit=limit,
    )
