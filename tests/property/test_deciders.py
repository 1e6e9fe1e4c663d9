"""Every decider, on any state that the state machine can get into."""

from hypothesis import given
from hypothesis import strategies as st
from swarmlet.control import orchestrator, scheduler
from swarmlet.control.nodeset import NodeSet
from swarmlet.control.template import Template
from swarmlet.model.objects import Node, NodeState, Service, Task, TaskState
from swarmlet.model.specs import Availability
from swarmlet.state.commands import AnyCommand, CreateTasks, DeleteTasks, NewTask, PutService
from swarmlet.state.store import SlotKey

from tests.fakes.world import World, a_node, a_service
from tests.property.commands import host_ports, labels, logs, nodes, placements
from tests.property.test_state import Log, replay

seconds = st.integers(0, 400)


def world_of(log: Log, later: int) -> World:
    world = World()
    replay(log, world.store)
    world.pass_time(later)
    return world


@given(logs, seconds, st.integers(0, 3))
def test_a_decision_carried_out_leaves_nothing_to_decide(log: Log, later: int, which: int) -> None:
    world = world_of(log, later)
    decide = world.deciders()[which]
    commands = decide().commands
    world.do(*commands)
    if not any(isinstance(command, PutService) for command in commands):
        assert decide().commands == ()  # a rollback is a new wish: what it needs comes after it


@given(logs, seconds)
def test_decisions_are_never_refused(log: Log, later: int) -> None:
    world = world_of(log, later)
    for decide in world.deciders():
        world.ok(*decide().commands)


@given(logs, seconds)
def test_the_loops_come_to_rest_with_one_wanted_task_in_a_slot(log: Log, later: int) -> None:
    """Or with two: an old one that runs, and its replacement that does not yet."""
    world = world_of(log, later)
    world.settle()
    for service in world.store.services():
        template = Template(world.store, service)
        slots: dict[SlotKey, list[Task]] = {}
        for task in world.wanted(service.id):
            slots.setdefault(task.slot_key, []).append(task)
        for tasks in slots.values():
            runs = [(template.fits(t), t.status.state is TaskState.RUNNING) for t in tasks]
            assert len(tasks) == 1 or sorted(runs) == [(False, True), (True, False)]


@given(logs, seconds)
def test_no_more_tasks_are_wanted_than_asked_for(log: Log, later: int) -> None:
    world = world_of(log, later)
    world.settle()
    for service in world.store.services():
        if not service.spec.is_global:
            slots = {task.slot for task in world.wanted(service.id)}
            assert len(slots) <= service.spec.replicas


@given(logs, seconds)
def test_a_decision_names_when_to_look_again(log: Log, later: int) -> None:
    """Nothing is left to chance: what waits for a time has an alarm, in the future."""
    world = world_of(log, later)
    for decide in world.deciders():
        decision = decide()
        assert decision.wake_at == min(decision.again.values(), default=None)
        assert decision.wake_at is None or decision.wake_at > world.now
    world.settle()
    again = world.orchestrate().again
    for task in world.store.tasks():
        held = task.wanted and task.desired is TaskState.READY and task.not_before > world.now
        if held and world.store.service(task.service_id):
            assert again[task.service_id] <= task.not_before


@given(logs, seconds)
def test_the_order_of_the_tables_does_not_matter(log: Log, later: int) -> None:
    """A leader that started from a snapshot places tasks as one that saw the whole log."""
    world = world_of(log, later)
    nodes = NodeSet.of(world.store)
    nodes.loads = dict(reversed(nodes.loads.items()))
    waiting = [task.id for task in world.store.unassigned()]
    other = scheduler.decide(world.store, world.now, tasks=reversed(waiting), nodes=nodes)
    assert world.schedule() == other


@given(logs, seconds)
def test_the_scheduler_leaves_the_node_set_as_it_was(log: Log, later: int) -> None:
    world = world_of(log, later)
    nodes = NodeSet.of(world.store)
    scheduler.decide(world.store, world.now, nodes=nodes)
    assert nodes.loads == NodeSet.of(world.store).loads


@given(logs, seconds)
def test_the_reaper_spares_what_may_run(log: Log, later: int) -> None:
    world = world_of(log, later)
    for command in world.reap().commands:
        if not isinstance(command, DeleteTasks):
            continue
        for task_id in command.ids:
            task = world.task(task_id)
            node = world.store.node(task.node_id)
            dead = node is None or node.status.state is NodeState.DOWN
            assert task.status.state.ended or (task.desired is TaskState.REMOVE and dead)


# --- placements, checked by an oracle that knows nothing of the pipeline --------------------------

clusters = st.lists(nodes, max_size=4, unique_by=lambda node: node.id)
groups = st.lists(
    st.builds(
        a_service,
        st.sampled_from(["s0", "s1", "s2"]),
        replicas=st.sampled_from([None, 1, 4]),
        placement=st.none() | placements,
        cpus=st.sampled_from([0, 0.5, 1]),
        ports=host_ports,
        labels=labels,
    ),
    max_size=3,
    unique_by=lambda service: service.id,
)


def holding(world: World, node: Node) -> list[Task]:
    return [
        task
        for task in world.store.tasks_on_node(node.id)
        if TaskState.ASSIGNED <= task.status.state <= TaskState.RUNNING
    ]


def fits(world: World, task: Task, node: Node) -> bool:
    """Whether one more task like this one would be right on the node (or is, when it is there)."""
    others = [other for other in holding(world, node) if other.id != task.id]
    about = node.description
    assert about is not None
    reserved = sum(other.spec.reservations.nano_cpus for other in [*others, task])
    ports = {port.published_port for other in others for port in other.ports}
    limit = task.spec.where.max_replicas
    mates = sum(other.service_id == task.service_id and other.wanted for other in others)
    return (
        node.status.state is NodeState.READY
        and node.spec.availability is Availability.ACTIVE
        and (not task.spec.reservations.nano_cpus or reserved <= about.resources.nano_cpus)
        and all(_meets(node, text) for text in task.spec.where.constraints)
        and not any(port.published_port in ports for port in task.ports)
        and (not limit or mates < limit)
    )


def _meets(node: Node, text: str) -> bool:
    key, operator, value = text.split()
    found = {
        "node.labels.zone": node.spec.labels.get("zone", ""),
        "node.labels.disk": node.spec.labels.get("disk", ""),
        "node.role": node.role.value,
    }[key]
    return (found == value) == (operator == "==")


@given(clusters, groups)
def test_placements_fit_and_refusals_are_true(cluster: list[Node], services: list[Service]) -> None:
    """What is placed passes every filter; what is refused fits nowhere, and says why."""
    world = World()
    world.nodes(*cluster)
    for service in services:
        world.service(service)
    # Several rounds: later tasks meet nodes that earlier ones filled.
    for _ in range(2):
        world.do(*world.orchestrate().commands)
        world.do(*world.schedule().commands)
    for task in world.store.tasks():
        if task.status.state is TaskState.ASSIGNED:
            node = world.store.node(task.node_id)
            assert node is not None
            assert fits(world, task, node)
        else:
            assert task.status.err.startswith("no suitable node")
            assert task.status.message == "pending task scheduling"
            candidates = [n for n in cluster if task.node_id in {"", n.id}]
            assert not any(fits(world, task, node) for node in candidates)


@given(clusters, st.integers(1, 12))
def test_tasks_are_spread_evenly(cluster: list[Node], replicas: int) -> None:
    """Without preferences no suitable node has two tasks more than another."""
    world = World()
    world.nodes(*cluster)
    world.service(a_service(replicas=replicas))
    world.settle()
    counts = [len(holding(world, node)) for node in cluster if node.schedulable]
    assert not counts or max(counts) - min(counts) <= 1
    assert not counts or sum(counts) == replicas


@given(st.integers(0, 10), st.integers(0, 10))
def test_scaling_there_and_back_keeps_the_count(first: int, second: int) -> None:
    world = World()
    world.nodes(a_node("n0"), a_node("n1"))
    for replicas in (first, second, first):
        world.service(a_service(replicas=replicas))
        world.run()
        assert len(world.running()) == replicas


@given(logs, seconds)
def test_new_tasks_get_ids_from_the_caller_only(log: Log, later: int) -> None:
    world = world_of(log, later)
    services = [service.id for service in world.store.services()]
    given_out: list[str] = []

    def new_id() -> str:
        given_out.append(world.new_id())
        return given_out[-1]

    decision = orchestrator.decide(world.store, services, world.now, new_id)
    made = [task.id for command in decision.commands for task in _tasks(command)]
    assert made == given_out


def _tasks(command: AnyCommand) -> tuple[NewTask, ...]:
    return command.tasks if isinstance(command, CreateTasks) else ()
