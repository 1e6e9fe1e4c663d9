"""Sealed records and files."""

import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from swarmlet.errors import Damaged
from swarmlet.security.sealed import (
    KEY_BYTES,
    RecordSealer,
    load_or_create_key,
    open_blob,
    seal_blob,
)

KEY = bytes(range(32))
SALT = bytes(16)


def sealer(*, key: bytes = KEY, salt: bytes = SALT, context: bytes = b"file") -> RecordSealer:
    return RecordSealer(key, salt=salt, context=context)


@given(st.binary(max_size=300), st.integers(0, 2**40))
def test_what_was_sealed_opens(plain: bytes, ordinal: int) -> None:
    """A record opens in its place, and shows nothing of itself."""
    sealed = sealer().seal(ordinal, plain)
    assert sealer().open(ordinal, sealed) == plain
    assert len(plain) < 8 or plain not in sealed


@pytest.mark.parametrize(
    "other",
    [
        sealer(key=bytes(32)),
        sealer(salt=b"another file's..."[:16]),
        sealer(context=b"other file"),
    ],
    ids=["key", "salt", "context"],
)
def test_a_record_opens_nowhere_else(other: RecordSealer) -> None:
    """Another key, or another file under the same key, does not open it."""
    with pytest.raises(Damaged):
        other.open(1, sealer().seal(1, b"data"))


def test_a_record_opens_in_its_place_only() -> None:
    """Records cannot be reordered."""
    with pytest.raises(Damaged):
        sealer().open(2, sealer().seal(1, b"data"))


def test_every_flipped_bit_is_noticed() -> None:
    """In the ciphertext as in the tag."""
    sealed = sealer().seal(0, b"data")
    for bit in range(len(sealed) * 8):
        flipped = bytearray(sealed)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Damaged):
            sealer().open(0, bytes(flipped))


def test_the_same_file_sealed_twice_differs() -> None:
    """Each file has a key of its own, so no nonce repeats."""
    first, second = (seal_blob(KEY, b"data", context=b"c") for _ in range(2))
    assert first != second
    assert open_blob(KEY, first, context=b"c") == open_blob(KEY, second, context=b"c") == b"data"
    with pytest.raises(Damaged):
        open_blob(KEY, b"", context=b"c")


def test_a_key_is_made_once_for_its_owner_only(tmp_path: Path) -> None:
    """The second call finds the first one's key; loose permissions are tightened."""
    path = tmp_path / "raft.key"
    key = load_or_create_key(path)
    assert len(key) == KEY_BYTES
    path.chmod(0o644)
    assert load_or_create_key(path) == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_damaged_key_file_is_not_replaced(tmp_path: Path) -> None:
    """A new key would make the log unreadable for good."""
    path = tmp_path / "raft.key"
    path.write_bytes(b"short")
    with pytest.raises(Damaged, match=r"raft\.key"):
        load_or_create_key(path)
    assert path.read_bytes() == b"short"
