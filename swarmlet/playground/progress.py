"""Lines that say what is being done: `` ✓ started 5 engines``, on stderr."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO


class Progress(Protocol):
    """Told about each step of a long operation."""

    @contextmanager
    def step(self, text: str) -> Iterator[None]:
        """Announce a step, run it, and say how it went."""
        yield


class Silent:
    """Says nothing: for programs that use playgrounds."""

    @contextmanager
    def step(self, text: str) -> Iterator[None]:
        """Run the step."""
        yield


class Lines:
    """One line a step. A terminal sees it appear when the step starts, a pipe when it ends."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr

    @contextmanager
    def step(self, text: str) -> Iterator[None]:
        """Announce a step, run it, and say how it went."""
        started = time.monotonic()
        if self._stream.isatty():
            self._write(f" · {text} …")
        try:
            yield
        except BaseException as exc:
            notes = getattr(exc, "__notes__", [])
            self._finish("\n".join([f" ✗ {text}", *notes]))
            raise
        self._finish(f" ✓ {text} ({time.monotonic() - started:.1f} s)")

    def _finish(self, line: str) -> None:
        clear = "\r\x1b[K" if self._stream.isatty() else ""
        self._write(f"{clear}{line}\n")

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def count(number: int, noun: str) -> str:
    """Return ``1 host``, ``2 hosts``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


__all__ = ["Lines", "Progress", "Silent", "count"]
