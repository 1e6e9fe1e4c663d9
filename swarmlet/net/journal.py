"""What is said of a node's forwarding in its log, each thing once, and counted."""

from collections.abc import Iterable, Sequence
from typing import Final

import structlog

from swarmlet.errors import ENGINE_RULES_BACK, ForwardingFailed
from swarmlet.net.numbers import ENGINE_CHAIN

log = structlog.get_logger()

#: Named in the log, of one look's differences; a flushed table has thousands.
NAMED: Final = 20


class Journal:
    """Counts repairs and failures; ``failure`` is why the kernel lags behind now, or ""."""

    def __init__(self) -> None:
        self.repairs = self.failures = 0
        self.failure = ""
        #: Whether the engine's own firewall rules were there and are no more.
        self.engine_rules_gone = False
        self._problems: frozenset[str] = frozenset()

    def repaired(self, found: Sequence[str]) -> None:
        """Name what others changed."""
        self.repairs += len(found)
        for difference in found[:NAMED]:
            log.warning("forwarding-repaired", difference=difference)
        if len(found) > NAMED:
            log.warning("forwarding-repaired", more=len(found) - NAMED)

    def left_out(self, problems: Iterable[str]) -> None:
        """Say what the plan leaves out."""
        found = frozenset(problems)
        for problem in sorted(found - self._problems)[:NAMED]:
            log.warning("forwarding-left-out", problem=problem)
        self._problems = found

    def failed(self, exc: ForwardingFailed) -> None:
        """Say why the kernel lags behind."""
        self.failures += 1
        if exc.message != self.failure:
            log.error("forwarding-failed", reason=exc.message)
        self.failure = exc.message

    def engine_chain(self, before: str, now: str) -> None:
        """Say that a foreign flush took the engine's rules along: ours come back by us.

        The chains, before and now, where forwarded packets must be accepted.
        """
        if now == ENGINE_CHAIN:
            self.engine_rules_gone = False
        elif before == ENGINE_CHAIN:
            self.engine_rules_gone = True
            log.error(
                "engine-rules-gone",
                consequence="the engine can make no bridge and publish no port",
                advice=ENGINE_RULES_BACK,
            )
