"""Whether an engine lives: what its silence, and failed looks at its containers, amount to."""

import pytest
import trio
from swarmlet.agent.pulse import PROBE_EVERY, PROBE_TIMEOUT, Pulse
from swarmlet.errors import EngineError, EngineUnavailable
from trio.testing import MockClock

from tests.waiting import eventually


class Patient:
    """An engine that answers pings as the test says."""

    def __init__(self) -> None:
        self.pings = 0
        self.delay = 0.0
        self.gone = False
        self.error: Exception | None = None

    async def ping(self) -> None:
        self.pings += 1
        await trio.sleep(self.delay)
        if self.gone:
            raise EngineUnavailable("connection refused")
        if self.error is not None:
            raise self.error


class Ward:
    """An engine, its pulse, and how often the pulse was missed."""

    def __init__(self) -> None:
        self.engine = Patient()
        self.misses = 0
        self.pulse = Pulse(self.engine, missed=self._missed)

    def _missed(self) -> None:
        self.misses += 1


@pytest.fixture
async def ward(nursery: trio.Nursery) -> Ward:
    """An engine that is watched, and has answered once."""
    ward = Ward()
    nursery.start_soon(ward.pulse.watch)
    await trio.sleep(1)
    return ward


async def test_an_engine_that_answers_is_asked_rarely_and_never_away(
    ward: Ward, autojump_clock: MockClock
) -> None:
    await trio.sleep(600)
    assert not ward.pulse.away()
    assert ward.engine.pings <= 600 / PROBE_EVERY + 2
    assert ward.misses == 0


async def test_an_engine_that_takes_connections_and_never_answers_is_away(
    ward: Ward, autojump_clock: MockClock
) -> None:
    """From the first question that it did not answer; the one that it answers ends it."""
    ward.engine.delay = 1e9
    await eventually(lambda: ward.pulse.away() > 0)
    assert ward.misses == 1
    assert ward.pulse.away() >= PROBE_TIMEOUT
    await trio.sleep(30)
    assert ward.pulse.away() >= 30
    ward.engine.delay = 0
    await trio.sleep(PROBE_TIMEOUT + 2)
    assert not ward.pulse.away()


async def test_a_busy_engine_is_not_taken_for_a_hung_one(
    ward: Ward, autojump_clock: MockClock
) -> None:
    """Answers that take seconds are answers."""
    ward.engine.delay = PROBE_TIMEOUT * 0.9
    for _ in range(600):
        await trio.sleep(1)
        assert not ward.pulse.away()
    assert ward.misses == 0


async def test_an_engine_that_is_gone_is_away_at_once_and_asked_more_often(
    ward: Ward, autojump_clock: MockClock
) -> None:
    ward.engine.gone = True
    await eventually(lambda: ward.pulse.away() > 0)
    assert ward.pulse.away() < 1
    asked = ward.engine.pings
    await trio.sleep(PROBE_EVERY)
    assert ward.engine.pings > asked + 2


async def test_a_stream_that_broke_is_a_reason_to_ask_at_once(
    ward: Ward, autojump_clock: MockClock
) -> None:
    asked = ward.engine.pings
    ward.pulse.doubt()
    await trio.sleep(0.1)
    assert ward.engine.pings == asked + 1
    assert not ward.pulse.away()


async def test_an_error_is_an_answer(ward: Ward, autojump_clock: MockClock) -> None:
    ward.engine.error = EngineError("a plugin is missing", status=500)
    await trio.sleep(60)
    assert not ward.pulse.away()


async def test_an_engine_that_answers_pings_and_shows_no_containers_is_away(
    ward: Ward, autojump_clock: MockClock
) -> None:
    """A deadlock inside the engine: nothing can be run there."""
    began = trio.current_time()
    await trio.sleep(30)
    ward.pulse.failed(began)
    await trio.sleep(30)
    assert ward.pulse.away() >= 60
    ward.pulse.seen()
    assert not ward.pulse.away()


async def test_looks_that_fail_because_the_engine_is_gone_count_as_its_absence(
    ward: Ward, autojump_clock: MockClock
) -> None:
    """Else a restart of many containers would be held against the engine that is back."""
    ward.engine.gone = True
    await eventually(lambda: ward.pulse.away() > 0)
    ward.pulse.failed(trio.current_time())
    ward.engine.gone = False
    await eventually(lambda: not ward.pulse.away())


async def test_a_daemon_that_stood_still_itself_does_not_blame_the_engine(
    ward: Ward, autojump_clock: MockClock
) -> None:
    """Its question was out while it was stopped: the engine had no more than its time."""
    ward.engine.delay = 1e9
    await eventually(lambda: ward.engine.pings > 1)
    autojump_clock.jump(60)
    await eventually(lambda: ward.pulse.away() > 0)
    assert ward.pulse.away() < PROBE_TIMEOUT + 1
