"""This manager's copy of the cluster state: what consensus drives, and whom it wakes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import trio

from swarmlet.state import commands, fsm, snapshot
from swarmlet.state.store import Change, Store, View


class Watch:
    """What changed since it was last asked: a set of dirty identifiers, so it cannot overflow."""

    def __init__(self) -> None:
        self._change = Change()
        self._event = trio.Event()
        #: Set when the whole state was replaced by a snapshot: everything may have changed.
        self._reset = True

    def notify(self, change: Change, *, reset: bool = False) -> None:
        """Add a change and wake the watcher."""
        self._change.merge(change)
        self._reset |= reset
        self._event.set()

    def wake(self) -> None:
        """Wake the watcher although nothing changed."""
        self._event.set()

    async def wait(self) -> None:
        """Return when something changed or :meth:`wake` was called since the last :meth:`take`."""
        await self._event.wait()

    def take(self) -> tuple[Change, bool]:
        """What changed (and whether everything may have) since the last call."""
        taken = self._change, self._reset
        self._change, self._reset, self._event = Change(), False, trio.Event()
        return taken


class Replica:
    """The state machine behind consensus (:class:`swarmlet.consensus.port.StateMachine`)."""

    def __init__(self) -> None:
        self._store = Store()
        self._watches: set[Watch] = set()

    @property
    def view(self) -> View:
        """The state as far as it is known here; valid until the reader's next await."""
        return self._store

    def apply(self, index: int, command: bytes) -> bytes:
        """Apply one committed batch of commands; returns an outcome for each."""
        outcomes = fsm.apply(self._store, commands.decode(command), index)
        change = self._store.take_change()
        if change:
            for watch in self._watches:
                watch.notify(change)
        return commands.encode_outcomes(outcomes)

    def snapshot(self) -> Callable[[], bytes]:
        """Freeze the state; the result encodes it."""
        return snapshot.freeze(self._store)

    def load(self, state: bytes) -> None:
        """Replace the state."""
        self._store = snapshot.thaw(state)
        change = self._store.take_change()
        for watch in self._watches:
            watch.notify(change, reset=True)

    @contextmanager
    def watch(self) -> Iterator[Watch]:
        """Watch changes; the first :meth:`Watch.take` says that everything may have changed."""
        watch = Watch()
        watch.wake()
        self._watches.add(watch)
        try:
            yield watch
        finally:
            self._watches.discard(watch)
