"""Snapshots: round trip, seal, format, and chunks on their way in."""

import pytest
from swarmlet.consensus.entries import TooNew
from swarmlet.consensus.sessions import Frozen
from swarmlet.consensus.snapshot import (
    Incoming,
    Snapshot,
    SnapshotStore,
    decode_snapshot,
    encode_snapshot,
    take,
)
from swarmlet.consensus.wal import Configuration, Mark
from swarmlet.errors import Damaged

from tests.unit.consensus.faults import KEY, FullDisk, MemoryDisk

SESSIONS: list[Frozen] = [("client", 3, [(4, True, b"yes")])]
SNAPSHOT = Snapshot(Mark(7, 2), Configuration(5, ("a", "b")), SESSIONS, b"the state")


def stored() -> MemoryDisk:
    disk = MemoryDisk()
    SnapshotStore(disk, KEY).save(SNAPSHOT.mark, encode_snapshot(SNAPSHOT))
    return disk


def test_a_stored_snapshot_is_read_again() -> None:
    """Mark, configuration, sessions and state survive; the state is not readable on disk."""
    disk = stored()
    loaded = SnapshotStore(disk, KEY).load()
    assert loaded is not None
    assert (loaded.mark, loaded.configuration, loaded.state) == (*SNAPSHOT[:2], b"the state")
    assert b"the state" not in b"".join(disk.files.values())


def test_any_flipped_bit_is_damage() -> None:
    """A snapshot is whole or refused."""
    disk = stored()
    (name,) = disk.names()
    whole = disk.files[name]
    for position in range(len(whole)):
        flipped = bytearray(whole)
        flipped[position] ^= 0x10
        with pytest.raises(Damaged):
            SnapshotStore(MemoryDisk({name: bytes(flipped)}), KEY).load()


def test_a_damaged_newest_one_is_not_replaced_by_an_older_one() -> None:
    """The log may not reach back to the older one."""
    disk = stored()
    disk.files["snapshot-0000000000000009"] = b"SWARMSNP" + bytes(40)
    with pytest.raises(Damaged, match="snapshot-0000000000000009"):
        SnapshotStore(disk, KEY).load()


def test_a_newer_format_is_refused() -> None:
    """On disk and from a peer."""
    blob = bytearray(encode_snapshot(SNAPSHOT))
    blob[8:10] = (9).to_bytes(2, "big")
    with pytest.raises(TooNew):
        decode_snapshot(bytes(blob))
    with pytest.raises(TooNew):
        SnapshotStore(MemoryDisk({"snapshot-0000000000000007": bytes(blob)}), KEY).load()


def test_saving_drops_older_files_only() -> None:
    """One that is newer, installed meanwhile, stays."""
    disk = stored()
    store = SnapshotStore(disk, KEY)
    store.save(Mark(20, 3), b"newer")
    take(store, SNAPSHOT._replace(mark=Mark(10, 2)), lambda: b"")
    assert "snapshot-0000000000000020" in disk.files
    assert "snapshot-0000000000000007" not in disk.files


def test_a_full_disk_keeps_the_old_snapshot() -> None:
    """Nothing is removed before the new one is durable."""
    disk = FullDisk(room=400)
    store = SnapshotStore(disk, KEY)
    store.save(Mark(1, 0), b"x" * 100)
    with pytest.raises(Exception, match="no space"):
        store.save(Mark(2, 0), b"x" * 1000)
    assert disk.names() == ["snapshot-0000000000000001"]


def test_chunks_count_in_order_and_of_one_snapshot_only() -> None:
    """A lost, repeated or foreign chunk adds nothing."""
    incoming = Incoming()
    mark = Mark(5, 1)
    assert incoming.feed(mark, 0, b"ab") == 2
    assert incoming.feed(mark, 4, b"ef") == 2
    assert incoming.feed(mark, 0, b"ab") == 2
    assert incoming.feed(mark, 2, b"cd") == 4
    assert incoming.feed(Mark(6, 1), 2, b"zz") == 0
    assert incoming.feed(Mark(6, 1), 0, b"new") == 3
    assert incoming.complete() == b"new"
