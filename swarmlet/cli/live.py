"""The progress of a wait on a terminal. Imported only there: rich costs half of our start-up."""

import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.live import Live as RichLive
from rich.text import Text

from swarmlet.cli.convergence import Standing
from swarmlet.cli.problems import plain

BAR: Final = 20
#: Above this many services only the unfinished ones are drawn, as far as they fit.
SHOWN_TROUBLES: Final = 3


class Live:
    """Bars that are redrawn in place, one a service, and the reasons of what does not run."""

    def __init__(self, *, color: bool) -> None:
        self._console = Console(
            file=sys.stderr, no_color=not color, highlight=False, markup=False, soft_wrap=False
        )
        self._live = RichLive(
            console=self._console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
        )

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._live.__exit__(kind, error, at)

    def show(self, standings: Sequence[Standing], *, stable_in: float | None) -> None:
        """Draw the bars."""
        unicode = self._console.encoding.lower().startswith("utf")
        text = draw(standings, stable_in=stable_in, height=self._console.height, unicode=unicode)
        self._live.update(text, refresh=True)

    def say(self, text: str) -> None:
        """Print one line above the bars."""
        self._console.print(Text(plain(text)))


def draw(
    standings: Sequence[Standing], *, stable_in: float | None, height: int, unicode: bool = True
) -> Text:
    """The lines of one frame. Data goes in as text, never as markup."""
    full, empty = ("█", "░") if unicode else ("#", ".")
    name = max((len(one.name) for one in standings), default=0)
    room = max(3, height - 3)
    shown = list(standings)
    if len(shown) > room:
        shown = sorted(shown, key=lambda one: one.converged)[: room - 1]
    text = Text(no_wrap=True, overflow="ellipsis")
    for one in shown:
        share = 1.0 if one.wanted == 0 else min(1.0, one.running / one.wanted)
        done = int(BAR * share)
        style = "red" if one.failed else ("green" if one.converged else "blue")
        text.append(f"service {plain(one.name):<{name}}  ")
        text.append(full * done + empty * (BAR - done), style=style)
        text.append(f" {one.line}\n")
        for trouble in one.troubles[:SHOWN_TROUBLES]:
            text.append(f"  {plain(str(trouble))}\n", style="yellow")
    if len(shown) < len(standings):
        text.append(f"… and {len(standings) - len(shown)} more\n")
    if stable_in is not None:
        text.append(f"watching for {stable_in:.0f} s that they stay up … ^C leaves it running\n")
    text.right_crop(1)
    return text
