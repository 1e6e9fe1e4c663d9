"""``/containers/create``: plain containers are the engine's; only their networks may be ours.

The engine's copy of an overlay network is for the cluster's tasks. A container that took an address
of it by itself would have one that managers give to somebody else.
"""

from typing import Final

import msgspec

from swarmlet.api.calls import Answer, Call
from swarmlet.api.networks import refuse_container

#: Modes that name no network.
_MODES: Final = frozenset({"", "default", "bridge", "host", "none", "nat"})


class _HostConfig(msgspec.Struct, frozen=True, rename="pascal"):
    network_mode: str = ""


class _NetworkingConfig(msgspec.Struct, frozen=True, rename="pascal"):
    endpoints_config: dict[str, object] | None = None


class _Container(msgspec.Struct, frozen=True, rename="pascal"):
    """What of a container concerns networks."""

    host_config: _HostConfig | None = None
    networking_config: _NetworkingConfig | None = None

    def networks(self) -> set[str]:
        """The networks that it names."""
        named = set((self.networking_config and self.networking_config.endpoints_config) or {})
        named.add(self.host_config.network_mode if self.host_config else "")
        return {name for name in named - _MODES if not name.startswith("container:")}


async def create(call: Call) -> Answer | None:
    """``POST /containers/create``: the engine's, unless it names a network of the cluster."""
    try:
        container = msgspec.json.decode(await call.raw_body(), type=_Container)
    except msgspec.DecodeError:
        return None  # the engine says what is wrong with it
    for name in sorted(container.networks()):
        await refuse_container(call, name)
    return None
