"""A node between its state directory, its cluster and its clients."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from unittest import mock

import pytest
import trio
from swarmlet.api.backend import InitRequest, JoinRequest
from swarmlet.clock import wall_clock
from swarmlet.config import DaemonConfig
from swarmlet.consensus.port import OutcomeUnknown
from swarmlet.engine.client import Engine
from swarmlet.errors import (
    Damaged,
    DiskFailed,
    FailedPrecondition,
    LeaderSilent,
    NoQuorum,
    NotASwarmManager,
    SwarmletError,
)
from swarmlet.manager.proposer import NO_QUORUM_AFTER
from swarmlet.model.specs import Availability, NodeSpec, Role
from swarmlet.node import joining, port
from swarmlet.node import node as node_module
from swarmlet.node.node import Node
from swarmlet.rpc.messages import Peer
from swarmlet.security.identity import Identity

from tests.unit.manager.rig import Rig

INIT = InitRequest(advertise_addr="127.0.0.1:7946", listen_addr="127.0.0.1:7946")
SPEC = NodeSpec(role=Role.WORKER, availability=Availability.ACTIVE)
JOIN = JoinRequest(remote_addrs=("127.0.0.1:9",), token="t", advertise_addr="127.0.0.1:7946")

#: What is left of a member when one file of it is lost, by the file's absence.
REMAINS = {
    "log": ("raft", "segment"),
    "key of the log": ("raft.key", None),
    "addresses": ("node.json", None),
    "tasks": ("tasks", "t1"),
    "CA": ("identity", "ca.pem"),
}


def lay(directory: Path, name: str, inner: str | None) -> Path:
    """Put a file into a state directory."""
    path = directory / name
    if inner is not None:
        path.mkdir()
        path = path / inner
    path.write_bytes(b"precious")
    return path


def names_in(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


def node_in(directory: Path) -> Node:
    config = DaemonConfig(state_dir=str(directory))
    engine = Engine(directory / "none.sock")
    return Node(config, engine=engine, now=wall_clock, rng=Random(1))


@pytest.mark.parametrize(("name", "inner"), REMAINS.values(), ids=REMAINS)
async def test_a_member_without_its_identity_does_not_start_as_if_it_had_never_been_one(
    tmp_path: Path, name: str, inner: str | None
) -> None:
    """An `init` or `join` there would run on another member's log, or sweep the only copy away."""
    kept = lay(tmp_path, name, inner)
    with pytest.raises(Damaged, match=name) as caught:
        await node_in(tmp_path).run()
    assert "restore" in caught.value.advice
    assert kept.read_bytes() == b"precious"


@pytest.mark.parametrize("enter", [lambda n: n.init(INIT), lambda n: n.join(JOIN)])
async def test_a_cluster_is_entered_from_an_empty_directory_only(
    tmp_path: Path, enter: Callable[[Node], Awaitable[object]]
) -> None:
    """What somebody put there meanwhile is neither used nor swept away."""
    node = node_in(tmp_path)
    async with trio.open_nursery() as nursery:
        await nursery.start(node.run)
        kept = lay(tmp_path, "raft", "segment")
        with pytest.raises(Damaged, match="raft"):
            await enter(node)
        nursery.cancel_scope.cancel()
    assert kept.read_bytes() == b"precious"


@pytest.mark.parametrize("step", ["_save", "_start"])
async def test_an_init_or_join_that_fails_leaves_nothing(
    tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next try begins where the first did."""

    def full(*_: object) -> None:
        raise DiskFailed("full")

    async def nothing(*_: object, **__: object) -> None:
        await trio.lowlevel.checkpoint()

    async def admitted(*_: object, **__: object) -> joining.Admission:
        await trio.lowlevel.checkpoint()
        return joining.Admission(
            Identity("n1", Role.WORKER, "c1", "key", "cert", "ca"), (Peer("m", "h:1"),)
        )

    monkeypatch.setattr(joining, "join", admitted)
    monkeypatch.setattr(port, "try_listening", nothing)
    async with trio.open_nursery() as nursery:
        node = node_in(tmp_path)
        await nursery.start(node.run)
        monkeypatch.setattr(node, "_demand_engine", nothing)
        monkeypatch.setattr(node, step, full)
        for enter in (lambda: node.init(INIT), lambda: node.join(JOIN), lambda: node.init(INIT)):
            with pytest.raises(DiskFailed):
                await enter()
            assert names_in(tmp_path) == []
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "failure", [OutcomeUnknown("this manager is stopping"), NoQuorum(reachable=0, needed=1)]
)
@pytest.mark.parametrize("role", Role)
async def test_a_manager_that_is_demoted_meanwhile_answers_as_the_worker_that_it_is(
    tmp_path: Path, failure: SwarmletError, role: Role
) -> None:
    """`node demote m1 m2 m3` on m1 is a manager's command until m1 is none."""
    node = node_in(tmp_path)
    membership = node._membership = mock.Mock()
    membership.identity.role = role
    manager = membership.manager
    manager.proposer.barrier.side_effect = failure
    manager.proposer.propose.side_effect = failure
    manager.members.update_node.side_effect = failure
    asks: tuple[Callable[[], Awaitable[None]], ...] = (
        node.barrier,
        node.propose,
        lambda: node.update_node("m2", 1, SPEC),
    )
    for asked in asks:
        with pytest.raises(SwarmletError) as caught:
            await asked()
        assert type(caught.value) is (NotASwarmManager if role is Role.WORKER else type(failure))


async def test_who_writes_waits_for_a_slow_leader_as_long_as_the_proposer_does(
    tmp_path: Path, autojump_clock: object
) -> None:
    """A bound of the node's own would hide the proposer's: what readers wait is their affair."""
    node, rig = node_in(tmp_path), Rig()

    async def slow() -> int:
        await trio.sleep(NO_QUORUM_AFTER + 1)
        return 0

    node._membership = mock.Mock()
    node._membership.manager.proposer = rig.proposer
    with mock.patch.object(rig.consensus, "read_index", slow):
        await node.barrier()
        with pytest.raises(LeaderSilent):
            await node.barrier(within=0.5)


async def test_a_machine_with_an_address_that_a_node_may_have_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its packets would go astray, whichever of the two they are for."""
    monkeypatch.setattr(node_module, "node_like_addresses", lambda: ("100.64.0.7",))
    node = node_in(tmp_path)
    for enter in (lambda: node.init(INIT), lambda: node.join(JOIN)):
        with pytest.raises(FailedPrecondition, match=r"has the address 100\.64\.0\.7") as caught:
            await enter()
        assert "outside of 100.64.0.0/18" in caught.value.advice
