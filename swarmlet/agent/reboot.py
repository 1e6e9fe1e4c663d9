"""Which containers went down with their host or engine, and which ended by themselves? Pure.

What Docker 20.10 shows, found by trial (the last by its consequence only):

* host or engine tree killed: exit code 255, and ``FinishedAt`` is the moment at which the *next*
  engine found them dead, after its own start;
* engine stopped in order (no live-restore): it stops every container first, so exit codes are the
  containers' own (0, 143, 137 after its time-out) and all ends lie in its last seconds;
* only dockerd killed: its successor kills what still runs, like a stop in order, but after its own
  start.

So a death counts as the host's when the engine was replaced since the container was last seen
running, and either the next engine found it dead, or (when it found none such, that is, it stopped
in order) it ended in the last seconds of the old engine's life: close to the last end of all.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from swarmlet.clock import SECOND, Instant
from swarmlet.engine.incarnation import Incarnation

#: An engine gives containers 10 s (or their own grace) and itself 15 s before it kills the rest.
SHUTDOWN_SPAN: Final = 30 * SECOND

#: The engine's start is known to 10 ms, but clocks are set while a machine boots.
CLOCK_SLACK: Final = 2 * SECOND

#: What an engine writes for a container that it finds dead.
FOUND_DEAD: Final = 255


class Death(msgspec.Struct, frozen=True):
    """A container found ended. ``seen_in`` names the engine under which it was last seen alive."""

    task_id: str
    exit_code: int
    finished_at: Instant
    seen_in: str


def ended_by_host(deaths: Sequence[Death], engine: Incarnation) -> frozenset[str]:
    """The tasks whose containers their host or engine took down. ``engine`` is the one now."""
    across = [death for death in deaths if death.seen_in and death.seen_in != engine.name]
    found_dead = {death.task_id for death in across if _found_dead(death, engine)}
    if found_dead or not across:
        return frozenset(found_dead)
    last = max(death.finished_at for death in across)
    return frozenset(d.task_id for d in across if last - d.finished_at <= SHUTDOWN_SPAN)


def _found_dead(death: Death, engine: Incarnation) -> bool:
    """Whether it ended under the present engine, which did not run it."""
    if death.exit_code == FOUND_DEAD:
        return death.finished_at >= engine.started_at - CLOCK_SLACK
    return bool(engine.started_at) and death.finished_at >= engine.started_at
