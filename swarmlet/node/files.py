"""What a node keeps in its state directory, besides Raft's own files.

::

    identity/     key, certificate, CA                (security.identity)
    raft.key      key of the files in raft/           (security.sealed)
    raft/         log and snapshots, sealed           (consensus)
    tasks/        assignments of this node            (agent.storage, agent.networking)
    forwarding/   what the kernel had before, names   (net)
    node.json     addresses, and the managers that were last known
    unfinished    there while a cluster is being entered or forgotten
"""

import shutil
from pathlib import Path

import msgspec

from swarmlet import durable
from swarmlet.errors import JOIN_ANEW, Damaged
from swarmlet.rpc.messages import Peer
from swarmlet.security.identity import IdentityFiles

FORMAT = 1


class NodeFile(msgspec.Struct, frozen=True, kw_only=True):
    """Contents of ``node.json``. Addresses are ``host:port``."""

    format: int = FORMAT
    listen_addr: str
    advertise_addr: str
    managers: tuple[Peer, ...] = ()
    #: Whether this node's Raft member may have voted: then its log must be there.
    voted: bool = False


class StateDir:
    """Paths and small files of the state directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.identity = IdentityFiles(root / "identity")
        self.raft = root / "raft"
        self.raft_key = root / "raft.key"
        self.tasks = root / "tasks"
        self.forwarding = root / "forwarding"
        self._node = root / "node.json"
        self._unfinished = root / "unfinished"

    def prepare(self) -> None:
        """Make the directory; sweep away a cluster whose making was interrupted."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._unfinished.exists():
            self.wipe()

    def refuse_remains(self) -> None:
        """Refuse to begin anew on what a member left: another would run on its log.

        And a beginning that fails is swept away, which may be the only copy. Raises Damaged.
        """
        found = self._remains()
        if not found:
            return
        first = "on another manager: swarmlet node demote and rm this node; then here: "
        raise Damaged(
            f"{self.root} holds what a member of a cluster left ({', '.join(found)}), "
            f"but no whole member: {self.identity.node} is what tells who it is",
            advice="restore what is missing from a backup; or, if there are other managers, "
            f"{first if self.raft.name in found else ''}"
            f"stop swarmletd, move {self.root} away, start it, and join again",
        )

    def _remains(self) -> list[str]:
        """What is here of a member, whole or not."""
        own = (self.identity.directory, self._node, self.raft, self.raft_key, self.tasks)
        return [
            path.name for path in own if path.is_file() or (path.is_dir() and any(path.iterdir()))
        ]

    def begin(self) -> None:
        """What is here does not count (a cluster that is being made or forgotten)."""
        durable.save_file(self._unfinished, b"")

    def finish(self) -> None:
        """The cluster stands, after a power cut too."""
        self._unfinished.unlink()
        durable.sync_directory(self.root)

    def load_node(self) -> NodeFile:
        """Read ``node.json``. Raises Damaged."""
        try:
            node = msgspec.json.decode(self._node.read_bytes(), type=NodeFile)
        except (OSError, msgspec.DecodeError) as exc:
            raise Damaged(
                f"{self._node} cannot be read: {exc}",
                advice=f"restore this one file from a backup, nothing else; or stop swarmletd, "
                f"remove {self.root}, start it, and join again",
            ) from exc
        if node.format > FORMAT:
            raise Damaged(
                f"{self._node} has format {node.format}, this version reads up to {FORMAT}",
                advice="upgrade swarmlet on this node",
            )
        return node

    def save_node(self, node: NodeFile) -> None:
        """Write ``node.json`` atomically. Raises DiskFailed."""
        durable.save_file(self._node, msgspec.json.encode(node))

    def check_raft(self, node: NodeFile) -> None:
        """Refuse to go on without a log that was there: an empty member could vote twice.

        Raises Damaged.
        """
        present = self.raft_key.exists() and self.raft.is_dir() and any(self.raft.iterdir())
        if node.voted and not present:
            raise Damaged(
                f"the Raft log of this manager is gone from {self.raft}",
                advice=JOIN_ANEW,
            )

    def wipe_raft(self) -> None:
        """Forget the replicated state: this node is no manager any more."""
        shutil.rmtree(self.raft, ignore_errors=True)
        self.raft_key.unlink(missing_ok=True)

    def wipe(self) -> None:
        """Forget the cluster. Interrupted, it is finished at the next start (:meth:`prepare`)."""
        if not self._unfinished.exists():
            self.begin()
        self.wipe_raft()
        shutil.rmtree(self.identity.directory, ignore_errors=True)
        shutil.rmtree(self.tasks, ignore_errors=True)
        shutil.rmtree(self.forwarding, ignore_errors=True)
        self._node.unlink(missing_ok=True)
        if not self._remains():
            self._unfinished.unlink(missing_ok=True)
