"""What a node keeps on disk to prove who it is: its key, its certificate, the cluster's CA.

Key and certificate are one file, replaced atomically, so that they always match.
"""

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
        text, authority = self.node.read_text(), self.ca.read_text()
        key, mark, cert = text.partition("-----BEGIN CERTIFICATE-----")
        try:
            subject = ca.subject_of_pem(mark + cert)
        except (ValueError, InvalidInput) as exc:
            raise Damaged(
                f"{self.node} cannot be read: {exc}",
                advice="restore this one file from a backup, nothing else; or stop swarmletd, "
                "remove its state directory, start it, and join again",
            ) from exc
        return Identity(
            subject.node_id, subject.role, subject.cluster_id, key, mark + cert, authority
        )

    def save(self, identity: Identity) -> None:
        """Write the identity: the CA first, as it is of no use alone. Raises DiskFailed."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        durable.save_file(self.ca, identity.ca.encode())
        durable.save_file(self.node, (identity.key + identity.cert).encode())
