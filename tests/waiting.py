"""Wait for a condition, with a deadline that only a failure reaches."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

T = TypeVar("T")

#: Far above what anything takes on a busy machine: reaching it is a failure, not a measurement.
PATIENCE = 30.0


async def eventually(
    check: Callable[[], T | None], *, what: str = "", patience: float = PATIENCE
) -> T:
    """Return the first true result of ``check``."""

    async def asked() -> T | None:
        return check()

    return await eventually_async(asked, what=what, patience=patience)


async def eventually_async(
    check: Callable[[], Awaitable[T | None]], *, what: str = "", patience: float = PATIENCE
) -> T:
    """Return the first true result of an async ``check``."""
    deadline = trio.current_time() + patience
    while True:
        result = await check()
        if result:
            return result
        if trio.current_time() > deadline:
            raise AssertionError(f"never happened: {what or check}; last: {result!r}")
        await trio.sleep(0.01)
