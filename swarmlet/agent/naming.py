"""The names that this node answers for its tasks: published anew whenever they change."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import structlog
import trio

from swarmlet.errors import DiskFailed
from swarmlet.model.forwarding import Tables

log = structlog.get_logger(__name__)


class Names(Protocol):
    """What answers the names of services and tasks (:mod:`swarmlet.net.resolver_keeper`)."""

    async def run(self) -> None:
        """See to it that names are answered, until cancelled; then they still are."""
        ...

    async def publish(
        self,
        tables: Tables,
        listen: Sequence[str],
        nameservers: Mapping[str, Sequence[str]],
    ) -> None:
        """Answer by these from now on. Raises DiskFailed."""
        ...

    async def trouble(self) -> str:
        """Why names are not answered now, or nothing."""
        ...

    async def renew(self) -> None:
        """Put another in place of what is no good."""
        ...

    async def stop(self) -> None:
        """Answer no more."""
        ...


class Naming:
    """Has names answered by what ``tables`` are at any moment."""

    def __init__(self, names: Names, tables: Callable[[], Tables]) -> None:
        self._names = names
        self._tables = tables
        #: Of each task and container, those that it wants asked for what is not the cluster's.
        self._nameservers: dict[str, tuple[str, ...]] = {}
        self._version = 1  # of what names must show
        self._published = 0  # the version that names are answered by
        self._turn = trio.Event()

    def changed(self) -> None:
        """The tables are others now."""
        self._version += 1
        self._wake()

    def know_nameservers(self, nameservers: Mapping[str, tuple[str, ...]]) -> None:
        """Ask these for what is not the cluster's, for those of the tasks and containers there."""
        tasks = self._tables().tasks
        news = {
            k: v
            for k, v in nameservers.items()
            if v and k in tasks and self._nameservers.get(k) != v
        }
        if news:
            self._nameservers |= news
            self.changed()

    async def published(self) -> None:
        """Return once names are answered by all that was said so far."""
        wanted = self._version
        while self._published < wanted:
            await self._turn.wait()

    async def follow(self) -> None:
        """Publish what changed, until cancelled."""
        while True:
            while self._published == self._version:
                await self._turn.wait()
            version = self._version
            try:
                await self._publish()
            except DiskFailed as exc:
                log.warning("names-not-published", reason=exc.message)
            self._published = version  # failed or not: a container that starts matters more
            self._wake()

    def _wake(self) -> None:
        self._turn.set()
        self._turn = trio.Event()

    async def _publish(self) -> None:
        tables = self._tables()
        local = [task for task in tables.tasks.values() if task.node == tables.me]
        here = {place.network_id for task in local for place in task.attachments}
        listen = sorted(n.gateway for n in tables.networks.values() if n.id in here)
        known = {task.id for task in local}
        self._nameservers = {k: v for k, v in self._nameservers.items() if k in known}
        await self._names.publish(tables, listen, self._nameservers)
