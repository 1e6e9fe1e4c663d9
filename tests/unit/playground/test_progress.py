"""Progress is one plain line a step where nobody watches, and is redrawn on a terminal."""

import io
import re

import pytest
from swarmlet.playground.progress import Lines


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_pipe_sees_one_plain_line_when_a_step_ended() -> None:
    stream = io.StringIO()
    with Lines(stream).step("started m1"):
        assert stream.getvalue() == ""
    assert re.fullmatch(r" ✓ started m1 \(\d+\.\d s\)\n", stream.getvalue())


def test_a_step_that_fails_is_crossed() -> None:
    stream = io.StringIO()
    with pytest.raises(KeyboardInterrupt), Lines(stream).step("started m1"):
        raise KeyboardInterrupt
    assert stream.getvalue() == " ✗ started m1\n"


def test_a_terminal_sees_a_step_begin() -> None:
    stream = Terminal()
    with Lines(stream).step("started m1"):
        assert stream.getvalue() == " · started m1 …"
    assert stream.getvalue().endswith(" s)\n")
