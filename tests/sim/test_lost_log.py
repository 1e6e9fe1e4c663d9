"""A member whose log is not what it acknowledged: it says so and stops; nobody else ever does."""

import pytest
from swarmlet.consensus.messages import Ack, Append
from swarmlet.errors import JOIN_ANEW, Damaged

from tests.sim.cured import SMALL
from tests.sim.lab import Lab, led


def copied(lab: Lab, i: str) -> dict[str, bytearray]:
    """What is on a member's disk now."""
    return {name: bytearray(data) for name, data in lab.disks[i].files.items()}


def restored(lab: Lab, i: str, files: dict[str, bytearray]) -> None:
    """Start a member on an older copy of its disk."""
    lab.disks[i].files = files
    lab.start(i)


def write(lab: Lab, count: int, *, through: str = "a") -> None:
    for value in range(count):
        lab.put(through, value)
        lab.beat()


def test_a_member_on_an_old_copy_of_its_disk_stops_and_says_what_to_do() -> None:
    """And its leader knows, once told, however often the member is started again."""
    lab = led("abc")
    files = copied(lab, "b")
    write(lab, 5)
    for _ in range(2):
        restored(lab, "b", {name: bytearray(data) for name, data in files.items()})
        behind = lab.cores["b"].applied_index
        with pytest.raises(Damaged, match="acknowledged") as caught:
            lab.beat(10)
        assert caught.value.advice == JOIN_ANEW
        assert lab.cores["b"].applied_index <= behind + 1
        assert lab.cores["a"].regressed_ids() == ["b"]
    del lab.cores["b"]
    write(lab, 1)  # the others go on
    assert lab.values("c") == lab.values("a")


def test_a_member_whose_disk_was_emptied_is_not_fed_again() -> None:
    """Under its old name: it could vote twice."""
    lab = led("abc")
    lab.disks["b"].files.clear()
    b = lab.start("b", bootstrap="abc")
    with pytest.raises(Damaged, match="acknowledged"):
        lab.beat(40)
    assert b.applied_index == 1
    assert lab.cores["a"].regressed_ids() == ["b"]


def test_a_message_to_an_earlier_member_of_the_name_is_no_proof() -> None:
    """It came late; what the leader knows of the member that is there now says otherwise."""
    lab = led("abc")
    a = lab.cores["a"]
    late = Append(a.term, a.commit, a.wal.last, a.wal.last_term, [], lab.now, acked=a.wal.last)
    a.change_members({"a", "b"})
    lab.beat(3)
    lab.queues.clear()
    c = lab.join("c")
    a.add_learner("c")
    for _ in range(10):
        c.deliver("a", late, lab.now)
        lab.beat()
    assert a.has_caught_up("c")
    assert a.regressed_ids() == []


@pytest.mark.parametrize("settings", [None, SMALL], ids=["entries", "snapshot"])
def test_a_member_that_was_away_for_long_is_no_such_member(settings: object) -> None:
    """Cut off, or restarted on the disk that it had; fed entries, or a snapshot."""
    lab = led("abc", settings=settings)  # type: ignore[arg-type]
    write(lab, 5)
    lab.isolate("b")
    write(lab, 60)
    lab.cut.clear()
    lab.beat(10)
    lab.isolate("c")
    write(lab, 60)
    lab.cut.clear()
    lab.start("c")
    lab.beat(20)
    assert lab.cores["a"].regressed_ids() == []
    assert lab.values("b") == lab.values("c") == lab.values("a")


def test_a_learner_of_an_earlier_leadership_is_a_new_one() -> None:
    """What it acknowledged then was overwritten since: it must not count, or be missed."""
    lab = led("abc")
    a = lab.cores["a"]
    d = lab.join("d")
    a.add_learner("d")
    write(lab, 5)
    lab.cut = {(i, j) for i in "ad" for j in "bc"} | {(j, i) for i in "ad" for j in "bc"}
    for value in range(30):
        lab.put("a", value)
    lab.beat(1, ids="ad")
    assert a.lag("d") == 0
    lab.beat(12, ids="ad")
    assert not a.leads
    lab.elect("b")
    lab.cut.clear()
    write(lab, 5, through="b")
    lab.elect("a")
    a.add_learner("d")
    assert not a.has_caught_up("d")
    lab.beat(5)
    assert a.has_caught_up("d")
    assert lab.values("d") == lab.values("a")
    assert a.regressed_ids() == []
    assert d.wal.last == a.wal.last


def test_a_learner_that_begins_anew_is_fed_again() -> None:
    """Nothing depends on it: a node may be demoted and promoted again while it catches up."""
    lab = led("abc")
    a = lab.cores["a"]
    lab.join("d")
    a.add_learner("d")
    write(lab, 5)
    assert a.has_caught_up("d")
    lab.join("d")
    lab.beat(2)
    write(lab, 5)
    assert a.regressed_ids() == []
    assert lab.values("d") == lab.values("a")


def test_what_a_removed_member_had_acknowledged_does_not_count_for_its_successor() -> None:
    """A node that is demoted and promoted again joins under its name with an empty log."""
    lab = led("abc")
    a, c = lab.cores["a"], lab.cores["c"]
    late = Ack(a.term, a.wal.last + 1, matched=True, sent=lab.now)
    a.change_members({"a", "b"})
    lab.beat(3)
    del lab.cores["c"]
    lab.queues.clear()
    write(lab, 3)
    a.add_learner("c")
    a.deliver("c", late, lab.now)
    assert a.match_index[next(p for p in a.learners if p.id == "c")] == 0
    lab.join("c")
    lab.beat(5)
    assert lab.cores["c"] is not c
    assert a.has_caught_up("c")
    assert a.regressed_ids() == []
