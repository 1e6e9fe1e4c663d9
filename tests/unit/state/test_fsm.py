"""Each replicated command: what it does, and what it refuses."""

import pytest
from msgspec.structs import replace
from swarmlet.clock import SECOND, Instant
from swarmlet.errors import Damaged
from swarmlet.model.objects import (
    Cluster,
    ContainerStatus,
    JoinTokens,
    NodeState,
    RootCa,
    Task,
    TaskState,
    TaskStatus,
    UpdateState,
    UpdateStatus,
)
from swarmlet.model.specs import ClusterSpec, NetworkAttachment, PortConfig, Role
from swarmlet.state import commands as log
from swarmlet.state import snapshot
from swarmlet.state.commands import (
    ChangeNodes,
    ChangeTasks,
    CreateTasks,
    DeleteNode,
    DeleteService,
    DeleteTasks,
    NewTask,
    NodeChange,
    PutCluster,
    PutNode,
    PutService,
    Refusal,
    ReportTasks,
    SetUpdateStatus,
    TaskChange,
    TaskReport,
)

from tests.fakes.world import START, World, a_network, a_node, a_service


@pytest.fixture
def world() -> World:
    """Two nodes, a service, and its task t1, unassigned."""
    world = World()
    world.nodes(a_node("n0"), a_node("n1"))
    world.service(a_service())
    create(world, NewTask(id="t1", slot=1))
    return world


def create(world: World, *tasks: NewTask) -> None:
    service = world.store.service("web")
    assert service is not None
    command = CreateTasks(service_id="web", spec_version=service.spec_version, tasks=tasks)
    world.ok(command)


def change(world: World, **fields: object) -> Task:
    world.ok(ChangeTasks(changes=(TaskChange(id="t1", **fields),)))  # type: ignore[arg-type]
    return world.task("t1")


def status(state: TaskState, **fields: object) -> TaskStatus:
    return TaskStatus(state=state, at=START, **fields)  # type: ignore[arg-type]


def assigned(world: World) -> Task:
    return change(world, node_id="n0", status=status(TaskState.ASSIGNED))


def report(world: World, node_id: str, new: TaskStatus) -> TaskStatus:
    world.ok(ReportTasks(node_id=node_id, reports=(TaskReport("t1", new),)))
    return world.task("t1").status


def refused(world: World, command: log.AnyCommand) -> str:
    index = world.store.index
    before = snapshot.freeze(world.store)()
    (outcome,) = world.do(command)
    assert outcome is not None
    assert world.store.index == index + 1
    world.store.index = index
    assert snapshot.freeze(world.store)() == before
    return outcome.code


# --- nodes and cluster ----------------------------------------------------------------------------


def test_the_cluster_is_replaced_by_who_has_read_it(world: World) -> None:
    cluster = Cluster(
        id="c",
        spec=ClusterSpec(),
        root_ca=RootCa(cert="", key=""),
        tokens=JoinTokens(worker="", manager=""),
    )
    world.ok(PutCluster(cluster=cluster, expect=0))
    assert refused(world, PutCluster(cluster=cluster, expect=0)) == "conflict"
    assert world.store.cluster is not None
    assert world.store.cluster.version == world.store.index


def test_objects_carry_index_and_time(world: World) -> None:
    first = world.store.node("n0")
    assert first is not None
    world.pass_time(5)
    world.node_state("n0", NodeState.DOWN)
    second = world.store.node("n0")
    assert second is not None
    assert (second.created_at, second.updated_at) == (first.created_at, world.now)
    assert (first.version, second.version) == (1, world.store.index)


def test_a_stale_node_is_refused(world: World) -> None:
    assert refused(world, PutNode(node=a_node("n0"), expect=0)) == "conflict"
    assert refused(world, PutNode(node=a_node("n9"), expect=3)) == "conflict"


def test_what_is_observed_leaves_the_rest_alone(world: World) -> None:
    world.ok(ChangeNodes(changes=(NodeChange(id="n0", role=Role.MANAGER), NodeChange(id="gone"))))
    node = world.store.node("n0")
    assert node is not None
    assert (node.role, node.spec.role, node.hostname) == (Role.MANAGER, Role.WORKER, "host-n0")


def test_an_observation_that_is_no_news_keeps_the_version(world: World) -> None:
    """Otherwise an operator's update would be out of sequence for nothing."""
    before = world.store.node("n0")
    assert before is not None
    world.ok(ChangeNodes(changes=(NodeChange(id="n0", status=before.status),)))
    assert world.store.node("n0") is before


def test_a_removed_node_orphans_what_still_ran(world: World) -> None:
    assigned(world)
    create(world, NewTask(id="t2", slot=2))
    world.ok(ChangeTasks(changes=(TaskChange(id="t2", node_id="n0"),)))
    world.report("t2", TaskState.FAILED)
    assert refused(world, DeleteNode(id="n0", expect=7)) == "conflict"
    node = world.store.node("n0")
    assert node is not None
    world.ok(DeleteNode(id="n0", expect=node.version))
    assert world.task("t1").status.state is TaskState.ORPHANED
    assert world.task("t1").desired is TaskState.SHUTDOWN
    assert world.task("t2").status.state is TaskState.FAILED
    assert refused(world, DeleteNode(id="n0", expect=0)) == "not-found"


# --- services -------------------------------------------------------------------------------------


def test_a_name_belongs_to_one_service(world: World) -> None:
    twin = a_service("other")
    twin = replace(twin, spec=replace(twin.spec, name="name-web"))
    (outcome,) = world.do(PutService(service=twin, expect=0))
    assert outcome == Refusal(
        "exists",
        "rpc error: code = AlreadyExists desc = name conflicts with an existing object: "
        "service name-web already exists",
    )
    world.ok(DeleteService(id="web"))
    world.ok(PutService(service=twin, expect=0))


def test_a_service_that_is_renamed_frees_its_name(world: World) -> None:
    service = world.store.service("web")
    assert service is not None
    renamed = replace(service, spec=replace(service.spec, name="new"))
    world.ok(PutService(service=renamed, expect=service.version))
    assert world.store.service_named("name-web") is None
    assert world.store.service_named("new") is not None


def spec_version(world: World) -> int:
    service = world.store.service("web")
    assert service is not None
    return service.spec_version


def test_only_what_tasks_are_made_of_changes_the_spec_version(world: World) -> None:
    first = spec_version(world)
    world.service(a_service(replicas=9, labels={"a": "b"}))
    assert spec_version(world) == first
    world.service(a_service(image="app:2"))
    second = spec_version(world)
    world.service(
        a_service(image="app:2", ports=(PortConfig(target_port=80, publish_mode="host"),))
    )
    third = spec_version(world)
    service = a_service(image="app:2", ports=(PortConfig(target_port=80, publish_mode="host"),))
    world.networks(a_network())
    networks = (NetworkAttachment(target="net"),)
    world.service(replace(service, spec=replace(service.spec, networks=networks)))
    assert first < second < third < spec_version(world)


def test_a_proposer_cannot_choose_the_spec_version(world: World) -> None:
    service = world.store.service("web")
    assert service is not None
    world.ok(PutService(service=replace(service, spec_version=77), expect=service.version))
    assert spec_version(world) == service.spec_version


def test_an_update_that_begins_again_is_a_new_spec_version(world: World) -> None:
    """So that the tasks which it makes are told from those of the one that was paused."""
    world.service(a_service(image="app:2"), updating=True)
    begun = spec_version(world)
    service = world.store.service("web")
    assert service is not None
    world.ok(PutService(service=service, expect=service.version))
    assert spec_version(world) == begun
    world.pass_time(1)
    world.service(a_service(image="app:2"), updating=True)
    assert spec_version(world) == world.store.index > begun


def test_an_update_status_belongs_to_the_version_it_was_decided_on(world: World) -> None:
    service = world.store.service("web")
    assert service is not None
    done = UpdateStatus(state=UpdateState.COMPLETED, started_at=START)
    world.ok(SetUpdateStatus(id="web", expect=service.version, update_status=done))
    stale = SetUpdateStatus(id="web", expect=service.version, update_status=done)
    assert refused(world, stale) == "conflict"
    gone = SetUpdateStatus(id="gone", expect=0, update_status=done)
    assert refused(world, gone) == "conflict"


def test_a_removed_service_asks_its_tasks_to_go(world: World) -> None:
    assigned(world)
    world.ok(DeleteService(id="web"))
    assert world.task("t1").desired is TaskState.REMOVE
    assert world.task("t1").status.state is TaskState.ASSIGNED
    assert refused(world, DeleteService(id="web")) == "not-found"


# --- tasks ----------------------------------------------------------------------------------------


def test_tasks_are_made_from_the_template_they_were_decided_on(world: World) -> None:
    old = spec_version(world)
    world.service(a_service(image="app:2"))
    late = CreateTasks(service_id="web", spec_version=old, tasks=(NewTask(id="t2"),))
    assert refused(world, late) == "conflict"
    assert world.task("t1").spec.container.image == "app:1"
    assert world.task("t1").name == "name-web.1.t1"
    assert world.task("t1").status.message == "pending task scheduling"


def test_when_a_task_came_up_and_ended_is_in_the_managers_time(world: World) -> None:
    """The first time that they heard so; a node's clock does not matter, nor do repetitions."""
    assigned(world)
    times = []
    for state in (TaskState.RUNNING, TaskState.RUNNING, TaskState.FAILED, TaskState.FAILED):
        world.pass_time(5)
        times.append(world.now)
        report(world, "n0", status(state, message=f"at {world.now}"))
    task = world.task("t1")
    assert (task.running_at, task.ended_at) == (times[0], times[2])


def test_a_task_is_given_up_once_unless_there_is_news_in_time(world: World) -> None:
    assigned(world)
    change(world, late_at=START + 5)
    assert change(world, late_at=START + 7).late_at == START + 5
    report(world, "n0", status(TaskState.ASSIGNED))  # no news
    assert world.task("t1").late_at == START + 5
    report(world, "n0", status(TaskState.PREPARING))
    assert world.task("t1").late_at == 0
    change(world, late_at=world.now)
    report(world, "n0", status(TaskState.RUNNING))
    assert world.task("t1").late_at == world.now


def test_a_task_is_made_once_and_not_on_a_node_that_is_gone(world: World) -> None:
    before = world.task("t1")
    create(world, NewTask(id="t1", slot=9), NewTask(id="t2", node_id="gone"))
    assert world.task("t1") == before
    assert world.store.task("t2") is None


def test_a_task_is_placed_once(world: World) -> None:
    assigned(world)
    late = change(world, node_id="n1", status=status(TaskState.ASSIGNED, message="late"))
    assert (late.node_id, late.status.message) == ("n0", "")


@pytest.mark.parametrize("node_id", ["gone", ""])
def test_a_task_is_not_placed_on_nothing(world: World, node_id: str) -> None:
    task = change(world, node_id=node_id or None, status=status(TaskState.ASSIGNED))
    assert (task.node_id, task.status.state) == ("", TaskState.PENDING)


def test_a_task_that_nobody_wants_is_not_placed(world: World) -> None:
    change(world, desired=TaskState.SHUTDOWN)
    assert assigned(world).node_id == ""


def test_a_task_that_no_agent_has_ends_with_the_wish(world: World) -> None:
    task = change(world, desired=TaskState.SHUTDOWN)
    assert task.status.state is TaskState.SHUTDOWN
    assert task.status.message == "shut down before it started"


def test_a_task_that_an_agent_has_ends_when_it_says_so(world: World) -> None:
    assigned(world)
    assert change(world, desired=TaskState.SHUTDOWN).status.state is TaskState.ASSIGNED


def test_wishes_only_grow(world: World) -> None:
    assigned(world)
    change(world, desired=TaskState.SHUTDOWN)
    assert change(world, desired=TaskState.RUNNING).desired is TaskState.SHUTDOWN


def test_nobody_wants_a_task_that_has_ended(world: World) -> None:
    assigned(world)
    report(world, "n0", status(TaskState.FAILED, err="exit 1"))
    assert world.task("t1").desired is TaskState.SHUTDOWN
    assert not world.task("t1").wanted


def test_states_only_grow_and_a_container_stays_known(world: World) -> None:
    assigned(world)
    box = ContainerStatus(container_id="c", pid=7)
    report(world, "n0", status(TaskState.RUNNING, container=box))
    assert report(world, "n0", status(TaskState.PREPARING)).state is TaskState.RUNNING
    ended = report(world, "n0", status(TaskState.FAILED))
    assert (ended.state, ended.container) == (TaskState.FAILED, box)


def test_a_node_speaks_for_its_own_tasks_only(world: World) -> None:
    assigned(world)
    assert report(world, "n1", status(TaskState.RUNNING)).state is TaskState.ASSIGNED
    world.ok(ReportTasks(node_id="n0", reports=(TaskReport("gone", status(TaskState.RUNNING)),)))


def test_a_clock_that_runs_ahead_is_set_back(world: World) -> None:
    assigned(world)
    ahead = TaskStatus(state=TaskState.RUNNING, at=Instant(START + 999 * SECOND))
    assert report(world, "n0", ahead).at == world.now


def test_the_same_report_twice_writes_once(world: World) -> None:
    assigned(world)
    report(world, "n0", status(TaskState.RUNNING))
    before = world.task("t1")
    report(world, "n0", status(TaskState.RUNNING))
    assert world.task("t1") is before


def test_forgotten_tasks_leave_every_index(world: World) -> None:
    assigned(world)
    world.ok(DeleteTasks(ids=("t1", "unknown")))
    assert list(world.store.tasks_of_service("web")) == []
    assert list(world.store.tasks_on_node("n0")) == []
    assert list(world.store.tasks_in_slot(("web", 1, ""))) == []
    assert list(world.store.wanted_tasks("web")) == []


def test_watchers_learn_what_was_touched(world: World) -> None:
    world.store.take_change()
    assert not world.store.take_change()
    task = assigned(world)
    touched = world.store.take_change()
    assert (touched.tasks, touched.nodes, touched.services) == ({"t1": task}, set(), set())
    world.ok(DeleteTasks(ids=("t1",)))
    world.node_state("n1", NodeState.DOWN)
    touched.merge(world.store.take_change())
    assert (touched.tasks, touched.nodes) == ({"t1": task}, {"n1"})


# --- forms ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"\xc1", log.encode((), START)[:-1]])
def test_a_damaged_command_stops_the_member(data: bytes) -> None:
    with pytest.raises(Damaged, match="cannot be read"):
        log.decode(data)


def test_a_newer_format_stops_the_member() -> None:
    newer = log.encode((), START).replace(b"\x93\x04", b"\x93\x05", 1)
    with pytest.raises(Damaged, match="format 5"):
        log.decode(newer)
    state = snapshot.freeze(World().store)().replace(b"\x9b\x04", b"\x9b\x05", 1)
    with pytest.raises(Damaged, match="format 5"):
        snapshot.thaw(state)
    with pytest.raises(Damaged, match="cannot be read"):
        snapshot.thaw(b"\x00")


def test_outcomes_survive_their_encoding() -> None:
    outcomes = [None, Refusal("conflict", "text"), None]
    assert log.decode_outcomes(log.encode_outcomes(outcomes)) == tuple(outcomes)
