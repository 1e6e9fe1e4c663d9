"""When a host is looked at: soon after news, not too often, and once a minute whatever happens."""

import pytest
from swarmlet.net.doubts import BREATH, RECONCILE, SETTLE, Doubts
from swarmlet.net.watch import News

ALL = News.RULES | News.LINKS


@pytest.fixture
def doubts() -> Doubts:
    """Of a host that was looked at a second before 0."""
    doubts = Doubts()
    assert doubts.due(-BREATH, all_of_it=False) == ALL
    doubts.looking(ALL, -BREATH)
    return doubts


def test_news_is_looked_at_when_it_has_settled(doubts: Doubts) -> None:
    """All of a burst by one look, and nothing but what it is about."""
    assert doubts.heard(News.LINKS, 0.0)
    assert not doubts.heard(News.LINKS, SETTLE / 2)
    assert doubts.due(SETTLE / 2, all_of_it=False) == News.NONE
    assert doubts.next_look == SETTLE
    assert doubts.due(SETTLE, all_of_it=False) == News.LINKS


def test_looks_at_the_same_keep_a_distance(doubts: Doubts) -> None:
    doubts.looking(News.LINKS, 0.0)
    doubts.heard(News.LINKS, 0.0)
    assert doubts.next_look == BREATH


def test_without_news_all_is_looked_at_once_a_minute(doubts: Doubts) -> None:
    at = RECONCILE - BREATH
    assert doubts.next_look == at
    assert doubts.due(at - 1, all_of_it=False) == News.NONE
    assert doubts.due(at, all_of_it=False) == ALL


def test_a_look_at_one_thing_leaves_the_other_in_doubt(doubts: Doubts) -> None:
    doubts.heard(ALL, 0.0)
    doubts.looking(News.RULES, 1.0)
    doubts.heard(News.NONE, 1.0)
    assert doubts.heard(News.LINKS, 1.0)
    assert doubts.due(5.0, all_of_it=False) == News.LINKS
