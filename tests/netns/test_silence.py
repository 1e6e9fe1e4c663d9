"""A host that loses its power closes no connection: who talks to it must notice without it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from swarmlet.rpc.channel import ConnectionLost, stream_errors
from swarmlet.rpc.listener import RemoteNode, dial, serve
from swarmlet.security import ca
from swarmlet.security.tls import Protocol, joining_context, server_context

from tests.fakes import identity
from tests.netns.rig import Namespace, require

#: Far more than it takes, and far less than the quarter of an hour of TCP alone.
PATIENCE = 60

pytestmark = pytest.mark.netns


@pytest.fixture
def host() -> Iterator[Namespace]:
    require()
    space = Namespace("swl-silence")
    try:
        yield space
    finally:
        space.delete()


def test_both_ends_give_up_a_connection_whose_other_end_is_silent(
    host: Namespace, tmp_path: Path
) -> None:
    lost, both = list[str](), trio.Event()

    async def talk(stream: trio.abc.Stream, who: str) -> None:
        """Send to somebody who cannot hear it, and wait for an answer."""
        try:
            with stream_errors(who):
                await stream.send_all(b"x")
                await stream.receive_some(1)
        except ConnectionLost:
            lost.append(who)
            if len(lost) == 2:
                both.set()

    async def main() -> None:
        files, root = identity.manager(tmp_path)
        context = server_context(files)
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port, here, silent = listener.socket.getsockname()[1], trio.Event(), trio.Event()

        async def answer(stream: trio.abc.Stream, who: RemoteNode) -> None:
            del who
            here.set()
            await silent.wait()
            await talk(stream, "listener")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, listener, lambda: context, {Protocol.JOIN: answer})
            stream = await dial(
                f"127.0.0.1:{port}", joining_context(root.cert), name=ca.MANAGER_NAME
            )
            await here.wait()
            await trio.to_thread.run_sync(
                lambda: host.run("iptables", "-A", "INPUT", "-p", "tcp", "-j", "DROP")
            )
            silent.set()
            with trio.move_on_after(PATIENCE):
                await talk(stream, "dialler")
                await both.wait()
            await trio.aclose_forcefully(stream)
            nursery.cancel_scope.cancel()

    host.inside(lambda: trio.run(main))
    assert sorted(lost) == ["dialler", "listener"]
