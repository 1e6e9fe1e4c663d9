"""The seam: PySyncObj 0.3.17 without threads, sockets, clock, randomness, pickle, or files.

Two attributes of its module are replaced, and private methods are overridden by their mangled
names; that is why the version is pinned exactly. What is left of it here: terms and states, the
election, the commit rule, and a follower's append.
"""

import zlib
from abc import abstractmethod
from typing import Any, Final, Generic, TypeVar, cast, overload

import pysyncobj.syncobj
from pysyncobj import SyncObj, SyncObjConf
from pysyncobj.node import Node
from pysyncobj.transport import Transport

from swarmlet.clock import Rng
from swarmlet.consensus.settings import RaftSettings
from swarmlet.consensus.wal import Wal

T = TypeVar("T")

FOLLOWER: Final = 0
CANDIDATE: Final = 1
LEADER: Final = 2

#: A message of PySyncObj's own: a dict with a "type".
Raw = dict[str, Any]


#: What Python puts before the library's private names.
_PRIVATE: Final = "_SyncObj__"


class _FrozenTime:
    """The time of the call that is being worked on; set by whoever calls into the library."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


_TIME: Final = _FrozenTime()


class _NoPickle:
    """Stands where the library keeps pickle: none of the paths that are left may need it."""

    @staticmethod
    def dumps(*_: object) -> bytes:
        raise AssertionError("nothing is ever pickled")

    @staticmethod
    def loads(*_: object) -> object:
        raise AssertionError("nothing is ever unpickled")


class _NoPoller:
    def poll(self, timeout: float) -> None:
        pass


pysyncobj.syncobj.monotonicTime = _TIME
pysyncobj.syncobj.pickle = _NoPickle


class Peer(Node):  # type: ignore[misc]  # the library has no types
    """A member, hashed alike in every process: sets of nodes must iterate in the same order."""

    def __hash__(self) -> int:
        return zlib.crc32(str(self.id).encode())


class _Outlet(Transport):  # type: ignore[misc]  # the library has no types
    """Hands every message the library sends to the core."""

    def __init__(self) -> None:
        super().__init__(None, None, None)
        self.core: SeamedSyncObj | None = None

    def send(self, node: Peer, message: Raw) -> bool:
        """Pass on; only a core under construction sends to nobody."""
        if self.core is not None:
            self.core.emit_raw(node, message)
        return True


class Private(Generic[T]):
    """A private attribute of the library under a name and a type of our own.

    Reads None until the library's constructor has set it: that constructor walks over dir(self).
    """

    def __init__(self, name: str) -> None:
        self._key = f"{_PRIVATE}{name}"

    @overload
    def __get__(self, instance: None, owner: type) -> "Private[T]": ...
    @overload
    def __get__(self, instance: object, owner: type) -> T: ...
    def __get__(self, instance: object | None, owner: type) -> "T | Private[T]":
        return self if instance is None else cast("T", instance.__dict__.get(self._key))

    def __set__(self, instance: object, value: T) -> None:
        instance.__dict__[self._key] = value


class SeamedSyncObj(SyncObj):  # type: ignore[misc]  # the library has no types
    """PySyncObj as a function of messages and time. :class:`RaftCore` completes it."""

    role: Private[int] = Private("raftState")
    term: Private[int] = Private("raftCurrentTerm")
    leader_peer: Private[Peer | None] = Private("raftLeader")
    commit: Private[int] = Private("raftCommitIndex")
    applied_index: Private[int] = Private("raftLastApplied")
    deadline: Private[float] = Private("raftElectionDeadline")
    heartbeat_due: Private[float] = Private("newAppendEntriesTime")
    no_op_index: Private[int | None] = Private("noopIDx")
    voters: Private[set[Peer]] = Private("otherNodes")
    learners: Private[set[Peer]] = Private("readonlyNodes")
    reachable: Private[set[Peer]] = Private("connectedNodes")
    next_index: Private[dict[Peer, int]] = Private("raftNextIndex")
    match_index: Private[dict[Peer, int]] = Private("raftMatchIndex")
    last_answer: Private[dict[Peer, float]] = Private("lastResponseTime")
    _raft_log: Private[Wal] = Private("raftLog")
    _voted_for: Private[str | None] = Private("votedForNodeId")
    _load_dump: Private[bool] = Private("needLoadDumpFile")

    def __init__(self, me: str, *, wal: Wal, settings: RaftSettings, rng: Rng, now: float) -> None:
        self.wal = wal
        self.settings = settings
        self._rng = rng
        _TIME.now = now
        outlet = _Outlet()
        super().__init__(Peer(me), [], conf=_library_settings(settings), transport=outlet)
        self._poller = _NoPoller()
        self._raft_log = wal
        self._load_dump = False
        # The term is at least that of the last entry, also if the record of the vote came later.
        self.term = max(wal.term, wal.last_term)
        self._voted_for = wal.vote if wal.term == self.term else None
        self.commit = self.applied_index = wal.first
        outlet.core = self

    @staticmethod
    def set_time(now: float) -> None:
        """Say what time it is for whatever the library does next."""
        _TIME.now = now

    @property
    def now(self) -> float:
        """The time of the call that is being worked on."""
        return _TIME.now

    @abstractmethod
    def emit_raw(self, peer: Peer, raw: Raw) -> None:
        """Translate one message of the library and queue it."""

    @abstractmethod
    def apply_committed(self) -> None:
        """Apply what is committed."""

    @abstractmethod
    def replicate_all(self) -> None:
        """Send entries, snapshots or heartbeats to everybody."""

    def hand_to_library(self, peer: Peer, raw: Raw) -> None:
        """Let the library handle a message that was filtered and made harmless."""
        getattr(self, _PRIVATE + "onMessageReceived")(peer, raw)

    def tick_library(self) -> None:
        """Elections, commit, step-down, apply, replication, as they are due."""
        self.doTick(0)

    def become_follower(self, term: int) -> None:
        """Adopt a newer term."""
        getattr(self, _PRIVATE + "setCurrentTerm")(term, None)
        getattr(self, _PRIVATE + "setState")(FOLLOWER)
        self.leader_peer = None
        self.deadline = self.now + self.election_timeout()

    def election_timeout(self) -> float:
        """Draw one."""
        spread = self.settings.election_max - self.settings.election_min
        return self.settings.election_min + spread * self._rng.random()

    # -- overridden by mangled name: the library calls these

    def _SyncObj__generateRaftTimeout(self) -> float:  # noqa: N802
        return self.election_timeout()

    def _SyncObj__applyLogEntries(self) -> bool:  # noqa: N802
        self.apply_committed()
        return False

    def _SyncObj__sendAppendEntries(self) -> None:  # noqa: N802
        self.replicate_all()

    def _SyncObj__parseChangeClusterRequest(self, command: bytes) -> None:  # noqa: N802
        """Hide membership entries: the newest configuration in the log counts, see RaftCore."""

    def _SyncObj__tryLogCompaction(self) -> None:  # noqa: N802
        """Do nothing: snapshots are taken off the loop, see RaftCore."""


def _library_settings(settings: RaftSettings) -> SyncObjConf:
    return SyncObjConf(
        autoTick=False,
        dynamicMembershipChange=True,
        commandsWaitLeader=False,
        commandsQueueSize=0,
        useFork=False,
        appendEntriesUseBatch=True,
        pollerType="select",
        appendEntriesPeriod=settings.heartbeat,
        raftMinTimeout=settings.election_min,
        raftMaxTimeout=settings.election_max,
        leaderFallbackTimeout=settings.leader_timeout,
        connectionTimeout=3.0,
    )
