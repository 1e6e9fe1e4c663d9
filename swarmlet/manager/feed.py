"""What one node was told to forward by, and what it has to be told next.

A feed remembers the records that were sent; it compares only what was touched. When the node enters
or leaves a network, everything is compared: when a first task comes, or a last one goes.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from swarmlet.control import forwarding
from swarmlet.model.forwarding import (
    NetworkRecord,
    PeerRecord,
    Record,
    ServiceRecord,
    TaskRecord,
)
from swarmlet.model.networks import DEFAULT_DATA_PORT
from swarmlet.rpc.messages import Forwarding
from swarmlet.state.store import View

#: Records in one message; a few hundred bytes each, far below a frame's limit.
MAX_RECORDS: Final = 2_000


class Feed:
    """The records of one session."""

    def __init__(self, node_id: str) -> None:
        self._node_id = node_id
        self._sent: dict[str, Record] = {}
        self._networks: frozenset[str] | None = None  # None: nothing was sent yet
        self._seq = 0

    @property
    def seq(self) -> int:
        """Number of the last message."""
        return self._seq

    def serves(self, task_id: str) -> bool:
        """Whether the node was told that new connections may go to a task."""
        found = self._sent.get(task_id)
        return isinstance(found, TaskRecord) and found.serving

    def next(self, view: View, touched: Iterable[str]) -> list[Forwarding]:
        """What to send now that these objects were touched; nothing when nothing concerns it."""
        networks = forwarding.networks_on(view, self._node_id)
        full = self._networks is None
        if networks != self._networks:
            self._networks = networks
            touched = {*forwarding.everything(view, networks), *self._sent}
        changed, gone = self._compare(view, touched, networks)
        if not (full or changed or gone):
            return []
        return list(self._messages(view, changed, gone, full=full))

    def _compare(
        self, view: View, touched: Iterable[str], networks: frozenset[str]
    ) -> tuple[list[Record], list[str]]:
        changed: list[Record] = []
        gone: list[str] = []
        for ident in sorted(set(touched)):
            record = forwarding.record(view, ident, networks)
            if record is None:
                if self._sent.pop(ident, None) is not None:
                    gone.append(ident)
            elif self._sent.get(ident) != record:
                self._sent[ident] = record
                changed.append(record)
        return changed, gone

    def _messages(
        self, view: View, changed: list[Record], gone: list[str], *, full: bool
    ) -> Iterator[Forwarding]:
        self._seq += 1
        me, cluster = view.node(self._node_id), view.cluster
        pieces = [
            changed[start : start + MAX_RECORDS]
            for start in range(0, max(len(changed), 1), MAX_RECORDS)
        ]
        for number, piece in enumerate(pieces, start=1):
            first = number == 1
            yield Forwarding(
                seq=self._seq,
                full=full and first,
                last=number == len(pieces),
                me=me.number if me else 0,
                data_port=cluster.data_port if cluster else DEFAULT_DATA_PORT,
                peers=tuple(r for r in piece if isinstance(r, PeerRecord)),
                networks=tuple(r for r in piece if isinstance(r, NetworkRecord)),
                services=tuple(r for r in piece if isinstance(r, ServiceRecord)),
                tasks=tuple(r for r in piece if isinstance(r, TaskRecord)),
                gone=tuple(gone) if first else (),
            )
