from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from swarmlet.api.server import Api

from tests.fakes.backend import FakeBackend
from tests.fakes.engine import FakeEngine, fake_engine


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[FakeEngine]:
    async with fake_engine(tmp_path / "engine.sock") as running:
        yield running


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend(works=True)


@pytest.fixture
def api(engine: FakeEngine, backend: FakeBackend) -> Api:
    return Api(backend, engine.path)
