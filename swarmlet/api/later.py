"""Parts of the Engine API that swarmlet does not have yet: each says so in one sentence.

Lists that clients poll are empty instead: there are none of these objects.
"""

from swarmlet.api.calls import Answer, Call
from swarmlet.errors import NotSupported


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


async def autolock(call: Call) -> Answer:
    """Refuse."""
    del call
    raise NotSupported("autolock is not supported yet by swarmlet")
