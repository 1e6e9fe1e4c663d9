"""Streams between managers: who is dialled, what is written, what is read. No Raft in here.

Each member dials every other one it knows; both directions of a stream are used, so a member that
cannot dial back (it was added a moment ago and knows no addresses) answers on the stream it was
dialled on. Messages may be lost or, when a stream replaces another, reordered: Raft does not mind.
"""

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

import trio
from trio.abc import Stream

from swarmlet.clock import Rng
from swarmlet.consensus.messages import (
    FrameReader,
    Message,
    Ping,
    Pong,
    ProtocolError,
    encode_frame,
)

Dial = Callable[[str], Awaitable[Stream]]

#: Bytes that may wait for one stream. Raft's own windows keep below it; beyond, frames are lost.
OUTBOX_BYTES: Final = 32 << 20

#: A dialer pings that often; a stream that is silent for ``SILENCE`` is given up. TCP alone would
#: go on sending into a healed partition with back-off of many seconds.
PING_EVERY: Final = 1.0
SILENCE: Final = 4.0
DIAL_TIMEOUT: Final = 3.0
#: Between attempts, plus up to as much again.
REDIAL_AFTER: Final = 0.1

_RECEIVE_BYTES: Final = 256 << 10
_BROKEN: Final = (OSError, trio.BrokenResourceError, trio.ClosedResourceError, ProtocolError)


class _Conversation:
    """One stream that is up."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self._frames: deque[bytes] = deque()
        self._size = 0
        self._filled = trio.Event()

    def put(self, frame: bytes) -> None:
        """Queue a frame, or drop it if the peer is far behind."""
        if self._size + len(frame) <= OUTBOX_BYTES:
            self._frames.append(frame)
            self._size += len(frame)
            self._filled.set()

    async def take(self) -> bytes:
        """Return all that waits, as one write."""
        await self._filled.wait()
        data = b"".join(self._frames)
        self._frames.clear()
        self._size, self._filled = 0, trio.Event()
        return data


class Peers:
    """All streams of one member."""

    def __init__(
        self,
        *,
        dial: Dial,
        rng: Rng,
        received: Callable[[str, Message], Awaitable[None]],
        changed: Callable[[str, bool], None],
    ) -> None:
        self._dial = dial
        self._rng = rng
        self._received = received
        self._changed = changed
        self._dialled: dict[str, _Conversation] = {}
        self._inbound: dict[str, _Conversation] = {}
        self._dialers: dict[str, trio.CancelScope] = {}

    def send(self, peer: str, message: Message) -> None:
        """Queue a message if there is any stream to that peer."""
        conversation = self._dialled.get(peer) or self._inbound.get(peer)
        if conversation is not None:
            conversation.put(encode_frame(message))

    def follow(self, wanted: set[str], nursery: trio.Nursery) -> None:
        """Dial exactly these members."""
        for peer in self._dialers.keys() - wanted:
            self._dialers.pop(peer).cancel()
        for peer in sorted(wanted - self._dialers.keys()):
            scope = self._dialers[peer] = trio.CancelScope()
            nursery.start_soon(self._keep_dialled, peer, scope)

    async def serve(self, peer: str, stream: Stream) -> None:
        """Talk on a stream that ``peer`` dialled, until it ends. A newer one replaces it."""
        older = self._inbound.get(peer)
        if older is not None:
            older.scope.cancel()
            if (
                peer in self._dialled
            ):  # the peer restarted, or the network broke: ours is doubtful too
                self._dialled[peer].scope.cancel()
        await self._converse(peer, stream, self._inbound, pings=False)

    async def _keep_dialled(self, peer: str, scope: trio.CancelScope) -> None:
        with scope:
            while True:
                try:
                    with trio.fail_after(DIAL_TIMEOUT):
                        stream = await self._dial(peer)
                except (*_BROKEN, trio.TooSlowError):
                    pass
                else:
                    await self._converse(peer, stream, self._dialled, pings=True)
                await trio.sleep(REDIAL_AFTER * (1 + self._rng.random()))

    async def _converse(
        self, peer: str, stream: Stream, table: dict[str, _Conversation], *, pings: bool
    ) -> None:
        conversation = table[peer] = _Conversation()
        self._changed(peer, True)  # noqa: FBT003 -- a callback's only value
        try:
            with conversation.scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_write, stream, conversation)
                    if pings:
                        nursery.start_soon(_ping, conversation)
                    await self._read(peer, stream, conversation)
                    nursery.cancel_scope.cancel()
        except* _BROKEN:
            pass  # the stream is closed below; the dialler tries again
        finally:
            if table.get(peer) is conversation:
                del table[peer]
            if peer not in self._dialled and peer not in self._inbound:
                self._changed(peer, False)  # noqa: FBT003 -- as above
            await trio.aclose_forcefully(stream)

    async def _read(self, peer: str, stream: Stream, conversation: _Conversation) -> None:
        reader = FrameReader()
        while True:
            data: bytes | bytearray = b""
            with trio.move_on_after(SILENCE):
                data = await stream.receive_some(_RECEIVE_BYTES)
            if not data:
                return
            for message in reader.feed(bytes(data)):
                if isinstance(message, Ping):
                    conversation.put(encode_frame(Pong()))
                elif not isinstance(message, Pong):
                    await self._received(peer, message)


async def _write(stream: Stream, conversation: _Conversation) -> None:
    while True:
        await stream.send_all(await conversation.take())


async def _ping(conversation: _Conversation) -> None:
    while True:
        conversation.put(encode_frame(Ping()))
        await trio.sleep(PING_EVERY)
