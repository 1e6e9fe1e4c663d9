"""What is under way to a follower is bounded, and sent again when it is lost."""

from unittest import mock

import pytest
from swarmlet.consensus import replication
from swarmlet.consensus.replication import Progress, Transfer
from swarmlet.consensus.wal import Mark


@pytest.fixture
def transfer() -> Transfer:
    return Transfer(Mark(9, 2), bytes(range(100)))


def drain(transfer: Transfer) -> list[int]:
    """Return the offsets sent until the window is full."""
    offsets = []
    with mock.patch.multiple(replication, CHUNK_BYTES=10, WINDOW_CHUNKS=3):
        while (chunk := transfer.next_chunk()) is not None:
            offsets.append(chunk[0])
    return offsets


def test_a_snapshot_is_sent_within_a_window(transfer: Transfer) -> None:
    """An acknowledgement makes room for as much again."""
    assert drain(transfer) == [0, 10, 20]
    transfer.acknowledge(20)
    assert drain(transfer) == [30, 40]
    transfer.acknowledge(100)
    assert drain(transfer) == []


def test_a_stuck_transfer_goes_back(transfer: Transfer) -> None:
    """From the last acknowledged byte, once a whole heartbeat brought nothing."""
    drain(transfer)
    transfer.acknowledge(10)
    drain(transfer)
    transfer.rewind_if_stuck()
    assert drain(transfer) == []
    transfer.rewind_if_stuck()
    assert drain(transfer) == [10, 20, 30]


def test_a_follower_that_starts_again_is_sent_everything_again(transfer: Transfer) -> None:
    """It restarted and has nothing."""
    drain(transfer)
    transfer.acknowledge(30)
    transfer.acknowledge(0)
    assert drain(transfer) == [0, 10, 20]


def test_entries_in_flight_are_bounded_until_acknowledged() -> None:
    """By bytes; a new connection starts afresh."""
    progress = Progress()
    with mock.patch.object(replication, "WINDOW_BYTES", 100):
        progress.sent([(bytes(60), 1, 1)])
        assert progress.has_room()
        progress.sent([(bytes(60), 2, 1)])
        assert not progress.has_room()
        progress.acknowledged(1)
        assert progress.has_room()
        progress.sent([(bytes(60), 3, 1)])
        progress.lost()
        assert progress.has_room()


def test_a_finished_transfer_is_forgotten() -> None:
    """The follower acknowledged the snapshot's index."""
    progress = Progress()
    progress.transfer = Transfer(Mark(9, 2), b"blob")
    progress.acknowledged(8)
    assert progress.transfer is not None
    progress.acknowledged(9)
    assert progress.transfer is None
