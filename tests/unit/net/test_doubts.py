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
    doubts.looking(-BREATH)
    return doubts


def test_news_is_looked_at_when_it_has_settled(doubts: Doubts) -> None:
    """All of a burst by one look, and nothing but what it is about."""
    assert doubts.heard(News.LINKS, 0.0)
    assert not doubts.heard(News.LINKS, SETTLE / 2)
    assert doubts.due(SETTLE / 2, all_of_it=False) == News.NONE
    assert doubts.next_look == SETTLE
    assert doubts.due(SETTLE, all_of_it=False) == News.LINKS


def test_looks_keep_a_distance(doubts: Doubts) -> None:
    doubts.looking(0.0)
    doubts.heard(News.LINKS, 0.0)
    assert doubts.next_look == BREATH


def test_without_news_all_is_looked_at_once_a_minute(doubts: Doubts) -> None:
    at = RECONCILE - BREATH
    assert doubts.next_look == at
    assert doubts.due(at - 1, all_of_it=False) == News.NONE
    assert doubts.due(at, all_of_it=False) == ALL
