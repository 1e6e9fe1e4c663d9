"""Time and randomness as arguments: what decision code is handed instead of reading them itself."""

import datetime as dt
import random
from typing import NewType, Protocol

#: Wall-clock time in nanoseconds since the Unix epoch, UTC. What objects carry and the API shows.
Instant = NewType("Instant", int)

#: A length of time in nanoseconds (the unit of Docker's API).
Nanos = NewType("Nanos", int)

#: A length of time in seconds (the unit of trio).
Seconds = NewType("Seconds", float)

SECOND = Nanos(1_000_000_000)


class WallClock(Protocol):
    """Says what time it is."""

    def __call__(self) -> Instant:
        """Nanoseconds since the epoch."""
        ...


class Rng(Protocol):
    """The part of :class:`random.Random` that is used."""

    def random(self) -> float:
        """Return a float in [0, 1)."""
        ...

    def getrandbits(self, k: int, /) -> int:
        """Return an integer of ``k`` random bits."""
        ...


def wall_clock() -> Instant:
    """Return the real time: the one place that reads it."""
    now = dt.datetime.now(dt.UTC)
    epoch = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    delta = now - epoch
    micros = (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds
    return Instant(micros * 1_000)


def system_rng() -> Rng:
    """Return randomness from the operating system, good enough for identifiers and tokens."""
    return random.SystemRandom()
