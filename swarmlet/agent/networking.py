"""This node's part in the cluster's networks: what managers say, made true in kernel and engine.

Managers say what to forward by (:mod:`.records`); :mod:`swarmlet.net` makes the kernel forward and
answers names; here the engine gets a bridge for each network that a task of this node joins.
What was said last is kept on disk: a node that boots without managers forwards by it.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

import msgspec
import structlog
import trio
from msgspec.structs import replace

from swarmlet import durable
from swarmlet.agent import examination, peers, relief
from swarmlet.agent.backoff import Backoff
from swarmlet.agent.records import Records
from swarmlet.clock import Rng, Seconds
from swarmlet.engine import networks
from swarmlet.engine.client import Engine
from swarmlet.engine.networks import NETWORK_LABEL, Endpoint
from swarmlet.errors import (
    DiskFailed,
    EngineError,
    EngineRulesGone,
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

#: Version of the file's form: its first byte.
VERSION: Final = 1
FILE: Final = "forwarding"

#: A burst of changes becomes a few writes of the file.
SAVE_EVERY: Final = Seconds(0.5)

#: Seconds after which a network that is gone, and still in use here, is looked at again.
SWEEP_EVERY: Final = Seconds(5.0)

#: Seconds that a container waits for the kernel to forward for it: it takes milliseconds.
READY_WITHIN: Final = Seconds(10.0)

#: Seconds for the engine to remove its networks when the node leaves; one that hangs is not waited
#: for.
SWEPT_WITHIN: Final = Seconds(10.0)


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


class Forwarder(examination.Forwarding, Protocol):
    """What makes the kernel forward (:class:`swarmlet.net.forwarder.Forwarder`)."""

    @property
    def engine_rules_gone(self) -> bool:
        """Whether the engine's own firewall rules were there and are no more."""
        ...

    async def run(self, *, task_status: trio.TaskStatus[None] = ...) -> None:
        """Keep the kernel as the tables say, until cancelled."""
        ...

    def set_tables(self, tables: Tables) -> None:
        """Forward by these from now on."""
        ...

    def bridge(self, network: NetworkRecord) -> Bridge:
        """The bridge of a network on this node."""
        ...

    async def connections(self, addresses: Collection[str]) -> dict[str, Connections]:
        """The TCP connections to tasks of this node, by address. Raises ForwardingFailed."""
        ...

    async def adopt(self, network: NetworkRecord) -> None:
        """Set up a bridge that the engine has just made, before anything is plugged into it."""
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
        self._engine = engine
        self._control_port = control_port
        self._forwarder = forwarder
        self._names = names
        self._file = directory / FILE
        self._rng = rng
        self._records = Records(_load(self._file))
        self._halted: frozenset[str] = frozenset()
        self._silent: frozenset[int] = frozenset()
        self._rules_gone = False  # the engine said so when it made a bridge
        self._nameservers: dict[str, tuple[str, ...]] = {}
        self._making: defaultdict[str, trio.Lock] = defaultdict(trio.Lock)
        self._version = 1  # of what names and disk must show
        self._named = 0  # the version that names are answered by
        self._turn = trio.Event()
        #: Networks that the engine would not make, and why.
        self._unmade: dict[str, str] = {}
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

    def _own_tables(self) -> Tables:
        return replace(
            peers.avoiding(self.tables, self._silent),
            control_port=self._control_port,
            halted=self._halted,
        )

    def _note(self) -> None:
        self._version += 1
        self._wake()

    def _wake(self) -> None:
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
                nursery.start_soon(self._follow_names)
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
                await self._sweep(lambda: ())
        except (SwarmletError, trio.TooSlowError) as exc:
            log.warning("engine-networks-left-behind", reason=str(exc) or "the engine hangs")
        try:
            await self._forwarder.clear()
        except ForwardingFailed as exc:
            log.warning("forwarding-left-behind", reason=exc.message)
        self._file.unlink(missing_ok=True)

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
        gone = self._rules_gone or self._forwarder.engine_rules_gone
        known = self.tables.networks
        return replace(
            found,
            engine=RULES_GONE if gone else "",
            unmade=tuple(why for key, why in self._unmade.items() if key in known),
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
        await _ready(self._names_known(self._version))
        return endpoints

    async def _names_known(self, wanted: int) -> None:
        while self._named < wanted:
            await self._turn.wait()

    def set_halted(self, task_ids: frozenset[str]) -> None:
        """See :class:`swarmlet.agent.places.Places`."""
        if task_ids != self._halted:
            self._halted = task_ids
            self._forward()

    def know_nameservers(self, nameservers: Mapping[str, tuple[str, ...]]) -> None:
        """Ask these for what is not the cluster's, for those of the tasks and containers there."""
        news = {
            k: v
            for k, v in nameservers.items()
            if v and k in self.tables.tasks and self._nameservers.get(k) != v
        }
        if news:
            self._nameservers |= news
            self._note()

    async def relieve(self, task: Assignment) -> None:
        """See :class:`swarmlet.agent.places.Places`."""
        addresses = [place.address for place in task.attachments if place.address]
        with trio.move_on_after(relief.patience(task)):
            while addresses and relief.others_serve(self.tables, task):
                try:
                    found = await self._forwarder.connections(addresses)
                    if not any(one.busy for one in found.values()):
                        return
                except ForwardingFailed as exc:
                    log.warning("connections-not-known", task=task.name, reason=exc.message)
                    return
                await trio.sleep(relief.LOOK_EVERY)

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
        async with self._making[record.id]:
            network = await self._bridge_network(record)
        return Endpoint(network, attachment.address, record.gateway, record.name)

    def _demand_tunnel(self, record: NetworkRecord) -> None:
        """Raises EngineError if this node cannot encrypt, EngineUnavailable if it cannot now."""
        said = f"network {record.name} is encrypted, which this node cannot"
        if why := self._forwarder.cannot_tunnel():
            raise EngineError(f"{said}: {why}", status=503)  # another node may be able to
        if why := self._forwarder.tunnel_trouble():
            raise EngineUnavailable(f"{said} now: {why}")

    async def _bridge_network(self, record: NetworkRecord) -> str:
        """The engine's network for one of the cluster's; made when it is not there."""
        bridge = self._forwarder.bridge(record)
        for found in await self._engine.networks(label=NETWORK_LABEL):
            if networks.fits(found, record, bridge.name):
                return str(found["Id"])
            known = self.tables.networks.get(found["Labels"][NETWORK_LABEL])
            if known is None or known is record:
                # Of a network that was removed: a new one may have its name and its addresses.
                await self._engine.remove_network(str(found["Id"]))
        try:
            network = await self._engine.create_network(
                networks.network_body(record, bridge=bridge.name, mtu=bridge.mtu)
            )
        except EngineRulesGone:
            self._rules_gone = True
            raise
        except EngineError as exc:
            said = f"network {record.name} ({record.subnet}) cannot be made on this node"
            self._unmade[record.id] = f"{said}: {exc.message}"
            raise EngineError(self._unmade[record.id], status=exc.status) from exc
        self._unmade.pop(record.id, None)
        self._rules_gone = False
        await self._forwarder.adopt(record)
        log.info("network-made", network=record.name, bridge=bridge.name)
        return network

    # --- what follows a change ------------------------------------------------------------------

    async def _follow_names(self) -> None:
        while True:
            while self._named == self._version:
                await self._turn.wait()
            version = self._version
            try:
                await self._publish_names()
            except DiskFailed as exc:
                log.warning("names-not-published", reason=exc.message)
            self._named = version  # failed or not: a container that starts matters more
            self._wake()

    async def _follow_disk(self) -> None:
        retry, kept, used = Backoff(self._rng), 0, False
        while True:
            with trio.move_on_after(SWEEP_EVERY if used else math.inf):
                while kept == self._version:
                    await self._turn.wait()
            version = self._version
            try:
                if kept != version:
                    await self._save()
                used = await self._sweep(lambda: self.tables.networks)
            except SwarmletError as exc:
                log.warning("networks-not-kept", reason=exc.message)
                await retry.wait()
            else:
                kept = version
                retry.reset()
                await trio.sleep(SAVE_EVERY)

    async def _publish_names(self) -> None:
        tables = self.tables
        local = [task for task in tables.tasks.values() if task.node == tables.me]
        here = {place.network_id for task in local for place in task.attachments}
        listen = sorted(n.gateway for n in tables.networks.values() if n.id in here)
        known = {task.id for task in local}
        self._nameservers = {k: v for k, v in self._nameservers.items() if k in known}
        await self._names.publish(peers.avoiding(tables, self._silent), listen, self._nameservers)

    async def _save(self) -> None:
        data = bytes([VERSION]) + msgspec.msgpack.encode(self.tables)
        await trio.to_thread.run_sync(_keep, self._file, data)

    async def _sweep(self, kept: Callable[[], Collection[str]]) -> bool:
        """Remove the engine's copies of networks that are gone; says whether one is still in use.

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
        return used


async def _ready(waited_for: Coroutine[object, object, None]) -> None:
    """Wait for it, but not for ever. Raises EngineUnavailable."""
    with trio.move_on_after(READY_WITHIN):
        await waited_for
        return
    raise EngineUnavailable("this node's network is not ready; the log says why")


def _keep(path: Path, data: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    durable.save_file(path, data)


def _load(path: Path) -> Tables:
    """What was kept; nothing when it is not there or cannot be read: managers will say it again."""
    try:
        raw = path.read_bytes()
        if raw[:1] == bytes([VERSION]):
            return msgspec.msgpack.decode(raw[1:], type=Tables)
    except FileNotFoundError:
        return Tables()
    except (OSError, msgspec.MsgspecError, ValueError) as exc:
        log.warning("forwarding-damaged", reason=str(exc))
    return Tables()
