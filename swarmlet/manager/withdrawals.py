"""Tasks that are to stop, held until no node sends new connections to them any more.

Stopping a task begins with taking it out of every node's maps. Its own node is told to stop it when
the others have said that their kernels forward accordingly, which takes milliseconds, and a little
later (:data:`LINGER`); or after :data:`PATIENCE`, since a node that does not answer must not keep a
task alive. Pure: time is an argument.
"""

from collections.abc import Mapping
from typing import Final

from swarmlet.clock import Seconds

#: Seconds that a stop waits for nodes that do not answer. By default a silent node is down before:
#: one that is only slow still sends clients.
PATIENCE: Final = Seconds(5.0)

#: Seconds for what is under way when the last new connection was made: many servers answer nothing
#: more once they are told to stop.
LINGER: Final = Seconds(0.5)


class Withdrawals:
    """Who still has to confirm what."""

    def __init__(self) -> None:
        # By task: the nodes that have not confirmed, with the number of the message that told
        # them; None before it was sent.
        self._open: dict[str, dict[str, int | None]] = {}
        self._deadlines: dict[str, float] = {}

    def begin(self, task_id: str, nodes: Mapping[str, int | None], now: float) -> None:
        """A task shall stop; these nodes send connections to it.

        With the number of the message that told them not to, where one was sent already.
        """
        if nodes and task_id not in self._open:
            self._open[task_id] = dict(nodes)
            self._deadlines[task_id] = now + PATIENCE

    def holds(self, task_id: str) -> bool:
        """Whether a task must not be stopped yet."""
        return task_id in self._open

    def told(self, node_id: str, messages: Mapping[str, int]) -> None:
        """A node was told, by these messages, that tasks take no connections any more."""
        for task_id, seq in messages.items():
            waiting = self._open.get(task_id, {})
            if node_id in waiting:
                waiting[node_id] = seq

    def told_all(self, node_id: str, seq: int) -> None:
        """A node is told everything anew, by this message: it may have missed what was before."""
        for waiting in self._open.values():
            if node_id in waiting:
                waiting[node_id] = seq

    def confirmed(self, node_id: str, seq: int, now: float) -> None:
        """A node forwards by a message. What nobody waits for any more ends soon."""
        self._strike(node_id, seq, now)

    def down(self, node_id: str, now: float) -> None:
        """A node is lost or gone: nobody waits for it.

        Not so when only its session ended: its kernel goes on to forward.
        """
        self._strike(node_id, None, now)

    def expired(self, now: float) -> list[str]:
        """Tasks that waited long enough; they are held no more."""
        done = [task_id for task_id, at in self._deadlines.items() if at <= now]
        for task_id in done:
            self._end(task_id)
        return done

    @property
    def wake_at(self) -> float:
        """When the next one expires."""
        return min(self._deadlines.values(), default=float("inf"))

    def _strike(self, node_id: str, seq: int | None, now: float) -> None:
        for task_id, waiting in self._open.items():
            if node_id not in waiting:
                continue
            told = waiting[node_id]
            if seq is None or (told is not None and told <= seq):
                del waiting[node_id]
                if not waiting:
                    self._deadlines[task_id] = min(self._deadlines[task_id], now + LINGER)

    def _end(self, task_id: str) -> None:
        del self._open[task_id], self._deadlines[task_id]
