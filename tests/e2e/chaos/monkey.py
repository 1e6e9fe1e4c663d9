"""Breaks and mends a cluster at random, by a seed, and tells what it did and when.

The choices of each step depend on the seed and the step's number alone, so a seed repeats them;
what comes of them depends on the timing of the machine.
"""

import os
import random
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Final, NamedTuple

from swarmlet.client import DaemonUnreachable, RemoteError
from swarmlet.errors import SwarmletError

from tests.e2e.cluster import Cluster, eventually

SEED: Final = int(os.environ.get("SWARMLET_CHAOS_SEED", "0")) or random.randrange(1, 1_000_000)

#: Of this share of steps something is mended, if there is something.
MENDING: Final = 0.45

#: Seconds for which what is mended still excuses failures: until its nodes are trusted again.
ECHO: Final = 12.0

Undo = Callable[[], object]


class Refused(Exception):
    """A step could not be done now, for the reason given."""


class Broken(NamedTuple):
    """What was done, and what mends it (nothing, if it needs no mending)."""

    what: str
    undo: Undo | None = None
    #: Whether managers mend it, so that they must be well first.
    asks: bool = False


#: Breaks something on a host, by the choices of a generator. Raises Refused or SwarmletError.
Fault = Callable[[Cluster, str, random.Random], Broken]


class Event(NamedTuple):
    """When something was broken and when it was mended (the same, if at once)."""

    began: float
    ended: float
    what: str


class Monkey:
    """Does one thing after the other."""

    def __init__(self, cluster: Cluster, faults: Mapping[str, Fault], seed: int = SEED) -> None:
        self._cluster = cluster
        self._faults = faults
        self._seed = seed
        self._step = 0
        self._began = time.monotonic()
        self._broken: dict[str, tuple[float, Broken]] = {}
        self.events: list[Event] = []
        self.told: list[str] = []

    @property
    def story(self) -> str:
        """What was done, one a line, with how to do it again."""
        return "\n".join([f"SWARMLET_CHAOS_SEED={self._seed}", *self.told])

    def say(self, text: str) -> None:
        """Tell it, with the time since the start and the one that logs show."""
        now = time.strftime("%H:%M:%S", time.gmtime())
        self.told.append(f"{time.monotonic() - self._began:7.1f} {now} {text}")
        sys.stdout.write(f"{self.told[-1]}\n")
        sys.stdout.flush()

    def act(self) -> None:
        """Do one thing; mending is about as likely as breaking."""
        self._step += 1
        rng = random.Random(f"{self._seed}/{self._step}")
        mends = rng.random() < MENDING
        kind = rng.choice(sorted(self._faults))
        host = rng.choice(self._cluster.hosts)
        if mends and self._broken:
            self._mend(rng.choice(sorted(self._broken)))
        else:
            self._break(kind, host, rng)
        time.sleep(rng.uniform(0.2, 2.5))  # faults that last a while; nothing is concluded from it

    def _break(self, kind: str, host: str, rng: random.Random) -> None:
        if f"{kind} {host}" in self._broken:
            return
        began = time.monotonic()
        self.say(f"{kind} {host}")
        try:
            broken = self._faults[kind](self._cluster, host, rng)
        except (Refused, SwarmletError) as exc:
            self.say(f"  not done: {exc}")
            self.events.append(Event(began, time.monotonic(), f"{kind} {host}"))
            return
        if broken.what:
            self.say(f"  {broken.what}")
        if broken.undo is None:
            self.events.append(Event(began, time.monotonic(), f"{kind} {host}"))
        else:
            self._broken[f"{kind} {host}"] = began, broken

    def _mend(self, name: str) -> bool:
        """Say whether it could be done."""
        began, broken = self._broken[name]
        assert broken.undo is not None
        self.say(f"mend {name}")
        try:
            broken.undo()
        except (Refused, SwarmletError) as exc:
            self.say(f"  not done: {exc}")
            time.sleep(1.0)  # it is tried again, and said again
            return False
        del self._broken[name]
        self.events.append(Event(began, time.monotonic(), name))
        return True

    def mend_all(self) -> None:
        """Plug in, switch on, then ask managers for the rest."""
        self.say("mend all")
        playground = self._cluster.playground
        for asks in (False, True):
            names = [name for name, (_, broken) in self._broken.items() if broken.asks is asks]
            for name in names:
                eventually(partial(self._mend, name), f"{name} is mended", seen=lambda: self.story)
            if not asks:
                playground.heal()
                for host in playground.status():
                    with suppress(SwarmletError):  # it runs
                        playground.start(host.name)
        self._cluster.wait_all_ready()

    def culprits(self, at: float) -> set[str]:
        """What may excuse a failure at a time."""
        now = [name for name, (began, _) in self._broken.items() if began <= at]
        return {e.what for e in self.events if e.began <= at <= e.ended + ECHO} | set(now)


def asked(act: Callable[[], object]) -> None:
    """Call managers. Raises Refused when they do not do it."""
    try:
        act()
    except (RemoteError, DaemonUnreachable) as exc:
        raise Refused(exc.message) from exc
