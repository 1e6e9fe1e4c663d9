"""``swarmlet``: the entry point, its global options, and how every failure ends.

Data goes to stdout, everything else to stderr. A failure is four lines and an exit status
(:mod:`swarmlet.cli.problems`), never a traceback; ``--debug`` shows the chain of causes.
"""

import contextlib
import errno
import os
import sys
import tempfile
from collections.abc import Sequence
from typing import Final

import click

from swarmlet.cli.app import App, example, wants_color
from swarmlet.cli.groups import GROUP_EXAMPLES, Lazy
from swarmlet.cli.problems import CliError, exit_status_of, from_click, render
from swarmlet.cli.tree import ROOT
from swarmlet.errors import SwarmletError

INTERRUPTED: Final = 130
INTERNAL: Final = 1

#: What an output file raises whose disk is full or broken.
_WRITE_ERRORS: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})


def _root(
    *, host: str, style: str, color: str, debug: bool, quiet: bool, show_version: bool
) -> None:
    context = click.get_current_context()
    if show_version:
        from swarmlet import __version__

        click.echo(f"swarmlet {__version__}")
        context.exit()
    del debug  # run() reads it: it must work for errors in the options too
    app = context.ensure_object(App)
    app.configure(host=host, style=style, color=color, quiet=quiet)
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
        context.exit(0)


cli: Final = Lazy(
    tree=ROOT,
    name="swarmlet",
    callback=_root,
    invoke_without_command=True,
    help="A cluster of Docker Engines with Swarm's simplicity.",
    epilog=example(*GROUP_EXAMPLES["swarmlet"]),
    context_settings={"help_option_names": ["-h", "--help"]},
    params=[
        click.Option(
            ["-H", "--host"],
            default="",
            metavar="unix://PATH",
            help="The daemon's socket (environment: SWARMLET_HOST).",
        ),
        click.Option(
            ["--format", "style"],
            default="",
            metavar="FORMAT",
            help="table, json (one object a line) or a template such as '{{.Name}}'.",
        ),
        click.Option(
            ["--color"],
            type=click.Choice(["auto", "always", "never"]),
            default="auto",
            show_default=True,
            help="Colours (NO_COLOR and TERM=dumb are respected).",
        ),
        click.Option(["--debug"], is_flag=True, help="Show the chain of causes of an error."),
        click.Option(["-q", "--quiet"], is_flag=True, help="No progress, no hints."),
        click.Option(
            ["--version", "show_version"], is_flag=True, help="Show the version and exit."
        ),
    ],
)


def main(argv: Sequence[str] | None = None) -> None:
    """Console entry point. Ends the process with the exit status of the command."""
    args = list(sys.argv[1:] if argv is None else argv)
    status = run(args)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _forget_stdout()
    except OSError as error:
        status = _cannot_write(error, args)
    sys.exit(status)


def run(args: Sequence[str], *, app: App | None = None) -> int:
    """Run one command line; returns its exit status, having told the user what went wrong."""
    debug = "--debug" in args
    try:
        result = cli.main(list(args), prog_name="swarmlet", standalone_mode=False, obj=app)
        status = result if isinstance(result, int) else 0
    except click.exceptions.Exit as done:
        status = done.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        status = INTERRUPTED
    except BrokenPipeError:
        _forget_stdout()
        status = 0
    except click.ClickException as error:
        status = _fail(from_click(error), args, debug=debug)
    except SwarmletError as error:
        status = _fail(error, args, debug=debug)
    except OSError as error:
        full = error.errno in _WRITE_ERRORS
        status = _cannot_write(error, args) if full else _crash(error, args, debug=debug)
    except Exception as error:  # noqa: BLE001 - the last line of defence: never a traceback
        status = _crash(error, args, debug=debug)
    return status


def _fail(error: SwarmletError, args: Sequence[str], *, debug: bool) -> int:
    color = wants_color(_color_choice(args), terminal=sys.stderr.isatty())
    with contextlib.suppress(OSError):  # the exit status says it too
        click.echo(render(error, color=color), err=True, color=True)
        cause = error.__cause__ if debug else None
        while cause is not None:
            click.echo(f"  caused by: {type(cause).__name__}: {cause}", err=True)
            cause = cause.__cause__ or cause.__context__
    return exit_status_of(error)


def _cannot_write(error: OSError, args: Sequence[str]) -> int:
    """A disk that is full, or broken: the user's, not ours."""
    if error.filename is None:
        _forget_stdout()
    what = error.filename or "the output"
    told = CliError(
        f"{what} cannot be written: {error.strerror or error}",
        why="the command itself may have been carried out",
        advice="make room where its output goes, and look before you repeat it",
    )
    return _fail(told, args, debug=False)


def _crash(error: Exception, args: Sequence[str], *, debug: bool) -> int:
    """A defect of ours: its traceback goes to a file that the message names."""
    import traceback

    text = "".join(traceback.format_exception(error))
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="swarmlet-crash-", suffix=".log", delete=False
        ) as log:
            log.write(f"swarmlet {' '.join(_redacted(args))}\n{text}")
        advice = f"please report it with the file {log.name}"
    except OSError:
        advice = "please report it with what --debug shows: swarmlet --debug …"
    if debug:
        click.echo(text, err=True)
    told = CliError(
        f"swarmlet itself failed: {type(error).__name__}: {error}",
        why="this is a defect of swarmlet, not yours",
        advice=advice,
    )
    return _fail(told, args, debug=False)


def _redacted(args: Sequence[str]) -> list[str]:
    """The command line without join tokens: the log may be passed on."""
    return ["SWMTKN-…" if "SWMTKN-" in arg else arg for arg in args]


def _color_choice(args: Sequence[str]) -> str:
    for choice in ("always", "never"):
        if f"--color={choice}" in args or (
            "--color" in args[:-1] and args[args.index("--color") + 1] == choice
        ):
            return choice
    return "auto"


def _forget_stdout() -> None:
    """After ``| head``: keep the interpreter from failing on its last flush."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
