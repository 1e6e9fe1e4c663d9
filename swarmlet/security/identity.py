"""What a node keeps on disk to prove who it is: its key, its certificate, the cluster's CA.

Key and certificate are one file, replaced atomically, so that they always match.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from swarmlet import durable
from swarmlet.errors import Damaged, InvalidInput
from swarmlet.model.specs import Role
from swarmlet.security import ca


class Identity(msgspec.Struct, frozen=True):
    """A node's proof of who it is; PEM texts."""

    node_id: str
    role: Role
    cluster_id: str
    key: str
    cert: str
    ca: str


class IdentityFiles:
    """The files of an identity: ``node.pem`` (key and certificate) and ``ca.pem``, mode 0600."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.node = directory / "node.pem"
        self.ca = directory / "ca.pem"

    def load(self) -> Identity | None:
        """Read the identity; None when there is none. Raises Damaged."""
        if not self.node.exists():
            return None
        with _readable(self.node):
            key, mark, rest = self.node.read_text().partition("-----BEGIN CERTIFICATE-----")
            cert = mark + rest
            subject = ca.subject_of_pair(key, cert)
        with _readable(self.ca):
            authority = self.ca.read_text()
            ca.digest(authority)
        return Identity(subject.node_id, subject.role, subject.cluster_id, key, cert, authority)

    def save(self, identity: Identity) -> None:
        """Write the identity: the CA first, as it is of no use alone. Raises DiskFailed."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        durable.save_file(self.ca, identity.ca.encode())
        durable.save_file(self.node, (identity.key + identity.cert).encode())


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Map what a file raises that cannot be read, or holds something else."""
    try:
        yield
    except (OSError, ValueError, InvalidInput) as exc:
        raise Damaged(
            f"{path} cannot be read: {exc}",
            advice="restore this one file from a backup, nothing else; or, if there are other "
            "managers, demote and rm this node there, stop swarmletd, remove its state directory, "
            "start it, and join again",
        ) from exc
