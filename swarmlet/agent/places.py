"""Where a task's container gets its places in networks from."""

from typing import Protocol

from swarmlet.engine.networks import Endpoint
from swarmlet.rpc.messages import Assignment


class Places(Protocol):
    """The node's networks, as its worker needs them."""

    async def prepare(self, task: Assignment) -> list[Endpoint]:
        """Bring up the networks of a task on this node; its places in them, the first one first.

        Raises EngineError for what repeating will not change, EngineUnavailable for the rest.
        """
        ...

    def set_halted(self, task_ids: frozenset[str]) -> None:
        """These tasks have no process: refuse what is sent to them."""
        ...

    async def ready(self) -> None:
        """Return once the kernel forwards by all that was said so far. Raises EngineUnavailable."""
        ...

    async def relieve(self, task: Assignment) -> None:
        """Return when the clients of a task that is to stop went elsewhere, or cannot."""
        ...
