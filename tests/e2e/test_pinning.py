"""Images from a registry: the digest is recorded once, and every node runs it; logins go along."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import registry
from tests.e2e.cluster import FOREVER, Cluster, diagnosed, eventually
from tests.e2e.conftest import MakePlayground

pytestmark = [pytest.mark.netns, pytest.mark.docker]

STACK = """\
services:
  app:
    image: {image}
    entrypoint: ["sleep", "100000"]
    stop_grace_period: 0s
"""


@pytest.fixture(scope="module")
def cluster(make_shared_playground: MakePlayground) -> Iterator[Cluster]:
    """One manager and two workers."""
    playground = make_shared_playground(managers=1, workers=2)
    with diagnosed(playground):
        yield Cluster(playground)


@pytest.fixture(autouse=True)
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is logged in anywhere, whoever runs the tests."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "nobody"))


def image_of(cluster: Cluster, service: str) -> str:
    spec = cluster.client("m1").get(f"/services/{service}")["Spec"]
    return str(spec["TaskTemplate"]["ContainerSpec"]["Image"])


def words(cluster: Cluster, service: str, count: int) -> set[str]:
    """What the containers of a service have in /word."""
    cluster.wait_running(service, count)
    return {
        cluster.engine(c["Host"], "exec", c["Id"], "cat", "/word", check=False).stdout.strip()
        for c in cluster.wait_containers(service, count)
    }


def test_every_node_runs_the_recorded_digest_though_the_tag_moved(
    cluster: Cluster, tmp_path: Path
) -> None:
    """Our command line and the stock one alike; an update asks anew, a redeployment need not."""
    with registry.running(cluster.playground.record.gateway, tmp_path) as reg:
        image = f"{reg.address}/app:v1"
        one = reg.push(cluster, "app:v1", "one")
        options = ("-d", "--replicas-max-per-node=1", image, *FOREVER)
        assert not cluster.swarmlet("m1", "service", "create", "--name=ours", *options).stderr
        said = cluster.docker("m1", "service", "create", "--name=stock", *options)
        assert "could not be accessed" not in said.stderr
        file = tmp_path / "stack.yml"
        file.write_text(STACK.format(image=image))
        deploy = ("stack", "deploy", "-d", "-c", str(file), "shop")
        cluster.swarmlet("m1", *deploy)
        services = ("ours", "stock", "shop_app")
        assert {image_of(cluster, name) for name in services} == {f"{image}@{one}"}
        started = {c["Id"] for name in services for c in cluster.wait_containers(name, 1)}

        two = reg.push(cluster, "app:v1", "two")
        assert two != one
        for name in ("ours", "stock"):
            cluster.swarmlet("m1", "service", "scale", "-d", f"{name}=3")
            assert words(cluster, name, 3) == {"one"}
        said = cluster.swarmlet("m1", *deploy, "--resolve-image=changed")
        assert "unchanged" in said.stderr
        assert started <= {c["Id"] for c in cluster.containers()}

        update = ("service", "update", "-d", "--replicas=1", "--image", image, "ours")
        cluster.swarmlet("m1", *update)
        assert image_of(cluster, "ours") == f"{image}@{two}"
        eventually(lambda: words(cluster, "ours", 1) == {"two"}, "the update asked anew")
        assert words(cluster, "stock", 3) == {"one"}

    [app] = cluster.containers("shop_app")
    said = cluster.swarmlet("m1", *deploy)  # the registry is gone: what runs goes on
    assert said.stderr.count(f"image {image} could not be accessed on a registry") == 1
    assert "unchanged" in said.stderr
    assert [c["Id"] for c in cluster.containers("shop_app")] == [app["Id"]]
    cluster.remove_all()


def test_a_login_reaches_the_nodes_that_pull(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it neither the digest nor the image is to be had."""
    with registry.running(cluster.playground.record.gateway, tmp_path, login=True) as reg:
        image = f"{reg.address}/private:v1"
        folder = reg.login(tmp_path / "somebody")
        monkeypatch.setenv("DOCKER_CONFIG", str(folder))
        digest = reg.push(cluster, "private:v1", "secret")
        create = ("service", "create", "-d", "--mode=global")

        said = cluster.swarmlet("m1", *create, "--name=denied", image, *FOREVER)
        assert said.stderr.count("could not be accessed on a registry") == 1
        assert image_of(cluster, "denied") == image
        eventually(
            lambda: any(
                "basic auth" in task["Status"].get("Err", "") for task in cluster.tasks("denied")
            ),
            "a task says that the registry wants a login",
            seen=lambda: [task["Status"] for task in cluster.tasks("denied")],
        )
        cluster.remove("denied")

        login = "--with-registry-auth"
        assert not cluster.swarmlet("m1", *create, login, "--name=ours", image, *FOREVER).stderr
        cluster.docker("m1", *create, login, "--name=stock", image, *FOREVER)
        for name in ("ours", "stock"):
            assert image_of(cluster, name) == f"{image}@{digest}"
            assert words(cluster, name, 3) == {"secret"}
        cluster.remove_all()
