"""The state directory and the addresses of a node."""

import shutil
from pathlib import Path
from unittest import mock

import pytest
from swarmlet import durable
from swarmlet.errors import Damaged, DiskFailed, InvalidInput
from swarmlet.node import addresses
from swarmlet.node.files import NodeFile, StateDir
from swarmlet.rpc.messages import Peer

FILE = NodeFile(
    listen_addr="0.0.0.0:2377", advertise_addr="10.0.0.1:2377", managers=(Peer("a", "h:1"),)
)


def test_node_file_survives_a_round_trip(tmp_path: Path) -> None:
    """What was saved is loaded again."""
    state = StateDir(tmp_path)
    state.save_node(FILE)
    assert state.load_node() == FILE


def test_interrupted_making_of_a_cluster_leaves_nothing(tmp_path: Path) -> None:
    """A crash before init was acknowledged is swept away at the next start."""
    state = StateDir(tmp_path)
    state.prepare()
    state.begin()
    state.save_node(FILE)
    state.raft.mkdir()
    StateDir(tmp_path).prepare()
    assert list(tmp_path.iterdir()) == []


def test_finished_cluster_is_kept(tmp_path: Path) -> None:
    """After init was acknowledged, a start sweeps nothing."""
    state = StateDir(tmp_path)
    state.prepare()
    state.begin()
    state.save_node(FILE)
    state.finish()
    StateDir(tmp_path).prepare()
    assert state.load_node() == FILE


def test_finished_cluster_is_kept_after_a_power_cut_too(tmp_path: Path) -> None:
    """The marker's end is on disk before anybody is told: back again, it would sweep all away."""
    state = StateDir(tmp_path)
    state.begin()
    with mock.patch.object(durable, "sync_directory") as sync:
        state.finish()
    sync.assert_called_once_with(tmp_path)


def test_what_cannot_be_forgotten_now_is_forgotten_at_the_next_start(tmp_path: Path) -> None:
    """A file that resists removal must not pass for a member that lost its identity."""
    state = StateDir(tmp_path)
    state.save_node(FILE)
    state.raft.mkdir()
    (state.raft / "log").touch()
    with mock.patch.object(shutil, "rmtree"):
        state.wipe()
    StateDir(tmp_path).prepare()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_does_not_keep_a_cluster_from_being_forgotten(tmp_path: Path) -> None:
    """The marker that `begin` left serves again."""
    state = StateDir(tmp_path)
    state.begin()
    state.save_node(FILE)
    with mock.patch.object(durable, "save_file", side_effect=DiskFailed("full")):
        state.wipe()
    assert list(tmp_path.iterdir()) == []


def test_damaged_node_file_names_itself_and_the_way_out(tmp_path: Path) -> None:
    """The daemon stops with the path, not with a traceback."""
    state = StateDir(tmp_path)
    (tmp_path / "node.json").write_text("{")
    with pytest.raises(Damaged, match=r"node\.json"):
        state.load_node()


def test_manager_that_lost_its_log_does_not_start_with_an_empty_one(tmp_path: Path) -> None:
    """A member that voted and forgot it could vote twice; it must join under a new name."""
    state = StateDir(tmp_path)
    state.check_raft(FILE)
    voted = NodeFile(listen_addr="h:1", advertise_addr="h:1", voted=True)
    with pytest.raises(Damaged, match="log of this manager is gone"):
        state.check_raft(voted)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("10.0.0.1", ("10.0.0.1", 2377)),
        ("10.0.0.1:99", ("10.0.0.1", 99)),
        ("[fe80::1]:99", ("fe80::1", 99)),
        ("fe80::1", ("fe80::1", 2377)),
        ("[fe80::1]", ("fe80::1", 2377)),
    ],
)
def test_address_splits_into_host_and_port(given: str, expected: tuple[str, int]) -> None:
    """IPv4 and IPv6, with and without a port."""
    assert addresses.split(given) == expected


@pytest.mark.parametrize("given", ["10.0.0.1:0", "10.0.0.1:70000", "10.0.0.1:http"])
def test_address_with_a_bad_port_says_so(given: str) -> None:
    """The error names the address."""
    with pytest.raises(InvalidInput, match="invalid address"):
        addresses.split(given)


def test_unspecified_address_cannot_be_advertised() -> None:
    """0.0.0.0 reaches nobody."""
    with pytest.raises(InvalidInput, match="cannot advertise"):
        addresses.advertise("0.0.0.0", 2377)


def test_advertised_address_takes_the_listeners_port() -> None:
    """An address without a port is completed with the one that is listened on."""
    assert addresses.advertise("10.0.0.1", 7946) == "10.0.0.1:7946"
