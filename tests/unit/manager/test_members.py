"""Joining, renewal and roles, as managers answer for them."""

import msgspec
import pytest
from msgspec.structs import replace
from swarmlet.errors import (
    FailedPrecondition,
    InvalidInput,
    NotAllowed,
    NotFound,
    OutOfSequence,
)
from swarmlet.manager.members import complete_addr
from swarmlet.model.objects import NodeState
from swarmlet.model.specs import Availability, Role
from swarmlet.rpc.calls import (
    AskCa,
    AskJoin,
    AskReadIndex,
    AskRenew,
    BecomeMember,
    CaIs,
    Forward,
    Joined,
    Renewed,
)
from swarmlet.rpc.listener import RemoteNode
from swarmlet.security import ca, tokens

from tests.unit.manager.rig import Rig

STRANGER = RemoteNode("", None, "", "10.0.0.9")


@pytest.fixture
async def rig() -> Rig:
    """A manager that leads."""
    rig = Rig()
    await rig.found()
    return rig


def _ask(token: str) -> AskJoin:
    return AskJoin(
        token=token,
        csr=ca.signing_request(ca.new_key()),
        addr="10.0.0.9:2377",
        availability=Availability.ACTIVE,
    )


async def test_stranger_learns_the_ca_and_nothing_else(rig: Rig) -> None:
    """Without a certificate one may ask for the CA or to join; all else is refused."""
    cluster = rig.replica.view.cluster
    assert cluster is not None
    answer = await rig.members.answer_stranger(AskCa(), STRANGER)
    assert answer == CaIs(cert=cluster.root_ca.cert)
    with pytest.raises(NotAllowed):
        await rig.members.answer_stranger(AskReadIndex(), STRANGER)


@pytest.mark.parametrize("role", Role)
async def test_token_makes_a_node_of_its_role(role: Role, rig: Rig) -> None:
    """Whoever joins is in the store, with a certificate for the token's role."""
    cluster = rig.replica.view.cluster
    assert cluster is not None
    token = cluster.tokens.manager if role is Role.MANAGER else cluster.tokens.worker
    joined = await rig.members.answer_stranger(_ask(token), STRANGER)
    assert isinstance(joined, Joined)
    subject = ca.subject_of_pem(joined.cert)
    assert (subject.node_id, subject.role, subject.cluster_id) == (joined.node_id, role, "c1")
    node = rig.the_node(joined.node_id)
    assert (node.role, node.spec.role) == (role, role)


async def test_wrong_token_leaves_no_trace(rig: Rig) -> None:
    """A refused join adds no node."""
    cluster = rig.replica.view.cluster
    assert cluster is not None
    pinned = tokens.parse(cluster.tokens.worker).digest
    with pytest.raises(tokens.TokenWrong):
        await rig.members.answer_stranger(_ask(f"SWMTKN-1-{pinned}-{'0' * 25}"), STRANGER)
    assert [node.id for node in rig.replica.view.nodes()] == ["m1"]


async def test_worker_cannot_call_what_is_the_managers(rig: Rig) -> None:
    """Role is checked on every call, by certificate and by store."""
    await rig.node("w1")
    for certified in Role:
        who = RemoteNode("w1", certified, "c1", "10.0.0.9")
        with pytest.raises(NotAllowed):
            await rig.members.answer_node(AskReadIndex(), who)


async def test_removed_node_gets_no_new_certificate(rig: Rig) -> None:
    """A certificate that is still valid does not renew itself once its node is gone."""
    request = AskRenew(csr=ca.signing_request(ca.new_key()))
    with pytest.raises(NotAllowed, match="removed"):
        await rig.members.answer_node(request, RemoteNode("gone", Role.WORKER, "c1", "h"))


async def test_promoted_worker_is_certified_as_manager_at_renewal(rig: Rig) -> None:
    """Promotion takes effect when the node fetches its certificate."""
    await rig.node("w1")
    node = rig.the_node("w1")
    await rig.members.update_node("w1", node.version, replace(node.spec, role=Role.MANAGER))
    request = AskRenew(csr=ca.signing_request(ca.new_key()))
    renewed = await rig.members.answer_node(request, RemoteNode("w1", Role.WORKER, "c1", "h"))
    assert isinstance(renewed, Renewed)
    assert ca.subject_of_pem(renewed.cert).role is Role.MANAGER
    promoted = rig.the_node("w1")
    assert promoted.role is Role.MANAGER


async def test_last_manager_cannot_be_demoted(rig: Rig) -> None:
    """Docker's words, which clients match."""
    node = rig.the_node("m1")
    with pytest.raises(FailedPrecondition, match="attempting to demote the last manager"):
        await rig.members.update_node("m1", node.version, replace(node.spec, role=Role.WORKER))


async def test_update_of_a_node_is_one_entry(rig: Rig) -> None:
    """Role and labels change together, on the version that was read."""
    await rig.node("w1")
    node = rig.the_node("w1")
    spec = replace(node.spec, role=Role.MANAGER, labels={"zone": "a"})
    before = rig.consensus.applied
    await rig.members.update_node("w1", node.version, spec)
    assert rig.consensus.applied == before + 1
    changed = rig.the_node("w1")
    assert changed.spec == spec
    assert changed.role is Role.WORKER  # until it has fetched its certificate
    with pytest.raises(OutOfSequence):
        await rig.members.update_node("w1", node.version, replace(spec, labels={}))


async def test_refused_demotion_leaves_the_rest_of_the_spec(rig: Rig) -> None:
    """An update that is refused changed nothing; one without a demotion is not refused."""
    node = rig.the_node("m1")
    spec = replace(node.spec, role=Role.WORKER, labels={"zone": "a"})
    with pytest.raises(FailedPrecondition, match="attempting to demote the last manager"):
        await rig.members.update_node("m1", node.version, spec)
    assert rig.replica.view.node("m1") == node
    await rig.members.update_node("m1", node.version, replace(spec, role=Role.MANAGER))
    with pytest.raises(NotFound):
        await rig.members.update_node("gone", 1, spec)


async def test_manager_and_ready_node_cannot_be_removed(rig: Rig) -> None:
    """Docker's words again, for both refusals; force overrides the second only."""
    with pytest.raises(FailedPrecondition, match="is a member of the raft"):
        await rig.members.remove_node("m1", force=True)
    await rig.node("w1")
    async with rig.running() as nursery:
        await (await rig.agent(nursery)).welcomed()
    ready = rig.the_node("w1")
    assert ready.status.state is NodeState.READY
    with pytest.raises(FailedPrecondition, match="is not down and can't be removed") as caught:
        await rig.members.remove_node("w1", force=False)
    assert "--force" in caught.value.advice
    await rig.members.remove_node("w1", force=True)
    assert rig.replica.view.node("w1") is None


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("10.0.0.2:2377", "10.0.0.2:2377"),
        ("0.0.0.0:7000", "10.0.0.9:7000"),
        (":2377", "10.0.0.9:2377"),
        ("host.example:99", "host.example:99"),
    ],
)
def test_address_is_completed_by_where_the_caller_is(given: str, expected: str) -> None:
    """An unspecified address is replaced by the caller's own."""
    assert complete_addr(given, "10.0.0.9") == expected


@pytest.mark.parametrize("given", ["", "host", "host:0", "host:99999", "host:port"])
def test_address_without_a_usable_port_is_refused(given: str) -> None:
    """A member that nobody can reach is not added."""
    with pytest.raises(InvalidInput):
        complete_addr(given, "10.0.0.9")


async def test_manager_that_nobody_reaches_is_not_made_a_member(rig: Rig) -> None:
    """It would hold up every later change of members; its address must not spread either."""
    await rig.node("m2", role=Role.MANAGER)

    async def silent(node_id: str, addr: str) -> bool:
        del node_id, addr
        return False

    rig.members._probe = silent
    who = RemoteNode("m2", Role.MANAGER, "c1", "10.0.0.9")
    with pytest.raises(InvalidInput, match="cannot reach"):
        await rig.members.answer_node(BecomeMember(addr="9.9.9.9:2377"), who)
    assert rig.the_node("m2").manager_addr == ""
    assert [m.id for m in rig.consensus.members()] == ["m1"]


async def test_proposal_of_a_newer_version_is_refused_before_it_is_committed(rig: Rig) -> None:
    """Committed, it would stop this member: upgrades must not cost the quorum."""
    before = rig.consensus.applied
    newer = msgspec.msgpack.encode((99, 0, []))
    who = RemoteNode("m1", Role.MANAGER, "c1", "10.0.0.1")
    with pytest.raises(InvalidInput, match="format 99"):
        await rig.members.answer_node(Forward(client="c", seq=1, floor=1, command=newer), who)
    assert rig.consensus.applied == before
