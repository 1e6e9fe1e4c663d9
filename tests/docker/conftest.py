import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docker import host
from tests.docker.host import EngineHost


@pytest.fixture(scope="session")
def engine_host() -> Iterator[EngineHost]:
    """One engine for the tests that do not break it."""
    yield from _host()


@pytest.fixture
def doomed_host() -> Iterator[EngineHost]:
    """An engine of its own for a test that kills it."""
    yield from _host()


def _host() -> Iterator[EngineHost]:
    host.require()
    engine = EngineHost(Path(tempfile.mkdtemp(prefix="swlt-")))
    try:
        engine.boot()
        engine.import_image("busybox:lab")
        engine.import_image("busybox:entry", 'ENTRYPOINT ["echo","entry"]', 'CMD ["image-cmd"]')
        yield engine
    finally:
        engine.destroy()
