"""When a certificate is renewed: at two thirds of its life, and soon after if that failed."""

from collections.abc import Awaitable, Callable
from typing import Final

import trio

from swarmlet.clock import Instant, WallClock
from swarmlet.security import ca

#: Certificates are renewed at this part of their life.
RENEW_AT: Final = 2 / 3

#: Seconds between two looks at the wall clock: it may be set, and machines sleep.
CHECK: Final = 3600.0

#: Seconds between two renewals, even when the fresh certificate is due already: this node's clock
#: may be far ahead of the managers'.
FLOOR: Final = 60.0


def due(cert_pem: str) -> Instant:
    """When a certificate is to be renewed."""
    start, end = ca.validity(cert_pem)
    return Instant(start + int((end - start) * RENEW_AT))


async def renew_in_time(
    certificate: Callable[[], str], renew: Callable[[], Awaitable[None]], *, now: WallClock
) -> None:
    """Call ``renew`` whenever the present certificate is due, until cancelled."""
    while True:
        left = (due(certificate()) - now()) / 1e9
        if left <= 0:
            await renew()
            await trio.sleep(FLOOR)
        else:
            await trio.sleep(min(CHECK, left))
