"""This node's part in the cluster's networks: what managers say, made true in kernel and engine.

Managers say what to forward by (:mod:`.records`); :mod:`swarmlet.net` makes the kernel forward and
answers names; here the engine gets a bridge for each network that a task of this node joins.
What was said last is kept on disk: a node that boots without managers forwards by it.
"""

import math
from collections import Counter
from collections.abc import Collection, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

import structlog
import trio
from msgspec.structs import replace

from swarmlet.agent import bridges, connection_draining, examination, identification, peers
from swarmlet.agent.backoff import Backoff
from swarmlet.agent.bridges import Bridges
from swarmlet.agent.forwarding_file import ForwardingFile
from swarmlet.agent.identification import Identification
from swarmlet.agent.naming import Names, Naming
from swarmlet.agent.records import Records
from swarmlet.clock import Rng, Seconds
from swarmlet.engine.client import Engine
from swarmlet.engine.networks import Endpoint
from swarmlet.errors import (
    EngineError,
    EngineUnavailable,
    ForwardingFailed,
    SwarmletError,
)
from swarmlet.model.checks import NodeCheck
from swarmlet.model.forwarding import Attachment, NetworkRecord, Tables
from swarmlet.net.connections import Connections
from swarmlet.net.plan import Plan
from swarmlet.rpc.messages import Assignment, Forwarding

log = structlog.get_logger(__name__)

#: A burst of changes becomes a few writes of the file.
SAVE_EVERY: Final = Seconds(0.5)

#: Seconds after which a network that is gone, and still in use here, is looked at again.
SWEEP_EVERY: Final = Seconds(5.0)

#: Seconds that a container waits for the kernel to forward for it: it takes milliseconds.
READY_WITHIN: Final = Seconds(10.0)

#: Seconds for the engine to remove its networks when the node leaves; one that hangs is not waited
#: for.
SWEPT_WITHIN: Final = Seconds(10.0)


class Forwarder(examination.Forwarding, bridges.Kernel, identification.Kernel, Protocol):
    """What makes the kernel forward (:class:`swarmlet.net.forwarder.Forwarder`)."""

    async def run(self, *, task_status: trio.TaskStatus[None] = ...) -> None:
        """Keep the kernel as the tables say, until cancelled."""
        ...

    def set_tables(self, tables: Tables) -> None:
        """Forward by these from now on."""
        ...

    async def connections(self, addresses: Collection[str]) -> dict[str, Connections]:
        """The TCP connections to tasks of this node, by address. Raises ForwardingFailed."""
        ...

    def cannot_tunnel(self) -> str:
        """Why this node will never exchange packets of encrypted networks as it is, or nothing."""
        ...

    def tunnel_trouble(self) -> str:
        """Why no packets of encrypted networks are exchanged with other nodes now, or nothing."""
        ...

    async def clear(self) -> None:
        """Leave the kernel as it was found."""
        ...


class Networking:
    """:class:`swarmlet.agent.places.Places`, and the receiver of what managers say."""

    def __init__(
        self,
        engine: Engine,
        forwarder: Forwarder,
        names: Names,
        *,
        control_port: int,
        directory: Path,
        rng: Rng,
    ) -> None:
        self._control_port = control_port
        self._forwarder = forwarder
        self._names = names
        self._naming = Naming(names, self._avoiding)
        self._bridges = Bridges(engine, forwarder)
        self._identification = Identification(engine, forwarder, rng=rng)
        self._file = ForwardingFile(directory)
        self._rng = rng
        self._records = Records(self._file.load())
        self._halted: frozenset[str] = frozenset()
        self._silent: frozenset[int] = frozenset()
        self._version = 1  # of what the disk must show
        self._turn = trio.Event()
        self._following = trio.CancelScope()

    @property
    def tables(self) -> Tables:
        """What this node forwards by."""
        return self._records.tables

    def take(self, message: Forwarding) -> None:
        """A manager said what to forward by."""
        if self._records.take(message):
            self._forward()
            self._note()

    def _forward(self) -> None:
        self._forwarder.set_tables(self._own_tables())

    def _avoiding(self) -> Tables:
        return peers.avoiding(self.tables, self._silent)

    def _own_tables(self) -> Tables:
        return replace(
            self._avoiding(),
            control_port=self._control_port,
            halted=self._halted,
        )

    def _note(self) -> None:
        self._naming.changed()
        self._version += 1
        self._turn.set()
        self._turn = trio.Event()

    async def applied(self) -> None:
        """Return once the kernel forwards by all that was said so far."""
        await self._forwarder.applied()

    async def ready(self) -> None:
        """See :class:`swarmlet.agent.places.Places`."""
        await _ready(self._forwarder.applied())

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep kernel, names and engine in line until cancelled, which touches none of them."""
        self._forward()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._names.run)
            await nursery.start(self._follow)
            task_status.started()

    async def _follow(self, *, task_status: trio.TaskStatus[None]) -> None:
        with self._following:
            async with trio.open_nursery() as nursery:
                await nursery.start(self._forwarder.run)
                nursery.start_soon(self._identification.follow)
                nursery.start_soon(self._naming.follow)
                nursery.start_soon(self._follow_disk)
                task_status.started()

    async def leave(self) -> None:
        """Take everything away again; what cannot be is said, and does not keep the rest.

        Nothing that managers say is followed any more, or it would all come back.
        """
        self._following.cancel()
        await self._names.stop()
        try:
            with trio.fail_after(SWEPT_WITHIN):
                await self._bridges.sweep(lambda: ())
        except (SwarmletError, trio.TooSlowError) as exc:
            log.warning("engine-networks-left-behind", reason=str(exc) or "the engine hangs")
        try:
            await self._forwarder.clear()
        except ForwardingFailed as exc:
            log.warning("forwarding-left-behind", reason=exc.message)
        self._file.remove()

    # --- what operators ask ---------------------------------------------------------------------

    def planned(self) -> tuple[Plan, str]:
        """What the kernel shall hold, and why it does not (or nothing)."""
        return self._forwarder.planned(), self._forwarder.failure

    async def examine(self, *, fix: bool = False) -> NodeCheck:
        """Compare kernel and names with what they should be; ``fix`` has it repaired first."""
        trouble = await self._names.trouble()
        if fix and trouble:
            await self._names.renew()
            trouble = await self._names.trouble()
        found = await examination.examine(
            self._forwarder, self._own_tables(), resolver=trouble, fix=fix
        )
        return replace(
            found,
            engine=self._bridges.ailment(),
            unmade=self._bridges.unmade(self.tables.networks),
        )

    async def connections(self, tasks: Collection[str]) -> dict[str, int]:
        """How many TCP connections tasks of this node have. Raises ForwardingFailed."""
        places = {
            place.address: task.id
            for task in map(self.tables.tasks.get, tasks)
            if task is not None and task.node == self.tables.me
            for place in task.attachments
            if place.address
        }
        counted: Counter[str] = Counter()
        for address, found in (await self._forwarder.connections(places)).items():
            counted[places[address]] += found.open
        return dict(counted)

    # --- places for tasks -----------------------------------------------------------------------

    async def prepare(self, task: Assignment) -> list[Endpoint]:
        """See :class:`swarmlet.agent.places.Places`."""
        if not task.attachments:
            return []
        dns = task.spec.container.dns_config
        nameservers = dns.nameservers if dns is not None else ()
        return await self.places(task.task_id, task.attachments, nameservers)

    async def places(
        self, ident: str, attachments: Sequence[Attachment], nameservers: tuple[str, ...]
    ) -> list[Endpoint]:
        """Bring up networks on this node for a task or container. Raises as :meth:`prepare`.

        ``nameservers`` are asked for names that are not the cluster's; () leaves that to the host.
        """
        await self.ready()  # the bridge's MTU is known then, too
        endpoints = [await self._endpoint(attachment) for attachment in attachments]
        self.know_nameservers({ident: nameservers})
        await _ready(self._naming.published())
        return endpoints

    def set_halted(self, task_ids: frozenset[str]) -> None:
        """See :class:`swarmlet.agent.places.Places`."""
        if task_ids != self._halted:
            self._halted = task_ids
            self._forward()

    def know_nameservers(self, nameservers: Mapping[str, tuple[str, ...]]) -> None:
        """Ask these for what is not the cluster's, for those of the tasks and containers there."""
        self._naming.know_nameservers(nameservers)

    async def relieve(self, task: Assignment) -> None:
        """See :class:`swarmlet.agent.places.Places`."""
        await connection_draining.drain(
            task, tables=lambda: self.tables, count=self._forwarder.connections
        )

    # --- other nodes ----------------------------------------------------------------------------

    async def ask_peers(self) -> dict[int, bool]:
        """Whether each node that managers call ready answers, by its number."""
        return await peers.answering(self.tables, self._rng)

    def set_silent(self, numbers: frozenset[int]) -> None:
        """These nodes do not answer: no new connection goes to them, whatever managers said."""
        if numbers != self._silent:
            if numbers:
                log.warning("nodes-silent", numbers=sorted(numbers), consequence="avoided")
            self._silent = numbers
            self._forward()
            self._note()

    # --- the engine's networks ------------------------------------------------------------------

    async def _endpoint(self, attachment: Attachment) -> Endpoint:
        record = self.tables.networks.get(attachment.network_id)
        if record is None or not attachment.address:
            raise EngineUnavailable(f"network {attachment.network_id} is not known here yet")
        if record.encrypted:
            self._demand_tunnel(record)
        network = await self._bridges.copy(record, lambda: self.tables.networks)
        return Endpoint(network, attachment.address, record.gateway, record.name)

    def _demand_tunnel(self, record: NetworkRecord) -> None:
        """Raises EngineError if this node cannot encrypt, EngineUnavailable if it cannot now."""
        said = f"network {record.name} is encrypted, which this node cannot"
        if why := self._forwarder.cannot_tunnel():
            raise EngineError(f"{said}: {why}", status=503)  # another node may be able to
        if why := self._forwarder.tunnel_trouble():
            raise EngineUnavailable(f"{said} now: {why}")

    # --- what follows a change ------------------------------------------------------------------

    async def _follow_disk(self) -> None:
        retry, kept, used = Backoff(self._rng), 0, False
        while True:
            with trio.move_on_after(SWEEP_EVERY if used else math.inf):
                while kept == self._version:
                    await self._turn.wait()
            version = self._version
            try:
                if kept != version:
                    await self._file.save(self.tables)
                used = await self._bridges.sweep(lambda: self.tables.networks)
            except SwarmletError as exc:
                log.warning("networks-not-kept", reason=exc.message)
                await retry.wait()
            else:
                kept = version
                retry.reset()
                await trio.sleep(SAVE_EVERY)


async def _ready(waited_for: Coroutine[object, object, None]) -> None:
    """Wait for it, but not for ever. Raises EngineUnavailable."""
    with trio.move_on_after(READY_WITHIN):
        await waited_for
        return
    raise EngineUnavailable("this node's network is not ready; the log says why")
