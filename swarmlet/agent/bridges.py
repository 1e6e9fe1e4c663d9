"""The engine's copies of the cluster's networks: a bridge for each that a container here is in."""

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from typing import Final, Protocol

import structlog
import trio

from swarmlet.engine import networks
from swarmlet.engine.client import Engine
from swarmlet.engine.networks import NETWORK_LABEL
from swarmlet.errors import EngineError, EngineRulesGone
from swarmlet.model.forwarding import NetworkRecord

log = structlog.get_logger(__name__)

#: What a check says of it.
RULES_GONE: Final = (
    "somebody removed the Docker Engine's firewall rules: it can make no bridge and publish no port"
)


class Bridge(Protocol):
    """A bridge that the kernel's rules expect for a network of this node's tasks."""

    @property
    def name(self) -> str:
        """Of the device."""
        ...

    @property
    def mtu(self) -> int:
        """In bytes."""
        ...


class Kernel(Protocol):
    """The kernel's side of bridges (:class:`swarmlet.net.forwarder.Forwarder`)."""

    @property
    def engine_has_rules(self) -> bool:
        """Whether the engine's own firewall rules are there."""
        ...

    @property
    def engine_rules_gone(self) -> bool:
        """Whether they were there and are no more."""
        ...

    def bridge(self, network: NetworkRecord) -> Bridge:
        """The bridge of a network on this node."""
        ...

    async def adopt(self, network: NetworkRecord) -> None:
        """Set up a bridge that the engine has just made, before anything is plugged into it."""
        ...


class Bridges:
    """Makes copies when they are needed, and removes them when their networks are gone."""

    def __init__(self, engine: Engine, kernel: Kernel) -> None:
        self._engine = engine
        self._kernel = kernel
        self._making: defaultdict[str, trio.Lock] = defaultdict(trio.Lock)
        self._refused = False  # the last bridge, for want of the engine's own rules
        #: Networks that the engine would not make, and why.
        self._unmade: dict[str, str] = {}
        #: Networks whose bridges are there, and not set up yet.
        self._bare: set[str] = set()

    async def copy(
        self, record: NetworkRecord, known: Callable[[], Mapping[str, NetworkRecord]]
    ) -> str:
        """The engine's identifier of its copy of a network; made when it is not there.

        ``known`` are all networks of the cluster at any moment. Raises EngineError,
        EngineRulesGone, EngineUnavailable, ForwardingFailed.
        """
        async with self._making[record.id]:
            return await self._copy(record, known)

    async def _copy(
        self, record: NetworkRecord, known: Callable[[], Mapping[str, NetworkRecord]]
    ) -> str:
        bridge = self._kernel.bridge(record)
        for found in await self._engine.networks(label=NETWORK_LABEL):
            if networks.fits(found, record, bridge.name):
                if record.id in self._bare:
                    await self._adopt(record)
                return str(found["Id"])
            other = known().get(found["Labels"][NETWORK_LABEL])
            if other is None or other is record:
                # Of a network that was removed: a new one may have its name and its addresses.
                await self._engine.remove_network(str(found["Id"]))
        try:
            made = await self._engine.create_network(
                networks.network_body(record, bridge=bridge.name, mtu=bridge.mtu)
            )
        except EngineRulesGone:
            self._refused = True
            raise
        except EngineError as exc:
            said = f"network {record.name} ({record.subnet}) cannot be made on this node"
            self._unmade[record.id] = f"{said}: {exc.message}"
            raise EngineError(self._unmade[record.id], status=exc.status) from exc
        self._unmade.pop(record.id, None)
        self._refused = False
        log.info("network-made", network=record.name, bridge=bridge.name)
        self._bare.add(record.id)
        await self._adopt(record)
        return made

    async def _adopt(self, record: NetworkRecord) -> None:
        await self._kernel.adopt(record)
        self._bare.discard(record.id)

    async def sweep(self, kept: Callable[[], Collection[str]]) -> bool:
        """Remove the copies of networks that are gone; says whether one is still in use.

        A task's container may outlive the records of its network. ``kept`` is asked after the
        engine: what has been made meanwhile stays.
        """
        used = False
        for found in await self._engine.networks(label=NETWORK_LABEL):
            if found["Labels"][NETWORK_LABEL] in kept():
                continue
            try:
                await self._engine.remove_network(str(found["Id"]))
            except (EngineError, EngineRulesGone) as exc:
                log.info("network-not-removed", network=found["Name"], reason=exc.message)
                used = True
        self._forget(kept())
        return used

    def _forget(self, kept: Collection[str]) -> None:
        """What was known of networks that are gone; but not who waits for one at this moment."""
        for ident in [i for i, lock in self._making.items() if not lock.locked()]:
            if ident not in kept:
                del self._making[ident]
        self._unmade = {ident: why for ident, why in self._unmade.items() if ident in kept}
        self._bare.intersection_update(kept)

    def ailment(self) -> str:
        """What ails the engine's own firewall rules, or nothing."""
        refused = self._refused and not self._kernel.engine_has_rules
        return RULES_GONE if refused or self._kernel.engine_rules_gone else ""

    def unmade(self, known: Collection[str]) -> tuple[str, ...]:
        """The networks, of these, that the engine would not make, and why."""
        return tuple(why for ident, why in self._unmade.items() if ident in known)
