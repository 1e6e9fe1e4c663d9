"""What every command is handed: the client, the clock, and how the user wants to read answers."""

import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import click

from swarmlet.cli.problems import BadValue, Refused, plain
from swarmlet.client import DEFAULT_SOCKET, Client

Json = Any
_UNIX: Final = "unix://"


class App:
    """One run of the command line.

    ``monotonic`` and ``sleep`` are the clock of everything that waits; tests hand in their own.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self.color = "auto"
        self.style = ""
        self.quiet = False
        self.monotonic: Callable[[], float] = time.monotonic
        self.sleep: Callable[[float], None] = time.sleep
        self._client: Client | None = None
        self._stale_said = False

    def configure(self, *, host: str, color: str, style: str, quiet: bool) -> None:
        """Take the global options."""
        host = host or ("" if self._path else os.environ.get("SWARMLET_HOST", ""))
        if host:
            self._path = socket_path(host)
        self.color, self.style, self.quiet = color, style, quiet

    @property
    def path(self) -> Path:
        """The daemon's socket."""
        return self._path or DEFAULT_SOCKET

    @property
    def client(self) -> Client:
        """The client of the daemon's API."""
        if self._client is None:
            self._client = Client(self.path, on_stale=self._warn_stale)
        return self._client

    def client_with(self, *, timeout: float) -> Client:
        """A client that waits longer, for calls that form or join a cluster."""
        return Client(self.path, timeout=timeout, on_stale=self._warn_stale)

    def out(self, text: str) -> None:
        """Print data: what a pipe wants."""
        click.echo(text, color=True)

    def note(self, text: str) -> None:
        """Print chatter: progress, hints."""
        if not self.quiet:
            click.echo(text, err=True, color=True)

    def warn(self, text: str) -> None:
        """Print one line that the user should not miss."""
        head = self.paint("warning:", "yellow", err=True)
        click.echo(f"{head} {plain(text)}", err=True, color=True)

    def paint(self, text: str, colour: str, *, err: bool = False) -> str:
        """Colour text if the stream shows colours; the word says it in any case."""
        return click.style(text, fg=colour) if colour and self.colorful(err=err) else text

    def colorful(self, *, err: bool = False) -> bool:
        """Whether to colour what goes to stdout (or to stderr)."""
        return wants_color(self.color, terminal=self.terminal(err=err))

    def terminal(self, *, err: bool = False) -> bool:
        """Whether stdout (or stderr) is a terminal."""
        return (sys.stderr if err else sys.stdout).isatty()

    def width(self) -> int | None:
        """Columns of the terminal on stdout; None on a pipe: nothing is cut there."""
        return shutil.get_terminal_size().columns if self.terminal() else None

    def confirm(self, question: str, *, yes: bool) -> None:
        """Ask before something that cannot be undone; on a pipe only ``--yes`` will do."""
        if yes:
            return
        if not sys.stdin.isatty() or not self.terminal(err=True):
            raise Refused(question, why="nobody is there to confirm it", advice="add --yes")
        if not click.confirm(f"{plain(question)}  Go on?", err=True, default=False):
            raise Refused("nothing was changed", advice="answer y, or add --yes")

    def _warn_stale(self, reason: str) -> None:
        if not self._stale_said:
            self._stale_said = True
            self.warn(f"no quorum: what you see may be old: {reason}")


pass_app: Final = click.make_pass_decorator(App, ensure=True)


def wants_color(choice: str, *, terminal: bool) -> bool:
    """Resolve ``--color`` with NO_COLOR, FORCE_COLOR and TERM."""
    if choice != "auto":
        return choice == "always"
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return terminal or bool(os.environ.get("FORCE_COLOR"))


def socket_path(host: str) -> Path:
    """The path in ``unix:///path``; a bare path is accepted as well."""
    if host.startswith(_UNIX):
        host = host.removeprefix(_UNIX)
    elif "://" in host:
        raise BadValue(
            f"cannot use the host {host}",
            why="swarmlet listens on a unix socket only",
            advice="give -H unix:///run/swarmlet/swarmlet.sock, or run it on the machine (ssh)",
        )
    if not host.startswith("/"):
        raise BadValue(
            f"cannot use the host {host or '(empty)'}",
            why="the path of the socket must be absolute",
            advice="give -H unix:///run/swarmlet/swarmlet.sock",
        )
    return Path(host)


def example(*lines: str) -> str:
    """The epilog of a command's help: examples that click prints as they stand."""
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in lines)


def each(app: App, names: Sequence[str], act: Callable[[str], None]) -> None:
    """Do something to each name; report failures as they come, then fail if there were any."""
    from swarmlet.cli.problems import Partial, render
    from swarmlet.errors import SwarmletError

    failed: list[SwarmletError] = []
    for name in names:
        try:
            act(name)
        except SwarmletError as error:
            if len(names) == 1:
                raise
            failed.append(error)
            click.echo(render(error, color=app.colorful(err=True)), err=True, color=True)
    if failed:
        raise Partial(f"{len(failed)} of {len(names)} failed", advice="see the errors above")
