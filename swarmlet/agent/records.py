"""What this node forwards by, as managers tell it in pieces: pure."""

from typing import TypeVar

from msgspec.structs import replace

from swarmlet.model.forwarding import Record, Tables
from swarmlet.rpc.messages import Forwarding

R = TypeVar("R", bound=Record)


class Records:
    """The tables so far. A change counts when its last piece is there."""

    def __init__(self, tables: Tables | None = None) -> None:
        self.tables = tables or Tables()
        self._next: Tables | None = None

    def take(self, message: Forwarding) -> bool:
        """Take in one message; returns whether :attr:`tables` changed."""
        base = Tables() if message.full else self._next or self.tables
        self._next = merged(base, message)
        if message.last:
            self.tables, self._next = self._next, None
        return message.last


def merged(tables: Tables, message: Forwarding) -> Tables:
    """The tables with a message's changes."""
    gone = message.gone
    return replace(
        tables,
        me=message.me,
        data_port=message.data_port,
        peers=_merged(tables.peers, message.peers, gone),
        networks=_merged(tables.networks, message.networks, gone),
        services=_merged(tables.services, message.services, gone),
        tasks=_merged(tables.tasks, message.tasks, gone),
    )


def _merged(table: dict[str, R], changed: tuple[R, ...], gone: tuple[str, ...]) -> dict[str, R]:
    if not changed and not any(ident in table for ident in gone):
        return table
    new = table | {record.id: record for record in changed}
    for ident in gone:
        new.pop(ident, None)
    return new
