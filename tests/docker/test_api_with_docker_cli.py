"""The stock docker client against our API in front of a real engine, with a fake cluster behind."""

import json
import os
import pty
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from swarmlet.api import wording

pytestmark = [
    pytest.mark.docker,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(
        not all(map(shutil.which, ("docker", "dockerd", "unshare", "busybox"))),
        reason="needs docker, dockerd, unshare and a static busybox",
    ),
]

REPOSITORY = Path(__file__).parents[2]
IMAGE = "busybox:lab"
APPLETS = ("sh", "cat", "echo", "sleep", "true", "false", "tty", "stty")

#: The engine runs in namespaces of its own, and asks no name server for registries.
START_ENGINE = """
mount --bind "$0/resolv.conf" /etc/resolv.conf
ip link set lo up
exec dockerd --data-root "$0/data" --exec-root "$0/exec" -H "unix://$0/docker.sock" \
  -p "$0/pid" --bridge=none --iptables=false
"""

#: Seconds for anything here; a machine that is busy with other tests needs some.
PATIENCE = 60.0


def wait_for(what: str, ready: Callable[[], bool]) -> None:
    """Poll something of another process."""
    deadline = time.monotonic() + PATIENCE
    while not ready():
        assert time.monotonic() < deadline, f"{what} did not come"
        time.sleep(0.1)


def stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Docker:
    """The stock client on one socket."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        config = socket.parent / "client"
        self.environment = {**os.environ, "DOCKER_CONFIG": str(config)}
        self.environment["DOCKER_HOST"] = f"unix://{socket}"

    def run(self, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["docker", *arguments],
            input=text,
            capture_output=True,
            text=True,
            env=self.environment,
            timeout=PATIENCE,
            check=False,
        )

    def __call__(self, *arguments: str, text: str = "") -> str:
        done = self.run(*arguments, text=text)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def refused(self, *arguments: str) -> str:
        done = self.run(*arguments)
        assert done.returncode != 0, done.stdout
        return done.stderr.strip().removeprefix("Error response from daemon: ")


def make_image(engine: Docker, folder: Path) -> None:
    root = folder / "root"
    (root / "bin").mkdir(parents=True)
    shutil.copy(str(shutil.which("busybox")), root / "bin" / "busybox")
    for applet in APPLETS:
        (root / "bin" / applet).symlink_to("busybox")
    archive = folder / "image.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(root, ".")
    engine("import", str(archive), IMAGE)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Docker]:
    folder = tmp_path_factory.mktemp("engine")
    (folder / "resolv.conf").write_text("nameserver 127.0.0.1\n")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            ["unshare", "--net", "--mount", "sh", "-ec", START_ENGINE, str(folder)],
            stdout=log,
            stderr=log,
        )
    client = Docker(folder / "docker.sock")
    try:
        wait_for("the engine", lambda: client.run("version").returncode == 0)
        make_image(client, folder)
        yield client
        for container in client("ps", "-aq").split():
            client("rm", "-f", container)
    finally:
        stop(process)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def docker(engine: Docker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Docker]:
    """The client on our socket."""
    path = tmp_path_factory.mktemp("api") / "s.sock"
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.docker.serve_fake", str(engine.socket), str(path)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"listening\n"
        yield Docker(path)
    finally:
        stop(process)
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture
def service(docker: Docker) -> Iterator[str]:
    """A service of two tasks."""
    docker("service", "create", "-d", "--name", "web", "--replicas", "2", IMAGE, "sleep", "99")
    yield "web"
    docker("service", "rm", "web")


def test_version_and_info_show_both_the_engine_and_the_swarm(docker: Docker) -> None:
    version = json.loads(docker("version", "--format", "{{json .Server}}"))
    assert version["ApiVersion"] == "1.47"
    assert {"Engine", "swarmlet"} <= {c["Name"] for c in version["Components"]}
    info = json.loads(docker("info", "--format", "{{json .}}"))
    assert info["Swarm"]["ControlAvailable"] is True
    assert info["Driver"]


def test_containers_run_with_input_output_and_exit_status(docker: Docker) -> None:
    assert docker("run", "--rm", "--network", "none", IMAGE, "echo", "hello") == "hello"
    piped = docker("run", "--rm", "-i", "--network", "none", IMAGE, "cat", text="from stdin\n")
    assert piped == "from stdin"
    assert docker.run("run", "--rm", "--network", "none", IMAGE, "false").returncode == 1
    assert "busybox" in docker("images")


def test_exec_with_a_terminal(docker: Docker) -> None:
    docker("run", "-d", "--name", "box", "--network", "none", IMAGE, "sleep", "99")
    assert docker("ps", "--format", "{{.Names}}") == "box"
    parent, child = pty.openpty()
    process = subprocess.Popen(
        ["docker", "exec", "-it", "box", "sh"],
        stdin=child,
        stdout=child,
        stderr=child,
        env=docker.environment,
    )
    os.close(child)
    os.write(parent, b"tty; echo $((40 + 2)); exit 3\n")
    output = b""
    try:
        while data := os.read(parent, 4096):
            output += data
    except OSError:  # how a terminal ends
        pass
    assert process.wait(PATIENCE) == 3
    os.close(parent)
    assert b"/dev/pts/" in output
    assert b"\n42\r" in output
    docker("rm", "-f", "box")


def test_files_and_images_are_streamed_both_ways(docker: Docker, tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.write_bytes(os.urandom(5_000_000))
    docker("create", "--name", "files", "--network", "none", IMAGE, "true")
    docker("cp", str(large), "files:/large")
    docker("cp", "files:/large", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == large.read_bytes()
    docker("rm", "files")
    docker("save", "-o", str(tmp_path / "saved.tar"), IMAGE)
    assert "Loaded image" in docker("load", "-i", str(tmp_path / "saved.tar"))


def test_nodes(docker: Docker) -> None:
    assert "Leader" in docker("node", "ls")
    docker("node", "update", "--label-add", "zone=a", "n1")
    labels = docker("node", "inspect", "--format", "{{json .Spec.Labels}}", "self")
    assert json.loads(labels) == {"zone": "a"}
    assert docker.refused("node", "demote", "n1") == wording.LAST_MANAGER
    assert "Reachable" in docker("node", "inspect", "--pretty", "n1")


def test_services_are_listed_scaled_and_inspected(docker: Docker, service: str) -> None:
    assert docker("service", "ls", "--format", "{{.Name}} {{.Replicas}}") == "web 2/2"
    docker("service", "scale", "-d", f"{service}=3")
    assert docker("service", "ls", "--format", "{{.Replicas}}") == "3/3"
    names = docker("service", "ps", service, "--format", "{{.Name}} {{.Node}}").splitlines()
    assert sorted(names) == ["web.1 n1", "web.2 n1", "web.3 n1"]
    assert "Service Mode:\tReplicated" in docker("service", "inspect", "--pretty", service)
    assert len(docker("node", "ps", "self", "-q").split()) == 3


def test_create_update_and_rollback_wait_until_they_converge(docker: Docker) -> None:
    created = docker("service", "create", "--name", "wait", "--replicas", "2", IMAGE, "sleep", "9")
    assert "converged" in created
    assert docker("service", "update", "--env-add", "A=b", "wait").startswith("wait")
    assert "rollback completed" in docker("service", "rollback", "wait")
    assert docker("service", "rm", "wait") == "wait"


def test_wrong_services_are_refused_in_words(docker: Docker, service: str) -> None:
    text = docker.refused("service", "create", "-d", "--network", "nowhere", IMAGE)
    assert "network nowhere not found" in text
    taken = docker.refused("service", "create", "-d", "--name", service, IMAGE)
    assert "name conflicts with an existing object: service web already exists" in taken


def test_swarm_commands(docker: Docker) -> None:
    before = docker("swarm", "join-token", "-q", "worker")
    assert docker("swarm", "join-token", "--rotate", "-q", "worker") != before
    docker("swarm", "update", "--task-history-limit", "2")
    limit = "{{.Swarm.Cluster.Spec.Orchestration.TaskHistoryRetentionLimit}}"
    assert docker("info", "--format", limit) == "2"
    assert docker.refused("swarm", "leave") == wording.LEAVING_LAST_MANAGER.strip()
    assert docker.refused("swarm", "init") == wording.ALREADY_IN_SWARM


def test_polled_lists_are_there(docker: Docker) -> None:
    for noun in ("secret", "config", "stack"):
        assert len(docker(noun, "ls").splitlines()) == 1
    assert "host" in docker("network", "ls")
