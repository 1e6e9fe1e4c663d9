"""Connections from this manager to the others, made when first needed and kept."""

from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio

from swarmlet.rpc.calls import Answer, Caller, Request
from swarmlet.rpc.channel import ConnectionLost
from swarmlet.rpc.frames import RemoteProtocolError

#: Dials a member by its identifier on the MANAGER protocol. Raises ConnectionLost.
DialManager = Callable[[str], Awaitable[trio.abc.Stream]]


class Links:
    """One connection to each manager that was called."""

    def __init__(self, dial: DialManager) -> None:
        self._dial = dial
        self._callers: dict[str, Caller] = {}
        self._locks: dict[str, trio.Lock] = {}
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the connections until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    async def call(self, member: str, body: Request) -> Answer:
        """Call a manager. Raises ConnectionLost or CallRefused."""
        return await (await self._caller(member)).call(body)

    async def _caller(self, member: str) -> Caller:
        async with self._locks.setdefault(member, trio.Lock()):
            caller = self._callers.get(member)
            if caller is None or caller.lost:
                assert self._nursery is not None
                caller = Caller(await self._dial(member), peer=member)
                self._callers[member] = caller
                self._nursery.start_soon(self._read, caller)
            return caller

    async def _read(self, caller: Caller) -> None:
        # When it ends, its open calls have failed; the next call dials again.
        with suppress(ConnectionLost, RemoteProtocolError):
            await caller.run()
