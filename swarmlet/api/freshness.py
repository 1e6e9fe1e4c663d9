"""How old an answer may be: as new as the last acknowledged write, or marked.

A read waits until this manager's replica has every write that was acknowledged before, on whichever
manager (ReadIndex, Raft §6.4). Where nobody can confirm that, a reader gets what is known, at once
or nearly so, and is told why it may be behind; a writer is refused.
"""

from typing import Final

from swarmlet.api.backend import Backend
from swarmlet.api.calls import Call
from swarmlet.errors import LeaderSilent, NoQuorum, ReplicaBehind, Unavailable
from swarmlet.state.store import View

#: Seconds that a reader waits for the leader's word. It takes milliseconds; a leader that died is
#: missed by its followers only after an election timeout, and a reader shall not wait for that.
READ_PATIENCE: Final = 0.5

#: Why nobody can confirm that the replica is up to date.
UNCONFIRMED: Final = (NoQuorum, LeaderSilent, ReplicaBehind)


def stale_reason(backend: Backend) -> str:
    """Why the replica may be behind; "" when it is not, or when this is no manager at all."""
    try:
        return backend.stale()
    except Unavailable:
        return ""


async def fresh_view(call: Call) -> View:
    """The replica, brought up to now; for readers, marked when it may be behind.

    Raises NotASwarmManager; for writers also NoQuorum, LeaderSilent, and ReplicaBehind.
    """
    backend = call.backend
    backend.view()  # raises when this is no manager
    if call.exchange.request.method not in {"GET", "HEAD"}:
        await backend.barrier()
    elif not backend.stale():
        call.doubts.extend(await _doubts(backend))
    return backend.view()


async def _doubts(backend: Backend) -> list[str]:
    try:
        await backend.barrier(within=READ_PATIENCE)
    except UNCONFIRMED as exc:
        return [exc.message]
    return []
