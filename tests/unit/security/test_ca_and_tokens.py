"""Certificates and join tokens."""

import itertools
import random
import re
from pathlib import Path

import pytest
from swarmlet.clock import SECOND, Instant, Nanos
from swarmlet.errors import Damaged, InvalidInput
from swarmlet.model.objects import JoinTokens, RootCa
from swarmlet.model.specs import Role
from swarmlet.security import ca, tokens
from swarmlet.security.identity import Identity, IdentityFiles

NOW = Instant(1_800_000_000 * SECOND)
DAY = Nanos(24 * 3600 * SECOND)


@pytest.fixture(scope="module")
def root() -> RootCa:
    return ca.create_root(NOW)


def _tokens(root: RootCa) -> JoinTokens:
    rng, digest = random.Random(1), ca.digest(root.cert)
    return JoinTokens(worker=tokens.new_token(digest, rng), manager=tokens.new_token(digest, rng))


def _issue(root: RootCa, role: Role = Role.WORKER) -> tuple[bytes, str]:
    key = ca.new_key()
    subject = ca.CertificateSubject("n1", role, "c1")
    return key, ca.issue(root, ca.signing_request(key), subject, now=NOW, life=DAY)


@pytest.mark.parametrize("role", Role)
def test_certificate_names_its_holder(root: RootCa, role: Role) -> None:
    """Node, role and cluster can be read back from a certificate."""
    _, cert = _issue(root, role)
    assert ca.subject_of_pem(cert) == ca.CertificateSubject("n1", role, "c1")


def test_certificate_lasts_as_long_as_asked(root: RootCa) -> None:
    """Validity ends one life after now, and begins before now (clocks differ)."""
    _, cert = _issue(root)
    start, end = ca.validity(cert)
    assert start < NOW
    assert end == NOW + DAY


def test_request_signed_by_another_key_is_refused(root: RootCa) -> None:
    """A request that does not prove possession of its key gets no certificate."""
    request = bytearray(ca.signing_request(ca.new_key()))
    request[200] = ord("A") if request[200] != ord("A") else ord("B")
    with pytest.raises(InvalidInput):
        ca.issue(
            root, bytes(request), ca.CertificateSubject("n", Role.WORKER, "c"), now=NOW, life=DAY
        )


def test_token_grants_its_role(root: RootCa) -> None:
    """Each of the two tokens grants the role it was made for."""
    both = _tokens(root)
    assert tokens.role_of(both.worker, both) is Role.WORKER
    assert tokens.role_of(both.manager, both) is Role.MANAGER


def test_token_has_swarms_form(root: RootCa) -> None:
    """SWMTKN-1-, 50 digits of the CA's digest, 25 of a secret: tools parse it."""
    prefix, version, digest, secret = _tokens(root).worker.split("-")
    assert (prefix, version, len(digest), len(secret)) == ("SWMTKN", "1", 50, 25)


def test_rotated_token_is_refused_with_its_own_error(root: RootCa) -> None:
    """A token of this cluster with an old secret says so."""
    old, new = _tokens(root), _tokens(root)
    new = JoinTokens(
        worker=tokens.new_token(ca.digest(root.cert), random.Random(9)), manager=new.manager
    )
    with pytest.raises(tokens.TokenWrong, match="rotated"):
        tokens.role_of(old.worker, new)


def test_token_of_another_cluster_is_refused_with_its_own_error(root: RootCa) -> None:
    """A token that pins another CA says so."""
    foreign = _tokens(ca.create_root(NOW))
    with pytest.raises(tokens.TokenForeign, match="another cluster"):
        tokens.role_of(foreign.worker, _tokens(root))


@pytest.mark.parametrize(
    "text", ["", "hello", "SWMTKN-1-abc-def", "SWMTKN-2-" + "0" * 50 + "-" + "0" * 25]
)
def test_malformed_token_is_refused_with_its_own_error(text: str) -> None:
    """What is not a token at all says what a token looks like."""
    with pytest.raises(tokens.TokenMalformed, match="SWMTKN-1-"):
        tokens.parse(text)


def test_identity_survives_a_round_trip_through_its_files(root: RootCa, tmp_path: Path) -> None:
    """What was saved is loaded again, and nobody else can read it."""
    key, cert = _issue(root)
    identity = Identity("n1", Role.WORKER, "c1", key.decode(), cert, root.cert)
    files = IdentityFiles(tmp_path / "identity")
    assert files.load() is None
    files.save(identity)
    assert files.load() == identity
    assert files.node.stat().st_mode & 0o777 == 0o600


RUBBISH = [b"", b"rubbish", b"\xff\xfe", b"-----BEGIN CERTIFICATE-----\nAAAA\n"]


@pytest.mark.parametrize(
    ("name", "text"),
    [*itertools.product(["node.pem", "ca.pem"], RUBBISH), ("ca.pem", None)],
)
def test_damaged_identity_says_which_file_and_what_to_do(
    root: RootCa, tmp_path: Path, name: str, text: bytes | None
) -> None:
    """Either file, empty or rubbish, or no CA at all, stops the daemon with its path and advice."""
    key, cert = _issue(root)
    files = IdentityFiles(tmp_path)
    files.save(Identity("n1", Role.WORKER, "c1", key.decode(), cert, root.cert))
    path = tmp_path / name
    path.unlink()
    if text is not None:
        path.write_bytes(text)
    with pytest.raises(Damaged, match=re.escape(str(path))) as caught:
        files.load()
    assert "join again" in caught.value.advice


def test_key_of_another_certificate_is_damage(root: RootCa, tmp_path: Path) -> None:
    """TLS would refuse the pair later, with words that name no file."""
    _, cert = _issue(root)
    files = IdentityFiles(tmp_path)
    files.save(Identity("n1", Role.WORKER, "c1", ca.new_key().decode(), cert, root.cert))
    with pytest.raises(Damaged, match=r"node\.pem .* its key is not that of its certificate"):
        files.load()
