"""Identifiers, names and object versions."""

import re
from collections.abc import Iterable
from typing import Final

from swarmlet.clock import Rng

_DIGITS: Final = "0123456789abcdefghijklmnopqrstuvwxyz"

#: Length of every object's identifier; clients check it (Docker's swarm identifiers).
ID_LENGTH: Final = 25

#: 36**25 exceeds 2**128: an identifier holds 128 random bits, as swarmkit's do.
_ID_BITS: Final = 128

_SERVICE_NAME: Final = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9_-]{0,61}[a-zA-Z0-9])?")


def base36(number: int, length: int) -> str:
    """``number`` in base 36, padded with zeros to ``length`` digits."""
    digits = []
    while number:
        number, rest = divmod(number, 36)
        digits.append(_DIGITS[rest])
    return "".join(reversed(digits)).rjust(length, "0")


def new_id(rng: Rng) -> str:
    """Return a fresh identifier: 25 characters of [0-9a-z]."""
    return base36(rng.getrandbits(_ID_BITS), ID_LENGTH)


def is_service_name(name: str) -> bool:
    """Whether ``name`` may name a service: one DNS label of at most 63 characters (moby's rule)."""
    return _SERVICE_NAME.fullmatch(name) is not None


def matches_prefix(ids: Iterable[str], prefix: str) -> list[str]:
    """The identifiers that begin with ``prefix``, sorted."""
    return sorted(i for i in ids if i.startswith(prefix))
