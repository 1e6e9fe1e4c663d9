"""Frames on a byte stream, sans-IO: four bytes of length (big-endian), then the payload."""

import struct
from typing import Final

from swarmlet.errors import SwarmletError

_LENGTH: Final = struct.Struct(">I")

#: A full assignment set of a very busy node is about 5 MB; a snapshot chunk 256 KiB. What is
#: larger than this is not ours.
MAX_FRAME: Final = 32 << 20


class RemoteProtocolError(SwarmletError):
    """The other side said something that the protocol does not know; the connection is closed."""

    code = "protocol"


def frame(payload: bytes) -> bytes:
    """One frame. Raises ValueError for a payload that is too large."""
    if len(payload) > MAX_FRAME:
        raise ValueError(f"a message of {len(payload)} bytes is larger than {MAX_FRAME}")
    return _LENGTH.pack(len(payload)) + payload


class FrameDecoder:
    """Cuts a stream into payloads, whatever the pieces in which it arrives."""

    def __init__(self, *, limit: int = MAX_FRAME) -> None:
        self._limit = limit
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes; return the payloads that are complete. Raises RemoteProtocolError."""
        self._buffer += data
        found: list[bytes] = []
        start = 0
        while len(self._buffer) - start >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(self._buffer, start)
            if size > self._limit:
                raise RemoteProtocolError(
                    f"a frame announces {size} bytes; {self._limit} is the limit"
                )
            end = start + _LENGTH.size + size
            if len(self._buffer) < end:
                break
            found.append(bytes(self._buffer[start + _LENGTH.size : end]))
            start = end
        del self._buffer[:start]
        return found

    @property
    def empty(self) -> bool:
        """Whether no half frame is waiting."""
        return not self._buffer
