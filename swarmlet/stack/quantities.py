"""Lengths of time, sizes and amounts as people write them, and back. Pure; raises ValueError.

The message of each ValueError says what is wanted, for a user.
"""

import re
from typing import Final

_UNITS: Final = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
    "d": 86_400_000_000_000,
}
_PART: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h|d)", re.ASCII)
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgtp]?)(?:i?b)?", re.ASCII | re.IGNORECASE)
_CPUS: Final = re.compile(r"\d+(?:\.\d+)?|\.\d+", re.ASCII)
_WHOLE: Final = re.compile(r"\d+", re.ASCII)

NANOS: Final = 1_000_000_000
#: The API keeps such numbers in 64 bits with a sign.
LARGEST: Final = 2**63 - 1

DURATION_WORDS: Final = "a length of time such as 10s, 1m30s or 500ms"
SIZE_WORDS: Final = "a size such as 64M, 1.5G or a number of bytes"
CPU_WORDS: Final = "a number of CPUs such as 0.5 or 2"


def duration(text: str) -> int:
    """Nanoseconds of ``1m30s``; Go's form, and days as well. A bare ``0`` is no time at all."""
    if text == "0":
        return 0
    total, at = 0.0, 0
    while at < len(text):
        found = _PART.match(text, at)
        if found is None:
            break
        total += float(found[1]) * _UNITS[found[2]]
        at = found.end()
    if not text or at < len(text) or total > LARGEST:
        raise ValueError(f"{DURATION_WORDS} is wanted, not {quoted(text)}")
    return round(total)


def size(text: str) -> int:
    """Bytes of ``64M``, ``1.5GiB``, ``4096``; powers of 1024, as Docker takes them."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{SIZE_WORDS} is wanted, not {quoted(text)}")
    total = float(found[1]) * 1024 ** " kmgtp".index(found[2].lower() or " ")
    if total > LARGEST:
        raise ValueError(f"{quoted(text)} is more than any machine has")
    return int(total)


def cpus(text: str) -> int:
    """Billionths of a core of ``0.5``."""
    if not _CPUS.fullmatch(text.strip()) or float(text) * NANOS > LARGEST:
        raise ValueError(f"{CPU_WORDS} is wanted, not {quoted(text)}")
    return round(float(text) * NANOS)


def count(text: str) -> int:
    """A whole number, zero or more."""
    if not _WHOLE.fullmatch(text.strip()) or len(text) > 18:
        raise ValueError(f"a whole number is wanted, not {quoted(text)}")
    return int(text)


def ratio(text: str) -> float:
    """A share between 0 and 1."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise ValueError(f"a share between 0 and 1 is wanted, not {quoted(text)}")
    return number


def quoted(text: str) -> str:
    """What the user wrote, cut to a sane length, for a message."""
    return f'"{text if len(text) <= 40 else text[:39] + "…"}"'


def short_duration(nanos: int) -> str:
    """``1m30s`` of nanoseconds, Go's way without its zero parts."""
    if nanos == 0:
        return "0s"
    parts = []
    for unit in ("h", "m", "s", "ms", "us", "ns"):
        number, nanos = divmod(nanos, _UNITS[unit])
        if number:
            parts.append(f"{number}{unit}")
    return "".join(parts)


def short_size(number: int) -> str:
    """``64MiB`` of bytes."""
    amount = float(number)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if amount < 1024 or unit == "TiB":
            return f"{amount:.4g}{unit}"
        amount /= 1024
    raise AssertionError("unreachable")
