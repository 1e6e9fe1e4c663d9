"""Lists for people and for programs: tables, one JSON object a line, or a template."""

import json
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from swarmlet.cli import template
from swarmlet.cli.app import App
from swarmlet.cli.problems import plain

GAP: Final = 3
#: A shrunk cell keeps this much, or its title.
LEAST: Final = 8

#: Words of state and their colours. The word itself always says it too.
COLOURS: Final = {
    "running": "green",
    "ready": "green",
    "leader": "green",
    "reachable": "green",
    "complete": "green",
    "ok": "green",
    "repaired": "blue",
    "problem": "red",
    "preparing": "blue",
    "starting": "blue",
    "assigned": "blue",
    "accepted": "blue",
    "pending": "yellow",
    "drain": "yellow",
    "pause": "yellow",
    "disconnected": "yellow",
    "failed": "red",
    "rejected": "red",
    "down": "red",
    "unreachable": "red",
}


class Column(NamedTuple):
    """A column: its title, the field it shows, and how early it shrinks (0: last)."""

    title: str
    field: str
    shrinks: int = 0


Row = Mapping[str, str]


def show(
    app: App,
    columns: Sequence[Column],
    rows: Sequence[Row],
    *,
    style: str = "",
    ids: Sequence[str] | None = None,
    whole: bool = False,
) -> None:
    """Print rows as the user asked. ``ids`` is what ``-q`` prints, when it was given.

    ``whole`` (``--no-trunc``) cuts nothing, however narrow the terminal is.
    """
    style = style or app.style or "table"
    if ids is not None:
        for one in ids:
            app.out(plain(one))
    elif style == "json":
        for row in rows:
            app.out(json.dumps(dict(row)))
    elif style == "table":
        width = None if whole else app.width()
        for line in render(columns, rows, width=width, color=app.colorful()):
            app.out(line)
    else:
        _templated(app, columns, rows, style)


def render(
    columns: Sequence[Column], rows: Sequence[Row], *, width: int | None, color: bool = False
) -> list[str]:
    """The lines of a table no wider than ``width``. Nothing wraps; the name shrinks last."""
    cells = [[plain(row.get(c.field, "")) for c in columns] for row in rows]
    widths = [max([len(c.title), *(len(line[i]) for line in cells)]) for i, c in enumerate(columns)]
    if width is not None:
        _shrink(columns, widths, width)
    head = _line([c.title for c in columns], widths, cut=width)
    return [head, *(_line(line, widths, color=color, cut=width) for line in cells)]


def _shrink(columns: Sequence[Column], widths: list[int], width: int) -> None:
    """Narrow columns, those with the highest ``shrinks`` first, until the line fits."""
    order = sorted(range(len(columns)), key=lambda i: -columns[i].shrinks)
    for i in order:
        excess = sum(widths) + GAP * (len(widths) - 1) - width
        if excess <= 0:
            return
        least = min(widths[i], max(LEAST, len(columns[i].title)))
        widths[i] = max(least, widths[i] - excess)


def _line(
    cells: Sequence[str], widths: Sequence[int], *, color: bool = False, cut: int | None = None
) -> str:
    parts, used = [], 0
    for text, width in zip(cells, widths, strict=True):
        room = width if cut is None else min(width, cut - used)
        if room <= 0:
            break
        shown = text if len(text) <= room else text[: room - 1] + "…"
        parts.append(_painted(shown, color=color) + " " * (width - len(shown)))
        used += width + GAP
    return (" " * GAP).join(parts).rstrip()


def _painted(text: str, *, color: bool) -> str:
    colour = COLOURS.get(text.split(" ", 1)[0].lower(), "") if color else ""
    if not colour:
        return text
    import click

    return click.style(text, fg=colour)


def _templated(app: App, columns: Sequence[Column], rows: Sequence[Row], style: str) -> None:
    r"""``{{.Name}}\t{{.Image}}`` a row; with ``table`` before it, aligned and with titles."""
    aligned = style.startswith("table ")
    compiled = template.parse(style.removeprefix("table ") if aligned else style)
    if not aligned:
        for row in rows:
            app.out(compiled.render(row))
        return
    titles = {c.field: c.title for c in columns}
    lines = [compiled.render(template.Titles(titles)).split("\t")]
    lines += [compiled.render(row).split("\t") for row in rows]
    count = max(len(line) for line in lines)
    widths = [max(len(line[i]) for line in lines if i < len(line)) for i in range(count)]
    for line in lines:
        padded = [text.ljust(w + GAP) for text, w in zip(line, widths, strict=False)]
        app.out("".join(padded).rstrip())
