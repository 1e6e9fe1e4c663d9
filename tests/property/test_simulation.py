"""The loops against a world that misbehaves: crashes, dead nodes, new specs, lost leaders."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from swarmlet.clock import SECOND
from swarmlet.control.decision import Decision
from swarmlet.control.nodeset import NodeSet
from swarmlet.model.objects import NodeState, Service, TaskState
from swarmlet.model.specs import Availability, RestartPolicy, UpdateConfig
from swarmlet.state import snapshot
from swarmlet.state.commands import ChangeTasks

from tests.fakes.world import World, a_node, a_service

NODES = [f"n{i}" for i in range(3)]
RESTART = RestartPolicy(delay=2 * SECOND)


class Sim(World):
    """A world that checks at each step what must never happen."""

    def __init__(self, replicas: int | None, config: UpdateConfig | None = None) -> None:
        super().__init__()
        self.replicas = replicas
        self.config = config or UpdateConfig(parallelism=1)
        self.image = "app:1"
        self.load = NodeSet()
        self.nodes(*(a_node(node_id) for node_id in NODES))
        self.service(self.wish())

    def wish(self) -> Service:
        return a_service(
            replicas=self.replicas,
            image=self.image,
            restart=RESTART,
            update=self.config,
            rollback=self.config,
        )

    def deploy(self) -> None:
        self.update(self.wish())

    def lead(self, *, commits: int | None = None) -> None:
        """One round of every loop; with ``commits``, the leader vanishes after so many commands."""
        left = 1_000 if commits is None else commits
        for decide in self.deciders():
            decision = decide()
            if decide == self.orchestrate:
                self.check_floor(decision)
            for command in decision.commands[:left]:
                self.ok(command)
                self.check()
            left -= len(decision.commands)
            if left < 0:
                self.new_leader()
                return

    def new_leader(self) -> None:
        """All that a new leader has is the replicated state."""
        self.store = snapshot.thaw(snapshot.freeze(self.store)())
        self.load = NodeSet()

    def check(self) -> None:
        wanted = Counter(task.slot_key for task in self.store.wanted_tasks("web"))
        assert all(count <= self.in_slot for count in wanted.values())
        running = Counter(task.slot_key for task in self.running() if self.up(task.node_id))
        assert max(running.values(), default=0) <= self.in_slot, "too many of a slot run at once"
        self.load.update(self.store, self.store.take_change())
        assert self.load.loads == NodeSet.of(self.store).loads

    @property
    def in_slot(self) -> int:
        """So many tasks may be wanted, and run, in one slot."""
        return 2 if self.config.order == "start-first" else 1

    def check_floor(self, decision: Decision) -> None:
        """An update stops running tasks only as far as its terms allow."""
        stopped = {
            change.id
            for command in decision.commands
            if isinstance(command, ChangeTasks)
            for change in command.changes
            if change.desired is TaskState.SHUTDOWN
        }
        wanted = self.wanted()
        hit = [t for t in wanted if t.id in stopped and t.status.state is TaskState.RUNNING]
        surplus = self.replicas is not None and len({t.slot for t in wanted}) > self.replicas
        if not hit or surplus or any(not self.stays(task.node_id) for task in hit):
            return
        running = {t.slot_key for t in wanted if t.status.state is TaskState.RUNNING}
        left = {
            t.slot_key
            for t in wanted
            if t.status.state is TaskState.RUNNING and t.id not in stopped
        }
        expected = self.replicas
        if expected is None:
            expected = sum(node.schedulable for node in self.store.nodes())
        if self.in_slot == 2:
            assert left == running
        elif self.config.parallelism:
            assert len(running - left) <= self.config.parallelism
            given_up = self.config.failure_action == "continue"
            assert given_up or len(left) >= expected - self.config.parallelism

    def up(self, node_id: str) -> bool:
        node = self.store.node(node_id)
        return node is not None and node.status.state is not NodeState.DOWN

    def stays(self, node_id: str) -> bool:
        node = self.store.node(node_id)
        return self.up(node_id) and node is not None and bool(node.schedulable)

    def fail(self, number: int, state: TaskState) -> None:
        """One task that an agent has comes to its end by itself."""
        tasks = [t for t in self.wanted() if t.status.state >= TaskState.ASSIGNED]
        if tasks:
            self.report(tasks[number % len(tasks)].id, state)

    def progress(self, number: int) -> None:
        """One agent does its next step."""
        node_id = NODES[number % len(NODES)]
        for task in list(self.store.tasks_on_node(node_id)):
            wanted = min(task.desired, TaskState.SHUTDOWN)
            if self.up(node_id) and task.status.state < wanted and not task.status.state.ended:
                self.report(task.id, wanted)
                return

    def order(self, node_id: str, availability: Availability) -> None:
        """An operator's wish; it does not bring a dead node back."""
        node = self.store.node(node_id)
        assert node is not None
        self.nodes(replace(node, spec=replace(node.spec, availability=availability)))

    def come_back(self, node_id: str) -> None:
        """A node returns: first of all it stops what was replaced meanwhile."""
        for task in list(self.store.tasks_on_node(node_id)):
            if task.desired >= TaskState.SHUTDOWN and not task.status.state.ended:
                self.report(task.id, TaskState.SHUTDOWN)
        self.nodes(a_node(node_id))

    def calm(self) -> None:
        """Nothing bad happens any more; a user goes on with what was paused."""
        for node_id in NODES:
            self.come_back(node_id)
        for _ in range(60):
            status = self.found().update_status
            if status is not None and status.state.paused:
                self.image = self.found().spec.task_template.container.image
                self.deploy()
            self.lead()
            self.obey()
            self.check()
            self.pass_time(1)

    def check_converged(self) -> None:
        wanted = self.wanted()
        service = self.found()
        expected = len(NODES) if self.replicas is None else service.spec.replicas
        assert len(wanted) == len({task.slot_key for task in wanted}) == expected
        assert {task.status.state for task in wanted} <= {TaskState.RUNNING}
        image = service.spec.task_template.container.image
        assert {task.spec.container.image for task in wanted} <= {image}
        status = service.update_status
        assert status is None or status.state in {"completed", "rollback_completed"}
        assert image == self.image or (status is not None and status.state == "rollback_completed")
        history = Counter(task.slot_key for task in self.store.tasks() if not task.wanted)
        assert all(count <= 5 for count in history.values())


numbers = st.integers(0, 20)
events = st.one_of(
    st.tuples(st.just("lead"), st.none()),
    st.tuples(st.just("lead"), st.none()),
    st.tuples(st.just("vanish"), st.integers(0, 4)),
    st.tuples(st.just("obey"), st.none()),
    st.tuples(st.just("progress"), numbers),
    st.tuples(st.just("progress"), numbers),
    st.tuples(st.just("fail"), numbers),
    st.tuples(st.just("complete"), numbers),
    st.tuples(st.just("reject"), numbers),
    st.tuples(st.just("update"), st.sampled_from(["app:1", "app:2", "app:3"])),
    st.tuples(st.just("scale"), st.integers(0, 5)),
    st.tuples(st.just("die"), st.sampled_from(NODES)),
    st.tuples(st.just("suspect"), st.sampled_from(NODES)),
    st.tuples(st.just("back"), st.sampled_from(NODES)),
    st.tuples(st.just("drain"), st.sampled_from(NODES)),
    st.tuples(st.just("pause"), st.sampled_from(NODES)),
    st.tuples(st.just("wait"), st.sampled_from([0.5, 2.0, 10.0])),
)

ENDS = {"fail": TaskState.FAILED, "complete": TaskState.COMPLETE, "reject": TaskState.REJECTED}
LOSSES = {"die": NodeState.DOWN, "suspect": NodeState.DISCONNECTED}
ORDERS = {"drain": Availability.DRAIN, "pause": Availability.PAUSE}


def happen(sim: Sim, event: tuple[str, object]) -> None:  # noqa: C901, PLR0912 - a table of events
    match event:
        case ("lead", _):
            sim.lead()
        case ("vanish", int(commits)):
            sim.lead(commits=commits)
        case ("obey", _):
            sim.obey()
        case ("progress", int(number)):
            sim.progress(number)
        case (("fail" | "complete" | "reject") as end, int(number)):
            sim.fail(number, ENDS[end])
        case ("update", str(image)):
            sim.image = image
            sim.deploy()
        case ("scale", int(replicas)) if sim.replicas is not None:
            sim.replicas = replicas
            sim.deploy()
        case (("die" | "suspect") as loss, str(node_id)) if sim.up(node_id):
            sim.node_state(node_id, LOSSES[loss])
        case (("drain" | "pause") as order, str(node_id)):
            sim.order(node_id, ORDERS[order])
        case ("back", str(node_id)):
            sim.come_back(node_id)
        case ("wait", float(seconds)):
            sim.pass_time(seconds)
        case _:
            pass


configs = st.builds(
    UpdateConfig,
    parallelism=st.sampled_from([0, 1, 1, 2]),
    delay=st.sampled_from([0, 0, 2 * SECOND]),
    failure_action=st.sampled_from(["pause", "continue", "rollback"]),
    order=st.sampled_from(["stop-first", "start-first"]),
)


@given(st.sampled_from([None, 1, 3, 4]), configs, st.lists(events, max_size=40))
def test_whatever_happened_the_cluster_converges(
    replicas: int | None, config: UpdateConfig, story: list[tuple[str, object]]
) -> None:
    """Then: so many running tasks in distinct slots, all of the last spec, and a short history."""
    sim = Sim(replicas, config)
    for event in story:
        happen(sim, event)
        sim.check()
    sim.calm()
    sim.check_converged()


@given(st.integers(1, 4), configs, st.lists(st.integers(0, 3), max_size=60))
def test_an_undisturbed_update_never_goes_below_its_floor(
    replicas: int, config: UpdateConfig, interleaving: list[int]
) -> None:
    """Whatever the order in which loops and agents get their turns."""
    sim = Sim(replicas, config)
    sim.calm()
    sim.image = "app:2"
    sim.deploy()
    may_miss = 0 if sim.in_slot == 2 else config.parallelism or replicas
    for turn in interleaving:
        if turn == 3:
            sim.lead()
        else:
            sim.progress(turn)
        assert len({task.slot for task in sim.running()}) >= replicas - may_miss
    sim.calm()
    sim.check_converged()
