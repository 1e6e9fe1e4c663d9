"""Two connections as one: what a client and an engine say to each other once HTTP is done with."""

from typing import Final

import trio

from swarmlet.engine.tunnel import CHUNK

Stream = trio.abc.HalfCloseableStream

#: Seconds for a client to end its side after the engine has ended its own: the client has all
#: output by then, so only one that forgot its connection takes longer.
_HALF_OPEN_SECONDS: Final = 10.0


async def join(client: Stream, engine: Stream) -> None:
    """Copy both ways until both sides have ended, or one cannot be written to."""
    async with trio.open_nursery() as nursery:

        async def down() -> None:
            if not await _copy(engine, client):
                nursery.cancel_scope.cancel()
            nursery.cancel_scope.deadline = trio.current_time() + _HALF_OPEN_SECONDS

        nursery.start_soon(_copy, client, engine)
        nursery.start_soon(down)


async def _copy(source: Stream, target: Stream) -> bool:
    """Copy to the end and pass it on; False when the target is gone."""
    while True:
        try:
            data = await source.receive_some(CHUNK)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            data = b""
        try:
            if not data:
                await target.send_eof()
                return True
            await target.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return False
