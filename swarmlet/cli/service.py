"""``service ls``, ``ps`` and ``inspect``."""

import json
from typing import Any

import click

from swarmlet.cli import services, tasks
from swarmlet.cli.app import App, example, pass_app
from swarmlet.cli.options import FORMAT, filter_query, lists
from swarmlet.cli.settings import print_objects
from swarmlet.client import filters

Json = Any


@click.command(epilog=example("swarmlet service ls", "swarmlet service ls --format json"))
@lists
@pass_app
def ls(app: App, wanted: tuple[str, ...], style: str, *, quiet: bool, no_trunc: bool) -> None:
    """List services."""
    found = services.fetch(app, filter_query(wanted, services.FILTERS))
    services.print_services(app, found, style=style, quiet=quiet, no_trunc=no_trunc)


@click.command(epilog=example("swarmlet service ps web", "swarmlet service ps --no-trunc web"))
@click.argument("service", nargs=-1, required=True)
@lists
@pass_app
def ps(
    app: App, /, service: tuple[str, ...], wanted: tuple[str, ...], style: str, **how: bool
) -> None:
    """List the tasks of services, earlier ones included."""
    chosen = filter_query(wanted, ("id", "name", "node", "desired-state"))
    ids = [str(services.get(app, name)["ID"]) for name in service]
    query = filters(**json.loads(chosen.get("filters", "{}")), service=ids)
    found = tasks.fetch(app, query)
    tasks.print_tasks(app, found, style=style, quiet=how["quiet"], no_trunc=how["no_trunc"])


@click.command(
    epilog=example("swarmlet service inspect web", "swarmlet service inspect --pretty web")
)
@click.argument("service", nargs=-1, required=True)
@click.option("--pretty", is_flag=True, help="For people.")
@FORMAT
@pass_app
def inspect(app: App, service: tuple[str, ...], style: str, *, pretty: bool) -> None:
    """Show services in full."""
    found = [services.get(app, name) for name in service]
    if not pretty:
        print_objects(app, found, style or app.style)
        return
    from swarmlet.cli.pretty import facts

    for one in found:
        for line in facts(one):
            app.out(line)
