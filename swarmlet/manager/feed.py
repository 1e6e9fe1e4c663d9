"""What one node was told to forward by, and what it has to be told next.

A feed remembers the records that were sent; it compares only what was touched. When the node enters
or leaves a network, everything is compared: when a first task comes, or a last one goes.
"""

from collections.abc import Iterable, Iterator, Mapping
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
        self._confirmed = 0
        self._withdrawn: dict[str, int] = {}

    @property
    def seq(self) -> int:
        """Number of the last message."""
        return self._seq

    @property
    def withdrawn(self) -> Mapping[str, int]:
        """Tasks that take no connections any more, with the messages that say so, unconfirmed."""
        return self._withdrawn

    def serves(self, task_id: str) -> bool:
        """Whether the node was told that new connections may go to a task."""
        return _serves(self._sent.get(task_id))

    def may_send_to(self, task_id: str) -> bool:
        """Whether the node's kernel may send new connections to a task, by all that is known.

        By what it was told, unless it has confirmed something newer; and by anything that it was
        told in an earlier session, until it has confirmed the first message of this one.
        """
        return self._confirmed == 0 or self.serves(task_id) or task_id in self._withdrawn

    def told_by(self, task_id: str) -> int | None:
        """Number of the message that says that a task takes no connections; None: none yet."""
        if self.serves(task_id) or self._networks is None:
            return None
        return self._withdrawn.get(task_id, 1)

    def confirm(self, seq: int) -> None:
        """The node forwards by a message, and by all before it."""
        self._confirmed = max(self._confirmed, seq)
        self._withdrawn = {t: n for t, n in self._withdrawn.items() if n > seq}

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
            self._note(ident, record)
            if record is None:
                if self._sent.pop(ident, None) is not None:
                    gone.append(ident)
            elif self._sent.get(ident) != record:
                self._sent[ident] = record
                changed.append(record)
        return changed, gone

    def _note(self, ident: str, record: Record | None) -> None:
        """Keep in mind what the next message withdraws, until it is confirmed."""
        if _serves(record):
            self._withdrawn.pop(ident, None)
        elif self.serves(ident):
            self._withdrawn[ident] = self._seq + 1

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


def _serves(record: Record | None) -> bool:
    return isinstance(record, TaskRecord) and record.serving
