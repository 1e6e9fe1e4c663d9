"""Keys of tunnels: when they are replaced, where they are kept, and who hears of them."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from swarmlet.agent.key_rotation import Pace, Ring, Step, decide, forgot, made, switched
from swarmlet.agent.keys import FILE, LOOK_LATER, KeyKeeper
from swarmlet.clock import SECOND, Instant, Nanos
from swarmlet.model.tunnels import TunnelKeys, is_key
from swarmlet.net.facts import OwnTunnel
from swarmlet.security import tunnel_keys

PACE = Pace()
HOUR = Nanos(3600 * SECOND)
START = Instant(1_000_000 * SECOND)
OLD, NEW = tunnel_keys.new_key(), tunnel_keys.new_key()
RING = Ring(lanes=(OLD, ""), since=START)


def after(seconds: float) -> Instant:
    return Instant(START + int(seconds * SECOND))


def at(seconds: float) -> int:
    return after(seconds) // SECOND


def coming() -> Ring:
    return made(RING, NEW, START)


def taken(ring: Ring, step: Step, key: str, now: Instant) -> Ring:
    """What comes of a step."""
    match step:
        case Step.WAIT:
            return ring
        case Step.MAKE:
            return made(ring, key, now)
        case Step.SWITCH:
            return switched(ring, now)
        case Step.FORGET:
            return forgot(ring)


def test_a_key_serves_for_its_period() -> None:
    assert decide(RING, ({}, {}), after(12 * 3600 - 1), PACE) is Step.WAIT
    assert decide(RING, ({}, {}), after(12 * 3600), PACE) is Step.MAKE


def test_a_new_key_is_used_when_all_who_exchange_packets_have_it() -> None:
    """Who is silent for longer than a session lasts loses nothing."""
    talking, silent = {2: at(20), 3: at(35)}, {4: at(20 - 181)}
    for known, step in (
        ({}, Step.WAIT),
        ({2: at(39)}, Step.WAIT),
        ({2: at(39), 3: at(39)}, Step.SWITCH),
    ):
        assert decide(coming(), (talking | silent, known), after(40), PACE) is step
    assert decide(coming(), ({}, {}), after(29), PACE) is Step.WAIT
    assert decide(coming(), ({}, {}), after(30), PACE) is Step.SWITCH


def test_a_handshake_by_an_earlier_key_of_the_lane_does_not_count() -> None:
    assert decide(coming(), ({2: at(35)}, {2: at(-5)}), after(40), PACE) is Step.WAIT


def test_one_that_hears_of_nothing_does_not_keep_the_others_from_new_keys() -> None:
    assert decide(coming(), ({2: at(1799)}, {}), after(1799), PACE) is Step.WAIT
    assert decide(coming(), ({2: at(1799)}, {}), after(1800), PACE) is Step.SWITCH


def test_an_old_key_is_kept_while_it_is_used() -> None:
    ring = switched(coming(), START)
    assert ring.lanes[ring.lane] == NEW
    assert decide(ring, ({}, {}), after(599), PACE) is Step.WAIT
    assert decide(ring, ({2: at(500)}, {}), after(600), PACE) is Step.WAIT
    assert decide(ring, ({2: at(500)}, {}), after(681), PACE) is Step.FORGET
    assert decide(ring, ({2: at(12 * 3600)}, {}), after(12 * 3600), PACE) is Step.FORGET
    assert forgot(ring).lanes == ("", NEW)


@pytest.mark.parametrize("ring", [RING, coming(), switched(coming(), START)])
def test_a_clock_that_was_set_back_keeps_no_key_for_ever(ring: Ring) -> None:
    assert decide(ring, ({2: at(0)}, {2: at(0)}), after(-1), PACE) is not Step.WAIT


@given(
    st.lists(
        st.tuples(st.integers(0, 20_000), st.sets(st.integers(0, 5)), st.sets(st.integers(0, 5)))
    )
)
def test_no_lane_that_is_in_use_is_changed_before_its_time(
    moments: list[tuple[int, set[int], set[int]]],
) -> None:
    """Whatever happens: the key by which the node sends stays, and an idle one that is used."""
    ring, now = RING, START
    for number, (pause, first, second) in enumerate(moments):
        now = Instant(now + pause * SECOND)
        seen = [dict.fromkeys(nodes, now // SECOND) for nodes in (first, second)]
        step = decide(ring, seen, now, PACE)
        new = taken(ring, step, f"key{number}", now)
        assert new.lanes[ring.lane] == ring.lanes[ring.lane]
        if step is Step.SWITCH:
            assert new.lanes[new.lane]
            assert set(seen[ring.lane]) <= set(seen[ring.idle]) or now - ring.made >= PACE.most
        if step is Step.FORGET:
            assert not seen[ring.idle] or now - ring.since >= PACE.period
        ring = new


class FakeTunnels:
    """A forwarder that takes keys."""

    def __init__(self) -> None:
        self.unable = ""
        self.given: list[tuple[OwnTunnel | None, dict[str, str], str]] = []
        self.seen: tuple[dict[int, int], dict[int, int]] = ({}, {})

    async def cannot_encrypt(self) -> str:
        await trio.lowlevel.checkpoint()
        return self.unable

    def set_tunnel(self, own: OwnTunnel | None, private: Mapping[str, str], why: str = "") -> None:
        self.given.append((own, dict(private), why))

    async def handshakes(self) -> tuple[dict[int, int], dict[int, int]]:
        await trio.lowlevel.checkpoint()
        return self.seen


class Rig:
    def __init__(self, directory: Path) -> None:
        self.now = START
        self.directory = directory
        self.tunnels = FakeTunnels()
        self.heard: list[TunnelKeys | None] = []

    async def hear(self, times: int) -> None:
        """Until others were told so often; the file is written in a thread, in real time."""
        while len(self.heard) < times:  # noqa: ASYNC110  # the clock moves by sleeping
            await trio.sleep(1)

    def keeper(self) -> KeyKeeper:
        keeper = KeyKeeper(
            self.directory,
            self.tunnels,
            lambda: self.heard.append(keeper.public),
            clock=lambda: self.now,
        )
        return keeper


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path / "forwarding")


async def test_only_public_keys_are_told(rig: Rig, nursery: trio.Nursery) -> None:
    """The private one is for the tunnels, and for a file that only its owner may read."""
    keeper = rig.keeper()
    await nursery.start(keeper.run)
    ((own, private, _),) = rig.tunnels.given
    assert own is not None
    assert rig.heard == [own.keys] == [keeper.public]
    (secret,) = filter(None, private.values())
    assert tunnel_keys.public_of(secret) == own.keys.lanes[0]
    assert is_key(own.keys.lanes[0])
    path = rig.directory / FILE
    assert secret in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600


async def test_a_restart_keeps_the_keys(rig: Rig, nursery: trio.Nursery) -> None:
    """And a damaged file costs new ones, no more."""
    await nursery.start(rig.keeper().run)
    again = rig.keeper()
    await nursery.start(again.run)
    assert again.public == rig.heard[0]
    (rig.directory / FILE).write_text('{"lanes": ["nonsense", ""], "lane": 0, "since": 0}')
    anew = rig.keeper()
    await nursery.start(anew.run)
    assert anew.public is not None
    assert anew.public != again.public


async def test_a_key_is_replaced_step_by_step(
    rig: Rig, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """Announced, used, and the old one forgotten; each is kept and told before it counts."""
    keeper = rig.keeper()
    await nursery.start(keeper.run)
    rig.now = Instant(START + 12 * HOUR)
    await rig.hear(2)
    assert keeper.public is not None
    assert all(keeper.public.lanes)
    assert keeper.public.lane == 0
    assert rig.tunnels.given[-1][0] == OwnTunnel(keeper.public, warming=True)
    rig.now = Instant(rig.now + PACE.least)
    await rig.hear(3)
    assert keeper.public.lane == 1
    rig.now = Instant(rig.now + PACE.keep)
    await rig.hear(4)
    assert keeper.public.lanes[0] == ""
    assert [keys.lane for keys in rig.heard if keys] == [0, 0, 1, 1]


async def test_a_node_that_cannot_encrypt_has_no_key_until_it_can(
    rig: Rig, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """Somebody may install what is missing."""
    rig.tunnels.unable = "there is no wg here"
    keeper = rig.keeper()
    await nursery.start(keeper.run)
    assert keeper.public is None
    assert rig.tunnels.given == [(None, {}, "there is no wg here")]
    assert not (rig.directory / FILE).exists()
    rig.tunnels.unable = ""
    await rig.hear(1)
    assert rig.heard == [keeper.public]
    assert keeper.public is not None


async def test_who_leaves_forgets_its_keys(
    rig: Rig, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """And makes no others, however long that takes."""
    keeper = rig.keeper()
    await nursery.start(keeper.run)
    keeper.forget()
    await trio.sleep(LOOK_LATER + 1)
    assert keeper.public is None
    assert not (rig.directory / FILE).exists()


async def test_keys_that_are_forgotten_during_a_look_stay_forgotten(rig: Rig) -> None:
    keeper = rig.keeper()
    await keeper._try_to_begin()
    rig.now = Instant(rig.now + PACE.period)
    heard = len(rig.heard)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keeper.look)
        await trio.testing.wait_all_tasks_blocked()
        keeper.forget()
    assert keeper.public is None
    assert len(rig.heard) == heard
    assert not (rig.directory / FILE).exists()


def test_a_ring_keeps_its_other_fields() -> None:
    """Made, switched, forgot: what is not named stays."""
    ring = replace(coming(), since=after(-5))
    assert ring.since == after(-5)
    assert made(ring, OLD, START).since == after(-5)
    assert forgot(ring).since == after(-5)
