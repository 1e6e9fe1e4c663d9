"""Errors that arise in the command line itself, and how any error looks to the user."""

import re
from typing import ClassVar, Final

import click

from swarmlet.client import RemoteError
from swarmlet.errors import SwarmletError


class CliError(SwarmletError):
    """Something the command line found wrong by itself. ``why`` is the cause, "" if plain."""

    code: ClassVar[str] = "failed"

    def __init__(self, message: str, *, why: str = "", advice: str = "") -> None:
        super().__init__(message, advice=advice)
        self.why = why


class Usage(CliError):
    """The command was typed wrongly; nothing was sent."""

    code, exit_status = "usage", 2


class BadValue(CliError):
    """The value of an option makes no sense."""

    code, exit_status = "usage", 2


class Unsupported(CliError):
    """Docker knows this command; swarmlet does not."""

    code, exit_status = "not-supported", 16


class Absent(CliError):
    """No object of that name."""

    code, exit_status = "not-found", 3


class Refused(CliError):
    """It is dangerous and nobody confirmed it."""

    code, exit_status = "not-confirmed", 7


class Unfit(CliError):
    """A file or a spec is wrong; nothing was changed."""

    code, exit_status = "invalid", 8


class DidNotConverge(CliError):
    """The change was accepted, but what runs is not what was asked for."""

    code, exit_status = "not-converged", 9


class Partial(CliError):
    """Several objects were named and some failed; each has been reported."""

    code = "failed"


_GRPC: Final = re.compile(r"^rpc error: code = \w+ desc = ")

#: The way out for errors that carry no advice of their own.
_ADVICE: Final = {
    "not-found": "swarmlet node ls, service ls, stack ls and task ls show what there is",
    "conflict": "look at the object again and repeat the command",
    "not-a-manager": "run it on a manager, or make this node one: swarmlet init, swarmlet join",
    "no-quorum": "start the missing managers; swarmlet node ls shows which are down",
    "invalid": "correct the value and repeat the command; --help shows examples",
    "exists": "choose another name, or update the object that has it",
    "usage": "add --help to the command: it shows the options and an example",
    "internal": "the daemon's log says more: journalctl -u swarmletd",
}


def exit_status_of(error: SwarmletError) -> int:
    """The process's exit status for an error."""
    return error.remote_exit_status if isinstance(error, RemoteError) else error.exit_status


def code_of(error: SwarmletError) -> str:
    """The stable code of an error."""
    return error.remote_code if isinstance(error, RemoteError) else error.code


def render(error: SwarmletError, *, color: bool) -> str:
    """An error in four lines: what, why, fix, code. A line with nothing to say is left out."""
    code = code_of(error)
    why = str(getattr(error, "why", ""))
    fix = error.advice or _ADVICE.get(code, "")
    head = click.style("error:", fg="red", bold=True) if color else "error:"
    lines = [f"{head} {plain(ours(error.message))}"]
    if why:
        lines.append(f"  why:  {plain(why)}")
    if fix:
        lines.append(f"  fix:  {plain(fix)}")
    lines.append(f"  code: {code}   exit status {exit_status_of(error)}")
    return "\n".join(lines)


def from_click(error: click.ClickException) -> CliError:
    """Click's complaint about how a command was typed, in our form."""
    message = error.format_message().rstrip(".")
    message = message[:1].lower() + message[1:]
    if not isinstance(error, click.UsageError):
        return CliError(message)
    command = error.ctx.command_path if error.ctx else "swarmlet"
    fix = f"{command} --help shows the options and an example"
    if isinstance(error, click.NoSuchOption):
        if error.option_name in ROOT_OPTIONS:
            fix = f"it goes before the command: swarmlet {error.option_name} … {_tail(command)}"
        elif error.possibilities:
            message = f"no such option: {error.option_name}"
            fix = f"did you mean {' or '.join(sorted(error.possibilities))}?   {fix}"
    return Usage(message, advice=fix)


def ours(message: str) -> str:
    """A message of the API, which speaks Docker's words for Docker's clients, in our words."""
    message = _GRPC.sub("", message)
    return message.replace("docker swarm ", "swarmlet ")


#: Options that belong to ``swarmlet`` itself, not to its commands.
ROOT_OPTIONS: Final = ("-H", "--host", "--color", "--debug")


def _tail(command_path: str) -> str:
    return command_path.partition(" ")[2]


def plain(text: str) -> str:
    """Text from elsewhere without control characters: nothing may steer the user's terminal."""
    return "".join(c if c.isprintable() else " " for c in text)
