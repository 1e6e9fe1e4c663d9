"""TLS contexts. One port serves every purpose: ALPN names the protocol and its version.

TLS 1.3 only, CA of the cluster only. Certificates are asked for but not demanded at the handshake
(a machine that wants to join has none yet): each protocol's handler demands what it needs.
"""

import enum
import ssl

from swarmlet.security.identity import IdentityFiles


class Protocol(enum.StrEnum):
    """What may be spoken on the port of a node; the number is the protocol's version."""

    JOIN = "swarmlet-join/1"  # no certificate needed: the CA, and a certificate for a token
    AGENT = "swarmlet-agent/1"  # any node: sessions with the dispatcher
    MANAGER = "swarmlet-manager/1"  # any node: renewal; managers: forwarded proposals, membership
    RAFT = "swarmlet-raft/1"  # managers only
    PROBE = "swarmlet-probe/1"  # any node: do you hear me?
    ENGINE = "swarmlet-engine/1"  # managers only: HTTP to the node's engine about its tasks


def server_context(files: IdentityFiles) -> ssl.SSLContext:
    """Context of a node's listener."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(files.node)
    context.load_verify_locations(files.ca)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.set_alpn_protocols(list(Protocol))
    return context


def client_context(files: IdentityFiles, protocol: Protocol) -> ssl.SSLContext:
    """Context of a node that dials another: shows its certificate, checks name and CA."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(files.node)
    context.load_verify_locations(files.ca)
    context.set_alpn_protocols([protocol])
    return context


def joining_context(ca_pem: str | None) -> ssl.SSLContext:
    """Context of a machine that wants to join: it has no certificate yet.

    With ``ca_pem`` None nothing is verified: good only for asking for the CA, whose digest is then
    compared with the token's.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols([Protocol.JOIN])
    if ca_pem is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        context.load_verify_locations(cadata=ca_pem)
    return context
