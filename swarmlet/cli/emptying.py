"""Waits until the tasks that shall go are gone, and says how many are left."""

from collections.abc import Callable
from typing import Final

from swarmlet.cli.app import App
from swarmlet.cli.problems import DidNotConverge

#: Docker's rhythm.
POLL: Final = 0.2


def until_gone(
    app: App,
    count: Callable[[], int],
    *,
    say: Callable[[int], str],
    late: Callable[[int], DidNotConverge],
    limit: float | None,
) -> None:
    """Ask ``count`` until it is 0. ``say`` words each change, ``late`` that ``limit`` is over."""
    start, before = app.monotonic(), -1
    while (left := count()) > 0:
        if left != before:
            app.note(say(left))
            before = left
        if limit is not None and app.monotonic() - start > limit:
            raise late(left)
        app.sleep(POLL)


def tasks(count: int) -> str:
    """``1 task`` or ``2 tasks``."""
    return f"{count} task{'s' if count != 1 else ''}"
