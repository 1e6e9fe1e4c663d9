"""Lines of containers' logs, as an engine sends them and as a client of a service gets them: pure.

An engine is asked for timestamps always: they tell where to go on after a connection broke.
See Engine API 1.47, ``ContainerAttach`` (stream format) and ``ServiceLogs``.
"""

import re
import struct
from collections.abc import Iterable
from datetime import datetime
from typing import Final, NamedTuple
from urllib.parse import quote_plus

from swarmlet.errors import EngineUnavailable

_HEADER: Final = struct.Struct(">BxxxI")

STDOUT: Final = 1
#: What a client prints as an error, and ends with.
SYSTEM_ERROR: Final = 3

#: Bytes of one line at most: engines cut longer ones at 16 KiB, drivers may add to them.
LINE_LIMIT: Final = 1024 * 1024

_FRACTION: Final = re.compile(rb"\.(\d{1,9})")


class Line(NamedTuple):
    """One line, or a piece of a long one. ``text`` begins with what the engine put before it."""

    stream: int
    text: bytes


class Frames:
    """Cuts the multiplexed stream of a container without a terminal into lines."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Line]:
        """Take bytes; return the lines that are complete. Raises EngineUnavailable."""
        self._buffer += data
        lines: list[Line] = []
        start = 0
        while len(self._buffer) - start >= _HEADER.size:
            stream, size = _HEADER.unpack_from(self._buffer, start)
            if size > LINE_LIMIT:
                raise EngineUnavailable(f"the Docker Engine sent a log line of {size} bytes")
            end = start + _HEADER.size + size
            if len(self._buffer) < end:
                break
            lines.append(Line(stream, bytes(self._buffer[start + _HEADER.size : end])))
            start = end
        del self._buffer[:start]
        return lines

    def rest(self) -> list[Line]:
        """What is left at the end of the stream: half a frame is nothing."""
        return []


class TerminalLines:
    """Cuts the raw stream of a container with a terminal into lines."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Line]:
        """Take bytes; return the lines that are complete. Raises EngineUnavailable."""
        *whole, rest = (self._buffer + data).split(b"\n")
        if len(rest) > LINE_LIMIT:
            raise EngineUnavailable("the Docker Engine sent a log line without an end")
        self._buffer = bytearray(rest)
        return [Line(STDOUT, bytes(line) + b"\n") for line in whole]

    def rest(self) -> list[Line]:
        """What is left at the end of the stream."""
        left, self._buffer = bytes(self._buffer), bytearray()
        return [Line(STDOUT, left)] if left else []


def context(pairs: Iterable[tuple[str, str]]) -> list[bytes]:
    """Names and values of a line's details, as clients read them."""
    return [f"{quote_plus(name)}={quote_plus(value)}".encode() for name, value in pairs]


def worded(line: Line, of: Iterable[bytes], *, details: bool, timestamps: bool) -> Line:
    """A line as the client asked for it; ``of`` is whose it is (:func:`context`).

    The engine was asked for timestamps, and for details as the client did.
    """
    time, _, text = line.text.partition(b" ")
    parts = [time] if timestamps else []
    if details:
        own, _, text = text.partition(b" ")
        parts.append(b",".join(sorted([*of, *filter(None, own.split(b","))])))
    return Line(line.stream, b" ".join([*parts, text]))


def framed(line: Line) -> bytes:
    """A line in the multiplexed stream."""
    return _HEADER.pack(line.stream, len(line.text)) + line.text


def time_of(line: Line) -> bytes:
    """The engine's timestamp (RFC 3339 with nine digits): times of one engine sort as text."""
    return line.text.partition(b" ")[0]


def unix(time: bytes) -> str:
    """A timestamp as ``since`` takes it: seconds and nanoseconds. "" for what is no timestamp."""
    found = _FRACTION.search(time)
    fraction = found[1].decode().ljust(9, "0") if found else "0" * 9
    try:
        whole = datetime.fromisoformat(_FRACTION.sub(b"", time).decode("ascii"))
    except ValueError:
        return ""
    return f"{int(whole.timestamp())}.{fraction}" if whole.tzinfo else ""
