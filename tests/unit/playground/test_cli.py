"""The commands of ``swarmlet playground``, as far as they do not touch the machine."""

import click
import pytest
from click.testing import CliRunner
from swarmlet.errors import InvalidInput, NotFound
from swarmlet.playground.cli import playground

VERBS = sorted(playground.commands)


def test_the_verbs_are_those_of_the_design() -> None:
    assert VERBS == [
        "cut",
        "down",
        "exec",
        "heal",
        "kill",
        "load-image",
        "partition",
        "start",
        "start-daemon",
        "status",
        "stop-daemon",
        "up",
    ]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example_and_knows_name(verb: str) -> None:
    said = CliRunner().invoke(playground, [verb, "--help"]).output
    assert f"sudo swarmlet playground {verb}" in said
    assert "--name NAME" in said


def test_a_playground_that_does_not_exist_is_not_found() -> None:
    done = CliRunner().invoke(playground, ["status", "--name", "never-made"])
    assert isinstance(done.exception, NotFound)


def test_a_name_that_cannot_be_is_refused_before_anything_is_done() -> None:
    done = CliRunner().invoke(playground, ["status", "--name", "../etc"])
    assert isinstance(done.exception, InvalidInput)


def test_the_group_can_be_mounted_below_another() -> None:
    root = click.Group("swarmlet", commands={"playground": playground})
    assert CliRunner().invoke(root, ["playground", "--help"]).exit_code == 0
