"""When a node replaces the key of its tunnels: a pure decision.

Two lanes take turns. A new key is made for the idle one and announced; once the nodes that packets
are exchanged with have it, the node sends by it and asks to be sent to by it; the old key is thrown
away when nobody uses it any more. Whether they have it shows in the tunnels themselves: they have
shaken hands by the new key. So nothing is lost, and nobody has to keep count.
"""

import enum
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from swarmlet.clock import SECOND, Instant, Nanos

#: How long WireGuard uses what a handshake agreed on, at most.
SESSION: Final = Nanos(180 * SECOND)


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """How fast keys are replaced.

    A key serves for ``period``. A new one is announced for ``least`` before it is used, or longer
    while a node has not shown that it has it, but not more than ``most``: a node that is cut off
    from the managers, and so hears of no key, must not keep all others from theirs. The old one is
    kept for ``keep``, or longer while it is used.
    """

    period: Nanos = Nanos(12 * 3600 * SECOND)
    least: Nanos = Nanos(30 * SECOND)
    most: Nanos = Nanos(1800 * SECOND)
    keep: Nanos = Nanos(600 * SECOND)


class Ring(msgspec.Struct, frozen=True, kw_only=True):
    """The private keys of both lanes ("" for none), and which of them the node sends by.

    ``coming``: the other lane's key is newer and about to be used; else it is older. ``since`` is
    when the node began to send by its lane, ``made`` when the other lane's newer key was made.
    """

    lanes: tuple[str, str]
    lane: int = 0
    coming: bool = False
    since: Instant
    made: Instant = Instant(0)

    @property
    def idle(self) -> int:
        """The other lane."""
        return 1 - self.lane


class Step(enum.Enum):
    """What to do next."""

    WAIT = "wait"
    MAKE = "make"
    SWITCH = "switch"
    FORGET = "forget"


#: For each lane, when each node last shook hands, in seconds since the epoch.
Handshakes = Sequence[Mapping[int, int]]


def decide(ring: Ring, handshakes: Handshakes, now: Instant, pace: Pace) -> Step:
    """The next step. A clock that was set back counts as time that has passed."""
    if not ring.lanes[ring.idle]:
        return Step.MAKE if _passed(ring.since, now, pace.period) else Step.WAIT
    if ring.coming:
        ready = _passed(ring.made, now, pace.least) and _known(ring, handshakes, now)
        return Step.SWITCH if ready or _passed(ring.made, now, pace.most) else Step.WAIT
    unused = _passed(ring.since, now, pace.keep) and not _in_use(handshakes[ring.idle], now)
    return Step.FORGET if unused or _passed(ring.since, now, pace.period) else Step.WAIT


def made(ring: Ring, key: str, now: Instant) -> Ring:
    """After :attr:`Step.MAKE`."""
    return Ring(lanes=_lanes(ring, key), lane=ring.lane, coming=True, since=ring.since, made=now)


def switched(ring: Ring, now: Instant) -> Ring:
    """After :attr:`Step.SWITCH`."""
    return Ring(lanes=ring.lanes, lane=ring.idle, since=now)


def forgot(ring: Ring) -> Ring:
    """After :attr:`Step.FORGET`."""
    return Ring(lanes=_lanes(ring, ""), lane=ring.lane, since=ring.since)


def _lanes(ring: Ring, key: str) -> tuple[str, str]:
    own = ring.lanes[ring.lane]
    return (own, key) if ring.lane == 0 else (key, own)


def _passed(since: Instant, now: Instant, span: Nanos) -> bool:
    return not 0 <= now - since < span


def _known(ring: Ring, handshakes: Handshakes, now: Instant) -> bool:
    """Whether every node that packets are exchanged with has shown that it has the new key."""
    busy = _in_use(handshakes[ring.lane], now)
    return busy <= {n for n, at in handshakes[ring.idle].items() if (at + 1) * SECOND > ring.made}


def _in_use(lane: Mapping[int, int], now: Instant) -> set[int]:
    """The nodes that still use a lane."""
    return {n for n, at in lane.items() if now - at * SECOND < SESSION}
