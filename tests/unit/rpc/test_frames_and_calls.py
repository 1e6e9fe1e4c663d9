"""Frames, channels and calls between nodes."""

from contextlib import suppress

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from swarmlet.errors import NotFound
from swarmlet.rpc.calls import (
    Answer,
    AskReadIndex,
    Caller,
    CallRefused,
    Done,
    ReadIndexIs,
    RemoveMember,
    Request,
    serve_calls,
)
from swarmlet.rpc.channel import Channel, ConnectionLost
from swarmlet.rpc.frames import MAX_FRAME, FrameDecoder, RemoteProtocolError, frame
from swarmlet.rpc.messages import Acknowledged, Beat, FromAgent, FromManager, Pulse
from trio.testing import memory_stream_pair


@given(st.lists(st.binary(max_size=200), max_size=20), st.lists(st.integers(1, 50), min_size=1))
def test_payloads_survive_any_fragmentation(payloads: list[bytes], sizes: list[int]) -> None:
    """However a stream is cut, the payloads come out whole and in order."""
    stream = b"".join(frame(p) for p in payloads)
    decoder, found, at, turn = FrameDecoder(), [], 0, 0
    while at < len(stream):
        step = sizes[turn % len(sizes)]
        found += decoder.feed(stream[at : at + step])
        at, turn = at + step, turn + 1
    assert found == payloads
    assert decoder.empty


def test_announced_giant_is_refused_before_it_is_buffered() -> None:
    """A peer cannot make us allocate what it merely announces."""
    with pytest.raises(RemoteProtocolError):
        FrameDecoder().feed((MAX_FRAME + 1).to_bytes(4, "big"))


async def test_channel_carries_typed_messages_both_ways() -> None:
    """What one side sends, the other receives as the same value."""
    left, right = memory_stream_pair()
    agent: Channel[FromManager] = Channel(left, FromManager, peer="manager")
    manager: Channel[FromAgent] = Channel(right, FromAgent, peer="agent")
    await agent.send(Beat())
    await manager.send(Acknowledged(seq=7))
    assert await manager.receive() == Beat()
    assert await agent.receive() == Acknowledged(seq=7)


async def test_rubbish_in_a_frame_is_the_peers_fault() -> None:
    """A frame that holds no message ends in RemoteProtocolError, not in a crash."""
    left, right = memory_stream_pair()
    channel: Channel[FromAgent] = Channel(right, FromAgent, peer="agent")
    await left.send_all(frame(b"\xc1\xff rubbish"))
    with pytest.raises(RemoteProtocolError):
        await channel.receive()


async def test_message_of_the_wrong_direction_is_refused() -> None:
    """An agent cannot say what only managers say."""
    left, right = memory_stream_pair()
    channel: Channel[FromAgent] = Channel(right, FromAgent, peer="agent")
    await Channel(left, FromManager, peer="x").send(Pulse())
    with pytest.raises(RemoteProtocolError):
        await channel.receive()


async def test_end_of_stream_is_connection_lost() -> None:
    """A peer that goes away is one error type, whatever the transport says."""
    left, right = memory_stream_pair()
    await left.aclose()
    with pytest.raises(ConnectionLost):
        await Channel[FromAgent](right, FromAgent, peer="agent").receive()


async def test_answers_find_their_calls_in_any_order(nursery: trio.Nursery) -> None:
    """A slow call does not hold up a fast one on the same connection."""
    left, right = memory_stream_pair()
    release = trio.Event()

    async def handle(request: Request) -> Answer:
        if isinstance(request, AskReadIndex):
            await release.wait()
            return ReadIndexIs(index=5)
        return Done()

    nursery.start_soon(_serve, right, handle)
    caller = Caller(left, peer="server")
    nursery.start_soon(_run, caller)
    answers: list[Answer] = []

    async def slow() -> None:
        answers.append(await caller.call(AskReadIndex()))

    nursery.start_soon(slow)
    await trio.testing.wait_all_tasks_blocked()
    assert await caller.call(RemoveMember(member="x")) == Done()
    assert answers == []
    release.set()
    await trio.testing.wait_all_tasks_blocked()
    assert answers == [ReadIndexIs(index=5)]
    nursery.cancel_scope.cancel()


async def test_refused_call_keeps_code_and_advice(nursery: trio.Nursery) -> None:
    """An error of the handler is the caller's answer; the connection goes on."""
    left, right = memory_stream_pair()

    async def handle(request: Request) -> Answer:
        if isinstance(request, AskReadIndex):
            raise NotFound("no such thing", advice="look elsewhere")
        return Done()

    nursery.start_soon(_serve, right, handle)
    caller = Caller(left, peer="server")
    nursery.start_soon(_run, caller)
    with pytest.raises(CallRefused) as caught:
        await caller.call(AskReadIndex())
    assert (caught.value.remote_code, caught.value.advice) == ("not-found", "look elsewhere")
    assert await caller.call(RemoveMember(member="x")) == Done()
    nursery.cancel_scope.cancel()


async def test_open_calls_fail_when_the_connection_breaks(nursery: trio.Nursery) -> None:
    """Nobody waits for an answer that cannot come."""
    left, right = memory_stream_pair()
    caller = Caller(left, peer="server")
    nursery.start_soon(_run, caller)

    async def cut() -> None:
        await trio.testing.wait_all_tasks_blocked()
        await right.aclose()

    nursery.start_soon(cut)
    with pytest.raises(ConnectionLost):
        await caller.call(AskReadIndex())


async def _serve(stream: trio.abc.Stream, handle: object) -> None:
    try:
        await serve_calls(stream, handle, peer="caller")  # type: ignore[arg-type]
    except* ConnectionLost:
        pass


async def _run(caller: Caller) -> None:
    with suppress(ConnectionLost):
        await caller.run()
