"""Names as a container sees them, through the engine's own resolver, which forwards to ours."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from swarmlet.net import resolver, resolver_files
from swarmlet.net.resolver_files import TABLE, NameTable

from tests.docker.host import EngineHost
from tests.unit.net.records import network, service, tables, task

pytestmark = pytest.mark.docker

NAMES = NameTable(
    tables=tables(
        network("names-front", "10.99.1.0/24"),
        network("names-inner", "10.99.2.0/24", internal=True),
        service("web", "names-front=10.99.1.100", "names-inner=10.99.2.100"),
        service("other", "names-front=10.99.1.101"),
        task("web.1.aa", "names-front=10.99.1.11"),
        task("web.2.ab", "names-inner=10.99.2.11"),
        # On another node: the engine here knows nothing of it.
        task("web.3.ac", "names-front=10.99.1.12", "names-inner=10.99.2.12", node=2, hostname="h3"),
    ),
    listen=("10.99.1.1", "10.99.2.1"),
)


@pytest.fixture(scope="module")
def named_host(engine_host: EngineHost, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A resolver in the engine's namespace, that listens before the bridges are made."""
    assert engine_host.process is not None
    directory = tmp_path_factory.mktemp("names")
    resolver_files.replace(directory / TABLE, resolver_files.encode(NAMES))
    (directory / "resolv.conf").write_text("nameserver 127.0.0.1\n")  # where nobody listens
    read_end, write_end = os.pipe()
    running = subprocess.Popen(
        [
            *("nsenter", "-t", str(engine_host.process.pid), "-n"),
            *(sys.executable, "-m", "swarmlet.net.resolver", "--ready-fd", str(write_end)),
            *("--table", str(directory / TABLE), "--resolv-conf", str(directory / "resolv.conf")),
        ],
        pass_fds=(write_end,),
        cwd=Path(__file__).parents[2],
    )
    os.close(write_end)
    try:
        with os.fdopen(read_end, "rb") as ready:
            assert ready.read() == resolver.READY
        for name, number, more in (("front", 1, ()), ("inner", 2, ("--internal",))):
            engine_host.docker(
                *("network", "create", "--subnet", f"10.99.{number}.0/24"),
                *("--gateway", f"10.99.{number}.1", *more, f"names-{name}"),
            )
            engine_host.docker(
                *("run", "-d", "--name", f"names-{name}", "--network", f"names-{name}"),
                *("--ip", f"10.99.{number}.11", "--dns", f"10.99.{number}.1"),
                *("busybox:lab", "sleep", "1000000"),
            )
        yield
    finally:
        running.kill()
        running.wait()
        engine_host.docker("rm", "-f", "names-front", "names-inner", check=False)
        engine_host.docker("network", "rm", "names-front", "names-inner", check=False)


@pytest.mark.usefixtures("named_host")
@pytest.mark.parametrize(
    ("where", "name", "expected"),
    [
        ("front", "web", "10.99.1.100"),
        ("front", "tasks.web", "10.99.1.12"),
        ("front", "h3", "10.99.1.12"),
        ("front", "web.3.ac", "10.99.1.12"),
        ("front", "web.names-front", "10.99.1.100"),
        ("front", "10.99.1.100", "web.names-front"),
        ("inner", "web", "10.99.2.100"),
        ("inner", "10.99.2.12", "web.3.ac.names-inner"),
        ("inner", "other", "SERVFAIL"),
        ("front", "example.com", "SERVFAIL"),
    ],
)
def test_container_asks_its_engine_and_the_engine_asks_us(
    engine_host: EngineHost, where: str, name: str, expected: str
) -> None:
    """On an internal network as well, where engines since 26 forward nothing to the host's."""
    command = ("exec", f"names-{where}", "busybox", "nslookup", name)
    said = engine_host.docker(*command, check=False).stdout.decode()
    assert expected in said.split("\n", 2)[2], said
