"""Waits for the clients of a task that is to stop, as :mod:`.relief` decides."""

from collections.abc import Awaitable, Callable, Collection, Mapping

import structlog
import trio

from swarmlet.agent import relief
from swarmlet.clock import Seconds
from swarmlet.errors import ForwardingFailed
from swarmlet.model.forwarding import Tables
from swarmlet.net.connections import Connections
from swarmlet.rpc.messages import Assignment

log = structlog.get_logger(__name__)

#: Counts the TCP connections to each of these addresses. Raises ForwardingFailed.
Count = Callable[[Collection[str]], Awaitable[Mapping[str, Connections]]]


async def drain(task: Assignment, *, tables: Callable[[], Tables], count: Count) -> None:
    """Return when they went elsewhere, or cannot; ``tables`` are those of any moment."""
    addresses = [place.address for place in task.attachments if place.address]
    with trio.move_on_after(relief.patience(task)):
        while addresses and relief.others_serve(tables(), task):
            began = trio.current_time()
            try:
                found = await count(addresses)
            except ForwardingFailed as exc:
                log.warning("connections-not-known", task=task.name, reason=exc.message)
                return
            if not any(one.busy for one in found.values()):
                return
            await trio.sleep(relief.pause(Seconds(trio.current_time() - began)))
