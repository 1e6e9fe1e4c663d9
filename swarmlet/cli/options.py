"""Options that many commands share, and the filters of lists."""

import json
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import click

from swarmlet.cli.problems import BadValue

F = TypeVar("F", bound=Callable[..., Any])

FORMAT: Final = click.option(
    "--format", "style", default="", metavar="FORMAT", help="table, json or a template."
)
QUIET: Final = click.option("-q", "--quiet", is_flag=True, help="Identifiers only.")
NO_TRUNC: Final = click.option("--no-trunc", is_flag=True, help="Cut nothing.")
FILTER: Final = click.option(
    "-f", "--filter", "wanted", multiple=True, metavar="KEY=VALUE", help="Show only what fits."
)
DETACH: Final = click.option("-d", "--detach", is_flag=True, help="Do not wait for the result.")
TIMEOUT: Final = click.option(
    "--timeout", default="", metavar="TIME", help="Give up waiting after so long, such as 90s."
)
YES: Final = click.option("-y", "--yes", is_flag=True, help="Do not ask.")


def lists(function: F) -> F:
    """Give a list command its four options."""
    for option in (FORMAT, QUIET, NO_TRUNC, FILTER):
        function = option(function)
    return function


def filter_query(wanted: Sequence[str], known: Sequence[str]) -> dict[str, str]:
    """The ``filters`` parameter of ``-f key=value``. An unknown key lists the known ones."""
    chosen: dict[str, list[str]] = {}
    for one in wanted:
        key, equals, value = one.partition("=")
        if not equals or key not in known:
            raise BadValue(
                f"cannot filter by {one!r}",
                why="" if equals else "a filter is written KEY=VALUE",
                advice=f"the keys are {', '.join(known)}",
            )
        chosen.setdefault(key, []).append(value)
    return {"filters": json.dumps(chosen)} if chosen else {}
