"""Which nodes do not answer, while no manager says so.

Managers judge nodes (docs/adr/0008). When they are gone, nodes go on to forward, also to such as
die after that. So each asks the others itself, by the way that its tasks' packets take. A node that
has answered before and does not any more gets no new connections from here; that it is lost, so
that its connections end, only managers can say.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final, NoReturn

import trio

from swarmlet.clock import Seconds

#: Seconds without a manager before a node trusts its own eyes: elections and restarts are shorter.
ALONE_AFTER: Final = Seconds(5.0)

#: Seconds between two rounds of questions while alone.
ROUND: Final = Seconds(1.0)

#: Seconds between two rounds with a manager, to learn who answers at all: soon after the start
#: first, then seldom.
FIRST_IDLE_ROUND: Final = Seconds(2.0)
IDLE_ROUND: Final = Seconds(30.0)

#: Rounds in a row without an answer. Each is a few questions already.
MISSES: Final = 2


class Answers:
    """Who answered, round after round. Pure."""

    def __init__(self) -> None:
        self._missed: dict[int, int] = {}

    def take(self, answered: Mapping[int, bool]) -> frozenset[int]:
        """Take in a round: returns who was heard before and is silent now.

        Who was never heard may have a firewall that lets other packets pass.
        """
        missed: dict[int, int] = {}
        for number, heard in answered.items():
            if heard:
                missed[number] = 0
            elif number in self._missed:
                missed[number] = self._missed[number] + 1
        self._missed = missed
        return frozenset(number for number, times in missed.items() if times >= MISSES)


class Lookout:
    """Asks.

    ``alone`` is for how long no manager was there, ``ask`` has all nodes asked, by their numbers,
    ``tell`` takes those that are silent.
    """

    def __init__(
        self,
        alone: Callable[[], Seconds],
        ask: Callable[[], Awaitable[Mapping[int, bool]]],
        tell: Callable[[frozenset[int]], None],
    ) -> None:
        self._alone = alone
        self._ask = ask
        self._tell = tell

    async def run(self) -> NoReturn:
        """Look out until cancelled."""
        answers, again, pause = Answers(), trio.current_time(), FIRST_IDLE_ROUND
        while True:
            alone = self._alone() >= ALONE_AFTER
            if not alone:
                self._tell(frozenset())
            if alone or trio.current_time() >= again:
                silent = answers.take(await self._ask())
                again = trio.current_time() + pause
                pause = Seconds(min(2 * pause, IDLE_ROUND))
                if alone:
                    self._tell(silent)
            await trio.sleep(ROUND)
