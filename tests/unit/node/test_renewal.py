"""Certificates are renewed before they end."""

import trio
from swarmlet.clock import SECOND, Instant, Nanos
from swarmlet.model.specs import Role
from swarmlet.node.renewal import due, renew_in_time
from swarmlet.security import ca

START = Instant(1_800_000_000 * SECOND)
DAY = Nanos(24 * 3600 * SECOND)


def _issue(now: Instant) -> str:
    subject = ca.CertificateSubject("n1", Role.WORKER, "c1")
    request = ca.signing_request(ca.new_key())
    return ca.issue(ROOT, request, subject, now=now, life=Nanos(90 * DAY))


ROOT = ca.create_root(START)


def test_renewal_is_due_well_before_the_end() -> None:
    """At about two thirds of 90 days."""
    days = (due(_issue(START)) - START) / DAY
    assert 59 < days < 61


async def test_certificate_is_renewed_whenever_it_is_due(autojump_clock: object) -> None:
    """In a year a certificate of 90 days is renewed six times, and never runs out."""

    def now() -> Instant:
        return Instant(START + int((trio.current_time() - began) * SECOND))

    began = trio.current_time()
    held = [_issue(now())]

    async def renew() -> None:
        await trio.lowlevel.checkpoint()
        assert now() < ca.validity(held[-1])[1]
        held.append(_issue(now()))

    with trio.move_on_after(365 * 24 * 3600):
        await renew_in_time(lambda: held[-1], renew, now=now)
    assert len(held) == 1 + 6
