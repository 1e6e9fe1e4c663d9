"""Encryption at rest: AES-256-GCM bound to the file, and the place in it, of each ciphertext.

A nonce must never repeat under one key, so no key is used for more than one file: each file draws a
random salt, derives its own key from it, and counts its records. A record moved within a file, or
into another one, fails its check. See docs/adr/0002-encryption-at-rest.md.
"""

import os
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from swarmlet import durable
from swarmlet.errors import JOIN_ANEW, Damaged

KEY_BYTES: Final = 32
SALT_BYTES: Final = 16
#: AES-GCM's tag, appended to each ciphertext.
TAG_BYTES: Final = 16

#: Said whenever sealed data does not open: the two causes cannot be told apart, by design.
CANNOT_OPEN: Final = "the key is not the one it was sealed with, or the data was changed"


def new_salt() -> bytes:
    """Return what makes one file's key its own."""
    return os.urandom(SALT_BYTES)


class RecordSealer:
    """Seals the records of one file; ``ordinal`` is a record's place in it and never repeats."""

    def __init__(self, key: bytes, *, salt: bytes, context: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"a sealing key has {KEY_BYTES} bytes, not {len(key)}")
        derived = HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=salt, info=context).derive(key)
        self._aead = AESGCM(derived)
        self._context = context

    def seal(self, ordinal: int, plain: bytes) -> bytes:
        """Return ``plain`` encrypted as record number ``ordinal``."""
        return self._aead.encrypt(ordinal.to_bytes(12, "big"), plain, self._context)

    def open(self, ordinal: int, sealed: bytes) -> bytes:
        """Return what was sealed as record ``ordinal``; raise Damaged when it was not."""
        try:
            return self._aead.decrypt(ordinal.to_bytes(12, "big"), sealed, self._context)
        except InvalidTag:
            raise Damaged(f"a sealed record does not open: {CANNOT_OPEN}") from None


def seal_blob(key: bytes, plain: bytes, *, context: bytes) -> bytes:
    """Return a whole file's content sealed: a fresh salt, then the ciphertext."""
    salt = new_salt()
    return salt + RecordSealer(key, salt=salt, context=context).seal(0, plain)


def open_blob(key: bytes, sealed: bytes, *, context: bytes) -> bytes:
    """Undo :func:`seal_blob`; raise Damaged when it does not open."""
    salt, body = sealed[:SALT_BYTES], sealed[SALT_BYTES:]
    return RecordSealer(key, salt=salt, context=context).open(0, body)


def load_or_create_key(path: Path) -> bytes:
    """Return the key in ``path``, made on first use and readable by its owner only.

    Autolock will wrap this key in another; everything else takes the key as an argument already.
    """
    try:
        key = path.read_bytes()
    except FileNotFoundError:
        return _create_key(path)
    if len(key) != KEY_BYTES:
        raise Damaged(
            f"{path} holds {len(key)} bytes, not a key of {KEY_BYTES}",
            advice=f"restore this one file from a backup, nothing else; or: {JOIN_ANEW}",
        )
    if path.stat().st_mode & 0o077:
        path.chmod(0o600)
    return key


def _create_key(path: Path) -> bytes:
    # A key that is lost makes the log unreadable: it is durable before anything is sealed with it.
    key = os.urandom(KEY_BYTES)
    durable.save_file(path, key)
    return key
