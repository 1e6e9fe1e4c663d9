"""When the host is looked at, and at what: pure, times are seconds of one clock."""

import math
from typing import Final

from swarmlet.net.watch import News

#: Seconds between two looks at the whole host, if nothing happens.
RECONCILE: Final = 60.0

#: Seconds after news of a foreign change before the look: such changes come in bursts (an engine
#: that starts, a container's links), and one look serves all.
SETTLE: Final = 0.1

#: Seconds between two looks for the same sort of news, so that a host full of containers that come
#: and go costs no more than a few per cent of a processor.
BREATH: Final = 1.0

_ALL: Final = News.RULES | News.LINKS


class Doubts:
    """What is in doubt, and when it may be looked at. Everything is, in the beginning."""

    def __init__(self) -> None:
        self._news = _ALL
        self._look_at = -math.inf
        self._looked_at = -math.inf
        self.looks = 0

    @property
    def next_look(self) -> float:
        """When the next look is due, if nothing happens."""
        return self._look_at if self._news else self._looked_at + RECONCILE

    def everything(self) -> None:
        """Whatever is known may be wrong: look at once."""
        self._news, self._look_at = _ALL, -math.inf

    def heard(self, news: News, now: float) -> bool:
        """Somebody changed something; says whether a look became due that was not before."""
        if not news:
            return False
        self._news |= news
        if not math.isinf(self._look_at):
            return False
        self._look_at = max(now + SETTLE, self._looked_at + BREATH)
        return True

    def due(self, now: float, *, all_of_it: bool) -> News:
        """What to look at now; ``all_of_it``, whether or not it is time."""
        if all_of_it or now >= self._looked_at + RECONCILE:
            return _ALL
        return self._news if now >= self._look_at else News.NONE

    def looking(self, now: float) -> None:
        """A look at what was due begins."""
        self._news = News.NONE
        self._looked_at, self._look_at = now, math.inf
        self.looks += 1
