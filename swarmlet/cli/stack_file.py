"""``stack validate`` and ``stack config``; reading stack files for ``stack deploy``.

Here and nowhere else the command line imports ruamel.yaml and jsonschema: they cost 0.2 s.
"""

import json
from collections.abc import Sequence
from typing import Any, Final

import click

from swarmlet.cli.app import App, example, pass_app
from swarmlet.cli.problems import BadValue, Unfit
from swarmlet.stack.check import Stack, checked, namespace_checked
from swarmlet.stack.load import Node, load_file
from swarmlet.stack.merge import merged
from swarmlet.stack.problems import StackError

Json = Any
#: The name that a stack has while its file is only checked.
UNNAMED: Final = "stack"


def read(app: App, files: Sequence[str], name: str, *, after: str) -> Stack:
    """What stack files stand for; prints every problem, then fails.

    ``after`` says what did not happen because of them.
    """
    try:
        namespace_checked(name)
    except ValueError as exc:
        raise BadValue(f"the name of the stack: {exc}") from exc
    try:
        return checked(_root(files), name)
    except StackError as error:
        for problem in error.problems:
            click.echo(_painted(app, problem.render()), err=True, color=True)
        raise Unfit(
            f"{error.message}, {after}", advice="correct the file; the lines above say where"
        ) from error


def _root(files: Sequence[str]) -> Node:
    roots, problems = [], []
    for file in files:
        try:
            roots.append(load_file(file))
        except StackError as error:
            problems += error.problems
    if problems:
        raise StackError(problems)
    return merged(roots)


def _painted(app: App, text: str) -> str:
    head, newline, rest = text.partition("\n")
    return app.paint(head, "red", err=True) + newline + rest


@click.command(epilog=example("swarmlet stack validate shop.yml"))
@click.argument("file", nargs=-1, required=True)
@pass_app
def validate(app: App, file: tuple[str, ...]) -> None:
    """Check stack files without a cluster. Several files are taken as one stack."""
    specs = read(app, file, UNNAMED, after="nothing would be deployed").services
    app.note(f"fine: {len(specs)} service{'s' if len(specs) != 1 else ''}")


@click.command(epilog=example("swarmlet stack config -c shop.yml shop"))
@click.option("-c", "--compose-file", "files", multiple=True, required=True, metavar="FILE")
@click.argument("name", default=UNNAMED)
@pass_app
def config(app: App, files: tuple[str, ...], name: str) -> None:
    """Show the services that stack files stand for, as the API takes them (JSON)."""
    specs = read(app, files, name, after="nothing to show").services
    app.out(json.dumps(specs, indent=4, ensure_ascii=False))
