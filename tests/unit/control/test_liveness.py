"""Failure detection in two steps, on a clock of our own."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from swarmlet.control.liveness import FROZEN, RESTART_GRACE, TICK, Detector, Settings
from swarmlet.model.objects import NodeState

SETTINGS = Settings(suspect_after=1.7, down_after=3.3)
READY, SUSPECT, DOWN = NodeState.READY, NodeState.DISCONNECTED, NodeState.DOWN


class Bench:
    """A detector with punctual ticks, and a store that believes it."""

    def __init__(self, *names: str, state: NodeState = NodeState.READY) -> None:
        self.now = 100.0
        self.detector = Detector(SETTINGS, self.now)
        self.states = dict.fromkeys(names or ("n",), state)
        self.history: list[tuple[float, str, NodeState]] = []
        self.probes: list[str] = []
        self._wake_at = self.now
        self.tick()

    def tick(self) -> None:
        judgement = self.detector.tick(self.now, self.states)
        for change in judgement.transitions:
            self.states[change.node_id] = change.state
            self.history.append((self.now, change.node_id, change.state))
        self.probes += judgement.probes
        self._wake_at = judgement.wake_at
        assert self._wake_at > self.now

    def advance(self, seconds: float) -> None:
        """Let time pass, with every tick on time."""
        end = self.now + seconds
        while self._wake_at <= end:
            self.now = self._wake_at
            self.tick()
        self.now = end

    def beat(self, name: str = "n") -> None:
        self.detector.beat(name, self.now)
        self.tick()

    def when(self, state: NodeState, name: str = "n") -> float:
        return next(at for at, node, found in self.history if (node, found) == (name, state))


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.detector.beat("n", bench.now)
    return bench


def test_a_silent_node_is_suspect_then_down(bench: Bench) -> None:
    bench.advance(5)
    assert bench.when(SUSPECT) == pytest.approx(101.7)
    assert bench.when(DOWN) == pytest.approx(103.3)
    assert bench.probes == ["n"]


def test_one_lost_beat_is_not_noticed(bench: Bench) -> None:
    for _ in range(10):
        bench.advance(1.6)
        bench.beat()
    assert bench.history == []


def test_a_suspect_that_speaks_is_ready_at_once(bench: Bench) -> None:
    bench.advance(2)
    bench.beat()
    assert bench.states["n"] is READY
    bench.advance(2)
    assert bench.probes == ["n", "n"]


def test_a_node_that_was_down_comes_back(bench: Bench) -> None:
    bench.advance(10)
    bench.beat()
    assert [state for _, _, state in bench.history] == [SUSPECT, DOWN, READY]


def test_a_lost_connection_is_not_death(bench: Bench) -> None:
    """A daemon that was killed and is back within the time was never away."""
    bench.detector.lost("n", bench.now)
    bench.advance(1.6)
    bench.detector.beat("n", bench.now)
    bench.advance(1.6)
    assert bench.history == []


def test_a_shutdown_is_believed_at_once(bench: Bench) -> None:
    bench.detector.goodbye("n", bench.now, restart=False)
    bench.tick()
    assert bench.states["n"] is DOWN
    bench.detector.lost("n", bench.now)
    bench.advance(60)
    assert len(bench.history) == 1


def test_a_restart_has_its_own_grace(bench: Bench) -> None:
    bench.detector.goodbye("n", bench.now, restart=True)
    bench.detector.lost("n", bench.now)
    bench.advance(RESTART_GRACE - 0.1)
    assert bench.history == []
    bench.advance(5)
    assert bench.when(SUSPECT) == pytest.approx(100 + RESTART_GRACE)
    assert bench.when(DOWN) == pytest.approx(100 + RESTART_GRACE + 1.6)


def test_a_node_that_a_peer_hears_has_twice_the_time(bench: Bench) -> None:
    bench.advance(2)
    bench.detector.probed("n", heard=False)
    bench.detector.probed("n", heard=True)
    bench.detector.probed("n", heard=False)
    bench.advance(8)
    assert bench.when(DOWN) == pytest.approx(106.6)


def test_an_answer_that_comes_too_late_raises_nobody(bench: Bench) -> None:
    bench.advance(4)
    bench.detector.probed("n", heard=True)
    bench.advance(10)
    assert [state for _, _, state in bench.history] == [SUSPECT, DOWN]


def test_a_late_answer_about_a_node_that_speaks_is_forgotten(bench: Bench) -> None:
    bench.advance(2)
    bench.beat()
    bench.detector.probed("n", heard=True)
    bench.detector.probed("nobody", heard=True)
    bench.advance(5)
    assert bench.when(DOWN) == pytest.approx(105.3)


def test_a_new_leader_waits_twice_as_long() -> None:
    bench = Bench()
    bench.advance(10)
    assert bench.when(SUSPECT) == pytest.approx(103.4)
    assert bench.when(DOWN) == pytest.approx(106.6)


@pytest.mark.parametrize("state", [DOWN, SUSPECT])
def test_a_new_leader_does_not_raise_the_dead(state: NodeState) -> None:
    """Grace is no sign of life: what the last leader found stays until the node speaks."""
    bench = Bench(state=state)
    bench.advance(3)
    assert bench.states["n"] is state
    bench.beat()
    assert bench.states["n"] is READY


def test_a_node_that_joins_has_its_time_from_then_on(bench: Bench) -> None:
    bench.advance(50)
    bench.states["new"] = NodeState.UNKNOWN
    bench.tick()
    bench.advance(3)
    assert bench.states["new"] is NodeState.UNKNOWN
    bench.beat("new")
    assert bench.states["new"] is READY


def test_a_frozen_leader_blames_nobody(bench: Bench) -> None:
    """SIGSTOP for a minute: beats wait in the sockets, the first tick comes before them."""
    bench.advance(0.9)
    bench.now += 60
    bench.tick()
    assert bench.history == []
    bench.advance(0.5)
    bench.beat()
    assert bench.history == []


def test_after_a_freeze_the_dead_are_still_found(bench: Bench) -> None:
    bench.now += 60
    bench.tick()
    bench.advance(3.4)
    assert bench.states["n"] is DOWN


def test_a_freeze_does_not_raise_the_dead(bench: Bench) -> None:
    bench.advance(10)
    bench.now += 60
    bench.tick()
    bench.advance(10)
    assert [state for _, _, state in bench.history] == [SUSPECT, DOWN]


def test_a_removed_node_is_forgotten(bench: Bench) -> None:
    del bench.states["n"]
    bench.advance(10)
    assert bench.history == []


gaps = st.lists(st.floats(0.01, 8), min_size=1, max_size=12)


@given(gaps)
def test_down_after_its_time_of_silence_and_never_before(gaps: list[float]) -> None:
    bench = Bench()
    bench.beat()
    for gap in gaps:
        spoke = bench.now
        bench.advance(gap)
        # Rounding of sums of floats; ticks are exact.
        silence = bench.now - spoke
        if silence < SETTINGS.suspect_after - 1e-6:
            assert bench.states["n"] is READY
        elif silence > SETTINGS.down_after + 1e-6:
            assert bench.states["n"] is DOWN
        elif SETTINGS.suspect_after + 1e-6 < silence < SETTINGS.down_after - 1e-6:
            assert bench.states["n"] is SUSPECT
        bench.beat()


@given(st.lists(st.tuples(st.floats(0.01, 1.5), st.floats(0, 30)), max_size=15))
def test_freezes_of_the_leader_never_make_a_beating_node_down(
    story: list[tuple[float, float]],
) -> None:
    """Beats at least each 1.5 s; between them the leader may stand still for any time."""
    bench = Bench()
    bench.beat()
    for gap, frozen in story:
        bench.advance(gap)
        bench.now += frozen
        bench.tick()
        bench.beat()
    assert DOWN not in {state for _, _, state in bench.history}


@given(st.lists(st.sampled_from(["beat", "lost", "restart", "shutdown", "heard", "wait"])))
def test_whatever_was_said_silence_is_down_in_the_end(story: list[str]) -> None:
    bench = Bench()
    for event in story:
        match event:
            case "beat":
                bench.beat()
            case "lost":
                bench.detector.lost("n", bench.now)
            case "heard":
                bench.detector.probed("n", heard=True)
            case "wait":
                bench.advance(1.0)
            case goodbye:
                bench.detector.goodbye("n", bench.now, restart=goodbye == "restart")
    bench.advance(RESTART_GRACE + 2 * SETTINGS.down_after)
    assert bench.states["n"] is DOWN


def test_the_constants_fit_together() -> None:
    """A freeze too short to be forgiven must not cost a node its life."""
    assert SETTINGS.down_after > FROZEN + TICK + 1.0
