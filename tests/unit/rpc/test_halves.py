"""Each side ends its own direction, on a connection that cannot."""

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from swarmlet.rpc.frames import frame
from swarmlet.rpc.halves import CHUNK, Halves
from trio.testing import memory_stream_pair


@pytest.fixture
def pair() -> tuple[Halves, Halves]:
    ours, theirs = memory_stream_pair()
    return Halves(ours), Halves(theirs)


async def all_of(stream: trio.abc.ReceiveStream) -> bytes:
    found = b""
    while data := await stream.receive_some(7):
        found += data
    return found


async def test_one_direction_goes_on_when_the_other_has_ended(pair: tuple[Halves, Halves]) -> None:
    one, other = pair
    await one.send_all(b"question")
    await one.send_eof()
    assert await all_of(other) == b"question"
    assert await other.receive_some() == b""
    await other.send_all(b"answer")
    await other.send_eof()
    assert await all_of(one) == b"answer"


async def test_a_connection_that_ends_before_its_streams_is_broken(
    pair: tuple[Halves, Halves],
) -> None:
    one, other = pair
    await one.send_all(b"half")
    await one.aclose()
    assert await other.receive_some() == b"half"
    with pytest.raises(trio.BrokenResourceError):
        await other.receive_some()


async def test_what_is_too_large_is_not_taken() -> None:
    ours, theirs = memory_stream_pair()
    await ours.send_all(frame(b"x" * (CHUNK + 1)))
    with pytest.raises(trio.BrokenResourceError, match="is the limit"):
        await Halves(theirs).receive_some()


@given(pieces=st.lists(st.binary(max_size=3 * CHUNK), max_size=4), size=st.integers(1, 2 * CHUNK))
def test_any_bytes_arrive_in_order(pieces: list[bytes], size: int) -> None:
    async def main() -> bytes:
        ours, theirs = memory_stream_pair()
        one, other = Halves(ours), Halves(theirs)
        for piece in pieces:
            await one.send_all(piece)
        await one.send_eof()
        found = b""
        while data := await other.receive_some(size):
            found += data
        return found

    assert trio.run(main) == b"".join(pieces)
