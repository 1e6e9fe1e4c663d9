"""The cluster's certificate authority: root, signing requests, node certificates.

ECDSA P-256 throughout. A node certificate names its holder in the subject, as swarmkit's do:
``O`` is the cluster, ``OU`` the role (``swarm-manager`` or ``swarm-worker``), ``CN`` the node. The
same two names are its DNS names, so that TLS itself checks who, or what, answers.
"""

import datetime as dt
import hashlib
from typing import Final

import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from swarmlet.clock import Instant, Nanos
from swarmlet.errors import Damaged, InvalidInput
from swarmlet.model.objects import RootCa
from swarmlet.model.specs import Role
from swarmlet.security.tokens import digest_of

#: The root outlives any cluster (swarmkit's figure).
ROOT_LIFE: Final = dt.timedelta(days=20 * 365)

#: Certificates begin to be valid a little in the past: clocks differ.
BACKDATE: Final = dt.timedelta(hours=1)

MANAGER_NAME: Final = "swarm-manager"
WORKER_NAME: Final = "swarm-worker"
_OU: Final = {Role.MANAGER: MANAGER_NAME, Role.WORKER: WORKER_NAME}


class CertificateSubject(msgspec.Struct, frozen=True):
    """Who a certificate says its holder is."""

    node_id: str
    role: Role
    cluster_id: str


def _time(now: Instant) -> dt.datetime:
    return dt.datetime.fromtimestamp(now / 1e9, dt.UTC)


def _name(organization: str, unit: str, common: str) -> x509.Name:
    parts = [
        (NameOID.ORGANIZATION_NAME, organization),
        (NameOID.ORGANIZATIONAL_UNIT_NAME, unit),
        (NameOID.COMMON_NAME, common),
    ]
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in parts if value])


def new_key() -> bytes:
    """A private key as PEM."""
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _load_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(pem, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise Damaged("the private key is not an ECDSA key")
    return key


def create_root(now: Instant) -> RootCa:
    """A new self-signed root."""
    key = new_key()
    private = _load_key(key)
    name = _name("", "", "swarm-ca")
    start = _time(now)
    cert = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start - BACKDATE)
        .not_valid_after(start + ROOT_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(
            x509.SubjectKeyIdentifier.from_public_key(private.public_key()), critical=False
        )
        .sign(private, hashes.SHA256())
    )
    return RootCa(cert=cert.public_bytes(serialization.Encoding.PEM).decode(), key=key.decode())


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def digest(ca_pem: str) -> str:
    """The digest of a CA certificate as join tokens carry it."""
    try:
        der = x509.load_pem_x509_certificate(ca_pem.encode()).public_bytes(
            serialization.Encoding.DER
        )
    except ValueError as exc:
        raise InvalidInput("the certificate authority cannot be read") from exc
    return digest_of(hashlib.sha256(der).digest())


def signing_request(key_pem: bytes) -> bytes:
    """A certificate signing request; the CA decides the names, so it carries none."""
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .sign(_load_key(key_pem), hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )


def issue(
    root: RootCa, csr_pem: bytes, subject: CertificateSubject, *, now: Instant, life: Nanos
) -> str:
    """Sign a request: a PEM certificate for ``subject``, valid for ``life`` from ``now``.

    Raises InvalidInput for a request that is not one or whose signature does not hold.
    """
    try:
        csr = x509.load_pem_x509_csr(csr_pem)
        genuine = csr.is_signature_valid
    except ValueError as exc:
        raise InvalidInput("the certificate signing request cannot be read") from exc
    if not genuine:
        raise InvalidInput("the certificate signing request is not signed by its own key")
    issuer = x509.load_pem_x509_certificate(root.cert.encode())
    start = _time(now)
    unit = _OU[subject.role]
    cert = (
        x509.CertificateBuilder()
        .subject_name(_name(subject.cluster_id, unit, subject.node_id))
        .issuer_name(issuer.subject)
        .public_key(csr.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start - BACKDATE)
        .not_valid_after(start + dt.timedelta(microseconds=life // 1000))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage(
                [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            ),
            critical=False,
        )
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName(unit), x509.DNSName(subject.node_id)]),
            critical=False,
        )
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
                issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
            ),
            critical=False,
        )
        .sign(_load_key(root.key.encode()), hashes.SHA256())
    )
    return cert.public_bytes(serialization.Encoding.PEM).decode()


def subject_of(cert_der: bytes) -> CertificateSubject:
    """Who a (verified) certificate names. Raises InvalidInput for one that is not a node's."""
    return _subject(x509.load_der_x509_certificate(cert_der).subject)


def subject_of_pem(cert_pem: str) -> CertificateSubject:
    """As :func:`subject_of`, from PEM. Raises ValueError for what is no certificate."""
    return _subject(x509.load_pem_x509_certificate(cert_pem.encode()).subject)


def subject_of_pair(key_pem: str, cert_pem: str) -> CertificateSubject:
    """As :func:`subject_of_pem`. Raises ValueError as well when the key is none, or another's."""
    subject = subject_of_pem(cert_pem)
    try:
        key = serialization.load_pem_private_key(key_pem.encode(), None).public_key()
    except (TypeError, UnsupportedAlgorithm) as exc:
        raise ValueError(f"its key cannot be read: {exc}") from exc
    if key != x509.load_pem_x509_certificate(cert_pem.encode()).public_key():
        raise ValueError("its key is not that of its certificate")
    return subject


def _subject(name: x509.Name) -> CertificateSubject:
    def one(oid: x509.ObjectIdentifier) -> str:
        values = name.get_attributes_for_oid(oid)
        return str(values[0].value) if values else ""

    roles = {unit: role for role, unit in _OU.items()}
    role = roles.get(one(NameOID.ORGANIZATIONAL_UNIT_NAME))
    if role is None:
        raise InvalidInput("the certificate is not that of a node")
    return CertificateSubject(one(NameOID.COMMON_NAME), role, one(NameOID.ORGANIZATION_NAME))


def validity(cert_pem: str) -> tuple[Instant, Instant]:
    """From when until when a certificate is valid."""
    cert = x509.load_pem_x509_certificate(cert_pem.encode())
    start, end = cert.not_valid_before_utc, cert.not_valid_after_utc
    return Instant(int(start.timestamp()) * 10**9), Instant(int(end.timestamp()) * 10**9)


def issuer_info(ca_pem: str) -> tuple[bytes, bytes]:
    """(subject, public key) of a CA as DER: ``TLSInfo`` of the Engine API."""
    cert = x509.load_pem_x509_certificate(ca_pem.encode())
    key = cert.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return cert.subject.public_bytes(), key
