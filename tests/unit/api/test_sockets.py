"""The socket that the daemon listens on."""

import contextlib
import socket
import stat
from pathlib import Path

import pytest
import trio
from swarmlet.api.server import Api, serve_unix
from swarmlet.api.sockets import open_unix_listener
from swarmlet.errors import FailedPrecondition

from tests.fakes.backend import FakeBackend


async def test_the_socket_is_for_owner_and_group_only(tmp_path: Path) -> None:
    path = tmp_path / "new" / "api.sock"
    listener = open_unix_listener(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert [p.name for p in path.parent.iterdir()] == ["api.sock"]
    await listener.aclose()


async def test_a_dead_socket_is_replaced_a_live_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    listener = open_unix_listener(path)
    with pytest.raises(FailedPrecondition, match="another daemon"):
        open_unix_listener(path)
    await listener.aclose()


async def test_a_file_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    path.write_text("precious")
    with pytest.raises(FailedPrecondition, match="not a socket"):
        open_unix_listener(path)
    assert path.read_text() == "precious"


async def test_serving_ends_with_the_socket_gone(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_unix, path, Api(FakeBackend(), tmp_path / "engine.sock"))
        async with await trio.open_unix_socket(str(path)) as client:
            await client.send_all(b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await client.receive_some(1000)).startswith(b"HTTP/1.1 200")
        nursery.cancel_scope.cancel()
    assert not path.exists()


async def test_hundreds_may_connect_at_once(tmp_path: Path) -> None:
    """A client that does not block is not told "try again" before anybody could accept it."""
    path = tmp_path / "api.sock"
    listener = open_unix_listener(path)
    with contextlib.ExitStack() as stack:
        for _ in range(500):
            client = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            client.setblocking(False)
            client.connect(str(path))
    await listener.aclose()
