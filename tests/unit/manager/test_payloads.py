"""Secrets and configs go to the nodes that run tasks which name them, and to no others."""

import pytest
from msgspec.structs import replace
from swarmlet.manager import payloads
from swarmlet.manager.payloads import PayloadFeed
from swarmlet.model.objects import TaskState, TaskStatus
from swarmlet.model.specs import Driver
from swarmlet.rpc.messages import Assignments, Payloads, Report
from swarmlet.state.commands import (
    ChangeTasks,
    CreateTasks,
    DeleteTasks,
    NewTask,
    PutSecret,
    PutService,
    TaskChange,
)

from tests.fakes.world import World, a_config, a_node, a_secret, a_service
from tests.unit.manager.rig import NOW, Agent, Rig


def placed(world: World, task_id: str, *, service: str = "web", node: str = "n0") -> None:
    found = world.found(service)
    world.ok(
        CreateTasks(
            service_id=service,
            spec_version=found.spec_version,
            tasks=(NewTask(id=task_id, slot=1),),
        )
    )
    status = TaskStatus(state=TaskState.ASSIGNED, at=world.now)
    change = TaskChange(id=task_id, node_id=node, status=status)
    world.ok(ChangeTasks(changes=(change,)))


@pytest.fixture
def world() -> World:
    world = World()
    world.nodes(a_node("n0"))
    world.secrets(a_secret("key", data=b"k"), a_secret("other", data=b"o"))
    world.configs(a_config("conf", data=b"c"))
    world.service(a_service(secrets=("key",), configs=("conf",)))
    return world


def said(messages: list[Payloads]) -> list[tuple[dict[str, bytes], tuple[str, ...]]]:
    return [(message.data, message.gone) for message in messages]


def test_what_many_tasks_share_is_sent_once(world: World) -> None:
    feed = PayloadFeed()
    for number in range(100):
        placed(world, f"t{number}")
    ids = [f"t{number}" for number in range(100)]
    assert said(feed.next(world.store, ids[:60])) == [({"id-conf": b"c", "id-key": b"k"}, ())]
    assert feed.next(world.store, ids) == []
    assert feed.given == ("id-conf", "id-key")


def test_it_goes_with_the_last_task_that_needs_it(world: World) -> None:
    feed = PayloadFeed()
    placed(world, "t1")
    placed(world, "t2")
    feed.next(world.store, ["t1", "t2"])
    world.report("t1", TaskState.FAILED)
    assert feed.next(world.store, ["t1"]) == []
    world.ok(ChangeTasks(changes=(TaskChange(id="t2", desired=TaskState.SHUTDOWN),)))
    assert feed.next(world.store, ["t2"]) == []  # it runs yet
    world.ok(DeleteTasks(ids=("t2",)))
    assert said(feed.next(world.store, ["t2"])) == [({}, ("id-conf", "id-key"))]
    assert feed.given == ()


def test_a_successor_keeps_what_it_shares(world: World) -> None:
    feed = PayloadFeed()
    placed(world, "t1")
    feed.next(world.store, ["t1"])
    world.service(a_service(secrets=("key", "other")))
    placed(world, "t2")
    world.report("t1", TaskState.SHUTDOWN)
    assert said(feed.next(world.store, ["t1", "t2"])) == [({"id-other": b"o"}, ("id-conf",))]


def test_a_task_that_waits_for_a_place_needs_nothing(world: World) -> None:
    feed = PayloadFeed()
    found = world.found()
    task = NewTask(id="t1", slot=1, node_id="n0")
    command = CreateTasks(service_id="web", spec_version=found.spec_version, tasks=(task,))
    world.ok(command)
    assert feed.next(world.store, ["t1"]) == []


def test_much_data_goes_in_several_messages(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payloads, "MAX_DATA", 10)
    names = ("a", "b", "c", "d")
    world.secrets(*(a_secret(name, data=bytes(6 if name != "c" else 20)) for name in names))
    world.service(a_service("many", secrets=names))
    placed(world, "t1", service="many")
    messages = PayloadFeed().next(world.store, ["t1"])
    assert [list(message.data) for message in messages] == [["id-a"], ["id-b"], ["id-c"], ["id-d"]]


def test_templates_are_named(world: World) -> None:
    template = a_config("page", data=b"{{.Task.Slot}}")
    spec = replace(template.spec, templating=Driver(name="golang"))
    world.configs(replace(template, spec=spec))
    world.service(a_service("many", secrets=("key",), configs=("page",)))
    placed(world, "t1", service="many")
    (message,) = PayloadFeed().next(world.store, ["t1"])
    assert (sorted(message.data), message.templates) == (["id-key", "id-page"], ("id-page",))


def test_no_text_of_a_message_shows_data() -> None:
    assert "hidden" not in repr(Payloads(data={"id-key": b"hidden"}))


# --- on the wire --------------------------------------------------------------------------------


@pytest.fixture
async def rig(autojump_clock: object) -> Rig:
    """A manager that leads, two nodes, and a service whose tasks need a secret."""
    rig = Rig()
    await rig.found()
    await rig.node("w1")
    await rig.node("w2")
    await rig.proposer.propose(PutSecret(secret=a_secret("key", data=b"k"), expect=0))
    service = a_service("s1", secrets=("key",))
    await rig.proposer.propose(PutService(service=service, expect=0))
    return rig


async def heard(agent: Agent, count: int) -> list[object]:
    return [await agent.hear() for _ in range(count)]


async def test_data_comes_before_the_task_and_to_its_node_only(rig: Rig) -> None:
    async with rig.running() as nursery:
        one, other = await rig.agent(nursery, "w1"), await rig.agent(nursery, "w2")
        for agent in (one, other):
            assert (await agent.welcomed()).payloads == ()
        await rig.task("t1", "w1")
        data, tasks = await heard(one, 2)
        assert data == Payloads(data={"id-key": b"k"})
        assert isinstance(tasks, Assignments)
        assert [task.task_id for task in tasks.tasks] == ["t1"]
        await rig.proposer.propose(PutService(service=a_service("s2"), expect=0))
        stop = TaskChange(id="t1", desired=TaskState.SHUTDOWN)
        await rig.proposer.propose(ChangeTasks(changes=(stop,)))
        assert isinstance(await one.hear(), Assignments)
        ended = TaskStatus(state=TaskState.SHUTDOWN, at=NOW)
        await one.say(Report(seq=1, statuses=(("t1", ended),)))
        while not isinstance(message := await one.hear(), Payloads):
            pass
        assert message == Payloads(gone=("id-key",))
        await rig.task("t2", "w2", slot=2)
        assert await other.hear() == Payloads(data={"id-key": b"k"})  # the first that it heard


async def test_a_new_session_says_what_may_be_kept(rig: Rig) -> None:
    await rig.task("t1", "w1")
    async with rig.running() as nursery:
        for _ in range(2):
            agent = await rig.agent(nursery)
            await agent.hear()  # the greeting
            data, tasks = await heard(agent, 2)
            assert data == Payloads(data={"id-key": b"k"})
            assert isinstance(tasks, Assignments)
            assert (tasks.full, tasks.payloads) == (True, ("id-key",))
