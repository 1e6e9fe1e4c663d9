"""Each cure is needed: without it a directed scenario, or a seed of the simulator, finds damage."""

import pytest
from swarmlet.errors import Damaged

from tests.sim.ablations import ABLATIONS, ablated
from tests.sim.cured import DIRECTED, FOUND_BY_SEEDS
from tests.sim.raft import Sim, ViolationError


def test_every_ablation_is_found_somehow() -> None:
    """No cure is without a test that misses it."""
    assert set(ABLATIONS) == set(DIRECTED) | set(FOUND_BY_SEEDS)


@pytest.mark.parametrize("name", DIRECTED)
def test_the_scenario_does_no_damage_to_the_whole_core(name: str) -> None:
    """With all cures in place, the scenario ends well."""
    assert not DIRECTED[name]()


@pytest.mark.parametrize("name", DIRECTED)
def test_the_scenario_finds_the_missing_cure(name: str) -> None:
    """With that one cure taken out, it does not."""
    with ablated(name):
        assert DIRECTED[name]()


@pytest.mark.parametrize("name", FOUND_BY_SEEDS)
def test_the_simulator_finds_the_missing_cure(name: str) -> None:
    """Among twenty seeds, which all pass with it."""
    with ablated(name), pytest.raises((ViolationError, Damaged)):
        _run_seeds(20)


def _run_seeds(count: int) -> None:
    for seed in range(count):
        Sim(seed).run()
