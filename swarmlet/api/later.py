"""Parts of the Engine API that swarmlet does not have yet: each says so in one sentence."""

from swarmlet.api.calls import Answer, Call
from swarmlet.errors import NotSupported


async def autolock(call: Call) -> Answer:
    """Refuse."""
    del call
    raise NotSupported("autolock is not supported yet by swarmlet")
