"""The port against callers that nothing is known of."""

import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
from swarmlet.rpc import admission
from swarmlet.rpc.admission import Handshakes, Places, client_hello
from swarmlet.rpc.channel import ConnectionLost
from swarmlet.rpc.listener import RemoteNode, dial, serve
from swarmlet.security import ca
from swarmlet.security.tls import Protocol, joining_context, server_context

from tests.fakes import identity


def hello() -> bytes:
    """What a TLS client says first."""
    outgoing = ssl.MemoryBIO()
    client = joining_context(None).wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="x")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[trio.SocketStream, trio.SocketStream]]:
    """Both ends of a TCP connection."""
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        near = await trio.open_tcp_stream("127.0.0.1", listener.socket.getsockname()[1])
        far = await listener.accept()
        async with near, far:
            yield near, far


async def test_hello_is_waited_for_whole_and_left_for_tls_to_read() -> None:
    whole = hello()
    arrived = trio.Event()

    async def wait(stream: trio.SocketStream) -> None:
        await client_hello(stream.socket)
        arrived.set()

    async with connected() as (near, far), trio.open_nursery() as nursery:
        nursery.start_soon(wait, far)
        for piece in (whole[:1], whole[1:5], whole[5:-1]):
            await near.send_all(piece)
            await trio.testing.wait_all_tasks_blocked()
            assert not arrived.is_set()
        await near.send_all(whole[-1:])
        await arrived.wait()
        assert await far.receive_some(len(whole) + 1) == whole


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\n", b"\x16\x02\x00\x00\x05", b"\x16\x03\x01\xff\xff", b"\x16"]
)
async def test_who_does_not_say_hello_gets_no_tls(data: bytes) -> None:
    """Another protocol, a record that none can be, half a head and the end."""
    async with connected() as (near, far):
        await near.send_all(data)
        await near.send_eof()
        with pytest.raises(ConnectionLost):
            await client_hello(far.socket)


async def hold(places: Places, ended: list[str], name: str) -> None:
    """Take a place for ever; say when it was taken away."""
    with trio.CancelScope() as scope:
        async with places.one(scope):
            await trio.sleep_forever()
    ended.append(name)


async def test_the_oldest_goes_when_others_have_waited_for_its_place(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Not before: who was quick to come must not be the first to go."""
    places, ended = Places(2), list[str]()
    async with trio.open_nursery() as nursery:
        for name in ("first", "second", "third"):
            nursery.start_soon(hold, places, ended, name)
            await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(admission.PATIENCE * 0.9)
        assert ended == []
        await trio.sleep(admission.PATIENCE * 0.2)
        assert ended == ["first"]
        await trio.sleep(admission.PATIENCE * 100)
        assert ended == ["first"]  # nobody waits any more
        nursery.cancel_scope.cancel()


async def test_many_who_wait_get_a_place_each(autojump_clock: trio.testing.MockClock) -> None:
    """One that is given up makes room for one, not for the same one again and again."""
    places, ended = Places(3), list[str]()
    async with trio.open_nursery() as nursery:
        for number in range(9):
            nursery.start_soon(hold, places, ended, str(number))
            await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(admission.PATIENCE * 1.5)
        assert sorted(ended) == ["0", "1", "2"]
        await trio.sleep(admission.PATIENCE)
        assert len(ended) == 6
        assert places.users == 3
        nursery.cancel_scope.cancel()
    assert places.users == 0


async def test_one_host_cannot_take_the_places_of_all(
    autojump_clock: trio.testing.MockClock,
) -> None:
    handshakes = Handshakes(places=10, of_a_host=4)

    async def flood() -> None:
        with trio.CancelScope() as scope:
            async with handshakes.place("10.0.0.66", scope):
                await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(flood)
        await trio.testing.wait_all_tasks_blocked()
        began = trio.current_time()
        async with handshakes.place("10.0.0.1", trio.CancelScope()):
            assert trio.current_time() == began
        nursery.cancel_scope.cancel()


async def test_a_node_gets_in_past_a_crowd_that_does_not_finish(tmp_path: Path) -> None:
    """Whole hellos, half ones and silence, from another address; its own handshake is the last."""
    files, root = identity.manager(tmp_path)
    context = server_context(files)

    async def greet(stream: trio.abc.Stream, _: RemoteNode) -> None:
        await stream.send_all(b"!")

    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    async with trio.open_nursery() as nursery, AsyncExitStack() as crowd:
        nursery.start_soon(serve, listener, lambda: context, {Protocol.JOIN: greet})
        for data in [hello(), b"\x16", b""] * 50:
            stream = await trio.open_tcp_stream("127.0.0.1", port, local_address="127.0.0.2")
            await crowd.enter_async_context(stream)
            await stream.send_all(data)
        with trio.fail_after(30):
            ours = await dial(f"127.0.0.1:{port}", joining_context(root.cert), name=ca.MANAGER_NAME)
            assert await ours.receive_some(1) == b"!"
        await trio.aclose_forcefully(ours)
        nursery.cancel_scope.cancel()
