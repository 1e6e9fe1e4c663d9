"""What nodes are told to forward by, and that a task stops only when nobody sends it clients."""

import pytest
import trio
from swarmlet.manager.feed import Feed
from swarmlet.model.forwarding import TaskRecord
from swarmlet.model.networks import Ipam, IpamConfig, NetworkSpec
from swarmlet.model.objects import (
    ContainerStatus,
    Network,
    NodeState,
    NodeStatus,
    Service,
    TaskState,
    TaskStatus,
)
from swarmlet.model.specs import (
    ContainerSpec,
    EndpointSpec,
    NetworkAttachment,
    PortConfig,
    ServiceSpec,
    TaskSpec,
)
from swarmlet.rpc.messages import Assignments, Forwarded, Forwarding
from swarmlet.state.commands import (
    ChangeNodes,
    ChangeTasks,
    NodeChange,
    PutNetwork,
    PutService,
    ReportTasks,
    TaskChange,
    TaskReport,
)

from tests.unit.manager.rig import NOW, Agent, Rig


@pytest.fixture
async def rig(autojump_clock: object) -> Rig:
    """A manager that leads, workers ``w1`` and ``w2``, and service ``s1`` in network ``net``."""
    rig = Rig()
    await rig.found()
    for node_id in ("w1", "w2"):
        await rig.node(node_id)
        status = NodeStatus(state=NodeState.READY, addr=f"10.99.0.{node_id[1:]}")
        await rig.proposer.propose(ChangeNodes(changes=(NodeChange(id=node_id, status=status),)))
    spec = NetworkSpec(name="net", ipam=Ipam(config=(IpamConfig(subnet="10.9.0.0/24"),)))
    await rig.proposer.propose(PutNetwork(network=Network(id="net", spec=spec)))
    await put_service(rig, "net")
    return rig


async def put_service(rig: Rig, *networks: str) -> None:
    spec = ServiceSpec(
        name="web",
        task_template=TaskSpec(
            container_spec=ContainerSpec(image="busybox"),
            networks=tuple(NetworkAttachment(target=network) for network in networks),
        ),
    )
    known = rig.replica.view.service("s1")
    expect = known.version if known else 0
    await rig.proposer.propose(PutService(service=Service(id="s1", spec=spec), expect=expect))


async def runs(rig: Rig, task_id: str, node_id: str, *, halted: bool = False) -> None:
    """The node says that a task runs."""
    status = TaskStatus(state=TaskState.RUNNING, at=NOW, halted=halted)
    report = TaskReport(task_id, status)
    await rig.proposer.propose(ReportTasks(node_id=node_id, reports=(report,)))


async def shut_down(rig: Rig, task_id: str) -> None:
    change = TaskChange(id=task_id, desired=TaskState.SHUTDOWN)
    await rig.proposer.propose(ChangeTasks(changes=(change,)))


async def news(agent: Agent) -> Forwarding:
    """The next message that says what to forward by."""
    message = await agent.channel.receive()
    assert isinstance(message, Forwarding)
    return message


def task_ids(message: Forwarding) -> set[str]:
    return {record.id for record in message.tasks}


async def told_to_stop(agent: Agent) -> list[tuple[str, TaskState]]:
    """The tasks of the next order, and what is wanted of them."""
    order = await agent.hear()
    assert isinstance(order, Assignments)
    return [(t.task_id, t.desired) for t in order.tasks]


async def test_a_node_in_a_network_is_told_all_of_it(rig: Rig) -> None:
    """And one that is in none only of nodes and networks."""
    await rig.task("t1", "w1", slot=1)
    async with rig.running() as nursery:
        near, far = await rig.agent(nursery, "w1"), await rig.agent(nursery, "w2")
        await near.welcomed()
        await far.welcomed()
    (told,) = near.forwarding
    assert told.full
    assert told.me == 2
    assert {peer.id: peer.addr for peer in told.peers} == {"w1": "10.0.0.9", "w2": "10.0.0.9"}
    assert [network.subnet for network in told.networks] == ["10.9.0.0/24"]
    assert [a.address for service in told.services for a in service.attachments] == ["10.9.0.2"]
    assert [(r.node, r.serving, r.attachments[0].address) for r in told.tasks] == [
        (2, False, "10.9.0.3")
    ]
    (little,) = far.forwarding
    assert (little.services, little.tasks) == ((), ())
    assert len(little.networks) == 1


async def test_a_task_is_known_by_the_host_name_that_its_container_has(rig: Rig) -> None:
    """The beginning of its identifier, unless the service names one."""
    await rig.task("t1", "w1", slot=1)
    container = ContainerStatus(container_id="0123456789abcdef")
    status = TaskStatus(state=TaskState.STARTING, at=NOW, container=container)
    async with rig.running() as nursery:
        near = await rig.agent(nursery, "w1")
        await near.welcomed()
        report = TaskReport("t1", status)
        await rig.proposer.propose(ReportTasks(node_id="w1", reports=(report,)))
        (told,) = (await news(near)).tasks
    assert told.hostname == "0123456789ab"


async def test_the_first_task_in_a_network_brings_the_rest_of_it(rig: Rig) -> None:
    await rig.task("t1", "w1", slot=1)
    async with rig.running() as nursery:
        far = await rig.agent(nursery, "w2")
        await far.welcomed()
        await rig.task("t2", "w2", slot=2)
        told = await news(far)
        assert not told.full
        assert task_ids(told) == {"t1", "t2"}
        assert [service.id for service in told.services] == ["s1"]


async def test_every_node_is_told_what_is_published(rig: Rig) -> None:
    service = rig.replica.view.service("s1")
    assert service is not None
    ports = EndpointSpec(ports=(PortConfig(target_port=80, published_port=8080),))
    spec = ServiceSpec(name="web", task_template=service.spec.task_template, endpoint_spec=ports)
    await rig.proposer.propose(
        PutService(service=Service(id="s1", spec=spec), expect=service.version)
    )
    await rig.task("t1", "w1", slot=1)
    async with rig.running() as nursery:
        far = await rig.agent(nursery, "w2")
        await far.welcomed()
        (told,) = far.forwarding
        assert [(p.protocol, p.published, p.target) for p in told.services[0].ports] == [
            ("tcp", 8080, 80)
        ]
        assert task_ids(told) == {"t1"}
        await runs(rig, "t1", "w1")
        (record,) = (await news(far)).tasks
        assert isinstance(record, TaskRecord)
        assert record.serving


async def test_a_task_is_stopped_when_no_node_sends_it_clients_any_more(rig: Rig) -> None:
    """Its own node hears of it only when every other has confirmed."""
    await rig.task("t1", "w1", slot=1)
    await rig.task("t2", "w2", slot=2)
    async with rig.running() as nursery:
        near, far = await rig.agent(nursery, "w1"), await rig.agent(nursery, "w2")
        await near.welcomed()
        await far.welcomed()
        await runs(rig, "t1", "w1")
        await news(near)
        await news(far)
        await shut_down(rig, "t1")
        told = [await news(agent) for agent in (near, far)]
        assert [(r.id, r.serving) for t in told for r in t.tasks] == [("t1", False)] * 2
        await near.say(Forwarded(seq=told[0].seq))
        await trio.testing.wait_all_tasks_blocked()
        before = trio.current_time()
        await far.say(Forwarded(seq=told[1].seq))
        assert await told_to_stop(near) == [("t1", TaskState.SHUTDOWN)]
        assert trio.current_time() - before < 1  # of the mock clock: nothing had to expire


async def test_a_node_that_does_not_confirm_keeps_no_task_alive(rig: Rig) -> None:
    await rig.task("t1", "w1", slot=1)
    async with rig.running() as nursery:
        near = await rig.agent(nursery, "w1")
        await near.welcomed()
        await runs(rig, "t1", "w1")
        await news(near)
        await shut_down(rig, "t1")
        assert await told_to_stop(near) == [("t1", TaskState.SHUTDOWN)]


async def test_a_node_that_is_not_connected_is_waited_for_too(rig: Rig) -> None:
    """As when a leader begins: a kernel forwards by what it was told before."""
    await rig.task("t1", "w1", slot=1)
    await rig.task("t2", "w2", slot=2)
    await runs(rig, "t1", "w1")
    await shut_down(rig, "t1")
    async with rig.running() as nursery:
        near = await rig.agent(nursery, "w1")
        everything = await near.welcomed()
        assert (everything.tasks, everything.others) == ((), ("t1",))
        await near.say(Forwarded(seq=1))
        far = await rig.agent(nursery, "w2")
        await far.welcomed()
        before = trio.current_time()
        await far.say(Forwarded(seq=1))
        assert await told_to_stop(near) == [("t1", TaskState.SHUTDOWN)]
        assert trio.current_time() - before < 1


async def test_a_node_that_is_lost_is_not_waited_for(rig: Rig) -> None:
    await rig.task("t1", "w1", slot=1)
    await runs(rig, "t1", "w1")
    async with rig.running() as nursery:
        near = await rig.agent(nursery, "w1")
        await near.welcomed()
        await near.say(Forwarded(seq=1))
        await shut_down(rig, "t1")
        await near.say(Forwarded(seq=(await news(near)).seq))
        await trio.testing.wait_all_tasks_blocked()
        before = trio.current_time()
        lost = NodeStatus(state=NodeState.DOWN, addr="10.99.0.2")
        await rig.proposer.propose(ChangeNodes(changes=(NodeChange(id="w2", status=lost),)))
        assert await told_to_stop(near) == [("t1", TaskState.SHUTDOWN)]
        assert trio.current_time() - before < 1


async def test_a_node_is_not_known_to_have_stopped_before_it_says_so(rig: Rig) -> None:
    """Whatever the reason was to tell it: here, that it comes into another network."""
    await rig.task("t1", "w1", slot=1)
    await runs(rig, "t1", "w1")
    feed = Feed("w1")
    feed.next(rig.replica.view, [])
    assert feed.may_send_to("nobody knows")
    feed.confirm(feed.seq)
    assert not feed.may_send_to("nobody knows")
    assert (feed.may_send_to("t1"), feed.told_by("t1")) == (True, None)
    await shut_down(rig, "t1")
    spec = NetworkSpec(name="late", ipam=Ipam(config=(IpamConfig(subnet="10.8.0.0/24"),)))
    await rig.proposer.propose(PutNetwork(network=Network(id="late", spec=spec)))
    await put_service(rig, "net", "late")
    await rig.task("t2", "w1", slot=2)
    feed.next(rig.replica.view, ["t2"])
    assert (feed.may_send_to("t1"), feed.told_by("t1")) == (True, 2)
    feed.confirm(1)
    assert feed.may_send_to("t1")
    feed.confirm(2)
    assert not feed.may_send_to("t1")


async def test_an_ended_task_is_gone(rig: Rig) -> None:
    await rig.task("t1", "w1", slot=1)
    await rig.task("t2", "w2", slot=2)
    async with rig.running() as nursery:
        far = await rig.agent(nursery, "w2")
        await far.welcomed()
        report = TaskReport("t1", TaskStatus(state=TaskState.FAILED, at=NOW))
        await rig.proposer.propose(ReportTasks(node_id="w1", reports=(report,)))
        assert (await news(far)).gone == ("t1",)


async def test_no_node_sends_clients_to_a_task_whose_engine_went_down(rig: Rig) -> None:
    """It is to be started again in place: its record stays."""
    await rig.task("t1", "w1", slot=1)
    await rig.task("t2", "w2", slot=2)
    async with rig.running() as nursery:
        far = await rig.agent(nursery, "w2")
        await far.welcomed()
        for halted in (False, True, False):
            await runs(rig, "t1", "w1", halted=halted)
            (record,) = (await news(far)).tasks
            assert (record.id, record.serving) == ("t1", not halted)
