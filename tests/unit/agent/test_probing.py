"""Health checks that an engine forgot: which, and what they say."""

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import trio
from msgspec.structs import replace
from swarmlet.agent.prober import Prober
from swarmlet.agent.probing import Health, after, forgotten
from swarmlet.clock import SECOND, Instant, Nanos
from swarmlet.engine import convert
from swarmlet.engine.convert import Check, Container
from swarmlet.engine.incarnation import Incarnation
from swarmlet.errors import EngineError, EngineUnavailable

BEGAN = Instant(1_000 * SECOND)
BEFORE, AFTER = Instant(BEGAN - SECOND), Instant(BEGAN + SECOND)
ENGINE = Incarnation(name="boot,7@8", started_at=BEGAN)
OLD, NEW = (1, 41), (1, 42)
CHECK = Check(
    command=("true",),
    interval=Nanos(2 * SECOND),
    timeout=Nanos(5 * SECOND),
    retries=2,
    start_period=Nanos(0),
)
ONE = Container(
    id="c1",
    task_id="t1",
    state="running",
    health="healthy",
    check=CHECK,
    started_at=BEFORE,
    checked_at=BEFORE,
)


@pytest.mark.parametrize(
    "one",
    [ONE, replace(ONE, health="starting", checked_at=Instant(0)), replace(ONE, state="paused")],
)
def test_what_outlived_the_last_engine_is_forgotten(one: Container) -> None:
    assert forgotten([one], ENGINE, OLD) == [one]


@pytest.mark.parametrize(
    "one",
    [
        replace(ONE, checked_at=AFTER),
        replace(ONE, started_at=AFTER, checked_at=Instant(0)),  # its first check is still to come
        replace(ONE, check=None),
        replace(ONE, state="exited"),
    ],
)
def test_others_are_not(one: Container) -> None:
    assert forgotten([one], ENGINE, OLD) == []


def test_engines_that_remember_are_left_alone() -> None:
    assert forgotten([ONE], ENGINE, NEW) == []


def test_without_its_start_nothing_is_known() -> None:
    assert forgotten([ONE], replace(ENGINE, started_at=Instant(0)), OLD) == []


@pytest.mark.parametrize(
    ("health", "passed", "expected"),
    [
        (Health("starting"), True, Health("healthy")),
        (Health("unhealthy", 7), True, Health("healthy")),
        (Health("healthy"), False, Health("healthy", 1)),
        (Health("healthy", 1), False, Health("unhealthy", 2)),
        (Health("starting", 1), False, Health("unhealthy", 2)),
    ],
)
def test_a_check_says(health: Health, expected: Health, *, passed: bool) -> None:
    assert after(health, CHECK, passed=passed, age=Nanos(0)) == expected


def test_in_the_start_period_failures_do_not_count() -> None:
    """Until the container was healthy once."""
    check = replace(CHECK, start_period=Nanos(10 * SECOND))
    young, old = Nanos(9 * SECOND), Nanos(10 * SECOND)
    assert after(Health("starting"), check, passed=False, age=young) == Health("starting")
    assert after(Health("starting"), check, passed=False, age=old) == Health("starting", 1)
    assert after(Health("healthy"), check, passed=False, age=young) == Health("healthy", 1)


@pytest.mark.parametrize(
    ("config", "command"),
    [
        ({"Healthcheck": {"Test": ["CMD", "curl", "x"]}}, ("curl", "x")),
        ({"Healthcheck": {"Test": ["CMD-SHELL", "a | b"]}}, ("/bin/sh", "-c", "a | b")),
        (
            {"Healthcheck": {"Test": ["CMD-SHELL", "a"]}, "Shell": ["/bin/bash", "-c"]},
            ("/bin/bash", "-c", "a"),
        ),
        ({"Healthcheck": {"Test": ["NONE"]}}, None),
        ({}, None),
    ],
)
def test_the_check_of_a_container(config: dict[str, Any], command: tuple[str, ...] | None) -> None:
    found = convert.container({"Id": "c1", "Config": config}).check
    assert (found and found.command) == command
    if found:
        assert (found.interval, found.timeout, found.retries) == (30 * SECOND, 30 * SECOND, 3)


class Engine:
    """Checks end as ``codes`` say, one after the other; None: it never ends."""

    def __init__(self, *codes: int | Exception | None) -> None:
        self.codes = list(codes)
        self.begun = itertools.count()
        self.commands: list[tuple[str, Sequence[str]]] = []

    async def execute(self, container: str, command: Sequence[str]) -> str:
        await trio.lowlevel.checkpoint()
        self.commands.append((container, command))
        number = next(self.begun)
        if number >= len(self.codes):
            await trio.sleep_forever()
        code = self.codes[number]
        if isinstance(code, Exception):
            raise code
        return str(number)

    async def exit_code(self, ident: str) -> int | None:
        await trio.lowlevel.checkpoint()
        code = self.codes[int(ident)]
        assert not isinstance(code, Exception)
        return code


async def healths(engine: Engine, one: Container = ONE) -> list[str]:
    """How a container's health changes while it is checked."""
    found: list[str] = []
    prober = Prober(engine, lambda c: found.append(prober.seen(c).health), clock=lambda: AFTER)
    with trio.move_on_after(60):
        await prober.run([one])
    return found


async def test_a_container_falls_ill_and_recovers(autojump_clock: object) -> None:
    del autojump_clock
    engine = Engine(0, 1, 0, 1, 1, 0)
    assert await healths(engine) == ["unhealthy", "healthy"]
    assert engine.commands[0] == ("c1", ("true",))


async def test_one_that_was_starting_becomes_healthy(autojump_clock: object) -> None:
    del autojump_clock
    assert await healths(Engine(0), replace(ONE, health="starting")) == ["healthy"]


async def test_a_check_that_does_not_end_is_a_failure_and_is_not_begun_again(
    autojump_clock: object,
) -> None:
    del autojump_clock
    engine = Engine(None)
    assert await healths(engine) == ["unhealthy"]
    assert len(engine.commands) == 1


async def test_one_that_cannot_be_checked_now_is_checked_later(autojump_clock: object) -> None:
    del autojump_clock
    paused = EngineError("it is paused", status=409)
    slow = EngineUnavailable("no answer in time")
    assert await healths(Engine(paused, slow, paused, 1, 1)) == ["unhealthy"]


async def test_a_new_process_has_the_engines_word(autojump_clock: object) -> None:
    del autojump_clock
    prober = Prober(Engine(1, 1), lambda _: None, clock=lambda: AFTER)
    with trio.move_on_after(60):
        await prober.run([ONE])
    assert prober.seen(ONE).health == "unhealthy"
    assert prober.seen(replace(ONE, started_at=AFTER)).health == "healthy"
    assert prober.seen(replace(ONE, id="c2")).health == "healthy"
