"""A fake daemon, and a command line whose clock costs nothing."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner
from swarmlet.cli.app import App
from swarmlet.cli.main import run as run_cli

from tests.fakes import swarm
from tests.fakes.api_server import FakeApi, Request, serve

Json = Any


class Result(NamedTuple):
    """What a command line printed, and how it ended."""

    status: int
    out: str
    err: str


class Cli:
    """Runs command lines against the fake daemon, as on a pipe."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.now = 0.0
        self.naps = 0

    def app(self) -> App:
        app = App(self.socket)
        app.monotonic = lambda: self.now
        app.sleep = self._sleep
        return app

    def _sleep(self, seconds: float) -> None:
        self.now += seconds
        self.naps += 1
        if self.naps > 10_000:
            raise AssertionError("this waits for ever")

    def __call__(self, *args: str, stdin: str | None = None) -> Result:
        app = self.app()
        runner = CliRunner()
        with runner.isolation(input=stdin) as (out, err, _):
            status = run_cli(args, app=app)
            return Result(status, out.getvalue().decode(), err.getvalue().decode())


def fits(request: Request, network: Json) -> bool:
    """Whether a network has the label that a request asks for."""
    wanted = request.filters.get("label", [])
    labels = {f"{key}={value}" for key, value in network["Labels"].items()}
    return set(wanted) <= labels


@pytest.fixture
def api(tmp_path: Path) -> Iterator[FakeApi]:
    """A daemon with two nodes, the network of a stack, and no services."""
    fake = FakeApi()
    fake.on("GET /nodes", [swarm.node("mgr-1", leader=True), swarm.node("wrk-1")])
    fake.on("GET /info", swarm.info("mgr-1"))
    fake.on("HEAD /_ping", None)
    fake.headers["Swarmlet-Node"] = swarm.node("mgr-1")["ID"]
    fake.on("GET /services", [])
    fake.on("GET /tasks", [])
    network = swarm.network("shop_default")
    fake.on("GET /networks", lambda r: [network] if fits(r, network) else [])
    with serve(fake, tmp_path / "api.sock"):
        yield fake


@pytest.fixture
def cli(tmp_path: Path, api: FakeApi) -> Cli:
    """A command line that talks to it."""
    del api
    return Cli(tmp_path / "api.sock")
