"""The disk edge: durable, atomic, and finished after the first failure."""

import errno
import os
from pathlib import Path
from unittest import mock

import pytest
from swarmlet.consensus.disk import FIRST_GROWTH, FileDisk
from swarmlet.errors import DiskFailed


def test_appended_data_is_followed_by_zeros_only(tmp_path: Path) -> None:
    """The file grows ahead of the data, so that a sync has no new size to commit."""
    disk = FileDisk(tmp_path)
    disk.replace("wal", b"head")
    disk.append("wal", b"one")
    disk.append("wal", b"two")
    raw = disk.read("wal")
    assert raw.rstrip(b"\0") == b"headonetwo"
    assert len(raw) == 4 + FIRST_GROWTH
    disk.close()


def test_leftovers_of_a_crash_are_removed(tmp_path: Path) -> None:
    """A file that was being written when the power went is no file."""
    (tmp_path / "snapshot.tmp").write_bytes(b"half")
    assert FileDisk(tmp_path).names() == []


def test_what_a_killed_process_wrote_is_synced_before_it_is_read(tmp_path: Path) -> None:
    """It may be in the page cache only: relied on, and then lost with the power."""
    (tmp_path / "wal").write_bytes(b"written, never synced")
    with mock.patch.object(os, "fsync") as fsync:
        FileDisk(tmp_path)
    assert fsync.call_count == 2  # the file and its directory


def test_files_are_for_the_owner_only(tmp_path: Path) -> None:
    """Nobody else may even read the ciphertext."""
    disk = FileDisk(tmp_path / "state")
    disk.replace("wal", b"x")
    assert (tmp_path / "state" / "wal").stat().st_mode & 0o077 == 0
    assert (tmp_path / "state").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("call", ["pwrite", "fdatasync", "fsync"])
def test_a_failed_write_or_sync_is_final(tmp_path: Path, call: str) -> None:
    """After one failure nothing is tried again, even if the disk would work."""
    disk = FileDisk(tmp_path)
    disk.replace("wal", b"head")
    failing = mock.patch.object(os, call, side_effect=OSError(errno.ENOSPC, "No space left"))
    with failing, pytest.raises(DiskFailed, match="No space") as caught:
        disk.append("wal", b"lost")
    assert "free space" in caught.value.advice
    with mock.patch.object(os, "pwrite") as write, pytest.raises(DiskFailed):
        disk.append("wal", b"again")
    write.assert_not_called()
    disk.close()


def test_a_failed_replacement_leaves_the_old_file(tmp_path: Path) -> None:
    """Replacing is all or nothing."""
    disk = FileDisk(tmp_path)
    disk.replace("snapshot", b"old")
    failing = mock.patch.object(os, "fsync", side_effect=OSError(errno.EIO, "I/O error"))
    with failing, pytest.raises(DiskFailed):
        disk.replace("snapshot", b"new")
    assert (tmp_path / "snapshot").read_bytes() == b"old"
