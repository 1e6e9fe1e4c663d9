"""What a log entry holds: a kind, a format version of our own, and a msgpack body.

The kind is the first byte because PySyncObj reads and writes it there. Its fourth kind (VERSION) is
never used: a node that does not know the version applies the *next* entry twice.
"""

from typing import Any, Final, NamedTuple

import msgpack

from swarmlet.consensus.packing import pack
from swarmlet.errors import Damaged

#: (command, index, term), in PySyncObj's order.
Entry = tuple[bytes, int, int]

REGULAR: Final = 0
NO_OP: Final = 1
MEMBERSHIP: Final = 2

#: Version of the bodies below. A node that meets a newer one stops: skipping would diverge.
FORMAT: Final = 1

NO_OP_COMMAND: Final = bytes([NO_OP])

#: The largest single proposal; what a follower may need to buffer, and a sane unit of one sync.
MAX_COMMAND_BYTES: Final = 1 << 20


class Proposal(NamedTuple):
    """One command of one client, as it stands in the log."""

    client: str
    seq: int
    floor: int
    command: bytes


class TooNew(Damaged):
    """Data of a later version of swarmlet; this one cannot read it and must not guess."""

    code = "too-new"

    def __init__(self, what: str, version: int) -> None:
        super().__init__(
            f"{what} has format {version}, newer than the {FORMAT} known here",
            advice="start a version of swarmlet at least as new as the one that wrote it",
        )


def encode_proposals(proposals: list[Proposal]) -> bytes:
    """One entry for a whole batch: the batch shares its index and its sync."""
    body: bytes = pack(proposals)
    return bytes((REGULAR, FORMAT)) + body


def decode_proposals(command: bytes) -> list[Proposal]:
    """Undo :func:`encode_proposals`."""
    return [Proposal(*fields) for fields in _body(command)]


def encode_members(members: list[str]) -> bytes:
    """Return an entry that carries the whole new configuration, not a change to some other one."""
    body: bytes = pack(sorted(members))
    return bytes((MEMBERSHIP, FORMAT)) + body


def decode_members(command: bytes) -> tuple[str, ...] | None:
    """Return the configuration in an entry, or None if it is of another kind."""
    return tuple(map(str, _body(command))) if command[0] == MEMBERSHIP else None


def check_readable(command: bytes) -> None:
    """Raise TooNew for an entry of a kind or format this version does not know."""
    if command[0] not in (REGULAR, NO_OP, MEMBERSHIP):
        raise TooNew(f"a log entry of kind {command[0]}", FORMAT + 1)
    if command[0] != NO_OP and command[1] != FORMAT:
        raise TooNew("a log entry", command[1])


def _body(command: bytes) -> list[Any]:
    check_readable(command)
    body: list[Any] = msgpack.unpackb(command[2:], use_list=True)
    return body
