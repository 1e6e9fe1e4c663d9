"""Which containers went down with their host."""

from swarmlet.agent.reboot import Death, ended_by_host
from swarmlet.clock import SECOND, Instant
from swarmlet.engine.incarnation import Incarnation

START = 1_000_000 * SECOND
NOW = Incarnation(name="second", started_at=Instant(START))


def death(task: str, code: int, seconds: float, *, seen_in: str = "first") -> Death:
    """A death so many seconds after the start of the present engine."""
    at = Instant(START + int(seconds * SECOND))
    return Death(task_id=task, exit_code=code, finished_at=at, seen_in=seen_in)


def test_a_container_found_dead_after_a_power_cut_went_down_with_its_host() -> None:
    assert ended_by_host([death("a", 255, 0.1)], NOW) == {"a"}


def test_what_ended_by_itself_before_a_power_cut_did_not() -> None:
    deaths = [death("a", 255, 0.1), death("b", 1, -5), death("c", 0, -0.5)]
    assert ended_by_host(deaths, NOW) == {"a"}


def test_an_engine_that_stops_in_order_takes_its_containers_along_whatever_their_exit() -> None:
    deaths = [death("a", 0, -14), death("b", 3, -14), death("c", 137, -4), death("d", 143, -1)]
    assert ended_by_host(deaths, NOW) == {"a", "b", "c", "d"}


def test_what_ended_long_before_the_last_end_did_so_by_itself() -> None:
    assert ended_by_host([death("a", 0, -300), death("b", 137, -4)], NOW) == {"b"}


def test_a_death_under_the_engine_that_ran_it_is_its_own() -> None:
    assert ended_by_host([death("a", 137, 100, seen_in="second")], NOW) == frozenset()


def test_a_container_never_seen_running_is_judged_by_its_exit() -> None:
    assert ended_by_host([death("a", 1, -1, seen_in="")], NOW) == frozenset()


def test_containers_killed_by_the_successor_of_a_killed_engine_count() -> None:
    assert ended_by_host([death("a", 137, 0.5), death("b", 0, 0.4)], NOW) == {"a", "b"}


def test_without_a_known_start_the_code_of_the_found_dead_still_tells() -> None:
    unknown = Incarnation(name="second", started_at=Instant(0))
    assert ended_by_host([death("a", 255, 0.1), death("b", 1, -1)], unknown) == {"a"}


def test_a_clock_that_was_set_while_the_host_booted_does_not_hide_a_power_cut() -> None:
    assert ended_by_host([death("a", 255, -1)], NOW) == {"a"}
