"""How measured values are judged and printed."""

from scripts.benchmarks.figures import Figure, at_least, at_most, number, table


def test_a_target_bounds_the_median_not_each_value() -> None:
    """One slow trial of three does not miss a target of the median."""
    assert Figure("f", "s", (1.0, 1.4, 9.0), at_most(1.5)).verdict == "met"
    assert Figure("f", "s", (1.0, 1.6, 1.7), at_most(1.5)).verdict == "MISSED"


def test_a_worst_bound_holds_for_every_value() -> None:
    """A single trial above the worst misses the target."""
    assert Figure("f", "s", (1.0, 1.4, 2.9), at_most(1.5, worst=3.0)).verdict == "met"
    assert Figure("f", "s", (1.0, 1.4, 3.1), at_most(1.5, worst=3.0)).verdict == "MISSED"


def test_at_least_wants_more() -> None:
    """A rate below its target misses it."""
    assert Figure("f", "/s", (5_000.0,), at_least(4_000)).verdict == "met"
    assert Figure("f", "/s", (3_000.0,), at_least(4_000)).verdict == "MISSED"


def test_a_figure_without_a_target_is_not_judged() -> None:
    """It is there to compare."""
    assert Figure("f", "s", (1.0,)).verdict == ""


def test_numbers_show_the_digits_that_count() -> None:
    """Three of them; no fraction of what is large."""
    assert [number(value) for value in (0.1234, 58.51, 4123.6)] == ["0.123", "58.5", "4,124"]


def test_the_table_has_a_row_a_figure_and_numbers_flush_right() -> None:
    """Columns are as wide as their widest cell; nothing trails."""
    figures = [
        Figure("write", "s", (1.0, 2.0, 1.5), at_most(1.5, worst=3.0)),
        Figure("writes", "/s", (4000.0,)),
    ]
    assert table(figures).splitlines() == [
        "figure  target            median    min    max  n",
        "write   ≤ 1.5, all ≤ 3 s     1.5      1      2  3  met",
        "writes  /s                 4,000  4,000  4,000  1",
    ]


def test_json_carries_every_value() -> None:
    """Whoever reads the file can compute other statistics."""
    told = Figure("write", "s", (1.0, 2.0), at_most(1.5)).as_json()
    assert told["values"] == (1.0, 2.0)
    assert (told["median"], told["min"], told["max"], told["n"]) == (1.5, 1.0, 2.0, 2)
    assert (told["target"], told["verdict"]) == ("≤ 1.5", "met")
