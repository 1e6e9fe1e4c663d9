"""Where a stack file is wrong, shown as ``file:line:col: path: message`` and a caret."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from swarmlet.errors import SwarmletError

#: A caret under a line longer than this helps nobody.
LINE_LIMIT = 120


@dataclass(frozen=True, slots=True)
class Source:
    """One file: what the user calls it, and its lines."""

    name: str
    lines: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in a file. Line and column count from zero; ``length`` is what the caret covers."""

    source: Source
    line: int = 0
    col: int = 0
    length: int = 1


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong. ``path`` is ``services.web.deploy.replicas``, "" for none."""

    mark: Mark
    path: str
    message: str

    def render(self) -> str:
        """The message, then the line of the file with a caret under the culprit."""
        mark = self.mark
        path = f"{_shown(self.path)}: " if self.path else ""
        head = f"{mark.source.name}:{mark.line + 1}:{mark.col + 1}: {path}{_shown(self.message)}"
        if mark.line >= len(mark.source.lines):
            return head
        line = _shown(mark.source.lines[mark.line].rstrip())
        if not line or mark.col >= LINE_LIMIT:
            return head
        length = max(1, min(mark.length, len(line) - mark.col, LINE_LIMIT - mark.col))
        number = f"{mark.line + 1:>5}"
        gutter = " " * len(number)
        shown = line if len(line) <= LINE_LIMIT else line[:LINE_LIMIT] + "…"
        return f"{head}\n{number} | {shown}\n{gutter} | {' ' * mark.col}{'^' * length}"


class StackError(SwarmletError):
    """A stack file cannot be used; ``problems`` says everything that is wrong with it."""

    code, http_status, exit_status = "stack-invalid", 400, 8

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = sorted(
            problems, key=lambda p: (p.mark.source.name, p.mark.line, p.mark.col, p.path)
        )
        count = len(self.problems)
        super().__init__(f"{count} problem{'s' if count != 1 else ''}")


def _shown(text: str) -> str:
    """Text from the file without control characters; each becomes one blank, so columns stay."""
    return "".join(c if c.isprintable() else " " for c in text)
