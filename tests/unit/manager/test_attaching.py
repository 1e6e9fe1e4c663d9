"""What a node may ask for its plain containers, and what other nodes are told of them."""

import pytest
from msgspec.structs import replace
from swarmlet.errors import FailedPrecondition, InvalidInput, NotAllowed
from swarmlet.manager.attaching import Attaching
from swarmlet.model.forwarding import Attachment, TaskRecord
from swarmlet.model.networks import Ipam, IpamConfig, NetworkSpec
from swarmlet.model.objects import AttachedContainer, Network
from swarmlet.model.specs import Role
from swarmlet.rpc.calls import (
    AskAttach,
    AskContainers,
    AskDetach,
    AskNetwork,
    ContainersAre,
    NetworkIs,
    TellContainers,
)
from swarmlet.rpc.listener import RemoteNode
from swarmlet.rpc.messages import Forwarding
from swarmlet.state.commands import ContainerReport, DeleteNode, PutNetwork

from tests.unit.manager.rig import Agent, Rig

IDENT = "c" * 25


def who(node_id: str) -> RemoteNode:
    return RemoteNode(node_id, Role.WORKER, "", "10.0.0.9")


@pytest.fixture
async def rig(autojump_clock: object) -> Rig:
    """A manager that leads, workers ``w1`` and ``w2``, and an attachable network ``net``."""
    rig = Rig()
    await rig.found()
    for node_id in ("w1", "w2"):
        await rig.node(node_id, addr="10.0.0.9")
    ipam = Ipam(config=(IpamConfig(subnet="10.9.0.0/24"),))
    spec = NetworkSpec(name="net", ipam=ipam, attachable=True)
    await rig.proposer.propose(PutNetwork(network=Network(id="net", spec=spec)))
    return rig


@pytest.fixture
def attaching(rig: Rig) -> Attaching:
    return Attaching(rig.replica, rig.proposer)


def a_container(**fields: object) -> AttachedContainer:
    container = AttachedContainer(
        id=IDENT, node_id="w1", name="box", attachments=(Attachment("net", "", ("alias",)),)
    )
    return replace(container, **fields)


async def attach(attaching: Attaching, by: str = "w1", **fields: object) -> str:
    """Attach; the address."""
    request = AskAttach(container=a_container(**fields))
    answer = await attaching.answer(request, who(by))
    assert isinstance(answer, ContainersAre)
    return answer.containers[0].attachments[0].address


async def test_a_node_gets_an_address_that_is_committed(rig: Rig, attaching: Attaching) -> None:
    assert await attach(attaching) == "10.9.0.2"
    assert rig.replica.view.address_owners("net") == {"10.9.0.2": IDENT}
    own = await attaching.answer(AskContainers(), who("w1"))
    assert isinstance(own, ContainersAre)
    assert [c.name for c in own.containers] == ["box"]
    others = await attaching.answer(AskContainers(), who("w2"))
    assert others == ContainersAre(containers=())


async def test_a_node_asks_for_itself_whatever_it_says(rig: Rig, attaching: Attaching) -> None:
    """Neither can it say that a container runs with the attachment, nor when it was made."""
    await attach(attaching, "w2", node_id="w1", running=True, version=99)
    found = rig.replica.view.container(IDENT)
    assert found is not None
    assert (found.node_id, found.running) == ("w2", False)
    with pytest.raises(NotAllowed):
        await attach(attaching, "w1")
    report = ContainerReport(IDENT, "abc", "mine", running=True)
    await attaching.answer(TellContainers(reports=(report,)), who("w1"))
    await attaching.answer(AskDetach(ids=(IDENT,)), who("w1"))
    assert rig.replica.view.container(IDENT) is found


async def test_a_node_that_was_removed_asks_in_vain(rig: Rig, attaching: Attaching) -> None:
    await rig.proposer.propose(DeleteNode(id="w1", expect=rig.the_node("w1").version))
    for request in (AskAttach(container=a_container()), AskContainers()):
        with pytest.raises(NotAllowed, match="removed"):
            await attaching.answer(request, who("w1"))


@pytest.mark.parametrize(
    "fields",
    [
        {"id": "short"},
        {"id": "C" * 25},
        {"attachments": ()},
        {"name": "n" * 256},
        {"attachments": (Attachment("net", "", ("a" * 256,)),)},
        {"attachments": (Attachment("net", "", ("alias",) * 4000),)},
        {"hostname": "h" * 256},
    ],
)
async def test_what_would_fill_the_log_is_refused(
    attaching: Attaching, fields: dict[str, object]
) -> None:
    request = AskAttach(container=a_container(**fields))
    with pytest.raises(InvalidInput):
        await attaching.answer(request, who("w1"))


async def test_reports_are_bounded(attaching: Attaching) -> None:
    report = ContainerReport(IDENT, "abc", "n" * 256, running=True)
    with pytest.raises(InvalidInput):
        await attaching.answer(TellContainers(reports=(report,)), who("w1"))


async def test_a_refusal_keeps_its_reason(attaching: Attaching) -> None:
    await attach(attaching)
    asked = (Attachment("net", "10.9.0.2"),)
    with pytest.raises(FailedPrecondition, match="in use by container box on node w1"):
        await attach(attaching, "w2", id="d" * 25, attachments=asked)


async def news(agent: Agent) -> Forwarding:
    message = await agent.channel.receive()
    assert isinstance(message, Forwarding)
    return message


async def test_nodes_in_the_network_are_told_of_a_container(rig: Rig, attaching: Attaching) -> None:
    """Its own too, which takes part in the network with it; one in no network is not."""
    async with rig.running() as nursery:
        near = await rig.agent(nursery, "w1")
        await near.welcomed()
        await attach(attaching)
        (record,) = (await news(near)).tasks
        assert record == TaskRecord(
            id=IDENT,
            service_id="",
            name="box",
            node=2,
            attachments=(Attachment("net", "10.9.0.2", ("alias",)),),
        )
        far = await rig.agent(nursery, "w2")
        await far.welcomed()
        assert far.forwarding[0].tasks == ()
        report = ContainerReport(IDENT, "abc", "new", running=True)
        await attaching.answer(TellContainers(reports=(report,)), who("w1"))
        (record,) = (await news(near)).tasks
        assert (record.name, record.container_id, record.serving) == ("new", "abc", True)
        await attach(attaching, "w2", id="d" * 25)
        assert {task.id for task in (await news(far)).tasks} == {IDENT, "d" * 25}
        await attaching.answer(AskDetach(ids=(IDENT,)), who("w1"))
        while IDENT not in (told := await news(far)).gone:
            assert told.tasks


async def test_a_node_is_told_which_network_has_a_name_now(attaching: Attaching) -> None:
    """By name, identifier or the beginning of one; its own news may be older."""

    async def asked(wanted: str) -> str | None:
        answer = await attaching.answer(AskNetwork(wanted=wanted), who("w1"))
        assert isinstance(answer, NetworkIs)
        return answer.network.id if answer.network else None

    assert [await asked(name) for name in ("net", "ne")] == ["net"] * 2
    assert [await asked(name) for name in ("fron", "")] == [None] * 2


async def test_a_beginning_that_several_networks_have_is_an_error(attaching: Attaching) -> None:
    """But for the whole identifier or name of one of them."""
    for ident, name in (("nest1", "first"), ("nest2", "nest")):
        spec = NetworkSpec(name=name, attachable=True)
        await attaching._proposer.propose(PutNetwork(network=Network(id=ident, spec=spec)))
    for wanted, ident in (("nest1", "nest1"), ("nest", "nest2")):
        answer = await attaching.answer(AskNetwork(wanted=wanted), who("w1"))
        assert isinstance(answer, NetworkIs)
        assert answer.network is not None
        assert answer.network.id == ident
    with pytest.raises(InvalidInput, match="network nes is ambiguous") as refused:
        await attaching.answer(AskNetwork(wanted="nes"), who("w1"))
    assert refused.value.advice == "use the identifier: nest1, nest2"
