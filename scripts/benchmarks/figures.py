"""A figure: measured values, their target, and how both are printed. Pure."""

import statistics
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

_HEADER = ("figure", "target", "median", "min", "max", "n", "")


class Target(msgspec.Struct, frozen=True):
    """A bound of the median, and one that no value may pass."""

    kind: Literal["at most", "at least"]
    median: float
    worst: float | None = None

    def met(self, values: Sequence[float]) -> bool:
        """Whether the values keep both bounds."""
        sign = 1 if self.kind == "at most" else -1
        middle, worst = statistics.median(values), max(sign * value for value in values)
        return sign * middle <= sign * self.median and (
            self.worst is None or worst <= sign * self.worst
        )

    def __str__(self) -> str:
        mark = "≤" if self.kind == "at most" else "≥"
        every = "" if self.worst is None else f", all {mark} {self.worst:g}"
        return f"{mark} {self.median:g}{every}"


def at_most(median: float, *, worst: float | None = None) -> Target:
    """Less is better."""
    return Target("at most", median, worst)


def at_least(median: float) -> Target:
    """More is better."""
    return Target("at least", median)


class Figure(msgspec.Struct, frozen=True):
    """What was measured, once or more often. Figures without a target are there to compare."""

    name: str
    unit: str
    values: tuple[float, ...]
    target: Target | None = None

    @property
    def median(self) -> float:
        """The middle value."""
        return statistics.median(self.values)

    @property
    def verdict(self) -> str:
        """Whether it keeps its target."""
        if self.target is None:
            return ""
        return "met" if self.target.met(self.values) else "MISSED"

    def as_json(self) -> dict[str, Any]:
        """What ``--json`` writes."""
        return {
            "name": self.name,
            "unit": self.unit,
            "target": self.target and str(self.target),
            "median": self.median,
            "min": min(self.values),
            "max": max(self.values),
            "n": len(self.values),
            "verdict": self.verdict,
            "values": self.values,
        }


def number(value: float) -> str:
    """Three digits that count; whole numbers from a hundred on."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(figures: Sequence[Figure]) -> str:
    """Lines of columns, numbers flush right."""
    rows = [_HEADER, *map(_row, figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
    return "\n".join(_line(row, widths) for row in rows)


def _row(figure: Figure) -> tuple[str, ...]:
    target = f"{figure.target} {figure.unit}" if figure.target else figure.unit
    values = (figure.median, min(figure.values), max(figure.values))
    return (figure.name, target, *map(number, values), str(len(figure.values)), figure.verdict)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [
        cell.rjust(width) if 2 <= column <= 5 else cell.ljust(width)
        for column, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    return "  ".join(cells).rstrip()
