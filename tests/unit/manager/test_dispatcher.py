"""The leader's end of agent sessions."""

import pytest
import trio
from msgspec.structs import replace
from swarmlet.control.forwarding import peer
from swarmlet.manager.hearing import MAX_TEXT
from swarmlet.model.objects import NodeState, TaskState, TaskStatus
from swarmlet.model.specs import Role
from swarmlet.model.tunnels import TunnelKeys
from swarmlet.rpc.channel import Channel, ConnectionLost
from swarmlet.rpc.frames import RemoteProtocolError
from swarmlet.rpc.messages import (
    Assignments,
    Beat,
    Described,
    FromManager,
    Goodbye,
    GoodbyeReason,
    Hello,
    Pulse,
    Refused,
    Report,
    Settings,
)
from swarmlet.state.commands import (
    ChangeTasks,
    DeleteNode,
    DeleteTasks,
    PutNode,
    TaskChange,
)

from tests.unit.manager.rig import DESCRIPTION, NOW, Rig


@pytest.fixture
async def rig(autojump_clock: object) -> Rig:
    """A manager that leads, and a node ``w1`` that has not come yet."""
    rig = Rig()
    await rig.found()
    await rig.node("w1")
    return rig


async def greeted(port: int = 2377) -> trio.abc.Stream:
    """The manager's end of a connection on which an agent has said hello."""
    ours, theirs = trio.testing.memory_stream_pair()
    channel: Channel[FromManager] = Channel(theirs, FromManager, peer="manager")
    await channel.send(Hello(description=DESCRIPTION, listen_port=port, swarmlet_version="0"))
    return ours


async def test_agent_gets_everything_of_its_node_and_nothing_else(rig: Rig) -> None:
    """The first assignment set is full, and holds only tasks of that node."""
    await rig.task("t1", "w1", slot=1)
    await rig.task("t2", "m1", slot=2)
    async with rig.running() as nursery:
        agent = await rig.agent(nursery)
        full = await agent.welcomed()
        assert [task.task_id for task in full.tasks] == ["t1"]


async def test_changes_follow_as_differences(rig: Rig) -> None:
    """A new task, a changed desired state and a deleted task each arrive once."""
    async with rig.welcomed() as agent:
        await rig.task("t1", "w1")
        first = await agent.hear()
        assert isinstance(first, Assignments)
        assert [(t.task_id, t.desired) for t in first.tasks] == [("t1", TaskState.RUNNING)]
        stop = TaskChange(id="t1", desired=TaskState.SHUTDOWN)
        await rig.proposer.propose(ChangeTasks(changes=(stop,)))
        second = await agent.hear()
        assert isinstance(second, Assignments)
        assert [t.desired for t in second.tasks] == [TaskState.SHUTDOWN]
        await rig.proposer.propose(DeleteTasks(ids=("t1",)))
        third = await agent.hear()
        assert isinstance(third, Assignments)
        assert third.gone == ("t1",)


async def test_report_is_acknowledged_only_when_it_is_committed(rig: Rig) -> None:
    """At the acknowledgement, the store already has the status."""
    await rig.task("t1", "w1")
    async with rig.welcomed() as agent:
        running = TaskStatus(state=TaskState.RUNNING, at=NOW)
        await agent.say(Report(seq=4, statuses=(("t1", running),)))
        await agent.acknowledged(4)
        assert rig.status_of("t1").state is TaskState.RUNNING


async def test_agent_cannot_report_the_task_of_another_node(rig: Rig) -> None:
    """A worker that lies about others changes nothing."""
    await rig.task("t1", "m1")
    async with rig.welcomed() as agent:
        failed = TaskStatus(state=TaskState.FAILED, at=NOW)
        await agent.say(Report(seq=1, statuses=(("t1", failed),)))
        await agent.acknowledged(1)
        assert rig.status_of("t1").state is TaskState.ASSIGNED


async def test_hello_makes_a_node_ready_at_the_address_it_calls_from(rig: Rig) -> None:
    """State, address and description of a node come from its session."""
    async with rig.running() as nursery:
        await (await rig.agent(nursery)).welcomed()
        node = rig.the_node("w1")
        assert (node.status.state, node.status.addr, node.hostname) == (
            NodeState.READY,
            "10.0.0.9",
            "w1",
        )


async def test_what_a_node_says_of_itself_may_change(rig: Rig) -> None:
    """Its keys, say; others are told, and it stays what it was besides."""
    tunnel = TunnelKeys(lanes=("key", ""))
    async with rig.welcomed() as agent:
        before = rig.the_node("w1").status
        await agent.say(Described(description=replace(DESCRIPTION, tunnel=tunnel)))
        await trio.sleep(1)
        description = rig.the_node("w1").description
        assert description == replace(DESCRIPTION, tunnel=tunnel)
        assert rig.the_node("w1").status == before
        record = peer(rig.the_node("w1"))
        assert record is not None
        assert record.tunnel == tunnel


async def test_a_node_cannot_have_the_key_of_another_one(rig: Rig) -> None:
    """It would be sent that node's packets. What the other one has let go of is free."""
    first, second = TunnelKeys(lanes=("key1", "key2")), TunnelKeys(lanes=("key3", "key1"))
    own = TunnelKeys(lanes=("key2", "key4"), lane=1)
    await rig.node("w2")
    async with rig.running() as nursery:
        agents = {name: await rig.agent(nursery, name) for name in ("w1", "w2")}
        for agent in agents.values():
            await agent.welcomed()
        for name, said, kept in (
            ("w1", first, first),
            ("w2", second, None),
            ("w1", own, own),
            ("w2", second, second),
        ):
            await agents[name].say(Described(description=replace(DESCRIPTION, tunnel=said)))
            await trio.sleep(2)
            description = rig.the_node(name).description
            assert description is not None
            assert description.tunnel == kept, name


async def test_of_many_descriptions_the_last_one_counts(rig: Rig) -> None:
    """The log gets few of them, however fast they come."""
    async with rig.welcomed() as agent:
        before = rig.replica.view.index
        for number in range(100):
            tunnel = TunnelKeys(lanes=(f"key{number}", ""))
            await agent.say(Described(description=replace(DESCRIPTION, tunnel=tunnel)))
        await trio.sleep(1)
        description = rig.the_node("w1").description
        assert description is not None
        assert description.tunnel == TunnelKeys(lanes=("key99", ""))
        assert rig.replica.view.index - before < 10


async def test_a_node_cannot_fill_the_log_with_its_description(rig: Rig) -> None:
    async with rig.welcomed() as agent:
        await agent.say(Described(description=replace(DESCRIPTION, subnets=("x" * 70_000,))))
        with pytest.raises(ConnectionLost):
            await agent.hear()
        assert rig.the_node("w1").description == DESCRIPTION


async def test_beats_are_heard_and_answered(rig: Rig) -> None:
    """Each side learns from a beat that the other lives."""
    async with rig.welcomed() as agent:
        before = len(rig.ears.nodes)
        await agent.say(Beat())
        assert await agent.hear() == Pulse()
        assert len(rig.ears.nodes) == before + 1


async def test_unknown_node_is_refused(rig: Rig) -> None:
    """A node that was removed is told so, not ignored."""
    async with rig.running() as nursery:
        agent = await rig.agent(nursery, "gone")
        answer = await agent.hear()
        assert isinstance(answer, Refused)
        assert answer.code == "node-removed"


async def test_session_of_a_removed_node_ends(rig: Rig) -> None:
    """Removing a node ends its session at once."""
    async with rig.welcomed() as agent:
        node = rig.the_node("w1")
        await rig.proposer.propose(DeleteNode(id="w1", expect=node.version))
        with pytest.raises(ConnectionLost):
            await agent.hear()


async def test_newer_session_of_a_node_replaces_the_older(rig: Rig) -> None:
    """A connection that is dead without knowing it does not keep its node out."""
    async with rig.running() as nursery:
        old = await rig.agent(nursery)
        await old.welcomed()
        new = await rig.agent(nursery)
        await new.welcomed()
        with pytest.raises(ConnectionLost):
            await old.hear()
        await new.say(Beat())
        assert await new.hear() == Pulse()


@pytest.mark.parametrize("reason", GoodbyeReason)
async def test_goodbye_tells_why_a_session_ends(reason: GoodbyeReason, rig: Rig) -> None:
    """The failure detector learns whether the host, or only the daemon, went away."""
    async with rig.welcomed() as agent:
        await agent.say(Goodbye(reason=reason))
        await trio.testing.wait_all_tasks_blocked()
        assert rig.ears.goodbyes == [("w1", reason)]


async def test_new_manager_is_made_known_to_agents(rig: Rig) -> None:
    """Agents always know where all managers are."""
    async with rig.welcomed() as agent:
        manager = rig.the_node("m1")
        changed = type(manager)(
            id="m2", spec=manager.spec, role=manager.role, manager_addr="10.0.0.2:2377"
        )
        await rig.proposer.propose(PutNode(node=changed, expect=0))
        news = await agent.hear()
        assert isinstance(news, Settings)
        assert [peer.addr for peer in news.managers] == ["10.0.0.1:2377", "10.0.0.2:2377"]


async def test_worker_cannot_fill_the_log_with_words(rig: Rig) -> None:
    """A status of megabytes is cut before it is replicated, and still acknowledged."""
    await rig.task("t1", "w1")
    async with rig.welcomed() as agent:
        failed = TaskStatus(state=TaskState.FAILED, at=NOW, err="x" * 3_000_000)
        await agent.say(Report(seq=1, statuses=(("t1", failed),)))
        await agent.acknowledged(1)
        assert rig.status_of("t1").state is TaskState.FAILED
        assert len(rig.status_of("t1").err) <= MAX_TEXT


async def test_report_of_thousands_of_tasks_is_committed_in_pieces(rig: Rig) -> None:
    """However much an agent reports at once, each Raft entry stays small."""
    await rig.task("t1", "w1")
    async with rig.welcomed() as agent:
        running = TaskStatus(state=TaskState.RUNNING, at=NOW, message="y" * MAX_TEXT)
        statuses = tuple((f"unknown{n}", running) for n in range(3_000))
        await agent.say(Report(seq=1, statuses=(*statuses, ("t1", running))))
        await agent.acknowledged(1)
        assert rig.status_of("t1").state is TaskState.RUNNING


async def test_what_a_worker_says_of_foreign_tasks_never_reaches_the_log(rig: Rig) -> None:
    """Not even as something to skip: identifiers of megabytes would kill the leader."""
    async with rig.welcomed() as agent:
        before = rig.consensus.applied
        running = TaskStatus(state=TaskState.RUNNING, at=NOW)
        await agent.say(Report(seq=1, statuses=(("x" * 2_000_000, running),)))
        await agent.acknowledged(1)
        assert rig.consensus.applied == before


@pytest.mark.parametrize("port", [0, -1, 65_536, 2**63 - 1])
async def test_agent_that_listens_on_no_port_gets_no_session(port: int, rig: Rig) -> None:
    """Others will be asked to probe that port; it must be one."""
    async with rig.running():
        stream = await greeted(port)
        with pytest.raises(RemoteProtocolError):
            await rig.dispatcher.serve(stream, "w1", "10.0.0.9")


async def test_hello_that_arrives_after_the_leadership_gets_no_session(rig: Rig) -> None:
    """A dispatcher whose leadership ended must not keep an agent from the real leader."""
    async with rig.running():
        pass
    stream = await greeted()
    with pytest.raises(ConnectionLost):
        await rig.dispatcher.serve(stream, "w1", "10.0.0.9")


async def test_only_a_quorum_may_say_that_a_node_was_removed(rig: Rig) -> None:
    """A leader that was deposed without noticing does not know who joined since."""
    async with rig.running():
        rig.consensus.lose_leadership()
        stream = await greeted()
        with pytest.raises(ConnectionLost):
            await rig.dispatcher.serve(stream, "w9", "10.0.0.9")


async def test_promotion_during_the_greeting_is_told(rig: Rig) -> None:
    """What changes while an agent is greeted is not taken for told."""
    async with rig.running() as nursery:
        agent = await rig.agent(nursery)
        await trio.testing.wait_all_tasks_blocked()  # Welcome waits to be read
        node = rig.the_node("w1")
        await rig.members.update_node("w1", node.version, replace(node.spec, role=Role.MANAGER))
        await agent.welcomed()
        news = await agent.hear()
        assert isinstance(news, Settings)
        assert news.role is Role.MANAGER


async def test_large_assignment_set_comes_in_pieces_that_fit(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much is assigned to a node, each message fits in a frame, and the first names all."""
    monkeypatch.setattr("swarmlet.manager.briefing.MAX_ASSIGNMENTS", 300)
    for number in range(1, 6):
        await rig.task(f"t{number}", "w1", slot=number)
    async with rig.running() as nursery:
        agent = await rig.agent(nursery)
        full = await agent.welcomed()
        named = [task.task_id for task in full.tasks] + list(full.others)
        assert sorted(named) == ["t1", "t2", "t3", "t4", "t5"]
        arrived = [task.task_id for task in full.tasks]
        while len(arrived) < 5:
            more = await agent.hear()
            assert isinstance(more, Assignments)
            assert not more.full
            arrived += [task.task_id for task in more.tasks]
        assert arrived == named
