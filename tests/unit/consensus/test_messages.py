"""Frames from the wire: whatever comes, a typed message or a refusal."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from swarmlet.consensus.messages import (
    MAX_FRAME_BYTES,
    PROTOCOL,
    Ack,
    Append,
    FrameReader,
    Heartbeat,
    Message,
    ProtocolError,
    SnapshotChunk,
    decode_message,
    encode_frame,
)

MESSAGES: list[Message] = [
    Append(3, 2, 1, 1, [(b"\1", 2, 3), (b"\0\1\x90", 3, 3)], 1.5),
    Ack(3, 4, matched=True, sent=1.5),
    SnapshotChunk(3, 9, 2, 0, 4, b"data", 2.0),
    Heartbeat(3, 1.0),
]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_messages_survive_any_cut_of_the_stream(size: int) -> None:
    """Bytes may arrive in pieces of any size."""
    stream = b"".join(map(encode_frame, MESSAGES))
    reader = FrameReader()
    got = [
        message
        for start in range(0, len(stream), size)
        for message in reader.feed(stream[start : start + size])
    ]
    assert got == MESSAGES


@given(st.binary(max_size=200))
def test_hostile_bytes_never_do_worse_than_be_refused(data: bytes) -> None:
    """Either nothing, or a message, or ProtocolError."""
    try:
        list(FrameReader().feed(data))
        list(FrameReader().feed(bytes([PROTOCOL]) + len(data).to_bytes(4, "big") + data))
    except ProtocolError:
        pass


@given(st.recursive(st.none() | st.integers() | st.text() | st.binary(), st.lists, max_leaves=20))
def test_well_formed_msgpack_of_the_wrong_shape_is_refused(value: object) -> None:
    """Types are checked before anything else sees them."""
    try:
        body = msgspec.msgpack.encode(value)
    except OverflowError:
        return
    with pytest.raises(ProtocolError):
        decode_message(body)


def test_a_long_frame_is_refused_before_it_is_buffered() -> None:
    """The length alone is enough."""
    prefix = bytes([PROTOCOL]) + (MAX_FRAME_BYTES + 1).to_bytes(4, "big")
    with pytest.raises(ProtocolError, match="more than"):
        list(FrameReader().feed(prefix))


def test_another_protocol_version_is_refused() -> None:
    """The first byte of each frame says the version."""
    with pytest.raises(ProtocolError, match="version 2"):
        list(FrameReader().feed(bytes([2, 0, 0, 0, 0])))


@pytest.mark.parametrize(
    "entries",
    [[(b"\1", 3, 1)], [(b"", 2, 1)], [(b"\1", 2, -1)], [(b"\1", 2, 1), (b"\1", 2, 1)]],
    ids=["gap", "empty", "term", "twice"],
)
def test_entries_that_cannot_stand_there_are_refused(entries: list[tuple[bytes, int, int]]) -> None:
    """Entries follow the previous index one by one, and say something."""
    frame = encode_frame(Append(1, 1, 1, 0, entries, 0.0))
    with pytest.raises(ProtocolError, match="stands where"):
        list(FrameReader().feed(frame))
