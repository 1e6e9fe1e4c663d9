"""A manager's parts on memory consensus, and agents on memory streams: no sockets, no clocks."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

import trio
from swarmlet.clock import SECOND, Instant
from swarmlet.consensus.memory import MemoryConsensus
from swarmlet.manager.committer import Committer
from swarmlet.manager.dispatcher import Dispatcher
from swarmlet.manager.links import Links
from swarmlet.manager.members import Members
from swarmlet.manager.proposer import Proposer
from swarmlet.manager.replica import Replica
from swarmlet.model.objects import (
    Cluster,
    JoinTokens,
    Node,
    NodeDescription,
    RootCa,
    Service,
    TaskState,
    TaskStatus,
)
from swarmlet.model.specs import (
    Availability,
    ClusterSpec,
    ContainerSpec,
    NodeSpec,
    Platform,
    Resources,
    Role,
    ServiceSpec,
    TaskSpec,
)
from swarmlet.rpc.channel import Channel
from swarmlet.rpc.messages import (
    Acknowledged,
    Assignments,
    Forwarding,
    FromManager,
    GoodbyeReason,
    Hello,
    Message,
    Welcome,
)
from swarmlet.security import ca, tokens
from swarmlet.state.commands import (
    ChangeTasks,
    CreateTasks,
    NewTask,
    PutCluster,
    PutNode,
    PutService,
    TaskChange,
)
from trio.testing import memory_stream_pair

NOW = Instant(1_800_000_000 * SECOND)

DESCRIPTION = NodeDescription(
    hostname="w1", platform=Platform(architecture="x86_64", os="linux"), resources=Resources()
)


def now() -> Instant:
    return NOW


class RigEars:
    """Remembers what was heard."""

    def __init__(self) -> None:
        self.nodes: list[str] = []
        self.goodbyes: list[tuple[str, GoodbyeReason | None]] = []

    def heard(self, node_id: str) -> None:
        self.nodes.append(node_id)

    def ended(self, node_id: str, goodbye: GoodbyeReason | None) -> None:
        self.goodbyes.append((node_id, goodbye))

    def probed(self, number: int, *, heard: bool) -> None:
        raise AssertionError(f"nobody was probed: {number} {heard}")


class Rig:
    """One manager that leads, without a network."""

    def __init__(self, links: Links | None = None) -> None:
        rng = Random(7)
        self.replica = Replica()
        self.consensus = MemoryConsensus("m1", self.replica)
        self.links = links or Links(_no_link)
        self.proposer = Proposer(self.consensus, self.links, member="m1", now=now, rng=rng)
        self.committer = Committer(self.proposer)
        self.members = Members(
            self.replica, self.consensus, self.proposer, probe=_heard, now=now, rng=rng
        )
        self.ears = RigEars()
        self.dispatcher = Dispatcher(
            self.replica,
            self.committer,
            now=now,
            barrier=self.proposer.barrier,
            ears=self.ears,
        )

    async def found(self) -> RootCa:
        """Give the cluster its object and this manager's node."""
        root = ca.create_root(NOW)
        digest, rng = ca.digest(root.cert), Random(3)
        cluster = Cluster(
            id="c1",
            spec=ClusterSpec(name="default"),
            root_ca=root,
            tokens=JoinTokens(
                worker=tokens.new_token(digest, rng), manager=tokens.new_token(digest, rng)
            ),
        )
        await self.proposer.propose(PutCluster(cluster=cluster, expect=0))
        await self.node("m1", role=Role.MANAGER, addr="10.0.0.1:2377")
        return root

    async def node(self, node_id: str, *, role: Role = Role.WORKER, addr: str = "") -> None:
        """Add a node."""
        spec = NodeSpec(role=role, availability=Availability.ACTIVE)
        node = Node(id=node_id, spec=spec, role=role, manager_addr=addr)
        await self.proposer.propose(PutNode(node=node, expect=0))

    async def task(self, task_id: str, node_id: str, *, slot: int = 1) -> None:
        """Add a task of service ``s1`` that the scheduler has placed."""
        if self.replica.view.service("s1") is None:
            template = TaskSpec(container_spec=ContainerSpec(image="busybox"))
            spec = ServiceSpec(name="web", task_template=template)
            await self.proposer.propose(PutService(service=Service(id="s1", spec=spec), expect=0))
        service = self.replica.view.service("s1")
        assert service is not None
        assigned = TaskStatus(state=TaskState.ASSIGNED, at=NOW)
        await self.proposer.propose(
            CreateTasks(
                service_id="s1",
                spec_version=service.spec_version,
                tasks=(NewTask(id=task_id, slot=slot),),
            ),
            ChangeTasks(changes=(TaskChange(id=task_id, node_id=node_id, status=assigned),)),
        )

    def the_node(self, node_id: str) -> Node:
        """A node as it is now."""
        node = self.replica.view.node(node_id)
        assert node is not None
        return node

    def status_of(self, task_id: str) -> TaskStatus:
        """What is known of a task now."""
        task = self.replica.view.task(task_id)
        assert task is not None
        return task.status

    @asynccontextmanager
    async def running(self) -> AsyncIterator[trio.Nursery]:
        """Run committer and dispatcher."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.committer.run)
            nursery.start_soon(self.dispatcher.run)
            await trio.testing.wait_all_tasks_blocked()
            yield nursery
            nursery.cancel_scope.cancel()

    async def agent(self, nursery: trio.Nursery, node_id: str = "w1") -> "Agent":
        """Connect an agent and let it say hello."""
        ours, theirs = memory_stream_pair()
        nursery.start_soon(self.dispatcher.serve, ours, node_id, "10.0.0.9")
        agent = Agent(Channel(theirs, FromManager, peer="manager"))
        await agent.say(Hello(description=DESCRIPTION, listen_port=2377, swarmlet_version="0"))
        return agent

    @asynccontextmanager
    async def welcomed(self) -> AsyncIterator["Agent"]:
        """Run, with an agent of ``w1`` that was greeted."""
        async with self.running() as nursery:
            agent = await self.agent(nursery)
            await agent.welcomed()
            yield agent


class Agent:
    """The other end of a session, in the test's hand."""

    def __init__(self, channel: Channel[FromManager]) -> None:
        self.channel = channel
        self.forwarding: list[Forwarding] = []

    async def say(self, message: Message) -> None:
        await self.channel.send(message)

    async def hear(self) -> FromManager:
        """The next message, but for what the node forwards by: that is kept aside."""
        while isinstance(message := await self.channel.receive(), Forwarding):
            self.forwarding.append(message)
        return message

    async def acknowledged(self, seq: int) -> None:
        """Wait for an acknowledgement; what else follows from a report may come before it."""
        while isinstance(message := await self.hear(), Assignments):
            pass
        assert message == Acknowledged(seq=seq)

    async def welcomed(self) -> Assignments:
        """Take the greeting; returns the full assignment set."""
        assert isinstance(await self.hear(), Welcome)
        full = await self.hear()
        assert isinstance(full, Assignments)
        assert full.full
        return full


async def _heard(node_id: str, addr: str) -> bool:
    return bool(node_id and addr)


async def _no_link(member: str) -> trio.abc.Stream:
    raise AssertionError(f"nobody dials {member} in this test")
