"""What a node finds when it looks at its networks: facts, no verdicts (those are for who asked)."""

import enum

import msgspec

from swarmlet.clock import Instant, Nanos
from swarmlet.model.networks import DEFAULT_CONTROL_PORT, DEFAULT_DATA_PORT


class Passage(enum.StrEnum):
    """How one node reaches another in one way."""

    UNTRIED = "untried"
    WELL = "well"
    SMALL = "small"  # small packets pass, full ones do not
    NONE = "none"
    UNKNOWN = "unknown"  # the node has not been told of the other


class PeerCheck(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a node found on its way to another. ``addr`` is the control port that it tried.

    ``heard`` is what came in from the other meanwhile: a question that arrives but whose answer
    does not tells which way is broken. ``encrypted`` is tried where encrypted networks lead.
    """

    id: str
    hostname: str = ""
    addr: str = ""
    control: Passage = Passage.UNTRIED
    overlay: Passage = Passage.UNTRIED
    heard: Passage = Passage.UNTRIED
    encrypted: Passage = Passage.UNTRIED


class Traffic(enum.StrEnum):
    """Packets that a node needs."""

    VXLAN = "vxlan"
    CONTROL = "control"
    TASKS = "tasks"  # between tasks of different nodes
    WIREGUARD = "wireguard"  # of encrypted networks, as it is on the wire
    ENCRYPTED = "encrypted"  # the same, out of the tunnels


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """A chain of another program that refuses what a node needs."""

    chain: str
    traffic: Traffic


class NodeCheck(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a node found.

    ``differences`` are the things in which its kernel is not as planned (``more`` others are not
    named), ``repaired`` those that were and are no more; ``failure`` is why the kernel could not be
    looked at, or lags behind; ``problems`` are what it cannot forward at all; ``unmade`` are
    networks that the engine refused to make, and why. ``resolver`` is why names are not answered,
    ``engine`` what ails the engine's own rules. ``refusals`` are of other programs, ``suspects``
    those that may refuse what comes from other nodes. ``mtu`` is the largest packet between nodes,
    ``encrypted_mtu`` that of encrypted networks, 0 without tunnels. ``began`` and ``ended`` are by
    its own clock; ``offset`` is how far that is ahead of the asker's, who fills it in.
    """

    began: Instant = Instant(0)
    ended: Instant = Instant(0)
    offset: Nanos = Nanos(0)
    differences: tuple[str, ...] = ()
    more: int = 0
    repaired: tuple[str, ...] = ()
    failure: str = ""
    unmade: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    resolver: str = ""
    refusals: tuple[Refusal, ...] = ()
    suspects: tuple[str, ...] = ()
    engine: str = ""
    mtu: int = 0
    encrypted_mtu: int = 0
    data_port: int = DEFAULT_DATA_PORT
    control_port: int = DEFAULT_CONTROL_PORT
    peers: tuple[PeerCheck, ...] = ()


def clock_offset(sent: Instant, began: Instant, ended: Instant, received: Instant) -> Nanos:
    """How far another's clock is ahead, as NTP has it: what the way took cancels out."""
    return Nanos(((began - sent) + (ended - received)) // 2)
