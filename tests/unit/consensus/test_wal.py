"""The log on disk: what a crash may leave, and what only damage can."""

import zlib
from pathlib import Path

import pytest
from swarmlet.consensus.disk import FileDisk
from swarmlet.consensus.entries import TooNew
from swarmlet.consensus.wal import Mark, Wal
from swarmlet.errors import Damaged

from tests.unit.consensus.faults import KEY, MemoryDisk

OTHER_KEY = bytes(32)


def write(disk: MemoryDisk | FileDisk, *batches: list[int]) -> Wal:
    """Write entries, one frame a batch, and a vote with each."""
    wal = Wal(disk, KEY)
    for number, batch in enumerate(batches, 1):
        wal.setCurrentTerm(number, "a")
        for index in batch:
            wal.add(b"\0\1" + bytes([0x90]) * index, index, number)
        job = wal.job()
        assert job is not None
        job()
    return wal


def indexes(wal: Wal) -> list[int]:
    return [entry[1] for entry in wal[:]]


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    """Entries, term and vote survive, through a cut and a second process."""
    disk = FileDisk(tmp_path)
    wal = write(disk, [1, 2, 3, 4], [5, 6])
    wal.deleteEntriesFrom(3)
    wal.add(b"\1", 4, 7)
    wal.setCurrentTerm(7, "b")
    job = wal.job()
    assert job is not None
    job()
    disk.close()
    again = Wal(FileDisk(tmp_path), KEY)
    assert indexes(again) == [1, 2, 3, 4]
    assert (again.last_term, again.term, again.vote, again.torn) == (7, 7, "b", 0)


def test_a_torn_tail_is_dropped_at_every_byte() -> None:
    """Power cut anywhere in the last frame: the frames before it are all there."""
    disk = MemoryDisk()
    write(disk, [1, 2], [3, 4])
    (name,) = disk.names()
    before = len(disk.files[name])
    wal = Wal(disk, KEY)
    assert indexes(wal) == [1, 2, 3, 4]
    disk = MemoryDisk()
    write(disk, [1, 2], [3, 4], [5, 6])
    (name,) = disk.names()
    whole = bytes(disk.files[name])
    for cut in range(before, len(whole)):
        for padding in (b"", bytes(64)):
            torn = MemoryDisk({name: whole[:cut] + padding})
            wal = Wal(torn, KEY)
            assert indexes(wal) == [1, 2, 3, 4]


def test_a_flipped_bit_before_the_last_frame_is_damage() -> None:
    """Any bit of any synced frame but the last: refused, with file and offset."""
    disk = MemoryDisk()
    write(disk, [1, 2], [3, 4])
    (name,) = disk.names()
    last = len(disk.files[name])
    write_more = MemoryDisk()
    write(write_more, [1, 2], [3, 4], [5])
    whole = bytes(write_more.files[name])
    for position in range(last):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << (position % 8)
        with pytest.raises(Damaged, match=name) as caught:
            Wal(MemoryDisk({name: bytes(flipped)}), KEY)
        assert caught.value.advice
        assert "offset" in caught.value.message or "renamed" in caught.value.message


def test_a_segment_without_its_first_frame_is_damage() -> None:
    """A segment appears with that frame or not at all, so it was there."""
    disk = MemoryDisk()
    write(disk, [1, 2])
    (name,) = disk.names()
    for end in range(46, len(disk.files[name])):
        with pytest.raises(Damaged, match="first frame"):
            Wal(MemoryDisk({name: disk.files[name][:end]}), KEY)


def test_frames_cut_off_an_older_segment_are_missed() -> None:
    """The next segment knows how many frames came before: a lost tail is damage."""
    disk = MemoryDisk()
    write(disk, [1, 2], [3, 4])
    write(disk, [5])
    first, _ = disk.names()
    disk.files[first] = disk.files[first][:-10]
    with pytest.raises(Damaged, match="1 of 2 frames"):
        Wal(disk, KEY)


def test_a_missing_segment_is_damage() -> None:
    """Segments are numbered; one may not vanish from the middle."""
    disk = MemoryDisk()
    for start in (1, 2, 3):
        write(disk, [start])
    del disk.files[disk.names()[1]]
    with pytest.raises(Damaged, match="missing"):
        Wal(disk, KEY)


def test_a_torn_tail_stays_dropped_after_the_next_start() -> None:
    """A later segment fixes what counts, so bytes behind a torn tail never come back."""
    disk = MemoryDisk()
    write(disk, [1, 2], [3])
    (name,) = disk.names()
    disk.files[name] = disk.files[name][:-3]
    wal = write(disk, [3, 4])
    assert indexes(wal) == [1, 2, 3, 4]
    assert indexes(Wal(disk, KEY)) == [1, 2, 3, 4]


def test_frames_swapped_between_files_are_damage() -> None:
    """The same frame number of another log does not open, though its checksum is right."""
    mine, other = MemoryDisk(), MemoryDisk()
    write(mine, [1], [2])
    write(other, [1], [2])
    (name,) = mine.names()
    header = 46
    spliced = mine.files[name][:header] + other.files[name][header:]
    with pytest.raises(Damaged, match="does not open"):
        Wal(MemoryDisk({name: spliced}), KEY)


def test_another_key_is_refused() -> None:
    """A log of another key is damage, not an empty log."""
    disk = MemoryDisk()
    write(disk, [1])
    with pytest.raises(Damaged, match="does not open"):
        Wal(disk, OTHER_KEY)


def test_nothing_is_readable_on_disk() -> None:
    """Commands are encrypted."""
    disk = MemoryDisk()
    wal = Wal(disk, KEY)
    wal.add(b"\0\1" + b"\x90" + b"a secret thing", 1, 1)
    job = wal.job()
    assert job is not None
    job()
    assert b"secret" not in b"".join(disk.files.values())


def test_a_newer_format_is_refused_by_name() -> None:
    """A segment of a later version of swarmlet is neither read nor overwritten."""
    disk = MemoryDisk()
    write(disk, [1])
    (name,) = disk.names()
    raw = bytearray(disk.files[name])
    raw[8:10] = (99).to_bytes(2, "big")
    raw[42:46] = zlib.crc32(bytes(raw[:42])).to_bytes(4, "big")
    with pytest.raises(TooNew, match="99"):
        Wal(MemoryDisk({name: bytes(raw)}), KEY)


def test_segments_go_once_a_snapshot_covers_them() -> None:
    """Compaction removes whole files and rewrites nothing."""
    disk = MemoryDisk()
    wal = write(disk, [1, 2, 3])
    written = bytes(disk.files[disk.names()[0]])
    wal.trim(3, durable=Mark(2, 1))
    job = wal.job()
    assert job is not None
    job()
    assert disk.files[disk.names()[0]] == written  # it holds entry 3, beyond the snapshot
    wal.trim(3, durable=Mark(3, 1))
    job = wal.job()
    assert job is not None
    job()
    assert len(disk.names()) == 1
    again = Wal(disk, KEY)
    again.anchor(Mark(3, 1))
    assert (again.first, again.last, again.term, again.vote) == (3, 3, 1, "a")


def test_a_lost_snapshot_is_damage() -> None:
    """A log that starts beyond the newest snapshot misses entries."""
    disk = MemoryDisk()
    write(disk, [9, 10])
    with pytest.raises(Damaged, match="snapshot was lost"):
        Wal(disk, KEY).anchor(Mark(5, 1))


def test_what_is_committed_is_noted_with_other_records_only() -> None:
    """Never a write of its own; whatever is torn off, the note does not reach behind the log."""
    disk = MemoryDisk()
    wal = write(disk, [1, 2, 3])
    wal.committed = 3
    assert wal.job() is None
    wal.add(b"\1", 4, 2)
    job = wal.job()
    assert job is not None
    job()
    assert Wal(disk, KEY).committed == 3
    (name,) = disk.names()
    whole = bytes(disk.files[name])
    for cut in range(len(whole)):
        try:
            torn = Wal(MemoryDisk({name: whole[:cut]}), KEY)
        except Damaged:
            continue
        assert torn.committed <= (torn.last if len(torn) else 0)
