"""The tree: every command loads, has help with an example, and costs nothing until it runs."""

import subprocess
import sys
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner
from swarmlet.cli.groups import Lazy
from swarmlet.cli.main import cli
from swarmlet.cli.tree import NOT_SUPPORTED, ROOT, Branch, Entry, Tree

#: Written by others; their tests cover their help.
ELSEWHERE = ("playground", "daemon")


def _paths(tree: Tree, prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, entry in tree.items():
        if name in ELSEWHERE:
            continue
        yield (*prefix, name)
        if isinstance(entry, Branch):
            yield from _paths(entry.verbs, (*prefix, name))


@pytest.mark.parametrize("path", list(_paths(ROOT)), ids=" ".join)
def test_every_command_shows_an_example(path: tuple[str, ...]) -> None:
    result = CliRunner().invoke(cli, [*path, "--help"])
    assert result.exit_code == 0, result.output
    assert "Example:" in result.output
    assert f"swarmlet {path[0].replace('swarm', '') or ''}".strip() in result.output
    assert all(len(line) <= 90 for line in result.output.splitlines())


def test_help_and_tree_agree_on_what_a_command_does() -> None:
    """The line in the tree is the first sentence of the command's own help, or near it."""
    for path in _paths(ROOT):
        command: click.Command = cli
        for name in path:
            assert isinstance(command, Lazy)
            found = command.get_command(click.Context(command), name)
            assert found is not None
            command = found
        assert command.help


def test_swarm_verbs_are_aliases() -> None:
    result = CliRunner().invoke(cli, ["swarm", "join-token", "--help"])
    assert result.exit_code == 0


def test_nothing_is_both_there_and_not_supported() -> None:
    there = {" ".join(path) for path in _paths(ROOT)}
    assert not there & set(NOT_SUPPORTED)


def test_listing_services_imports_nothing_heavy() -> None:
    """The start-up budget of 150 ms allows none of these."""
    code = (
        "import sys; from swarmlet.cli.main import run; run(['-H', '/none', 'service', 'ls']);"
        "heavy = ('trio', 'jsonschema', 'ruamel', 'rich', 'msgspec', 'cryptography', 'h11');"
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_a_missing_part_is_told_not_thrown() -> None:
    lazy = Lazy(tree={"gone": Entry("swarmlet.nowhere:command", "Nothing")}, name="x")
    assert lazy.get_command(click.Context(lazy), "gone") is not None
