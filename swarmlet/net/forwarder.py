"""Owns this node's forwarding: keeps the kernel as the newest records want it.

One loop. It wakes for new records, for a change that somebody else made, and once a minute to
look whether all is well; at settings, whose changes are not told, it looks every other second. It
never gives up: what fails is tried again, and said.
"""

import contextlib
import functools
import math
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from pathlib import Path
from socket import IPPROTO_UDP
from typing import Final

import msgspec
import structlog
import trio
from msgspec.structs import replace

from swarmlet.errors import (
    ENGINE_RULES_BACK,
    FailedPrecondition,
    ForwardingFailed,
    TunnelFailed,
)
from swarmlet.model.checks import Refusal
from swarmlet.model.forwarding import NetworkRecord, Tables
from swarmlet.net import connections
from swarmlet.net.commands import Commands
from swarmlet.net.connections import Connections
from swarmlet.net.facts import HostFacts, OwnTunnel
from swarmlet.net.firewall import Ruleset, packets
from swarmlet.net.flows import Flow, forget
from swarmlet.net.kernel import Kernel, Look
from swarmlet.net.links import Changes, Links, changes
from swarmlet.net.listing import Seen, expected, items, seen
from swarmlet.net.nft import open_nft
from swarmlet.net.numbers import ENGINE_CHAIN, LANE_DEVICES, TABLE
from swarmlet.net.plan import Plan, forgotten, nothing, plan
from swarmlet.net.records import Bridge, bridge_of, within
from swarmlet.net.report import Observed, differences, standing
from swarmlet.net.routing import bridge_sysctls
from swarmlet.net.ruleset import removal, replacement, update
from swarmlet.net.watch import Indexes, News, watch_links, watch_rules

log = structlog.get_logger()

#: Seconds between two looks at the whole host, if nothing happens.
RECONCILE: Final = 60.0

#: Seconds between two looks at the settings: ten small files for each bridge.
MIND_SETTINGS: Final = 2.0

#: Seconds after news of a foreign change before the look: such changes come in bursts (an engine
#: that starts, a container's links), and one look serves all.
SETTLE: Final = 0.1

#: Seconds between two looks for the same sort of news, so that a host full of containers that come
#: and go costs no more than a few per cent of a processor.
BREATH: Final = 1.0

#: Seconds before what failed is tried again; doubled each time.
FIRST_RETRY: Final = 0.2
LAST_RETRY: Final = 10.0

#: Seconds before tunnels that could not be made are tried again: other networks wait for the try.
TUNNEL_RETRY: Final = 15.0

#: Named in the log, of one look's differences; a flushed table has thousands.
NAMED: Final = 20


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
        self._indexes = Indexes()
        #: What is in doubt, and when it may be looked at.
        self._doubt = News.RULES | News.LINKS
        self._look_at = -math.inf
        self._looked_at = -math.inf
        #: Bridges and ports that were there when the kernel was last put in order.
        self._bridges: frozenset[str] = frozenset()
        self._ports: frozenset[str] = frozenset()
        #: Whether what the kernel holds is known to be ``_plan``.
        self._sure = False
        self._looks = self._repairs = self._failures = 0
        self._failure = ""
        self._engine_rules_gone = False
        #: This node's part in encrypted networks, its private keys by public ones.
        self._tunnel: OwnTunnel | None = None
        self._private: dict[str, str] = {}
        self._no_tunnel = ""
        #: Why tunnels could not be made, and when that is tried again.
        self._broken = ""
        self._mend_at = math.inf
        self._problems: frozenset[str] = frozenset()

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
        return self._failure

    @property
    def engine_has_rules(self) -> bool:
        """Whether the engine's own firewall rules are there."""
        return self._facts.accept_chain == ENGINE_CHAIN

    @property
    def engine_rules_gone(self) -> bool:
        """Whether the engine's own firewall rules were there and are no more."""
        return self._engine_rules_gone

    def statistics(self) -> Statistics:
        """Counters, and whether the kernel has what was given."""
        return Statistics(
            self._given,
            self._applied,
            self._looks,
            self._repairs,
            self._failures,
            self._failure,
        )

    def set_tables(self, tables: Tables) -> None:
        """Forward by these from now on.

        Records that do not say who this node is change nothing: they come when it is known.
        """
        if _self(tables) != _self(self._tables):
            # What is read from the machine depends on it: which device is the underlay.
            self._doubt, self._look_at = News.RULES | News.LINKS, -math.inf
        self._tables = tables
        self._given += 1
        self._wake.set()

    def set_tunnel(self, own: OwnTunnel | None, private: Mapping[str, str], why: str = "") -> None:
        """Encrypt with these keys from now on, ``private`` ones by public ones; or say why not."""
        self._tunnel, self._private, self._no_tunnel = own, dict(private), why
        self._broken, self._mend_at = "", math.inf
        self._facts = self._with_tunnel(self._facts)
        self._doubt, self._look_at = News.RULES | News.LINKS, -math.inf
        self.set_tables(self._tables)

    async def cannot_encrypt(self) -> str:
        """Why this host can have no tunnels, and what to do about it; or nothing."""
        return await self._kernel.wireguard.unable()

    async def handshakes(self) -> tuple[dict[int, int], dict[int, int]]:
        """When tunnels of each lane last agreed on session keys, by node, in seconds (epoch)."""
        numbers = {
            key: peer.number
            for peer in self._tables.peers.values()
            if peer.tunnel
            for key in peer.tunnel.lanes
        }
        found: list[dict[int, int]] = []
        for name in LANE_DEVICES:
            there = name in self._plan.links.tunnels
            seen = await self._kernel.wireguard.handshakes(name) if there else {}
            latest: dict[int, int] = {}
            for key, at in seen.items():
                number = numbers.get(key, 0)
                latest[number] = max(at, latest.get(number, 0))
            found.append(latest)
        return found[0], found[1]

    def cannot_tunnel(self) -> str:
        """Why this node will never exchange packets of encrypted networks as it is, or nothing."""
        return "" if self._tunnel else self._no_tunnel

    def tunnel_trouble(self) -> str:
        """Why this node exchanges no packets of encrypted networks now, or nothing."""
        facts = self._with_tunnel(self._facts)
        return "" if facts.tunnel else facts.no_tunnel

    def _with_tunnel(self, facts: HostFacts) -> HostFacts:
        if self._broken and trio.current_time() < self._mend_at:
            return replace(facts, tunnel=None, no_tunnel=self._broken)
        return replace(facts, tunnel=self._tunnel, no_tunnel=self._no_tunnel)

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
            await self._loop()

    async def _look_first(self) -> None:
        """Know the underlay's MTU before anybody asks for a bridge, if it can be known."""
        if self._tables.me:
            with contextlib.suppress(ForwardingFailed):
                async with self._lock:
                    look = await self._kernel.look(self._tables)
                    self._facts, self._indexes = self._with_tunnel(look.facts), look.indexes

    async def observe(self) -> tuple[Plan, Observed]:
        """The plan as the records are now, and what the host holds instead."""
        async with self._lock:
            look = await self._kernel.look(self._tables)
            wanted = plan(self._tables, self._with_tunnel(look.facts))
            look = await self._kernel.look(self._tables, wanted.links.sysctls)
            return wanted, Observed(look.links, await self._listings(wanted), look.bridges)

    async def differences(self) -> list[str]:
        """Each thing in which the host is not as the records want it; it is only looked at."""
        return differences(*await self.observe())

    async def firewalls(self) -> tuple[tuple[Refusal, ...], tuple[str, ...]]:
        """Chains of other programs that refuse what this node needs, and who may do so."""
        listing = await self._nft.listing("ruleset")
        wanted = packets(
            data_port=self._tables.data_port,
            control_port=self._tables.control_port,
            underlay=self._facts.underlay,
            encrypted=bool(plan(self._tables, self._facts).links.tunnels),
        )
        try:
            ruleset = Ruleset(listing or b'{"nftables": []}')
        except (ValueError, KeyError, TypeError) as exc:
            raise ForwardingFailed("nft", f"it lists what we do not understand: {exc!r}") from exc
        incoming = [packet for packet in wanted if packet.hook == "input"]
        return ruleset.refusals(wanted), ruleset.suspects(incoming)

    async def repair(self) -> None:
        """Look at everything now, and repair it."""
        self._doubt = News.RULES | News.LINKS
        self._look_at = -math.inf
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
                    self._failed(exc)
                else:
                    self._failure, pause = "", FIRST_RETRY
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
        at = self._look_at if self._doubt else self._looked_at + RECONCILE
        at = min(at, self._mend_at)
        with trio.move_on_at(max(at, 0.0) if self._tables.me else math.inf):
            await self._wake.wait()
        self._wake = trio.Event()

    async def _step(self, tables: Tables) -> None:
        """Make the kernel what these records want."""
        sure, self._sure = self._sure, False
        now = trio.current_time()
        doubt = News.NONE
        if not sure or now >= min(self._looked_at + RECONCILE, self._mend_at):
            doubt = News.RULES | News.LINKS
        elif now >= self._look_at:
            doubt = self._doubt
        if not doubt and tables is self._plan.tables:
            self._sure = sure
            return
        if not doubt:
            await self._advance(plan(tables, self._facts))
            return
        self._doubt &= ~doubt
        self._looked_at, self._looks = now, self._looks + 1
        self._look_at = math.inf
        await self._check(tables, doubt, sure=sure)

    async def _advance(self, new: Plan) -> None:
        """From the plan that the kernel holds to a new one."""
        todo = changes(self._plan.links, new.links)
        script = update(self._plan.rules, new.rules)
        await self._make_tunnels(todo)
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
            await self._forget(new)
        else:
            await self._forget_some(self._plan, new)
        await self._kernel.finish(todo)
        self._plan, self._sure = new, True
        self._left_out(new.problems)

    async def _check(self, tables: Tables, doubt: News, *, sure: bool) -> None:
        """Look at the host, and make it as planned, whatever it is now."""
        old = self._plan
        look = await self._kernel.look(tables, (plan(tables, self._facts)).links.sysctls)
        self._mind_engine(look.facts)
        self._facts, self._indexes = self._with_tunnel(look.facts), look.indexes
        new = plan(tables, self._facts)
        listings = await self._listings(new) if News.RULES in doubt else None
        if sure:
            self._report(old, look, listings)
        todo = changes(look.links, new.links)
        await self._make_tunnels(todo)
        await self._kernel.apply(todo)
        if listings is not None and listings == _expected(new):
            pass
        elif listings is not None or (script := update(old.rules, new.rules)) is None:
            await self._nft.run(replacement(new.rules))
        elif script:
            await self._nft.run(script)
        await self._forget(new)
        await self._kernel.finish(todo)
        self._plan, self._sure = new, True
        self._bridges, self._ports = look.bridges, frozenset(look.facts.ports)
        self._left_out(new.problems)

    async def _make_tunnels(self, todo: Changes) -> None:
        """What cannot be made is planned without: then the rules refuse what would need it.

        Raises TunnelFailed, so that it is planned again.
        """
        try:
            await self._kernel.make_tunnels(todo, self._private)
        except TunnelFailed as exc:
            self._broken, self._mend_at = exc.message, trio.current_time() + TUNNEL_RETRY
            raise
        if self._facts.tunnel is not None:
            self._broken, self._mend_at = "", math.inf

    async def _forget(self, new: Plan) -> None:
        """End the flows to what is no backend or not alive, whoever redirected them and when."""
        backends = {b.address for several in new.balanced.values() for b in several}
        subnets, live = new.rules["ip"].sets["overlay"].items, new.live

        def stale(flow: Flow) -> bool:
            keep = backends if flow.protocol == IPPROTO_UDP else live
            return flow.answers not in keep and within(flow.answers, subnets)

        await forget(self._commands, stale)

    async def _forget_some(self, old: Plan, new: Plan) -> None:
        """End the flows to what left, if there are any: to walk all flows is not cheap."""
        gone = forgotten(old, new)
        listing = await self._nft.listing(f"set ip {TABLE} datagrams") if gone else None
        used = items(listing) & gone if listing else set[str]()
        # What was redirected inside a bridge cannot be refused in the name of the address that was
        # asked; by its next packet it is a new flow, which can. Elsewhere rules do without this.
        dead = old.live.keys() - new.live.keys() if self._facts.bridge_nf else frozenset[str]()
        if used or dead:
            await forget(
                self._commands,
                lambda flow: flow.answers in (used if flow.protocol == IPPROTO_UDP else dead),
            )
        if used:
            await self._nft.run(f"delete element ip {TABLE} datagrams {{ {', '.join(used)} }}")

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
        found = differences(stood, Observed(look.links, rules, look.bridges))
        self._repairs += len(found)
        for difference in found[:NAMED]:
            log.warning("forwarding-repaired", difference=difference)
        if len(found) > NAMED:
            log.warning("forwarding-repaired", more=len(found) - NAMED)

    def _mind_engine(self, now: HostFacts) -> None:
        """Say once that a foreign flush took the engine's rules along: ours come back by us."""
        if now.accept_chain == ENGINE_CHAIN:
            self._engine_rules_gone = False
        elif self._facts.accept_chain == ENGINE_CHAIN:
            self._engine_rules_gone = True
            log.error(
                "engine-rules-gone",
                consequence="the engine can make no bridge and publish no port",
                advice=ENGINE_RULES_BACK,
            )

    def _left_out(self, problems: Iterable[str]) -> None:
        """Say what the plan leaves out, once."""
        found = frozenset(problems)
        for problem in sorted(found - self._problems)[:NAMED]:
            log.warning("forwarding-left-out", problem=problem)
        self._problems = found

    def _failed(self, exc: ForwardingFailed) -> None:
        self._failures += 1
        if exc.message != self._failure:
            log.error("forwarding-failed", reason=exc.message)
        self._failure = exc.message

    def _reached(self, number: int) -> None:
        self._applied = number
        self._progress.set()
        self._progress = trio.Event()

    def _doubted(self, news: News) -> None:
        """Somebody changed something: look at it soon."""
        if not news:
            return
        self._doubt |= news
        if math.isinf(self._look_at):
            soon = trio.current_time() + SETTLE
            self._look_at = max(soon, self._looked_at + BREATH)
            self._wake.set()


def _self(tables: Tables) -> tuple[int, str]:
    """Who this node is."""
    return tables.me, next((p.addr for p in tables.peers.values() if p.number == tables.me), "")


def _expected(wanted: Plan) -> dict[str, Seen]:
    return {key: expected(table) for key, table in wanted.rules.items()}
