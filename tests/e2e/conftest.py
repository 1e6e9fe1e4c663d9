"""Real hosts for end-to-end tests: network namespaces with real Docker Engines.

``make_playground(managers=3, workers=2)`` gives a cluster of the code under test, taken down when
the test ends; names carry the process id, so that several runs do not meet.
"""

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Protocol

import pytest
from swarmlet.playground import preflight
from swarmlet.playground.playground import Playground, Wish

from tests.e2e.cluster import Cluster, diagnosed

_numbers = itertools.count()

#: What hosts of a test may run on.
ENGINES = ("the machine's engine", "two engines")

#: Names a folder with another dockerd, its containerd and docker-proxy.
ENGINE_VARIABLE = "SWARMLET_TEST_ENGINE"


class MakePlayground(Protocol):
    """Makes a playground that lives as long as the fixture."""

    def __call__(
        self, *, managers: int = 3, workers: int = 2, wish: Wish | None = None
    ) -> Playground: ...


def unique_name() -> str:
    """Return a name that no other test and no other run uses."""
    return f"t{os.getpid()}-{next(_numbers)}"


@pytest.fixture(scope="session")
def capable() -> None:
    """Skip where no playground can run, and say why."""
    try:
        preflight.check()
    except preflight.CannotRunHere as exc:
        pytest.skip(f"{exc.message}; {exc.advice}")


def engines_of(which: str) -> dict[str, str]:
    """Which of :data:`ENGINES` hosts run on; skips where there is no other one.

    With two, a manager and a worker get the other one.
    """
    if which == ENGINES[0]:
        return {}
    folder = os.environ.get(ENGINE_VARIABLE)
    if not folder:
        pytest.skip(f"needs another engine: {ENGINE_VARIABLE} names its folder")
    return dict.fromkeys(("m1", "w1"), f"{folder}/dockerd")


def _maker(stack: ExitStack) -> MakePlayground:
    def make(*, managers: int = 3, workers: int = 2, wish: Wish | None = None) -> Playground:
        return stack.enter_context(
            Playground.up(unique_name(), managers=managers, workers=workers, wish=wish)
        )

    return make


@pytest.fixture
def make_playground(capable: None) -> Iterator[MakePlayground]:
    """Make playgrounds for one test."""
    with ExitStack() as stack:
        yield _maker(stack)


@pytest.fixture(scope="module")
def make_shared_playground(capable: None) -> Iterator[MakePlayground]:
    """Make playgrounds for all tests of a module: only for tests that leave them as they were."""
    with ExitStack() as stack:
        yield _maker(stack)


@pytest.fixture(scope="module")
def hosts(
    request: pytest.FixtureRequest, make_shared_playground: MakePlayground
) -> Iterator[Cluster]:
    """A cluster for all tests of a module; its ``HOSTS`` says how many managers and workers."""
    managers, workers = request.module.HOSTS
    playground = make_shared_playground(managers=managers, workers=workers)
    with diagnosed(playground):
        yield Cluster(playground)


@pytest.fixture
def cluster(hosts: Cluster) -> Iterator[Cluster]:
    """The same; when the test ends, all nodes are ready and nothing that it made is left."""
    yield hosts
    hosts.wait_all_ready()
    hosts.remove_all()
    hosts.reset_nodes()
    hosts.remove_networks()


@pytest.fixture
def defer() -> Iterator[Callable[..., object]]:
    """Register calls that clean up after a test, however it ends."""
    with ExitStack() as stack:
        yield stack.callback
