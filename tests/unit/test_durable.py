"""Files that are replaced whole."""

import errno
import os
import stat
from pathlib import Path
from unittest import mock

import pytest
from swarmlet import durable
from swarmlet.errors import DiskFailed


def test_a_replacement_is_synced_with_its_directory(tmp_path: Path) -> None:
    """A name that is not on disk is as bad as data that is not."""
    with mock.patch.object(os, "fsync", wraps=os.fsync) as fsync:
        durable.replace_file(tmp_path / "file", b"new")
    assert fsync.call_count == 2
    assert (tmp_path / "file").read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_leftover_does_not_lend_its_mode(tmp_path: Path) -> None:
    """What a crash left behind may be readable for others; what replaces it is not."""
    leftover = tmp_path / f"key{durable.TEMPORARY}"
    leftover.write_bytes(b"half")
    leftover.chmod(0o644)
    durable.save_file(tmp_path / "key", b"whole")
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == durable.OWNER_ONLY


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.ENOSPC, "free space on that disk; then"),
        (errno.EDQUOT, "free space"),
        (errno.EROFS, "check the disk"),
    ],
)
def test_a_disk_that_fails_comes_with_a_way_out(tmp_path: Path, code: int, advice: str) -> None:
    failing = mock.patch.object(os, "open", side_effect=OSError(code, os.strerror(code)))
    with failing, pytest.raises(DiskFailed) as caught:
        durable.save_file(tmp_path / "file", b"new")
    assert advice in caught.value.advice


def test_a_failed_sync_leaves_the_old_file_and_names_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    durable.save_file(path, b"old")
    failing = mock.patch.object(os, "fsync", side_effect=OSError(errno.EIO, "I/O error"))
    with failing, pytest.raises(DiskFailed, match=rf"{path} cannot be written: I/O error"):
        durable.save_file(path, b"new")
    assert path.read_bytes() == b"old"
