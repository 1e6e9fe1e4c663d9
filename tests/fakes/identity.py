"""The identity of a manager, with a cluster's CA of its own."""

from pathlib import Path

from swarmlet.clock import SECOND, Nanos, wall_clock
from swarmlet.model.objects import RootCa
from swarmlet.model.specs import Role
from swarmlet.security import ca
from swarmlet.security.identity import Identity, IdentityFiles


def manager(folder: Path) -> tuple[IdentityFiles, RootCa]:
    """Manager ``m1`` of a new cluster, its files in ``folder``; valid for a day."""
    root, key = ca.create_root(wall_clock()), ca.new_key()
    subject = ca.CertificateSubject("m1", Role.MANAGER, "c1")
    request, day = ca.signing_request(key), Nanos(24 * 3600 * SECOND)
    cert = ca.issue(root, request, subject, now=wall_clock(), life=day)
    files = IdentityFiles(folder)
    files.save(Identity("m1", Role.MANAGER, "c1", key.decode(), cert, root.cert))
    return files, root
