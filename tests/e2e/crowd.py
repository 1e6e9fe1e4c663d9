"""Threads that ask something for the length of a ``with`` block."""

import threading
from typing import Self


class Crowd:
    """``_threads`` are a subclass's; each ends soon after ``_stop`` is set."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
