"""``task ls`` and ``task inspect``."""

import click

from swarmlet.cli import tasks
from swarmlet.cli.app import App, example, pass_app
from swarmlet.cli.options import FORMAT, filter_query, lists
from swarmlet.cli.settings import print_objects
from swarmlet.client import segment


@click.command(epilog=example("swarmlet task ls", "swarmlet task ls -f desired-state=running"))
@lists
@pass_app
def ls(app: App, wanted: tuple[str, ...], style: str, *, quiet: bool, no_trunc: bool) -> None:
    """List the tasks of all services."""
    found = tasks.fetch(app, filter_query(wanted, tasks.FILTERS))
    tasks.print_tasks(app, found, style=style, quiet=quiet, no_trunc=no_trunc)


@click.command(epilog=example("swarmlet task inspect q3x0f8c1a2"))
@click.argument("task", nargs=-1, required=True)
@FORMAT
@pass_app
def inspect(app: App, task: tuple[str, ...], style: str) -> None:
    """Show tasks in full."""
    found = [app.client.get(f"/tasks/{segment(one)}") for one in task]
    print_objects(app, found, style or app.style)
