"""Shares of new connections."""

import itertools
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from swarmlet.net.balancing import SLOTS, Backend, redirect, reduced, rendezvous, runs, shares

backends = st.lists(st.integers(1, 1000), min_size=1, max_size=12).map(
    lambda weights: tuple(Backend(f"10.0.0.{n}", w) for n, w in enumerate(weights, 1))
)


@given(backends)
def test_weights_are_exact(several: tuple[Backend, ...]) -> None:
    """Each backend has its share of the numbers, to the last; ranges touch each other."""
    small = reduced(several)
    ranges = list(shares(small))
    total = sum(b.weight for b in several)
    count = ranges[-1][1] + 1
    assert ranges[0][0] == 0
    assert all(a[1] + 1 == b[0] for a, b in itertools.pairwise(ranges))
    for backend, (first, last, address) in zip(several, ranges, strict=True):
        assert address == backend.address
        assert Fraction(last - first + 1, count) == Fraction(backend.weight, total)


@given(st.integers(2, 12), st.data())
def test_a_sticky_backend_that_leaves_moves_only_its_own_clients(
    count: int, data: st.DataObject
) -> None:
    """The slots of the others stay."""
    several = tuple(Backend(f"10.0.0.{n}", n % 3 + 1) for n in range(1, count + 1))
    leaving = data.draw(st.sampled_from(several))
    before = rendezvous(several)
    after = rendezvous([b for b in several if b is not leaving])
    assert all(was in (leaving.address, is_) for was, is_ in zip(before, after, strict=True))


def test_sticky_shares_follow_weights() -> None:
    """Within what hashing gives: a weight of ten gets about ten times as many slots."""
    slots = Counter(rendezvous([Backend("10.0.0.1", 10), Backend("10.0.0.2", 1)]))
    assert slots["10.0.0.1"] > 6 * slots["10.0.0.2"] > 0


@given(st.lists(st.sampled_from(["a", "b", "c"]), min_size=1))
def test_runs_say_the_same_as_slots(slots: list[str]) -> None:
    """In fewer words."""
    ranges = list(runs(slots))
    assert [a for first, last, a in ranges for _ in range(first, last + 1)] == slots
    assert all(a[2] != b[2] for a, b in itertools.pairwise(ranges))


@pytest.mark.parametrize(
    ("port", "statement"),
    [
        (0, "dnat to numgen random mod 10 map { 0-8 : 10.0.0.1, 9 : 10.0.0.2 }"),
        (80, "dnat ip to numgen random mod 10 map { 0-8 : 10.0.0.1 . 80, 9 : 10.0.0.2 . 80 }"),
    ],
)
def test_a_canary_gets_one_of_ten(port: int, statement: str) -> None:
    """The statement that nft gets, with the weights in their smallest numbers."""
    several = (Backend("10.0.0.1", 90), Backend("10.0.0.2", 10))
    assert redirect(several, sticky=False, port=port) == statement


def test_one_backend_needs_no_choice() -> None:
    """Nor does stickiness."""
    assert redirect((Backend("10.0.0.1", 7),), sticky=True, port=80) == "dnat to 10.0.0.1:80"


def test_sticky_clients_are_hashed() -> None:
    """By their address, into a fixed number of slots."""
    several = (Backend("10.0.0.1", 1), Backend("10.0.0.2", 1))
    assert f"jhash ip saddr mod {SLOTS} seed" in redirect(several, sticky=True)
