"""Assignments on disk."""

import os
from pathlib import Path

import pytest
from swarmlet.agent.storage import Kept, Storage
from swarmlet.clock import Instant
from swarmlet.errors import DiskFailed
from swarmlet.model.objects import ContainerStatus, TaskState, TaskStatus

from tests.rig import task


def kept() -> list[Kept]:
    status = TaskStatus(
        state=TaskState.RUNNING, at=Instant(7), container=ContainerStatus(container_id="c", pid=3)
    )
    return [
        Kept(task=task("a", env=("X=1",), labels={"k": "v"}), status=status, seen_in="boot,1@2"),
        Kept(task=task("b")),
    ]


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    saved = kept()
    Storage(tmp_path / "deep" / "er").save(saved)
    assert Storage(tmp_path / "deep" / "er").load() == saved


def test_no_file_is_no_tasks(tmp_path: Path) -> None:
    assert Storage(tmp_path).load() == []


def test_only_root_reads_it(tmp_path: Path) -> None:
    """It holds registry credentials."""
    storage = Storage(tmp_path)
    storage.save(kept())
    assert storage.path.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in tmp_path.iterdir()] == [storage.path.name]


@pytest.mark.parametrize("damage", [b"", b"\xff", b"\x01", b"\x01garbage", b"\x63\x90"])
def test_a_damaged_file_is_set_aside(tmp_path: Path, damage: bytes) -> None:
    storage = Storage(tmp_path)
    storage.path.write_bytes(damage)
    assert storage.load() == []
    assert storage.path.with_suffix(".damaged").read_bytes() == damage
    assert storage.load() == []


def test_a_file_cut_anywhere_is_never_half_believed(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    storage.save(kept())
    raw = storage.path.read_bytes()
    for length in range(len(raw)):
        storage.path.write_bytes(raw[:length])
        assert storage.load() == []


def test_a_disk_that_fails_is_named(tmp_path: Path) -> None:
    (tmp_path / "assignments.msgpack.tmp").mkdir()
    with pytest.raises(DiskFailed, match=os.fspath(tmp_path)):
        Storage(tmp_path).save(kept())
