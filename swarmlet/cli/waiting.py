"""Waits until services run as asked, and shows it: live on a terminal, line by line on a pipe."""

import datetime as dt
import re
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Protocol, Self

from swarmlet.cli.app import App
from swarmlet.cli.convergence import Standing, Trouble, judge
from swarmlet.cli.problems import DidNotConverge, plain
from swarmlet.client import DaemonUnreachable, RemoteError, filters, segment

Json = Any

_DIGITS: Final = re.compile(r"\d+")

#: Docker's rhythm.
POLL: Final = 0.2
#: What runs must go on running for so long, unless the service's update says another time.
MONITOR: Final = 5.0
NANOS: Final = 1e9
#: A lost leader or a restarted daemon is no failure of the service: this long it may be silent.
SILENCE: Final = 30.0
#: Lines of trouble that are shown of one service.
SHOWN: Final = 3
#: A global service for which no node fits never gets a task; after this it counts as converged.
NO_NODE: Final = 5.0


class View(Protocol):
    """Shows how the wait goes."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None: ...

    def show(self, standings: Sequence[Standing], *, stable_in: float | None) -> None:
        """Show where the services stand; ``stable_in`` counts down once all have converged."""
        ...

    def say(self, text: str) -> None:
        """Show one line beside it."""
        ...


class Lines:
    """For pipes: one plain line for each change of state."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._before: dict[str, str] = {}
        self._told: set[tuple[str, str, int]] = set()
        self._watching = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        pass

    def show(self, standings: Sequence[Standing], *, stable_in: float | None) -> None:
        """Print what changed since last time."""
        for one in standings:
            if self._before.get(one.name) != one.line:
                self._before[one.name] = one.line
                self._app.note(plain(f"service {one.name}: {one.line}"))
            for trouble in one.troubles[:SHOWN]:
                self._trouble(trouble)
        if stable_in is not None and not self._watching:
            self.say(f"watching for {stable_in:.0f} s that they stay up")
        self._watching = stable_in is not None

    def _trouble(self, trouble: Trouble) -> None:
        """Tell a reason at its first, second, fourth … time, whatever numbers it holds."""
        key = (trouble.task, _DIGITS.sub("", trouble.words), trouble.times.bit_length())
        if key not in self._told:
            self._told.add(key)
            self._app.note(plain(f"  {trouble}"))

    def say(self, text: str) -> None:
        """Print one line."""
        self._app.note(plain(text))


def wait(
    app: App,
    ids: Sequence[str],
    *,
    timeout: float | None,
    follow: str,
) -> list[Standing]:
    """Wait until all services have converged and stayed so. Raises DidNotConverge.

    ``follow`` is the command that shows the progress to somebody who interrupts the wait.
    """
    if not ids:
        return []
    watch = _Watch(app, ids)
    with _view(app) as view:
        try:
            return watch.run(view, timeout)
        except KeyboardInterrupt:
            view.say(f"it goes on without you; see it with: {follow}")
            raise


def _view(app: App) -> View:
    if app.terminal(err=True) and not app.quiet and not _dumb():
        from swarmlet.cli.live import Live

        return Live(color=app.colorful(err=True))
    return Lines(app)


def _dumb() -> bool:
    import os

    return os.environ.get("TERM") == "dumb"


class _Watch:
    def __init__(self, app: App, ids: Sequence[str]) -> None:
        self.app = app
        self.ids = ids
        self.monitor = MONITOR
        self._troubles: dict[str, Trouble] = {}
        self._silent_since: float | None = None
        self._started = app.monotonic()
        self._all_since: float | None = None
        self._undone: dict[str, str] = {}

    def run(self, view: View, timeout: float | None) -> list[Standing]:
        standings: list[Standing] = []
        while True:
            now = self.app.monotonic()
            read = self._read(view)
            if read is not None:
                standings = read
                self._troubles |= {one.name: one.troubles[0] for one in read if one.troubles}
                if self._settled(standings, now, view):
                    return standings
            if timeout is not None and now - self._started > timeout:
                raise _late(standings, timeout, self._troubles)
            self.app.sleep(POLL)

    def _settled(self, standings: list[Standing], now: float, view: View) -> bool:
        for one in standings:
            if one.undone:
                self._undone[one.name] = one.undone
            failed = one.failed or ("" if one.updating else self._undone.get(one.name, ""))
            if failed:
                view.show(standings, stable_in=None)
                raise _broken(one, failed)
        if not all(self._fine(one, now) for one in standings):
            self._all_since = None
            view.show(standings, stable_in=None)
            return False
        if self._all_since is None:
            self._all_since = now
        left = self.monitor - (now - self._all_since)
        view.show(standings, stable_in=max(0.0, left))
        return left <= 0

    def _fine(self, one: Standing, now: float) -> bool:
        if one.wanted == 0 and one.others == {} and not one.updating:
            return now - self._started >= min(NO_NODE, self.monitor)
        return one.converged

    def _read(self, view: View) -> list[Standing] | None:
        """Read and judge all services; None while nobody answers (for a while)."""
        try:
            standings = self._judge_all()
        except (DaemonUnreachable, RemoteError) as error:
            if isinstance(error, RemoteError) and error.status != 503:
                raise
            now = self.app.monotonic()
            if self._silent_since is None:
                self._silent_since = now
                view.say(f"no answer at the moment ({error.message}); still trying")
            if now - self._silent_since > SILENCE:
                raise
            return None
        self._silent_since = None
        return standings

    def _judge_all(self) -> list[Standing]:
        client = self.app.client
        nodes = {n["ID"]: n for n in client.get("/nodes") or ()}
        now = dt.datetime.now(dt.UTC)
        standings, monitors = [], []
        for one in self.ids:
            service = client.get(f"/services/{segment(one)}")
            query = filters(**{"service": [service["ID"]], "_up-to-date": ["true"]})
            tasks = client.get("/tasks", query) or ()
            standings.append(judge(service, tasks, nodes, now))
            monitors.append((service["Spec"].get("UpdateConfig") or {}).get("Monitor") or 0)
        self.monitor = max((m / NANOS for m in monitors if m), default=MONITOR)
        return standings


def _broken(one: Standing, failed: str) -> DidNotConverge:
    worst = str(one.troubles[0]) if one.troubles else ""
    return DidNotConverge(
        f"{one.name} did not converge: {failed}",
        why=worst,
        advice=f"swarmlet service why {one.name}",
    )


def _late(
    standings: Sequence[Standing], timeout: float, troubles: Mapping[str, Trouble]
) -> DidNotConverge:
    """The error of a wait that took too long. ``troubles`` are the latest that were seen."""
    behind = [one for one in standings if not one.converged]
    if not behind:
        fallen = next((one.name for one in standings if one.name in troubles), "")
        if fallen:
            return DidNotConverge(
                f"{fallen} did not stay up within {timeout:g} s",
                why=str(troubles[fallen]),
                advice=f"swarmlet service why {fallen}; it keeps trying",
            )
        return DidNotConverge(
            f"all tasks run, but {timeout:g} s were too short to see that they stay up",
            advice="give it more time with --timeout",
        )
    first = next((one for one in behind if one.troubles), behind[0])
    rest = f" ({len(behind) - 1} more services did not either)" if len(behind) > 1 else ""
    return DidNotConverge(
        f"{first.name} did not converge within {timeout:g} s: {first.running} of {first.wanted}"
        f" tasks run{rest}",
        why=str(troubles.get(first.name, first.line)),
        advice=f"swarmlet service why {first.name}; it keeps trying",
    )


__all__ = ["Lines", "View", "wait"]
