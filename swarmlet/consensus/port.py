"""Consensus as the rest of swarmlet sees it: propose bytes, read after a barrier, members.

The implementation is :mod:`swarmlet.consensus.syncobj`; the daemon alone chooses it. Bytes in,
bytes out: what a command means is the state machine's business.
"""

from collections.abc import AsyncGenerator, Callable
from typing import NamedTuple, Protocol

import msgspec

from swarmlet.errors import Unavailable


class NotLeader(Unavailable):
    """This member cannot commit; ``leader`` is the member that may, if one is known.

    The proposal was certainly not (and will never be) applied.
    """

    code = "not-leader"

    def __init__(self, leader: str | None) -> None:
        super().__init__(f"not the leader; the leader is {leader or 'not known'}")
        self.leader = leader


class OutcomeUnknown(Unavailable):
    """The proposal may or may not be applied later: repeat it with the same identity."""

    code = "outcome-unknown"


class ProposalId(NamedTuple):
    """What makes a repeated proposal the same one: applied once, answered every time.

    ``floor`` says that the client will never again ask for a ``seq`` below it.
    """

    client: str
    seq: int
    floor: int


class Applied(msgspec.Struct, frozen=True):
    """A committed proposal: its Raft index and what the state machine answered."""

    index: int
    value: bytes


class Leadership(msgspec.Struct, frozen=True):
    """Who leads, as this member knows it. ``leader`` is None while there is none."""

    term: int
    leader: str | None
    is_leader: bool


class MemberStatus(msgspec.Struct, frozen=True):
    """One member as the local one sees it.

    ``lag`` (entries) and ``reachable`` mean something on a leader only.
    """

    id: str
    voter: bool
    reachable: bool
    lag: int


class StateMachine(Protocol):
    """What consensus drives. Every method is deterministic and total; an exception is a bug.

    But for Damaged, from :meth:`apply` and :meth:`load`: the member stops and nothing is skipped.
    """

    def apply(self, index: int, command: bytes) -> bytes:
        """Apply one committed command and return its answer. Raises Damaged if it is not read."""
        ...

    def snapshot(self) -> Callable[[], bytes]:
        """Freeze the state now (cheap: a shallow copy); the result encodes it, in a thread."""
        ...

    def load(self, state: bytes) -> None:
        """Replace the whole state by a dumped one."""
        ...


class Consensus(Protocol):
    """A running Raft member."""

    @property
    def leadership(self) -> Leadership:
        """What is known now, without asking anybody."""
        ...

    @property
    def applied(self) -> int:
        """Index of the last entry applied here."""
        ...

    def watch_leadership(self) -> AsyncGenerator[Leadership, None]:
        """Yield the present leadership, then each change; intermediate ones may be skipped."""
        ...

    async def propose(self, command: bytes, *, ident: ProposalId | None = None) -> Applied:
        """Commit ``command`` once and return the state machine's answer.

        Raises NotLeader, OutcomeUnknown, or DiskFailed.
        """
        ...

    async def read_index(self) -> int:
        """Index such that a replica that applied it is as fresh as now (ReadIndex, Raft §6.4).

        Leader only; raises NotLeader.
        """
        ...

    async def wait_applied(self, index: int) -> None:
        """Wait until this replica has applied ``index``."""
        ...

    def members(self) -> list[MemberStatus]:
        """Return the configuration in force, learners included."""
        ...

    def regressed_members(self) -> list[str]:
        """Members that lost what they had acknowledged: they never catch up and must join anew.

        Known on a leader only.
        """
        ...

    async def add_member(self, member: str) -> None:
        """Add a learner, let it catch up, make it a voter. Leader only; one change at a time."""
        ...

    async def remove_member(self, member: str) -> None:
        """Remove a voter or learner; a leader that removes itself hands over first."""
        ...

    async def transfer_leadership(self, to: str | None = None) -> None:
        """Let ``to`` (or the member that is most up to date) take over."""
        ...
