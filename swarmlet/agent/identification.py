"""Finds out whose each port of this node's bridges is, by asking the engine.

Not by asking the container: it may give itself addresses that are another's. The engine knows what
it gave, and which process is the container's; the kernel knows which namespace a port leads to.
"""

import math
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any, Final, Protocol

import structlog
import trio

from swarmlet.agent.backoff import Backoff
from swarmlet.clock import Rng
from swarmlet.engine import networks
from swarmlet.engine.client import Engine
from swarmlet.engine.networks import NETWORK_LABEL
from swarmlet.errors import SwarmletError
from swarmlet.model.networks import is_address
from swarmlet.net.facts import Owner, Port
from swarmlet.net.numbers import bridge_name
from swarmlet.net.owners import Guest, strangers

log = structlog.get_logger(__name__)

Json = dict[str, Any]

#: Containers that are inspected at once.
AT_ONCE: Final = 8

_MAC: Final = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


class Kernel(Protocol):
    """The kernel's side of it (:class:`swarmlet.net.forwarder.Forwarder`)."""

    @property
    def ports(self) -> Mapping[str, Port]:
        """The ports of this node's bridges, by name."""
        ...

    async def ports_changed(self) -> None:
        """Return when other ports are found than before, or owners of some become known."""
        ...

    async def identify(self, guests: Sequence[Guest]) -> None:
        """Take in who is plugged in. Raises ForwardingFailed."""
        ...


class Identification:
    """Asks when there is a port whose container is not known."""

    def __init__(self, engine: Engine, kernel: Kernel, *, rng: Rng) -> None:
        self._engine = engine
        self._kernel = kernel
        self._rng = rng
        self._calls = trio.CapacityLimiter(AT_ONCE)

    async def follow(self) -> None:
        """See to it that all are known, until cancelled. One that is not found is asked for again.

        A port is there before its container's process is.
        """
        retry, tried = Backoff(self._rng), frozenset[int]()
        while True:
            unknown = strangers(self._kernel.ports)
            numbers = frozenset(port.number for port in unknown.values())
            if numbers - tried:
                retry.reset()
            tried = numbers
            if unknown:
                try:
                    await self._identify({port.bridge for port in unknown.values()})
                except SwarmletError as exc:
                    log.info("ports-not-identified", ports=sorted(unknown), reason=exc.message)
            left = strangers(self._kernel.ports).values()
            if all(port.number in tried for port in left):
                with trio.move_on_after(retry.delay() if left else math.inf):
                    await self._kernel.ports_changed()

    async def _identify(self, bridges: set[str]) -> None:
        """Find the containers that are plugged into these and not known yet."""
        copies = {
            str(found["Id"]): name
            for found in await self._engine.networks(label=NETWORK_LABEL)
            if (name := bridge_name(found["Labels"][NETWORK_LABEL])) in bridges
        }
        ports = self._kernel.ports.values()
        known = {(port.bridge, port.owner.address) for port in ports if port.owner}
        with ExitStack() as files:
            guests: list[Guest] = []
            async with trio.open_nursery() as nursery:
                for listed in await self._engine.containers():
                    places = _places(listed, copies).items()
                    if any((bridge, owner.address) not in known for bridge, owner in places):
                        nursery.start_soon(self._meet, str(listed["Id"]), copies, files, guests)
            await self._kernel.identify(guests)

    async def _meet(
        self, container: str, copies: Mapping[str, str], files: ExitStack, guests: list[Guest]
    ) -> None:
        """Open a container's network namespace, if it is sure to be its."""
        async with self._calls:
            with suppress(SwarmletError):  # it is asked for again
                process = networks.process(await self._engine.inspect(container))
                if not process or (namespace := _open(process)) is None:
                    return
                files.callback(os.close, namespace)
                # Another process may have had that number by then.
                again = await self._engine.inspect(container)
                if networks.process(again) == process:
                    guests.append(Guest(namespace, _places(again, copies)))


def _open(process: int) -> int | None:
    try:
        return os.open(f"/proc/{process}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None  # it has ended


def _places(container: Json, copies: Mapping[str, str]) -> dict[str, Owner]:
    """What a container was given at the bridges of these networks of the engine."""
    return {
        copies[network]: Owner(address, mac)
        for network, (address, mac) in networks.plugged(container).items()
        if network in copies and is_address(address) and _MAC.fullmatch(mac)
    }
