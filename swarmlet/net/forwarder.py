"""Owns this node's forwarding: keeps the kernel as the newest records want it.

One loop. It wakes for new records, for a change that somebody else made, and once a minute to
look whether all is well; at settings, whose changes are not told, it looks every other second. It
never gives up: what fails is tried again, and said.
"""

import contextlib
import functools
import math
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
import structlog
import trio
from msgspec.structs import replace

from swarmlet.errors import FailedPrecondition, ForwardingFailed
from swarmlet.model.checks import Refusal
from swarmlet.model.forwarding import NetworkRecord, Tables
from swarmlet.net import connections, encryption, foreign_firewalls, namespaces, stale_flows
from swarmlet.net.commands import Commands
from swarmlet.net.connections import Connections
from swarmlet.net.doubts import Doubts
from swarmlet.net.encryption import Encryption
from swarmlet.net.facts import HostFacts, OwnTunnel, Port
from swarmlet.net.firewall import packets
from swarmlet.net.flows import forget
from swarmlet.net.journal import Journal
from swarmlet.net.kernel import Kernel, Look
from swarmlet.net.links import Links, changes
from swarmlet.net.listing import Seen, expected, seen
from swarmlet.net.nft import open_nft
from swarmlet.net.numbers import ENGINE_CHAIN
from swarmlet.net.owners import Guest, Owners, strangers
from swarmlet.net.plan import Plan, nothing, plan
from swarmlet.net.records import Bridge, bridge_of, within
from swarmlet.net.report import Observed, differences, standing
from swarmlet.net.routing import bridge_sysctls
from swarmlet.net.ruleset import removal, replacement, update
from swarmlet.net.watch import Indexes, News, watch_links, watch_rules

log = structlog.get_logger()

#: Seconds between two looks at the settings: ten small files for each bridge.
MIND_SETTINGS: Final = 2.0

#: Seconds that what an earlier life left is kept as it is when there are containers already, until
#: somebody says who they are. An engine that hangs is not waited for longer.
OWNERS_WITHIN: Final = 2.0

#: Seconds before what failed is tried again; doubled each time.
FIRST_RETRY: Final = 0.2
LAST_RETRY: Final = 10.0


class Statistics(msgspec.Struct, frozen=True):
    """What the forwarder did so far. ``failure`` is why the kernel lags behind now, or ""."""

    given: int
    applied: int
    looks: int
    repairs: int
    failures: int
    failure: str


class Forwarder:
    """The node's forwarding. ``directory`` keeps what must be put back when the node leaves."""

    def __init__(self, directory: Path) -> None:
        self._commands = Commands()
        self._nft = open_nft(self._commands)
        self._kernel = Kernel(self._commands, directory)
        self._tables = Tables()
        self._given = 0
        self._applied = 0
        self._wake = trio.Event()
        self._progress = trio.Event()
        # One thing at a time: the loop, and who clears.
        self._lock = trio.Lock()
        self._plan = Plan()
        self._facts = HostFacts()
        #: By which ``_plan`` was made.
        self._planned_by = self._facts
        self._indexes = Indexes()
        self._doubts = Doubts()
        #: Bridges and ports that were there when the kernel was last put in order.
        self._bridges: frozenset[str] = frozenset()
        self._ports: frozenset[str] = frozenset()
        #: Whether what the kernel holds is known to be ``_plan``.
        self._sure = False
        self._encryption = Encryption()
        self._owners = Owners()
        #: Interfaces of ports whose owner gets what is its.
        self._seated: frozenset[int] = frozenset()
        #: Other ports, or other owners, than before.
        self._ports_changed = trio.Event()
        self._journal = Journal()

    @property
    def plan(self) -> Plan:
        """What was applied last."""
        return self._plan

    def planned(self) -> Plan:
        """What the records of now want, by what the host was when it was last looked at."""
        return plan(self._tables, self._facts)

    @property
    def failure(self) -> str:
        """Why the kernel lags behind what was given, or nothing."""
        return self._journal.failure

    @property
    def engine_has_rules(self) -> bool:
        """Whether the engine's own firewall rules are there."""
        return self._facts.accept_chain == ENGINE_CHAIN

    @property
    def engine_rules_gone(self) -> bool:
        """Whether the engine's own firewall rules were there and are no more."""
        return self._journal.engine_rules_gone

    def statistics(self) -> Statistics:
        """Counters, and whether the kernel has what was given."""
        return Statistics(
            self._given,
            self._applied,
            self._doubts.looks,
            self._journal.repairs,
            self._journal.failures,
            self._journal.failure,
        )

    def set_tables(self, tables: Tables) -> None:
        """Forward by these from now on.

        Records that do not say who this node is change nothing: they come when it is known.
        """
        if _self(tables) != _self(self._tables):
            # What is read from the machine depends on it: which device is the underlay.
            self._doubts.everything()
        self._tables = tables
        self._given += 1
        self._wake.set()

    def set_tunnel(self, own: OwnTunnel | None, private: Mapping[str, str], why: str = "") -> None:
        """Encrypt with these keys from now on, ``private`` ones by public ones; or say why not."""
        self._encryption.use(own, private, why)
        self._facts = self._added(self._facts)
        self._doubts.everything()
        self.set_tables(self._tables)

    async def cannot_encrypt(self) -> str:
        """Why this host can have no tunnels, and what to do about it; or nothing."""
        return await self._kernel.wireguard.unable()

    async def handshakes(self) -> tuple[dict[int, int], dict[int, int]]:
        """When tunnels of each lane last agreed on session keys, by node, in seconds (epoch)."""
        made = self._plan.links.tunnels
        return await encryption.handshakes(self._kernel, self._tables.peers.values(), made)

    def cannot_tunnel(self) -> str:
        """Why this node will never exchange packets of encrypted networks as it is, or nothing."""
        return self._encryption.unable()

    def tunnel_trouble(self) -> str:
        """Why this node exchanges no packets of encrypted networks now, or nothing."""
        return self._encryption.trouble()

    def _added(self, facts: HostFacts) -> HostFacts:
        """What was read from the machine, with what was told."""
        return self._owners.added(self._encryption.added(facts))

    @property
    def ports(self) -> Mapping[str, Port]:
        """The ports of our bridges, by name, when they were last looked at."""
        return self._facts.ports

    async def ports_changed(self) -> None:
        """Return when other ports are found than before, or owners of some become known."""
        await self._ports_changed.wait()

    async def identify(self, guests: Sequence[Guest]) -> None:
        """Take in who is plugged in now. Raises ForwardingFailed."""
        async with self._lock:
            ports = await self._kernel.ports()
            numbers = await namespaces.numbers(self._commands, [one.namespace for one in guests])
            met = zip(numbers, (one.places for one in guests), strict=True)
            if not self._owners.meet(ports, met):
                return
            self._know(self._owners.added(replace(self._facts, ports=ports)))
        self.set_tables(self._tables)

    def _know(self, facts: HostFacts) -> None:
        changed = facts.ports != self._facts.ports
        self._facts = facts
        if changed:
            self._ports_changed.set()
            self._ports_changed = trio.Event()

    async def applied(self) -> None:
        """Return once the kernel forwards by what was set last, or by something newer."""
        number = self._given
        while self._applied < number:
            await self._progress.wait()
        await trio.lowlevel.checkpoint_if_cancelled()

    def bridge(self, network: NetworkRecord) -> Bridge:
        """The bridge of a network on this node. Its MTU is right once something is applied."""
        return bridge_of(network, self._facts.underlay_mtu)

    async def adopt(self, network: NetworkRecord) -> None:
        """Set up a bridge that was just made, before containers are plugged into it."""
        name = self.bridge(network).name
        async with self._lock:
            look = await self._kernel.look(self._tables)
            if name not in look.bridges:
                raise FailedPrecondition(f"there is no bridge {name} on this host")
            self._indexes = look.indexes
            if failures := self._kernel.write(bridge_sysctls(name)):
                raise ForwardingFailed(f"bridge {name}", "; ".join(failures))
            self._bridges |= {name}
            # Rules name its hardware address.
            self._know(replace(self._facts, gateways=look.facts.gateways))
        self.set_tables(self._tables)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the kernel as the records want it, until cancelled; then it still is."""
        ours = self._commands.ours
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                self._hear,
                functools.partial(
                    watch_links, self._doubted, ours=ours, indexes=lambda: self._indexes
                ),
            )
            nursery.start_soon(self._hear, functools.partial(watch_rules, self._doubted, ours=ours))
            nursery.start_soon(self._mind_settings)
            await self._look_first()
            task_status.started()
            await self._await_owners()
            await self._loop()

    async def _look_first(self) -> None:
        """Know the underlay's MTU before anybody asks for a bridge, if it can be known."""
        if self._tables.me:
            with contextlib.suppress(ForwardingFailed):
                async with self._lock:
                    look = await self._kernel.look(self._tables)
                    self._know(self._added(look.facts))
                    self._indexes = look.indexes

    async def _await_owners(self) -> None:
        """Without them the rules would be laxer than those that are there."""
        with trio.move_on_after(OWNERS_WITHIN):
            while strangers(self.ports):
                await self.ports_changed()

    async def observe(self) -> tuple[Plan, Observed]:
        """The plan as the records are now, and what the host holds instead."""
        async with self._lock:
            look = await self._kernel.look(self._tables)
            wanted = plan(self._tables, self._added(look.facts))
            look = await self._kernel.look(self._tables, wanted.links.sysctls)
            return wanted, Observed(look.links, await self._listings(wanted), look.bridges)

    async def differences(self) -> list[str]:
        """Each thing in which the host is not as the records want it; it is only looked at."""
        return differences(*await self.observe())

    async def firewalls(self) -> tuple[tuple[Refusal, ...], tuple[str, ...]]:
        """Chains of other programs that refuse what this node needs, and who may do so."""
        wanted = packets(
            data_port=self._tables.data_port,
            control_port=self._tables.control_port,
            underlay=self._facts.underlay,
            encrypted=bool(plan(self._tables, self._facts).links.tunnels),
        )
        return await foreign_firewalls.refusals(self._nft, wanted)

    async def repair(self) -> None:
        """Look at everything now, and repair it."""
        self._doubts.everything()
        self.set_tables(self._tables)
        await self.applied()

    async def connections(self, addresses: Collection[str]) -> dict[str, Connections]:
        """The TCP connections to tasks of this node, by address. Raises ForwardingFailed."""
        return await connections.count(self._commands, addresses)

    async def clear(self) -> None:
        """Take everything away and put the host's own settings back: the node leaves.

        The engine's networks are for their owner to remove. All of it is tried; raises
        ForwardingFailed when something stays. It may be called again.
        """
        async with self._lock:
            subnets = [network.subnet for network in self._tables.networks.values()]
            self._tables = Tables()
            self._plan, self._sure = Plan(), False
            self._indexes = Indexes()
            failures: list[str] = []
            for step in (
                functools.partial(self._nft.run, removal(nothing().rules.values())),
                self._unlink,
                # Without our rules they lead nowhere.
                functools.partial(
                    forget, self._commands, lambda flow: within(flow.answers, subnets)
                ),
                self._kernel.restore,
            ):
                try:
                    await step()
                except ForwardingFailed as exc:
                    failures.append(exc.message)
            if failures:
                raise ForwardingFailed("clearing", "; ".join(failures))

    async def _unlink(self) -> None:
        """Remove all that is ours beside the tables."""
        look = await self._kernel.look(Tables())
        await self._kernel.finish(changes(look.links, Links()))

    async def _hear(self, watch: Callable[[], Awaitable[None]]) -> None:
        """Listen for ever; without it, foreign changes wait for the next minute's look."""
        while True:
            try:
                await watch()
            except (OSError, LookupError, ValueError) as exc:
                log.warning("forwarding-hears-nothing", reason=repr(exc))
            await trio.sleep(LAST_RETRY)

    async def _mind_settings(self) -> None:
        while True:
            await trio.sleep(MIND_SETTINGS)
            async with self._lock:
                wanted = self._plan.links.sysctls if self._sure else {}
                found = self._kernel.settings(wanted)
            if any(wanted[key] != value for key, value in found.items()):
                self._doubted(News.LINKS)

    async def _loop(self) -> None:
        pause = FIRST_RETRY
        while True:
            await self._wait()
            async with self._lock:
                number, tables = self._given, self._tables
                if not tables.me:
                    self._reached(number)
                    continue
                try:
                    await self._step(tables)
                except ForwardingFailed as exc:
                    self._journal.failed(exc)
                else:
                    self._journal.failure, pause = "", FIRST_RETRY
                    self._reached(number)
                    continue
            # The kernel holds something between two plans: only a look can tell what.
            await trio.sleep(FIRST_RETRY)
            with trio.move_on_after(pause - FIRST_RETRY):
                await self._wake.wait()
            pause = min(pause * 2, LAST_RETRY)
            self._wake.set()

    async def _wait(self) -> None:
        """Until there is something to do."""
        at = min(self._doubts.next_look, self._encryption.mend_at)
        with trio.move_on_at(max(at, 0.0) if self._tables.me else math.inf):
            await self._wake.wait()
        self._wake = trio.Event()

    async def _step(self, tables: Tables) -> None:
        """Make the kernel what these records want."""
        sure, self._sure = self._sure, False
        now = trio.current_time()
        doubt = self._doubts.due(now, all_of_it=not sure or now >= self._encryption.mend_at)
        facts = self._facts
        if not doubt and tables is self._plan.tables and facts is self._planned_by:
            self._sure = sure
            return
        if not doubt:
            await self._advance(plan(tables, facts))
            self._planned_by = facts
            return
        self._doubts.looking(now)
        await self._check(tables, doubt, sure=sure)

    async def _advance(self, new: Plan) -> None:
        """From the plan that the kernel holds to a new one."""
        todo = changes(self._plan.links, new.links)
        script = update(self._plan.rules, new.rules)
        await self._encryption.make(self._kernel, todo, planned=self._facts)
        await self._kernel.apply(todo)
        if script != "":
            try:
                await self._nft.run(replacement(new.rules) if script is None else script)
            except ForwardingFailed:
                if script is None:
                    raise
                # Somebody changed what the script builds on.
                await self._nft.run(replacement(new.rules))
        if script is None:
            # New tables do not know where flows went before them.
            await stale_flows.end_all(self._commands, new)
        else:
            await stale_flows.end_changed(
                self._commands,
                self._nft,
                old=self._plan,
                new=new,
                bridge_nf=self._facts.bridge_nf,
            )
        await self._seat()
        await self._kernel.finish(todo)
        self._plan, self._sure = new, True
        self._journal.left_out(new.problems)

    async def _check(self, tables: Tables, doubt: News, *, sure: bool) -> None:
        """Look at the host, and make it as planned, whatever it is now."""
        old = self._plan
        look = await self._kernel.look(tables, (plan(tables, self._facts)).links.sysctls)
        self._journal.engine_chain(self._facts.accept_chain, look.facts.accept_chain)
        self._owners.forget(look.facts.ports)
        self._know(facts := self._added(look.facts))
        self._indexes = look.indexes
        new = plan(tables, facts)
        listings = await self._listings(new) if News.RULES in doubt else None
        if sure:
            self._report(old, look, listings)
        todo = changes(look.links, new.links)
        await self._encryption.make(self._kernel, todo, planned=self._facts)
        await self._kernel.apply(todo)
        if listings is not None and listings == _expected(new):
            pass
        elif listings is not None or (script := update(old.rules, new.rules)) is None:
            await self._nft.run(replacement(new.rules))
            # While they were others, anybody may have spoken in anybody's name.
            self._seated = frozenset()
        elif script:
            await self._nft.run(script)
        await stale_flows.end_all(self._commands, new)
        await self._seat()
        await self._kernel.finish(todo)
        self._plan, self._planned_by, self._sure = new, facts, True
        self._bridges, self._ports = look.bridges, frozenset(look.facts.ports)
        self._journal.left_out(new.problems)

    async def _seat(self) -> None:
        """Undo what was said in the names of owners while nobody knew them. Rules are first."""
        ports = {name: port for name, port in self._facts.ports.items() if port.owner}
        await self._kernel.seat({n: p for n, p in ports.items() if p.number not in self._seated})
        self._seated = frozenset(port.number for port in ports.values())

    async def _listings(self, wanted: Plan) -> dict[str, Seen]:
        found: dict[str, Seen] = {}
        for key, table in wanted.rules.items():
            listing = await self._nft.listing(f"table {table.ref}")
            if listing is not None:
                found[key] = seen(listing, table)
        return found

    def _report(self, old: Plan, look: Look, listings: dict[str, Seen] | None) -> None:
        """Name what others changed; what is only newly wanted, or gone, is no difference."""
        rules = _expected(old) if listings is None else listings
        stood = standing(old, self._bridges, self._ports & look.facts.ports.keys())
        self._journal.repaired(differences(stood, Observed(look.links, rules, look.bridges)))

    def _reached(self, number: int) -> None:
        self._applied = number
        self._progress.set()
        self._progress = trio.Event()

    def _doubted(self, news: News) -> None:
        """Somebody changed something: look at it soon."""
        if self._doubts.heard(news, trio.current_time()):
            self._wake.set()


def _self(tables: Tables) -> tuple[int, str]:
    """Who this node is."""
    return tables.me, next((p.addr for p in tables.peers.values() if p.number == tables.me), "")


def _expected(wanted: Plan) -> dict[str, Seen]:
    return {key: expected(table) for key, table in wanted.rules.items()}
