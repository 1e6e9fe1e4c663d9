"""Nodes without managers look for themselves."""

import trio
import trio.testing
from swarmlet.agent.lookout import ALONE_AFTER, Answers, Lookout
from swarmlet.clock import Seconds


def test_who_falls_silent_is_suspected_after_the_second_round() -> None:
    """And no more once it answers; one that was never heard is not judged."""
    answers = Answers()
    assert answers.take({2: True, 3: False, 4: True}) == frozenset()
    assert answers.take({2: False, 3: False, 4: True}) == frozenset()
    assert answers.take({2: False, 3: False, 4: False}) == {2}
    assert answers.take({2: True, 3: False, 4: False}) == {4}
    assert answers.take({2: False, 3: True}) == frozenset()
    assert answers.take({2: False, 4: False}) == {2}


class Node:
    """A node with one other, and perhaps a manager."""

    def __init__(self) -> None:
        self.alone_since: float | None = None
        self.answers = True
        self.asked = 0
        self.silent: frozenset[int] = frozenset()
        self.lookout = Lookout(self.alone, self.ask, self.tell)

    def alone(self) -> Seconds:
        since = self.alone_since
        return Seconds(0 if since is None else trio.current_time() - since)

    async def ask(self) -> dict[int, bool]:
        await trio.lowlevel.checkpoint()
        self.asked += 1
        return {2: self.answers}

    def tell(self, numbers: frozenset[int]) -> None:
        self.silent = numbers


async def test_only_a_node_without_managers_judges(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """And it takes that back when a manager is there again."""
    node = Node()
    nursery.start_soon(node.lookout.run)
    await trio.sleep(60)
    asked, node.answers = node.asked, False
    await trio.sleep(300)
    assert node.silent == frozenset()
    assert node.asked - asked <= 12, "with a manager there is no hurry"
    node.answers = True
    await trio.sleep(60)
    node.alone_since, node.answers = trio.current_time(), False
    await trio.sleep(ALONE_AFTER - 1)
    assert node.silent == frozenset()
    await trio.sleep(5)
    assert node.silent == {2}
    node.answers = True
    await trio.sleep(3)
    assert node.silent == frozenset()
    node.answers = False
    await trio.sleep(5)
    assert node.silent == {2}
    node.alone_since = None
    await trio.sleep(3)
    assert node.silent == frozenset()


async def test_who_answers_is_known_soon_after_the_start(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """The first round may have come before anybody was known; managers may be lost any time."""
    node = Node()
    nursery.start_soon(node.lookout.run)
    await trio.sleep(10)
    assert node.asked >= 3
