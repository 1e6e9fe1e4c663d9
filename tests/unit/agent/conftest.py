"""An engine that fails on request, for the agent's tests."""

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.fakes.fake_engine import FakeEngine


@pytest.fixture
def directory() -> Iterator[Path]:
    """A short path: unix sockets have 107 characters."""
    with tempfile.TemporaryDirectory(prefix="swlt-") as path:
        yield Path(path)


@pytest.fixture
async def fake(directory: Path) -> AsyncIterator[FakeEngine]:
    async with FakeEngine(directory / "docker.sock").serve() as fake:
        yield fake
