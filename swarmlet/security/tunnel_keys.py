"""Keys of tunnels (Curve25519), as WireGuard spells them: base64 of the raw bytes."""

import base64

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey


def new_key() -> str:
    """A fresh private key."""
    return base64.b64encode(X25519PrivateKey.generate().private_bytes_raw()).decode()


def public_of(private: str) -> str:
    """The public key of a private one. Raises ValueError where that is none."""
    key = X25519PrivateKey.from_private_bytes(base64.b64decode(private, validate=True))
    return base64.b64encode(key.public_key().public_bytes_raw()).decode()
