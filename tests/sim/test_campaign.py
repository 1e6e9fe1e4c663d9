"""Fixed seeds of the simulator; scripts/simulate runs as many more as there is time for."""

from unittest import mock

import pysyncobj.pickle
import pytest

from tests.sim.linearizable import Op, is_linearizable
from tests.sim.raft import Sim

#: Covers 1, 3, 5 and 7 members, with and without membership changes: about 20 s of CPU.
SEEDS = range(80)


@pytest.mark.parametrize("seed", SEEDS)
def test_no_promise_is_broken(seed: int) -> None:
    """Crashes, partitions, slow and torn disks, transfers and membership changes do no harm."""
    sim = Sim(seed)
    sim.run()
    assert sim.stats["operations"] > 0


def test_a_run_is_a_function_of_its_seed() -> None:
    """The same seed gives the same run, to the last event."""
    first, second = Sim(7), Sim(7)
    first.run()
    second.run()
    assert first.stats == second.stats
    assert first.history == second.history


def test_nothing_is_pickled() -> None:
    """A run goes through with pickle broken: the library's own way of serializing is never used."""
    broken = mock.Mock(side_effect=AssertionError)
    with (
        mock.patch("pickle.loads", broken),
        mock.patch("pickle.dumps", broken),
        mock.patch.object(pysyncobj.pickle, "loads", broken),
        mock.patch.object(pysyncobj.pickle, "dumps", broken),
    ):
        Sim(3).run()


def test_a_stale_read_is_not_linearizable() -> None:
    """The checker itself notices a read that misses an earlier write."""
    write = Op("k", "write", 1, begun=0.0, done=1.0, result=1)
    stale = Op("k", "read", 0, begun=2.0, done=3.0, result=None)
    assert not is_linearizable([write, stale])
    assert is_linearizable([write, Op("k", "read", 0, begun=0.5, done=3.0, result=None)])
