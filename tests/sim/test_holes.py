"""The 19 holes of PySyncObj 0.3.17: each is shown in the stock library, and closed in ours."""

from pathlib import Path
from unittest import mock

import pysyncobj.pickle
import pytest

from tests.sim.cured import CURED
from tests.sim.stock import STOCK, stock_library


def test_both_sides_are_shown() -> None:
    """Every hole has a demonstration against the stock library and one against ours."""
    assert list(STOCK) == list(CURED)
    assert len(STOCK) == 19


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the stock journal closes nothing
@pytest.mark.parametrize("hole", STOCK)
def test_the_stock_library_has_the_hole(hole: str, tmp_path: Path) -> None:
    """Without our filter, the damage is done."""
    with stock_library():
        assert STOCK[hole](tmp_path)


@pytest.mark.parametrize("hole", CURED)
def test_ours_has_not(hole: str) -> None:
    """With it, the same attempt does no damage, and nothing is pickled on the way."""
    with (
        mock.patch.object(pysyncobj.pickle, "loads", side_effect=AssertionError),
        mock.patch.object(pysyncobj.pickle, "dumps", side_effect=AssertionError),
        mock.patch("pickle.loads", side_effect=AssertionError),
    ):
        assert not CURED[hole]()
