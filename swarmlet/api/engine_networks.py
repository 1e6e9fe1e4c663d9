"""The networks of the local engine, as far as the cluster's part of the API must know them."""

from typing import Final
from urllib.parse import quote

import msgspec

from swarmlet.api import filters
from swarmlet.api import network_shapes as shapes
from swarmlet.api.calls import Call
from swarmlet.api.versions import dotted
from swarmlet.engine.tunnel import clamp
from swarmlet.errors import EngineError, InvalidInput

Json = shapes.Json

#: Seconds for a prune: each network takes the engine a tenth of a second or more.
_PRUNE_SECONDS: Final = 120.0

_COPIES: Final = {"label": [shapes.COPY_LABEL]}


class EngineNetworks:
    """Questions to the engine, in the client's version. May raise EngineUnavailable."""

    def __init__(self, call: Call) -> None:
        self._engine = call.engine
        self._version = call.version

    async def listing(self, wanted: str) -> list[Json]:
        """The networks that match a client's ``filters``, copies included."""
        return msgspec.json.decode(await self._ask("", wanted), type=list[Json])

    async def copies(self) -> list[Json]:
        """The overlays that this engine knows."""
        return await self.listing(msgspec.json.encode(_COPIES).decode())

    async def named(self, wanted: str) -> Json | None:
        """The network that the engine finds by identifier, name or the start of an identifier."""
        try:
            raw = await self._ask("/" + quote(wanted, safe=""))
        except EngineError as exc:
            if exc.status < 500:
                return None
            raise
        return msgspec.json.decode(raw, type=Json)

    async def copy(self, wanted: str) -> Json | None:
        """The overlay that a worker's user means: by its identifier in the cluster, or its name."""
        copies = await self.copies()
        exact = [c for c in copies if wanted in {shapes.original(c), c["Name"], c["Id"]}]
        found = exact or [c for c in copies if wanted and shapes.original(c).startswith(wanted)]
        if len(found) > 1:
            raise InvalidInput(f"network {wanted} is ambiguous ({len(found)} matches found)")
        return found[0] if found else None

    async def prune(self, wanted: filters.Filters) -> list[str]:
        """Remove unused networks but copies of overlays, which the agent looks after."""
        spared = {**wanted, "label!": (*wanted.get("label!", ()), shapes.COPY_LABEL)}
        target = await self._target("/prune", msgspec.json.encode(spared).decode())
        answer = await self._engine.ask("POST", target, seconds=_PRUNE_SECONDS)
        return msgspec.json.decode(answer.body, type=_Pruned).NetworksDeleted or []

    async def _ask(self, path: str, wanted: str = "") -> bytes:
        return (await self._engine.get(await self._target(path, wanted))).body

    async def _target(self, path: str, wanted: str = "") -> str:
        spoken = dotted(clamp(self._version, await self._engine.versions()))
        query = f"?filters={quote(wanted)}" if wanted else ""
        return f"/v{spoken}/networks{path}{query}"


class _Pruned(msgspec.Struct):
    """The answer to a prune."""

    NetworksDeleted: list[str] | None = None
