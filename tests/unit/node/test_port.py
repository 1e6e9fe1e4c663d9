"""The node's port: what arrives is handed to the manager part that is there now."""

from pathlib import Path
from typing import cast

import trio
from swarmlet.manager.manager import Manager
from swarmlet.model.specs import Role
from swarmlet.node.port import NodePort
from swarmlet.rpc.calls import Answer, Request
from swarmlet.rpc.listener import RemoteNode
from swarmlet.security.identity import IdentityFiles

PEER = RemoteNode("m2", Role.MANAGER, "c1", "10.0.0.2")


class Part:
    """A manager part that serves for ever."""

    def __init__(self) -> None:
        self.serving = 0

    async def serve_manager(self, stream: trio.abc.Stream, who: RemoteNode) -> None:
        del stream, who
        self.serving += 1
        try:
            await trio.sleep_forever()
        finally:
            self.serving -= 1


async def test_calls_to_a_manager_part_end_with_it(tmp_path: Path) -> None:
    """Demoted and promoted again, the node has a new one: other managers must not ask the old."""
    port, old, new = NodePort(IdentityFiles(tmp_path)), Part(), Part()
    ours, _ = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        port.manager = cast("Manager", old)
        nursery.start_soon(port._on_manager, ours, PEER)
        await trio.testing.wait_all_tasks_blocked()
        assert old.serving == 1
        port.manager = None
        await trio.testing.wait_all_tasks_blocked()
        assert old.serving == 0
        port.manager = cast("Manager", new)
        nursery.start_soon(port._on_manager, ours, PEER)
        await trio.testing.wait_all_tasks_blocked()
        assert new.serving == 1
        nursery.cancel_scope.cancel()


async def test_who_answers_checks_outlives_manager_parts(tmp_path: Path) -> None:
    """Nodes of any role are asked how their networks are, whatever role they had before."""
    port = NodePort(IdentityFiles(tmp_path))

    async def answer(request: Request, who: RemoteNode) -> Answer:
        raise AssertionError((request, who))

    assert port.examiner is None
    port.examiner = answer
    for manager in (cast("Manager", Part()), None):
        port.manager = manager
        assert port.examiner is answer
