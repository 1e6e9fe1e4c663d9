"""What runs on the leader only: the reconcile loops, the dispatcher, and the failure detector.

Everything here ends, as a whole, when leadership is lost; nothing is kept that the next leader
would need, but for who was heard when, which it learns anew (with doubled patience).
"""

import itertools
from collections.abc import Set as AbstractSet
from typing import Final

import structlog
import trio
from msgspec.structs import replace

from swarmlet.clock import Instant, Rng, WallClock
from swarmlet.control import (
    dirty,
    enforcer,
    orchestrator,
    reaper,
    scheduler,
)
from swarmlet.control.decision import Decision
from swarmlet.control.liveness import Detector, Judgement, Settings
from swarmlet.control.nodeset import NodeSet
from swarmlet.errors import JOIN_ANEW
from swarmlet.manager.committer import Committer
from swarmlet.manager.dispatcher import Dispatcher
from swarmlet.manager.loops import Loop, Rule
from swarmlet.manager.members import Members
from swarmlet.manager.proposer import Proposer
from swarmlet.manager.replica import Replica
from swarmlet.model import ids
from swarmlet.model.objects import NodeState, NodeStatus
from swarmlet.model.specs import ClusterSpec
from swarmlet.rpc.messages import GoodbyeReason
from swarmlet.state.commands import ChangeNodes, NodeChange
from swarmlet.state.store import Change, View

log = structlog.get_logger()

#: How many others are asked whether they hear a silent node: one may be in the same trouble.
PROBES: Final = 3


class Leader:
    """The leader's parts, for one leadership."""

    def __init__(
        self,
        replica: Replica,
        proposer: Proposer,
        members: Members,
        *,
        now: WallClock,
        rng: Rng,
    ) -> None:
        self._replica = replica
        self._proposer = proposer
        self._members = members
        self._now = now
        self._rng = rng
        self._committer = Committer(proposer)
        self._detector = Detector(self._settings(), trio.current_time())
        self._judge = trio.Event()
        self._warned: set[str] = set()
        self._recorded: dict[str, trio.Event] = {}
        self._probes: dict[int, str] = {}
        self._probe_numbers = itertools.count(1)
        self.dispatcher = Dispatcher(
            replica,
            self._committer,
            now=now,
            barrier=proposer.barrier,
            ears=self,
        )

    def expect_little_of(self, node_id: str) -> None:
        """Give the previous leader no more time than any node that falls silent.

        Others get twice that, to find their new leader; this one was lost to Raft already.
        """
        now = trio.current_time()
        self._detector.beat(node_id, now)
        self._detector.lost(node_id, now)

    async def run(self) -> None:
        """Lead until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._committer.run)
            nursery.start_soon(self.dispatcher.run)
            nursery.start_soon(self._members.reconcile)
            nursery.start_soon(self._detect_failures)
            for rule in self._rules():
                loop = Loop(rule, replica=self._replica, proposer=self._proposer, now=self._now)
                nursery.start_soon(loop.run)

    def _rules(self) -> list[Rule]:
        def orchestrate(view: View, services: AbstractSet[str], now: Instant) -> Decision:
            return orchestrator.decide(view, services, now, lambda: ids.new_id(self._rng))

        return [
            Rule("orchestrator", dirty.services, orchestrate),
            Rule("enforcer", lambda _, change: dirty.nodes(change), enforcer.decide),
            Rule("reaper", dirty.slots, reaper.decide),
            _scheduling(NodeSet()),
        ]

    # Failure detection: the detector judges, this class hears and writes down.

    def _settings(self) -> Settings:
        view = self._replica.view
        spec = view.cluster.spec if view.cluster else ClusterSpec()
        return Settings.of(spec, sum(1 for _ in view.nodes()))

    def heard(self, node_id: str) -> None:
        """See :class:`.dispatcher.Ears`."""
        self._detector.beat(node_id, trio.current_time())

    def ended(self, node_id: str, goodbye: GoodbyeReason | None) -> None:
        """See :class:`.dispatcher.Ears`."""
        now = trio.current_time()
        if goodbye is None:
            self._detector.lost(node_id, now)
        else:
            restart = goodbye is GoodbyeReason.RESTART
            self._detector.goodbye(node_id, now, restart=restart)
            self._judge.set()

    def probed(self, number: int, *, heard: bool) -> None:
        """See :class:`.dispatcher.Ears`."""
        node_id = self._probes.pop(number, None)
        if node_id is not None:
            self._detector.probed(node_id, heard=heard)

    async def _detect_failures(self) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                self._judge = trio.Event()
                self._detector.settings = self._settings()
                states = {node.id: node.status.state for node in self._replica.view.nodes()}
                judgement = self._detector.tick(trio.current_time(), states)
                self._record(judgement)
                self._warn_of_lost_logs()
                for node_id in judgement.probes:
                    # Beside: a send that is stuck must not make the detector late.
                    nursery.start_soon(self._ask_others, node_id)
                with trio.move_on_at(judgement.wake_at):
                    await self._judge.wait()

    def _record(self, judgement: Judgement) -> None:
        changes = []
        for transition in judgement.transitions:
            node = self._replica.view.node(transition.node_id)
            told = self._recorded.get(transition.node_id)
            if node is None or (told is not None and not told.is_set()):
                continue  # gone, or the last word on it is still on its way
            status = NodeStatus(
                state=transition.state,
                message=transition.message,
                addr=node.status.addr,
                since=self._now(),
            )
            changes.append(NodeChange(id=node.id, status=status))
            log.info("node-state", node=node.id, hostname=node.hostname, state=transition.state)
        if changes:
            # Not awaited: a slow commit must not look like a leader that stood still.
            told = self._committer.submit(ChangeNodes(changes=tuple(changes)))
            self._recorded.update((change.id, told) for change in changes)

    def _warn_of_lost_logs(self) -> None:
        """Say once of each loss which manager lost its log: it stops, and cannot be repaired."""
        regressed = set(self._members.regressed())
        for member in regressed - self._warned:
            log.error("manager-lost-its-log", node=member, advice=JOIN_ANEW)
        self._warned = regressed

    async def _ask_others(self, node_id: str) -> None:
        self._probes = {n: asked for n, asked in self._probes.items() if asked != node_id}
        nodes = self._replica.view.nodes()
        ready = {node.id for node in nodes if node.status.state is NodeState.READY}
        others = sorted(ready.intersection(self.dispatcher.sessions) - {node_id})
        first = int(self._rng.random() * len(others)) if others else 0
        for other in (others[first:] + others[:first])[:PROBES]:
            number = next(self._probe_numbers)
            self._probes[number] = node_id
            await self.dispatcher.ask_probe(other, number, node_id)


def _scheduling(nodes: NodeSet) -> Rule:
    """The scheduler looks at all that waits, with what it remembers of the nodes' load."""

    def note(view: View, change: Change) -> set[str]:
        nodes.update(view, change)
        waiting = any(True for _ in view.unassigned())
        return {_WAITING} if dirty.schedule(change, waiting=waiting) else set()

    def decide(view: View, wanted: AbstractSet[str], now: Instant) -> Decision:
        decided = scheduler.decide(view, now, nodes=nodes) if wanted else Decision()
        if decided.wake_at is None:
            return decided
        return replace(decided, again={_WAITING: decided.wake_at})

    return Rule("scheduler", note, decide)


#: The one thing that can be dirty for the scheduler: the tasks that wait.
_WAITING: Final = "waiting"
