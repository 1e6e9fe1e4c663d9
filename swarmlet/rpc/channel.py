"""One stream between two nodes: typed messages out and in, and the errors that streams have."""

import ssl
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Generic, TypeVar

import msgspec
import trio

from swarmlet.errors import Unavailable
from swarmlet.rpc.frames import MAX_FRAME, FrameDecoder, RemoteProtocolError, frame

_In = TypeVar("_In")

#: A peer that does not take a message within this time (seconds) is as good as gone.
SEND_TIMEOUT: Final = 5.0

_READ_SIZE: Final = 1 << 16


class ConnectionLost(Unavailable):
    """The stream to another node ended or broke."""

    code = "connection-lost"


@contextmanager
def stream_errors(peer: str) -> Iterator[None]:
    """Map what streams raise to :class:`ConnectionLost`."""
    try:
        yield
    except (OSError, ssl.SSLError, trio.BrokenResourceError, trio.ClosedResourceError) as exc:
        raise ConnectionLost(f"connection to {peer}: {str(exc) or type(exc).__name__}") from exc
    except trio.TooSlowError as exc:
        raise ConnectionLost(f"connection to {peer}: timed out") from exc


class Channel(Generic[_In]):
    """Messages over a stream. ``incoming`` is the union of types that may arrive.

    Any number of tasks may send; one may receive.
    """

    def __init__(
        self, stream: trio.abc.Stream, incoming: object, *, peer: str, limit: int = MAX_FRAME
    ) -> None:
        self.stream = stream
        self.peer = peer
        self._decoder: msgspec.msgpack.Decoder[_In] = msgspec.msgpack.Decoder(incoming)
        self._frames = FrameDecoder(limit=limit)
        self._ready: deque[bytes] = deque()
        self._lock = trio.Lock()

    async def send(self, message: msgspec.Struct) -> None:
        """Send one message. Raises ConnectionLost."""
        data = frame(msgspec.msgpack.encode(message))
        with stream_errors(self.peer), trio.fail_after(SEND_TIMEOUT):
            async with self._lock:
                await self.stream.send_all(data)

    async def receive(self) -> _In:
        """Wait for a message. Raises ConnectionLost at the end, RemoteProtocolError for rubbish."""
        while not self._ready:
            with stream_errors(self.peer):
                data = await self.stream.receive_some(_READ_SIZE)
            if not data:
                raise ConnectionLost(f"{self.peer} closed the connection")
            self._ready.extend(self._frames.feed(bytes(data)))
        try:
            return self._decoder.decode(self._ready.popleft())
        except msgspec.DecodeError as exc:
            raise RemoteProtocolError(
                f"{self.peer} sent a message that cannot be read: {exc}"
            ) from exc

    async def aclose(self) -> None:
        """Close the stream without waiting for the other side."""
        await trio.aclose_forcefully(self.stream)
