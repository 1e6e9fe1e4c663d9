"""Lines out of an engine's streams, and as clients get them."""

import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from swarmlet.api import log_lines
from swarmlet.api.log_lines import Frames, Line, TerminalLines
from swarmlet.errors import EngineUnavailable

TIME = b"2026-11-22T13:10:33.341763070Z"
OF = log_lines.context((("com.docker.swarm.task.id", "t1"), ("com.docker.swarm.node.id", "n 1")))


def cut(data: bytes, at: list[int]) -> list[bytes]:
    places = [0, *sorted(place % (len(data) + 1) for place in at), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(places)]


@given(
    lines=st.lists(st.builds(Line, st.sampled_from([1, 2]), st.binary(max_size=50)), max_size=10),
    at=st.lists(st.integers(0, 1000), max_size=8),
)
def test_frames_are_found_however_they_arrive(lines: list[Line], at: list[int]) -> None:
    cutter = Frames()
    data = b"".join(map(log_lines.framed, lines))
    assert [line for piece in cut(data, at) for line in cutter.feed(piece)] == lines
    assert cutter.rest() == []


@given(
    texts=st.lists(st.binary(max_size=50).map(lambda b: b.replace(b"\n", b"")), min_size=1),
    at=st.lists(st.integers(0, 1000), max_size=8),
)
def test_a_terminals_lines_are_found_however_they_arrive(texts: list[bytes], at: list[int]) -> None:
    cutter = TerminalLines()
    found = [line for piece in cut(b"\n".join(texts), at) for line in cutter.feed(piece)]
    found += cutter.rest()
    assert b"".join(line.text for line in found) == b"\n".join(texts)
    assert all(b"\n" not in line.text[:-1] for line in found)


def test_a_line_without_an_end_is_not_kept_for_ever() -> None:
    with pytest.raises(EngineUnavailable):
        Frames().feed(struct.pack(">BxxxI", 1, log_lines.LINE_LIMIT + 1))
    with pytest.raises(EngineUnavailable):
        TerminalLines().feed(b"x" * (log_lines.LINE_LIMIT + 1))


@pytest.mark.parametrize(
    ("details", "timestamps", "text"),
    [
        (False, False, b"out of two\n"),
        (False, True, TIME + b" out of two\n"),
        (
            True,
            False,
            b"a=b,com.docker.swarm.node.id=n+1,com.docker.swarm.task.id=t1,z=%2C out of two\n",
        ),
    ],
)
def test_a_line_is_worded_as_asked_for(*, details: bool, timestamps: bool, text: bytes) -> None:
    """Sorted by name, with what the engine knows of the line (moby, daemon/logger)."""
    own = b" z=%2C,a=b" if details else b""
    line = Line(2, TIME + own + b" out of two\n")
    worded = log_lines.worded(line, OF, details=details, timestamps=timestamps)
    assert worded == Line(2, text)


def test_a_line_of_which_the_engine_knows_nothing_has_our_details() -> None:
    line = Line(1, TIME + b"  out\n")  # two spaces: no details of its own
    worded = log_lines.worded(line, OF, details=True, timestamps=True)
    assert worded.text == TIME + b" " + b",".join(sorted(OF)) + b" out\n"


@pytest.mark.parametrize(
    ("time", "seconds"),
    [
        (TIME, "1795353033.341763070"),
        (b"2026-11-22T14:10:33.5+01:00", "1795353033.500000000"),
        (b"2026-11-22T13:10:33Z", "1795353033.000000000"),
    ],
)
def test_a_time_as_since_takes_it(time: bytes, seconds: str) -> None:
    assert log_lines.unix(time) == seconds


@pytest.mark.parametrize("time", [b"", b"yesterday", b"\xff", b"2026-11-22T13:10:33"])
def test_what_is_no_time(time: bytes) -> None:
    assert log_lines.unix(time) == ""
