"""Updates whose leader vanishes after any command: same bounds on the way, same end, and an end.

Agents are obedient but for the slots in which the new template is bad, in one of four ways. Time
passes only when nothing else happens, and so do deaths of tasks that came up: how far an update
gets before it hears of one is no question of leaders.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st
from swarmlet.clock import SECOND
from swarmlet.control.template import Template
from swarmlet.model.defaults import update_terms
from swarmlet.model.objects import Service, Task, TaskState, UpdateState
from swarmlet.model.specs import RestartPolicy, UpdateConfig
from swarmlet.state import snapshot
from swarmlet.state.commands import AnyCommand
from swarmlet.state.store import SlotKey

from tests.fakes.world import World, a_node, a_service

NODES = ("n0", "n1", "n2", "n3")
OLD, NEW = "app:1", "app:2"
#: Longer than an update usually takes: what is broken is not tried again and again.
RESTART = RestartPolicy(delay=200 * SECOND)
#: How the new template may be bad: rejected, failing at the start, stuck, or dying once it ran.
REJECTED, FAILED, STUCK, DIES = (
    TaskState.REJECTED,
    TaskState.FAILED,
    TaskState.PREPARING,
    TaskState.COMPLETE,
)
#: More rounds than any of these updates needs.
ROUNDS = 400


@dataclass(frozen=True)
class Story:
    """An update: of what, how, and which of its slots (in order) get a bad task."""

    replicas: int | None
    config: UpdateConfig
    bad: tuple[TaskState | None, ...]


class Update(World):
    """One update, checked at every step; ``crashes`` are the commands after which a leader goes."""

    def __init__(self, story: Story, crashes: Iterator[int]) -> None:
        super().__init__()
        self.story = story
        self.image = OLD
        self.commands = 0
        self._crashes = crashes
        self._crash_at = 0
        self.slots: list[SlotKey] = []
        self.nodes(*(a_node(node_id) for node_id in NODES))
        self.service(self.wish(OLD))
        self.run()
        self.slots = sorted({task.slot_key for task in self.wanted()})

    def wish(self, image: str) -> Service:
        config = self.story.config
        back = UpdateConfig(parallelism=config.parallelism, order=config.order)
        return a_service(
            replicas=self.story.replicas,
            image=image,
            update=config,
            rollback=back,
            restart=RESTART,
        )

    # the world

    def fate(self, task: Task) -> TaskState:
        bad = self.badness(task)
        return TaskState.RUNNING if bad is None or bad is DIES else bad

    def badness(self, task: Task) -> TaskState | None:
        bad = dict(zip(self.slots, self.story.bad, strict=False)).get(task.slot_key)
        return None if task.spec.container.image == OLD else bad

    def die(self) -> bool:
        """Those die that came up only to die; whether there are any."""
        dying = [task for task in self.running() if self.badness(task) is DIES]
        for task in dying:
            self.report(task.id, DIES)
        return bool(dying)

    def lead(self) -> bool:
        """One round of the loops, until the leader vanishes; whether anything was decided."""
        any_ = False
        for decide in self.deciders():
            for command in decide().commands:
                any_ = True
                self.ok(command)
                self.commands += 1
                self.check()
                if self.commands == self._crash_at:
                    self.new_leader()
                    return True  # what else was decided is lost
        return any_

    def new_leader(self) -> None:
        self.store = snapshot.thaw(snapshot.freeze(self.store)())
        self._crash_at = next(self._crashes, 0)

    def to_the_end(self) -> None:
        """Until no update is in progress, and what it began is done."""
        self.commands = 0
        self._crash_at = next(self._crashes, 0)
        self.update(self.wish(NEW))
        for _ in range(ROUNDS):
            decided = self.lead()
            before = self.store.index
            self.obey()
            self.check()
            if decided or self.store.index != before:
                continue
            if not self.updating:
                return
            if not self.die():
                self.wait()
        raise AssertionError("the update never ends")

    @property
    def updating(self) -> bool:
        status = self.found().update_status
        return status is not None and status.state.in_progress

    # what must hold at every step

    def check(self) -> None:
        wanted: dict[SlotKey, list[Task]] = {}
        for task in self.wanted():
            wanted.setdefault(task.slot_key, []).append(task)
        for tasks in wanted.values():
            self.check_slot(tasks)
        parallelism = self.story.config.parallelism or len(self.slots)
        extra = sum(len(tasks) - 1 for tasks in wanted.values())
        assert extra <= (parallelism if self.start_first else 0)
        up = {task.slot_key for task in self.running()}
        assert len(up | self.given_up()) >= len(self.slots) - self.may_miss(parallelism)

    def check_slot(self, tasks: Sequence[Task]) -> None:
        """Two in a slot are an old one and a new one, of which one runs."""
        if len(tasks) > 1:
            template = Template(self.store, self.found())
            assert sorted(map(template.fits, tasks)) == [False, True]
            assert any(task.status.state is TaskState.RUNNING for task in tasks)

    @property
    def start_first(self) -> bool:
        return update_terms(self.story.config).start_first

    def may_miss(self, parallelism: int) -> int:
        return 0 if self.start_first else parallelism

    def given_up(self) -> set[SlotKey]:
        """Slots in which a new task went wrong, after the old one was stopped."""
        bad = {key for key, fate in zip(self.slots, self.story.bad, strict=False) if fate}
        tasks = [t for t in self.store.tasks() if t.spec.container.image == NEW]
        return bad & {t.slot_key for t in tasks if t.late_at or t.status.state.ended}

    # what comes out

    def outcome(self) -> tuple[UpdateState, str, list[tuple[SlotKey, str]]]:
        """How it ended, without the identifiers of tasks.

        Where several slots are replaced at a time, how far a pause lets the update get depends on
        which of them is heard of first: that is no question of leaders either.
        """
        status = self.found().update_status
        assert status is not None
        ends = sorted((t.slot_key, t.spec.container.image) for t in self.wanted())
        if status.state is UpdateState.PAUSED and self.story.config.parallelism != 1:
            ends = [(key, image) for key, image in ends if key in self.slots[:1]]
        return status.state, self.found().spec.task_template.container.image, ends


def undisturbed(story: Story) -> Update:
    update = Update(story, iter(()))
    update.to_the_end()
    return update


def check_end(update: Update) -> None:
    """It ended as its terms say."""
    story, terms = update.story, update_terms(update.story.config)
    state, spec, ends = update.outcome()
    bad = [fate for fate in story.bad[: len(update.slots)] if fate is not None]
    failed = bool(bad) and len(bad) / len(update.slots) > terms.max_failure_ratio
    if not failed or terms.failure_action == "continue":
        assert state is UpdateState.COMPLETED
    elif terms.failure_action == "rollback":
        assert (state, spec) == (UpdateState.ROLLBACK_COMPLETED, OLD)
        assert ends == [(key, OLD) for key in update.slots]
    else:
        assert (state, spec) == (UpdateState.PAUSED, NEW)
    if not bad:
        assert ends == [(key, NEW) for key in update.slots]


configs = st.builds(
    UpdateConfig,
    parallelism=st.sampled_from([0, 1, 1, 2, 3]),
    delay=st.sampled_from([0, 0, 3 * SECOND]),
    failure_action=st.sampled_from(["pause", "continue", "rollback"]),
    monitor=st.sampled_from([0, SECOND]),
    max_failure_ratio=st.sampled_from([0.0, 0.0, 0.3, 0.5]),
    order=st.sampled_from(["stop-first", "start-first"]),
)
fates = st.sampled_from([None, None, None, REJECTED, FAILED, STUCK, DIES])
stories = st.builds(
    Story,
    replicas=st.sampled_from([None, 1, 3, 5]),
    config=configs,
    bad=st.lists(fates, max_size=5).map(tuple),
)


@given(stories, st.lists(st.integers(1, 8), max_size=8))
def test_an_update_ends_alike_whichever_leaders_are_lost(story: Story, gaps: list[int]) -> None:
    quiet = undisturbed(story)
    check_end(quiet)
    crashes = (sum(gaps[: i + 1]) for i in range(len(gaps)))
    update = Update(story, crashes)
    update.to_the_end()
    assert update.outcome() == quiet.outcome()


@pytest.mark.parametrize("replicas", [None, 4])
@pytest.mark.parametrize("order", ["stop-first", "start-first"])
@pytest.mark.parametrize(
    ("parallelism", "action", "bad"),
    [
        (1, "pause", ()),
        (2, "pause", (None, STUCK)),
        (2, "rollback", (None, FAILED)),
        (1, "rollback", (None, None, DIES)),
        (1, "continue", (REJECTED, None, FAILED)),
    ],
)
def test_an_update_survives_the_loss_of_its_leader_at_every_step(
    replicas: int | None,
    order: str,
    parallelism: int,
    action: str,
    bad: tuple[TaskState | None, ...],
) -> None:
    """Patroni's interrupted transitions: stop after each command, and go on from there."""
    config = UpdateConfig(
        parallelism=parallelism,
        failure_action=action,  # type: ignore[arg-type]
        order=order,  # type: ignore[arg-type]
        delay=SECOND,
    )
    story = Story(replicas, config, bad)
    quiet = undisturbed(story)
    check_end(quiet)
    assert quiet.commands >= 5
    for step in range(1, quiet.commands + 1):
        update = Update(story, iter((step,)))
        update.to_the_end()
        assert update.outcome() == quiet.outcome(), step


@given(stories)
def test_an_update_survives_a_leader_lost_after_every_single_command(story: Story) -> None:
    """No leader ever commits two."""
    update = Update(story, count(1))
    update.to_the_end()
    assert update.outcome() == undisturbed(story).outcome()


@given(stories)
def test_what_was_decided_is_all_there_is_to_remember(story: Story) -> None:
    """An update goes on alike from a snapshot; its decisions are functions of that."""
    update = Update(story, iter(()))
    update.update(update.wish(NEW))
    for _ in range(60):
        again = snapshot.thaw(snapshot.freeze(update.store)())
        first: list[AnyCommand] = list(update.orchestrate().commands)
        store, update.store = update.store, again
        assert kinds(first) == kinds(update.orchestrate().commands)
        update.store = store
        if not update.lead():
            update.obey()


def kinds(commands: Sequence[AnyCommand]) -> list[str]:
    """Commands without the identifiers that are new."""
    return [type(command).__name__ for command in commands]
