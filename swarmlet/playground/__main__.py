"""``python -m swarmlet.playground``: the playground without the rest of the command line."""

import sys

import click

from swarmlet.errors import SwarmletError
from swarmlet.playground.cli import playground


def main() -> None:
    """Run the command; tell a failure in the four lines every swarmlet error has."""
    try:
        playground()
    except SwarmletError as exc:
        click.echo(f"error: {exc.message}", err=True)
        why = getattr(exc, "why", "")
        if why:
            click.echo(f"  why:  {why}", err=True)
        if exc.advice:
            click.echo(f"  fix:  {exc.advice}", err=True)
        click.echo(f"  code: {exc.code}   exit status {exc.exit_status}", err=True)
        sys.exit(exc.exit_status)


if __name__ == "__main__":
    main()
