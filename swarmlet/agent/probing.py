"""Health checks that an engine forgot, and what a check says: pure.

With live-restore containers outlive their engine. Engines before 23.0 (API 1.42) then never check
the health of those again (moby/moby#41871): what was healthy stays so whatever happens to it, and
what was starting never serves. So the agent checks them (:mod:`.prober`).
"""

from collections.abc import Iterable
from typing import Final

import msgspec

from swarmlet.clock import Nanos
from swarmlet.engine.convert import Check, Container
from swarmlet.engine.incarnation import Incarnation

#: The first API version of which the engines go on to check.
MENDED: Final = (1, 42)


class Health(msgspec.Struct, frozen=True):
    """What is known of a container's health, as engines have it; failures in a row."""

    status: str
    streak: int = 0


def forgotten(
    containers: Iterable[Container], engine: Incarnation, api: tuple[int, int]
) -> list[Container]:
    """The containers whose health this engine does not check though it should.

    They run since before it began, and it has not checked them yet.
    """
    if api >= MENDED or not engine.started_at:
        return []
    return [
        one
        for one in containers
        if one.running
        and one.check is not None
        and max(one.started_at, one.checked_at) < engine.started_at
    ]


def after(health: Health, check: Check, *, passed: bool, age: Nanos) -> Health:
    """The health after a check; ``age`` is how long the container runs (moby, daemon/health.go)."""
    if passed:
        return Health("healthy")
    if health.status == "starting" and age < check.start_period:
        return health
    streak = health.streak + 1
    return Health("unhealthy" if streak >= check.retries else health.status, streak)
