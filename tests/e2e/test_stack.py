"""Stack files through our command line, on real engines."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.cluster import Cluster, diagnosed, eventually
from tests.e2e.conftest import MakePlayground

pytestmark = [pytest.mark.netns, pytest.mark.docker]

STACK = """\
services:
  web:
    image: busybox:lab
    command: ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1000 & wait $$!; done"]
    environment:
      COLOUR: blue
    deploy:
      replicas: 3
      resources:
        limits: {memory: 64M}
      restart_policy: {condition: any, delay: 1s}
  agent:
    image: busybox:lab
    command: ["sleep", "100000"]
    stop_grace_period: 0s
    deploy:
      mode: global
      placement:
        constraints: ["node.role == worker"]
"""


@pytest.fixture(scope="module")
def cluster(make_shared_playground: MakePlayground) -> Iterator[Cluster]:
    """One manager and two workers."""
    playground = make_shared_playground(managers=1, workers=2)
    with diagnosed(playground):
        yield Cluster(playground)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "stack.yml"
    path.write_text(STACK)
    return path


def deploy(cluster: Cluster, file: Path, *, check: bool = True) -> tuple[int, str]:
    done = cluster.swarmlet("m1", "stack", "deploy", "-c", str(file), "shop", check=check)
    return done.returncode, done.stdout + done.stderr


def test_a_stack_is_deployed_shown_deployed_again_and_removed(cluster: Cluster, file: Path) -> None:
    """A second deployment changes nothing, a changed file what changed; rm leaves nothing."""
    deploy(cluster, file)
    cluster.wait_running("shop_web", 3)
    cluster.wait_running("shop_agent", 2)
    shown = cluster.swarmlet("m1", "stack", "ps", "shop").stdout
    assert "shop_web.1" in shown
    assert cluster.swarmlet("m1", "stack", "ls").stdout.split()[-2:] == ["shop", "2"]
    started, versions = cluster.started(), spec_versions(cluster)

    deploy(cluster, file)
    assert spec_versions(cluster) == versions
    assert cluster.started() == started

    file.write_text(STACK.replace("blue", "green"))
    deploy(cluster, file)
    eventually(
        lambda: all(
            "COLOUR=green" in cluster.inspect(c["Host"], c["Id"])["Config"]["Env"]
            for c in cluster.wait_containers("shop_web", 3)
        ),
        "the new environment is everywhere",
    )
    agents = {c["Id"] for c in cluster.containers("shop_agent")}
    assert agents <= started.keys()

    cluster.swarmlet("m1", "stack", "rm", "--yes", "shop")
    assert cluster.client("m1").get("/services") == []
    cluster.wait_no_containers("")


def spec_versions(cluster: Cluster) -> dict[str, int]:
    services = cluster.client("m1").get("/services")
    return {service["ID"]: service["Version"]["Index"] for service in services}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("    imagee: busybox:lab\n", "imagee"),
        ("    deploy: {replicas: many}\n", "replicas"),
        ("    network_mode: host\n", "network_mode"),
        ("   x: [\n", ""),
    ],
)
def test_a_bad_file_deploys_nothing_and_says_where(
    cluster: Cluster, file: Path, wrong: str, said: str
) -> None:
    file.write_text(f"services:\n  good:\n    image: busybox:lab\n  bad:\n    image: b\n{wrong}")
    status, output = deploy(cluster, file, check=False)
    assert status == 8, output
    assert said in output
    assert f"{file.name}:6" in output or "line 6" in output or "6:" in output, output
    assert cluster.client("m1").get("/services") == []


def test_a_stack_that_is_not_there_is_named(cluster: Cluster) -> None:
    said = cluster.swarmlet("m1", "stack", "rm", "--yes", "nope", check=False)
    assert said.returncode == 3, said
    assert "nope" in said.stderr
    shown = cluster.swarmlet("m1", "--format", "json", "stack", "ls").stdout
    assert not [json.loads(line) for line in shown.splitlines()]
