"""Parts of the Engine API that swarmlet does not have yet: each says so in one sentence.

Lists that clients poll are empty instead: there are none of these objects.
"""

import msgspec

from swarmlet.api import bodies
from swarmlet.api.calls import Answer, Call
from swarmlet.errors import NotSupported


class NetworkRequest(msgspec.Struct, frozen=True, rename="pascal"):
    """What tells a swarm's network from an engine's own."""

    name: str = ""
    driver: str = ""
    scope: str = ""
    ingress: bool = False


async def empty_listing(call: Call) -> Answer:
    """No objects of this kind exist."""
    call.backend.view()  # only managers know
    return Answer([])


async def secrets(call: Call) -> Answer:
    """Refuse."""
    del call
    raise NotSupported("secrets are not supported yet by swarmlet")


async def configs(call: Call) -> Answer:
    """Refuse."""
    del call
    raise NotSupported("configs are not supported yet by swarmlet")


async def logs(call: Call) -> Answer:
    """Refuse."""
    del call
    raise NotSupported(
        "logs of services and tasks are not supported yet by swarmlet",
        advice="use docker logs on the node that runs the task (service ps names it)",
    )


async def autolock(call: Call) -> Answer:
    """Refuse."""
    del call
    raise NotSupported("autolock is not supported yet by swarmlet")


async def create_network(call: Call) -> Answer | None:
    """Refuse a network of the swarm; None passes one of the engine's own on to it."""
    wanted = bodies.decode(await call.raw_body(), NetworkRequest)
    if wanted.driver == "overlay" or wanted.scope == "swarm" or wanted.ingress:
        raise NotSupported(
            f"overlay networks are not supported yet by swarmlet (network {wanted.name})",
            advice="publish ports with mode=host, or use the engine's own networks on one node",
        )
    return None
