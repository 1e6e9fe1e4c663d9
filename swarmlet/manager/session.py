"""One agent that is connected to the leader: what it was told, and what it is told next.

What its node forwards by goes out before the tasks that need it, and so do secrets and configs; a
task is told to stop only when no node sends it new connections (:mod:`.withdrawals`).
"""

from collections.abc import Callable, Iterable
from typing import Final

import trio

from swarmlet.manager import briefing
from swarmlet.manager.feed import Feed
from swarmlet.manager.payloads import PayloadFeed
from swarmlet.manager.withdrawals import Withdrawals
from swarmlet.model.objects import NodeDescription, Task, TaskState
from swarmlet.rpc.channel import Channel
from swarmlet.rpc.messages import Assignment, Assignments, FromAgent, GoodbyeReason, Settings
from swarmlet.state.store import View

#: Changes that follow each other within this time (seconds) go out together (swarmkit: 100 ms).
FLUSH_DELAY: Final = 0.005


class Session:
    """One agent that is connected. Owned by the dispatcher."""

    def __init__(
        self,
        node_id: str,
        channel: Channel[FromAgent],
        scope: trio.CancelScope,
        withdrawals: Withdrawals,
    ) -> None:
        self.node_id = node_id
        self.channel = channel
        self.scope = scope
        self.feed = Feed(node_id)
        self._payloads = PayloadFeed()
        self._withdrawals = withdrawals
        self._touched: dict[str, None] = {}
        self.goodbye: GoodbyeReason | None = None
        #: What the node said of itself last, until it is recorded, and whether it is being so.
        self.described: NodeDescription | None = None
        self.describing = False
        self._sent: dict[str, TaskState] = {}
        self._dirty: dict[str, None] = {}
        self._settings: Settings | None = None
        self._wake = trio.Event()

    def touch(self, task_id: str) -> None:
        """Note a task of this node that changed or went."""
        self._dirty[task_id] = None
        self._wake.set()

    def touch_records(self, idents: Iterable[str]) -> None:
        """Note objects of the cluster that changed or went: the node may forward by them."""
        self._touched.update(dict.fromkeys(idents))
        self._wake.set()

    def set_settings(self, settings: Settings) -> None:
        """Send these if they differ from what the agent knows."""
        if self._settings != settings:
            self._settings = settings
            self._wake.set()

    async def send_all(self, view: View) -> None:
        """Send all that the node forwards by, and the full assignment set."""
        await self._send_records(view)
        known = [t for t in view.tasks_on_node(self.node_id) if briefing.sendable(t)]
        held = [task.id for task in known if self._is_held(task)]
        tasks = [task for task in known if not self._is_held(task)]
        self._sent = {task.id: task.desired for task in tasks}
        self._dirty.update(dict.fromkeys(held))
        pieces = list(briefing.pieces([briefing.assignment(view, task) for task in tasks]))
        others = (*held, *(task.task_id for piece in pieces[1:] for task in piece))
        for message in self._payloads.next(view, [task.id for task in known]):
            await self.channel.send(message)
        given = self._payloads.given
        await self.channel.send(
            Assignments(full=True, tasks=pieces[0], others=others, payloads=given)
        )
        for piece in pieces[1:]:
            await self.channel.send(Assignments(full=False, tasks=piece))

    async def send_changes(self, view: Callable[[], View], known: Settings) -> None:
        """Send differences as they come; ``known`` was told already. Raises ConnectionLost."""
        while True:
            await self._wake.wait()
            await trio.sleep(FLUSH_DELAY)
            self._wake = trio.Event()
            await self._send_records(view())
            dirty, self._dirty = self._dirty, {}
            payloads = self._payloads.next(view(), dirty)
            update = self._difference(view(), dirty)
            for message in payloads:
                await self.channel.send(message)
            if update.gone:
                await self.channel.send(Assignments(full=False, gone=update.gone))
            for piece in briefing.pieces(update.tasks):
                if piece:
                    await self.channel.send(Assignments(full=False, tasks=piece))
            if self._settings is not None and self._settings != known:
                known = self._settings
                await self.channel.send(known)

    async def _send_records(self, view: View) -> None:
        touched, self._touched = self._touched, {}
        messages = self.feed.next(view, touched)
        self._withdrawals.told(self.node_id, self.feed.withdrawn)
        if messages and messages[0].full:
            self._withdrawals.told_all(self.node_id, self.feed.seq)
        for message in messages:
            await self.channel.send(message)

    def _is_held(self, task: Task) -> bool:
        """Whether the node must not be told yet that a task is to stop."""
        return task.desired > TaskState.RUNNING and self._withdrawals.holds(task.id)

    def _difference(self, view: View, dirty: Iterable[str]) -> Assignments:
        tasks: list[Assignment] = []
        gone: list[str] = []
        for task_id in dirty:
            task = view.task(task_id)
            if task is None:
                if self._sent.pop(task_id, None) is not None:
                    gone.append(task_id)
            elif self._is_held(task):
                self._dirty[task_id] = None  # the dispatcher wakes this session in time
            elif briefing.sendable(task) and self._sent.get(task_id) is not task.desired:
                self._sent[task_id] = task.desired
                tasks.append(briefing.assignment(view, task))
        return Assignments(full=False, tasks=tuple(tasks), gone=tuple(gone))
