"""The agent's session, with a manager at the other end of a stream in memory."""

import math
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
import trio
import trio.testing
from swarmlet.agent.session import AgentSession
from swarmlet.errors import EngineUnavailable
from swarmlet.model.defaults import HEARTBEAT
from swarmlet.model.objects import NodeDescription, TaskStatus
from swarmlet.model.specs import Platform, Resources, Role
from swarmlet.model.tunnels import TunnelKeys
from swarmlet.rpc.channel import Channel, ConnectionLost
from swarmlet.rpc.messages import (
    Assignments,
    Beat,
    Described,
    Forwarded,
    Forwarding,
    FromAgent,
    Goodbye,
    GoodbyeReason,
    Hello,
    Payloads,
    Peer,
    Report,
    Settings,
    Welcome,
)

MANAGER = Peer("m", "manager:2377")


class Side:
    """A node whose calls to managers all arrive at one place."""

    listen_port = 2377

    def __init__(self) -> None:
        self.dead: set[str] = set()
        self.engine_answers = True
        self.tunnel: TunnelKeys | None = None
        self.engine_gone = trio.Event()
        self.forwarding: list[Forwarding] = []
        self.kernel = trio.Event()
        self.send, self.calls = trio.open_memory_channel[Channel[FromAgent]](100)

    async def dial(self, addr: str) -> trio.abc.Stream:
        if addr in self.dead:
            await trio.sleep(30)  # a host without power: nothing refuses, nothing answers
        near, far = trio.testing.memory_stream_pair()
        await self.send.send(Channel(far, FromAgent, peer=addr))
        return near

    async def probe(self, node_id: str, addr: str) -> bool:
        return bool(node_id and addr)

    async def describe(self) -> NodeDescription:
        if not self.engine_answers:
            raise EngineUnavailable("no engine")
        return NodeDescription(
            hostname="h", platform=Platform(), resources=Resources(), tunnel=self.tunnel
        )

    async def engine_lost(self) -> None:
        await self.engine_gone.wait()

    def statuses(self) -> dict[str, TaskStatus]:
        return {}

    def on_work(self, work: Payloads | Assignments) -> None:
        pass

    def on_forwarding(self, forwarding: Forwarding) -> None:
        self.forwarding.append(forwarding)

    async def forwards(self) -> None:
        await self.kernel.wait()

    def on_settings(self, settings: Settings) -> None:
        pass


async def said(channel: Channel[FromAgent]) -> FromAgent:
    """The next message that is not routine."""
    while True:
        message = await channel.receive()
        if not isinstance(message, Beat | Report):
            return message


async def welcome(manager: Channel[FromAgent]) -> None:
    """Greet the agent, as a leader does."""
    assert isinstance(await said(manager), Hello)
    await manager.send(Welcome(heartbeat=HEARTBEAT, managers=(MANAGER,), role=Role.WORKER))
    await trio.testing.wait_all_tasks_blocked()


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[Side, AgentSession, Channel[FromAgent]]]:
    """A session that runs, and the manager's end of its first connection."""
    side = Side()
    session = AgentSession(side, managers=[MANAGER], rng=random.Random(1))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.run)
        yield side, session, await side.calls.receive()
        nursery.cancel_scope.cancel()


async def test_after_goodbye_no_session_follows(autojump_clock: trio.testing.MockClock) -> None:
    """A daemon that stops or leaves must not come back a moment later and take its word back."""
    async with connected() as (side, session, manager):
        await welcome(manager)

        await session.goodbye(GoodbyeReason.RESTART)

        assert await said(manager) == Goodbye(reason=GoodbyeReason.RESTART)
        await manager.aclose()
        with trio.move_on_after(60) as patience:
            await side.calls.receive()
        assert patience.cancelled_caught


async def test_what_changed_of_a_node_is_told_in_the_same_session(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """And not again by the next one, which begins with it."""
    async with connected() as (side, session, manager):
        await welcome(manager)
        side.tunnel = TunnelKeys(lanes=("key", ""))
        session.describe_again()
        described = await said(manager)
        assert isinstance(described, Described)
        assert described.description.tunnel == side.tunnel
        await manager.aclose()
        again = await side.calls.receive()
        hello = await said(again)
        assert isinstance(hello, Hello)
        assert hello.description == described.description
        await again.send(Welcome(heartbeat=HEARTBEAT, managers=(MANAGER,), role=Role.WORKER))
        await session.goodbye(GoodbyeReason.RESTART)
        assert await said(again) == Goodbye(reason=GoodbyeReason.RESTART)


async def test_a_goodbye_waits_for_the_session_that_is_being_made(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A leader that has handed over says goodbye to the next one, once it knows it."""
    async with connected() as (_, session, manager), trio.open_nursery() as nursery:
        nursery.start_soon(session.goodbye, GoodbyeReason.LEAVE)
        await trio.testing.wait_all_tasks_blocked()
        await manager.send(Welcome(heartbeat=HEARTBEAT, managers=(MANAGER,), role=Role.WORKER))
        assert isinstance(await said(manager), Hello)
        assert await said(manager) == Goodbye(reason=GoodbyeReason.LEAVE)


async def test_a_node_is_alone_from_the_end_of_its_session(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Not from the last try to get another; and before the first one for ever."""
    async with connected() as (_, session, manager):
        assert math.isinf(session.alone())
        await welcome(manager)
        await trio.sleep(1)
        assert not session.alone()
        await manager.aclose()
        await trio.sleep(10)
        assert 9 < session.alone() <= 10


async def test_a_node_without_its_engine_falls_silent_and_returns_with_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The daemon lives on: a manager must not die with an engine."""
    async with connected() as (side, _, manager):
        await welcome(manager)

        side.engine_answers = False
        side.engine_gone.set()

        with pytest.raises(ConnectionLost):
            await said(manager)
        await trio.sleep(3)
        side.engine_answers, side.engine_gone = True, trio.Event()
        for _ in range(50):
            with suppress(ConnectionLost):
                assert isinstance(await said(await side.calls.receive()), Hello)
                break
        else:
            pytest.fail("it did not return")


async def test_managers_without_power_do_not_hold_an_agent_up(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Two of three are silent: the third is reached before it would give this node up."""
    for seed in range(6):
        side = Side()
        side.dead = {"a:2377", "b:2377"}
        peers = [Peer(name, f"{name}:2377") for name in "abc"]
        session = AgentSession(side, managers=peers, rng=random.Random(seed))
        started = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.run)
            manager = await side.calls.receive()
            assert manager.peer == "c:2377"
            assert trio.current_time() - started < 2.5
            nursery.cancel_scope.cancel()


async def test_a_manager_that_takes_a_connection_and_is_silent_is_given_up(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with connected() as (side, _, _):
        with trio.fail_after(10):
            await side.calls.receive()


async def test_what_the_kernel_forwards_by_is_confirmed(autojump_clock: object) -> None:
    """Not before it does, and only when all pieces are there."""
    async with connected() as (side, _, manager):
        await welcome(manager)
        await manager.send(Forwarding(seq=1, full=True, last=False))
        await manager.send(Forwarding(seq=1))
        await trio.testing.wait_all_tasks_blocked()
        assert [(m.full, m.last) for m in side.forwarding] == [(True, False), (False, True)]
        side.kernel.set()
        assert await said(manager) == Forwarded(seq=1)
