"""A connection of which each side can end its own direction, on one that cannot (TLS).

Bytes travel in frames (:mod:`.frames`); an empty one is the end of a direction.
"""

from typing import Final

import trio

from swarmlet.rpc.frames import FrameDecoder, RemoteProtocolError, frame

#: Bytes in one frame at most, and taken from the stream below at once.
CHUNK: Final = 65_536


class Halves(trio.abc.HalfCloseableStream):
    """See the module. What the other side may not say is a ``trio.BrokenResourceError``."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._decoder = FrameDecoder(limit=CHUNK)
        self._received = bytearray()
        self._ended = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """See trio.abc.ReceiveStream; b"" when the other side has ended its direction."""
        while not (self._received or self._ended):
            data = await self._stream.receive_some(CHUNK)
            if not data:
                raise trio.BrokenResourceError("the connection ended before the stream on it")
            self._take(data)
        await trio.lowlevel.checkpoint()
        size = len(self._received) if max_bytes is None else max_bytes
        found = bytes(self._received[:size])
        del self._received[:size]
        return found

    def _take(self, data: bytes | bytearray) -> None:
        try:
            payloads = self._decoder.feed(bytes(data))
        except RemoteProtocolError as exc:
            raise trio.BrokenResourceError(exc.message) from exc
        for payload in payloads:
            self._ended = self._ended or not payload
            if not self._ended:
                self._received += payload

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """See trio.abc.SendStream."""
        whole = memoryview(data)
        for start in range(0, len(whole), CHUNK):
            await self._stream.send_all(frame(bytes(whole[start : start + CHUNK])))

    async def wait_send_all_might_not_block(self) -> None:
        """See trio.abc.SendStream."""
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """See trio.abc.HalfCloseableStream."""
        await self._stream.send_all(frame(b""))

    async def aclose(self) -> None:
        """See trio.abc.AsyncResource."""
        await self._stream.aclose()
