"""Members of a cluster in one trio run: real files, streams in memory, disk work inline."""

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import msgpack
import trio
import trio.testing
from swarmlet.consensus.settings import LAN, RaftSettings
from swarmlet.consensus.syncobj import SyncObjConsensus
from swarmlet.errors import Damaged

from tests.unit.consensus.faults import KEY

T = TypeVar("T")


class Journal:
    """A state machine that keeps what it was told."""

    def __init__(self) -> None:
        self.items: list[bytes] = []
        self.reads_newer = False

    def apply(self, index: int, command: bytes) -> bytes:
        if command == b"poison":
            raise ValueError(index)
        if command == b"newer" and not self.reads_newer:
            raise Damaged("a replicated command has format 2")
        self.items.append(command)
        return b"%d" % len(self.items)

    def snapshot(self) -> Callable[[], bytes]:
        frozen = list(self.items)
        return lambda: bytes(msgpack.packb(frozen))

    def load(self, state: bytes) -> None:
        self.items = msgpack.unpackb(state)


async def inline(call: Callable[[], T], /) -> T:
    """Run a blocking call here: a mock clock would run ahead of a thread."""
    await trio.lowlevel.checkpoint()
    return call()


class Cluster:
    """Members by name, and which pairs of them are cut."""

    def __init__(self, directory: Path, nursery: trio.Nursery, settings: RaftSettings) -> None:
        self.directory, self.nursery, self.settings = directory, nursery, settings
        self.members: dict[str, SyncObjConsensus] = {}
        self.journals: dict[str, Journal] = {}
        self.cut: set[str] = set()
        self._scopes: dict[str, trio.CancelScope] = {}
        self._streams: list[tuple[str, str, trio.abc.Stream]] = []

    def make(self, me: str, bootstrap: list[str] | None) -> SyncObjConsensus:
        """Make a member that the test itself runs."""
        self.journals[me] = Journal()
        member = self.members[me] = SyncObjConsensus(
            me,
            bootstrap=bootstrap,
            directory=self.directory / me,
            key=KEY,
            state_machine=self.journals[me],
            dial=self._dialler(me),
            rng=random.Random(me),
            settings=self.settings,
            run_blocking=inline,
        )
        return member

    async def start(self, me: str, bootstrap: list[str] | None) -> SyncObjConsensus:
        member = self.make(me, bootstrap)
        scope = self._scopes[me] = trio.CancelScope()
        await self.nursery.start(self._run, member, scope)
        return member

    async def stop(self, me: str) -> None:
        self._scopes.pop(me).cancel()
        del self.members[me]
        await self._hang_up(me)
        await trio.testing.wait_all_tasks_blocked()

    async def isolate(self, me: str) -> None:
        self.cut.add(me)
        await self._hang_up(me)

    async def _hang_up(self, me: str) -> None:
        for a, b, stream in self._streams:
            if me in {a, b}:
                await trio.aclose_forcefully(stream)

    async def leader(self) -> SyncObjConsensus:
        while True:
            for name, member in self.members.items():
                if member.leadership.is_leader and name not in self.cut:
                    return member
            await trio.sleep(0.01)

    async def _run(
        self,
        member: SyncObjConsensus,
        scope: trio.CancelScope,
        *,
        task_status: trio.TaskStatus[None],
    ) -> None:
        with scope:
            await member.run(task_status=task_status)

    def _dialler(self, me: str) -> Callable[[str], Awaitable[trio.abc.Stream]]:
        async def dial(peer: str) -> trio.abc.Stream:
            await trio.lowlevel.checkpoint()
            if peer not in self.members or self.cut & {me, peer}:
                raise OSError("no route")
            near, far = trio.testing.memory_stream_pair()
            self._streams.append((me, peer, near))
            self.nursery.start_soon(self.members[peer].serve_peer, me, far)
            return near

        return dial


@asynccontextmanager
async def running(
    directory: Path, *names: str, settings: RaftSettings = LAN
) -> AsyncIterator[Cluster]:
    """Run a cluster that was bootstrapped with these members."""
    async with trio.open_nursery() as nursery:
        cluster = Cluster(directory, nursery, settings)
        for name in names:
            await cluster.start(name, list(names))
        yield cluster
        nursery.cancel_scope.cancel()
