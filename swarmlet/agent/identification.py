"""Finds out whose each port of this node's bridges is, by asking the engine.

Not by asking the container: it may give itself addresses that are another's. The engine knows what
it gave, and which process is the container's; the kernel knows which namespace a port leads to.
"""

import math
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any, Final, NoReturn, Protocol

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
    """Asks when a container starts, and while there is a port whose container is not known."""

    def __init__(self, engine: Engine, kernel: Kernel, *, rng: Rng) -> None:
        self._engine = engine
        self._kernel = kernel
        self._rng = rng
        self._calls = trio.CapacityLimiter(AT_ONCE)
        self._started: set[str] = set()  # containers, since the last look
        self._news = trio.Event()

    async def follow(self) -> None:
        """See to it that all are known, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._hear_starts)
            nursery.start_soon(self._hear_ports)
            await self._identify_all()

    async def _hear_starts(self) -> NoReturn:
        """The engine tells sooner than the kernel's ports are looked at."""
        retry = Backoff(self._rng)
        while True:
            try:
                async with self._engine.events(actions=("start",)) as events:
                    retry.reset()
                    async for event in events:
                        self._started.add(event.container_id)
                        self._news.set()
            except SwarmletError:
                await retry.wait()

    async def _hear_ports(self) -> NoReturn:
        while True:
            await self._kernel.ports_changed()
            self._news.set()

    async def _identify_all(self) -> NoReturn:
        """One that is not found is asked for again: a port may be there before its process is."""
        retry, tried = Backoff(self._rng), frozenset[int]()
        while True:
            self._news = trio.Event()
            unknown = self._unknown()
            if unknown - tried:
                retry.reset()
            tried = unknown
            started, self._started = self._started, set()
            if unknown or started:
                try:
                    await self._identify(started)
                except SwarmletError as exc:
                    log.info("ports-not-identified", reason=exc.message)
            left = self._unknown()
            with trio.move_on_after(retry.delay() if left else math.inf):
                await self._news.wait()

    def _unknown(self) -> frozenset[int]:
        return frozenset(port.number for port in strangers(self._kernel.ports).values())

    async def _identify(self, started: set[str]) -> None:
        """Find the containers that started or are not known yet, and say who they are."""
        found = await self._engine.networks(label=NETWORK_LABEL)
        copies = {str(n["Id"]): bridge_name(n["Labels"][NETWORK_LABEL]) for n in found}
        with ExitStack() as files:
            guests: list[Guest] = []
            async with trio.open_nursery() as nursery:
                for container in started | await self._missing(copies):
                    nursery.start_soon(self._meet, container, copies, files, guests)
            if guests:
                await self._kernel.identify(guests)

    async def _missing(self, copies: Mapping[str, str]) -> set[str]:
        """Containers of which a port is not known, if there is such a port."""
        if not self._unknown():
            return set()
        listed = await self._engine.containers()
        ports = self._kernel.ports.values()
        known = {(port.bridge, port.owner.address) for port in ports if port.owner}
        return {
            str(one["Id"])
            for one in listed
            if any((b, owner.address) not in known for b, owner in _places(one, copies).items())
        }

    async def _meet(
        self, container: str, copies: Mapping[str, str], files: ExitStack, guests: list[Guest]
    ) -> None:
        """Open a container's network namespace, if it is sure to be its."""
        async with self._calls:
            with suppress(SwarmletError):  # it is asked for again
                seen = await self._engine.inspect(container)
                process = networks.process(seen)
                if not _places(seen, copies) or (namespace := _open(process)) is None:
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
