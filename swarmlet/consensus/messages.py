"""What managers say to each other, and the frames it travels in. Sans-IO.

Every message is typed, so a malformed one is refused here, at the edge, and closes the connection;
nothing behind this module checks shapes again. Nothing is ever unpickled.
"""

import struct
from collections.abc import Iterator
from typing import Final

import msgspec

from swarmlet.consensus.entries import Entry

#: The protocol's version, first byte of every frame. A change that old members cannot read needs a
#: new one, and a release that speaks both.
PROTOCOL: Final = 1

#: Longest frame accepted. A batch of entries is cut at about 1 MiB, and an entry holds at most
#: a batch of 1 MiB of proposals and one more of that size.
MAX_FRAME_BYTES: Final = 8 << 20

_PREFIX: Final = struct.Struct(">BI")


class ProtocolError(Exception):
    """A peer sent what no correct peer sends; its connection is closed."""


class _Message(msgspec.Struct, frozen=True, gc=False, array_like=True, tag_field="type"):
    pass


class Append(_Message, frozen=True, tag="append"):
    """Leader: entries after (prev_index, prev_term). ``sent`` is its clock, echoed in the ack.

    ``acked`` is how far the receiver has acknowledged the log in this term, if it votes; ``lost``
    what its own acknowledgements say of that, if they do.
    """

    term: int
    commit: int
    prev_index: int
    prev_term: int
    entries: list[Entry]
    sent: float
    acked: int = 0
    lost: float = 0.0


class Ack(_Message, frozen=True, tag="ack"):
    """Follower: ``next_index`` comes next; ``matched`` says that all before it is the leader's.

    ``lost`` is when, by its own clock, it first found that it lacks what it acknowledged; 0 if not.
    """

    term: int
    next_index: int
    matched: bool
    sent: float
    lost: float = 0.0


class SnapshotChunk(_Message, frozen=True, tag="chunk"):
    """Leader: bytes at ``offset`` of the snapshot at (index, snapshot_term), ``total`` long.

    ``acked`` and ``lost`` as in :class:`Append`.
    """

    term: int
    index: int
    snapshot_term: int
    offset: int
    total: int
    data: bytes
    sent: float
    acked: int = 0
    lost: float = 0.0


class ChunkAck(_Message, frozen=True, tag="chunk-ack"):
    """Follower: how many bytes of that snapshot it has, in order."""

    term: int
    index: int
    have: int
    sent: float


class Heartbeat(_Message, frozen=True, tag="beat"):
    """Leader, while its disk is slow: alive. Says nothing about the log."""

    term: int
    sent: float


class Alive(_Message, frozen=True, tag="alive"):
    """Follower: echoes a leader's send time without acknowledging any entry."""

    term: int
    sent: float


class Stale(_Message, frozen=True, tag="stale"):
    """To one that leads or campaigns in an old term: the term that replaced it."""

    term: int


class PreVote(_Message, frozen=True, tag="pre-vote"):
    """Would you vote for me in ``term``? Changes nothing, so a cut-off member disturbs nobody."""

    term: int
    last_index: int
    last_term: int


class PreVoteReply(_Message, frozen=True, tag="pre-vote-reply"):
    """``granted`` for ``term``; ``current`` lets a candidate that is behind catch up."""

    term: int
    granted: bool
    current: int


class VoteRequest(_Message, frozen=True, tag="vote"):
    """``transfer``: the old leader asked for this, so that it is alive is no reason to refuse."""

    term: int
    last_index: int
    last_term: int
    transfer: bool


class VoteGranted(_Message, frozen=True, tag="voted"):
    """A vote."""

    term: int


class TimeoutNow(_Message, frozen=True, tag="timeout-now"):
    """Leader to its chosen successor: campaign at once."""

    term: int


class Removed(_Message, frozen=True, tag="removed"):
    """To one that is no member: the configuration committed at ``index`` does not have it."""

    term: int
    index: int


class Ping(_Message, frozen=True, tag="ping"):
    """Dialer of a stream: are you there? Answered by Pong below Raft; silence closes the stream."""


class Pong(_Message, frozen=True, tag="pong"):
    """The answer to Ping."""


Message = (
    Append
    | Ack
    | SnapshotChunk
    | ChunkAck
    | Heartbeat
    | Alive
    | Stale
    | PreVote
    | PreVoteReply
    | VoteRequest
    | VoteGranted
    | TimeoutNow
    | Removed
    | Ping
    | Pong
)

_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final[msgspec.msgpack.Decoder[Message]] = msgspec.msgpack.Decoder(Message)


def encode_frame(message: Message) -> bytes:
    """Return a message with its length and version in front."""
    body = _encoder.encode(message)
    return _PREFIX.pack(PROTOCOL, len(body)) + body


def decode_message(body: bytes) -> Message:
    """Decode and check one message; raise ProtocolError."""
    try:
        message = _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise ProtocolError(f"not a message: {exc}") from exc
    if isinstance(message, Append):
        _check_entries(message)
    return message


def _check_entries(message: Append) -> None:
    for position, (command, index, term) in enumerate(message.entries, message.prev_index + 1):
        if index != position or term < 0 or not command:
            raise ProtocolError(f"entry {index} of term {term} stands where {position} should")


class FrameReader:
    """Cuts a byte stream into messages, refusing what is too long before it is buffered."""

    def __init__(self, *, limit: int = MAX_FRAME_BYTES) -> None:
        self._buffer = bytearray()
        self._limit = limit

    def feed(self, data: bytes) -> Iterator[Message]:
        """Yield the messages that ``data`` completes."""
        self._buffer += data
        start = 0
        while len(self._buffer) - start >= _PREFIX.size:
            version, length = _PREFIX.unpack_from(self._buffer, start)
            if version != PROTOCOL:
                raise ProtocolError(f"protocol version {version}, not {PROTOCOL}")
            if length > self._limit:
                raise ProtocolError(f"a frame of {length} bytes, more than {self._limit}")
            end = start + _PREFIX.size + length
            if len(self._buffer) < end:
                break
            yield decode_message(bytes(self._buffer[start + _PREFIX.size : end]))
            start = end
        del self._buffer[:start]
