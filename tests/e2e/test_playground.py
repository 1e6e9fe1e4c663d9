"""The playground on the real machine: namespaces, cables, engines, and nothing left behind."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner
from swarmlet.client import Client
from swarmlet.errors import AlreadyExists, FailedPrecondition, InvalidInput, NotFound
from swarmlet.playground import cgroups, cleanup, images, machine
from swarmlet.playground.cli import playground as cli
from swarmlet.playground.layout import Site
from swarmlet.playground.playground import Playground, Wish, default_roots

from tests.e2e.conftest import MakePlayground, unique_name
from tests.fakes import swarmletd

pytestmark = [pytest.mark.netns, pytest.mark.docker]

ENGINES_ONLY = Wish(daemon=None)
FAKE_DAEMON = Wish(daemon=(sys.executable, swarmletd.__file__))


@pytest.fixture(scope="module")
def lab(make_shared_playground: MakePlayground) -> Playground:
    """Two hosts with engines only; a test that changes one puts it back."""
    return make_shared_playground(managers=1, workers=1, wish=ENGINES_ONLY)


def traces(site: Site) -> dict[str, list[str]]:
    """Everything on this machine that carries a playground's name, by kind."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    rules = machine.run(["iptables", "-w", "-S"]).splitlines()
    tables = machine.run(["nft", "list", "tables"]).splitlines()
    folders = [site.run_dir, site.data_dir, site.state_file]
    groups = [root / site.cgroup for root, _ in cgroups.hierarchies()]
    found = {
        "links": machine.links(site),
        "namespaces": machine.namespaces(site),
        "mounts": [line for line in mounts if f"/{site.name}/" in line],
        "rules": [line for line in rules if site.bridge in line],
        "tables": [line for line in tables if site.filter_table in line],
        "folders": [str(path) for path in [*folders, *groups] if path.exists()],
        "processes": processes(f"/{site.name}/"),
    }
    return {kind: items for kind, items in found.items() if items}


def processes(word: str) -> list[str]:
    """Command lines of the processes that mention a word (a dead one has none)."""
    found: list[str] = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # it ended meanwhile
        if word in line:
            found.append(line)
    return found


def connects(address: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((address, port)) == 0


def refuses(address: str) -> bool:
    """Whether a living kernel answers: a closed port gives a RST, a dead host gives nothing."""
    with socket.socket() as probe:
        probe.settimeout(1)
        try:
            probe.connect((address, 9))
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
        return True


def eventually(claim: Callable[[], bool]) -> bool:
    """Whether a claim becomes true: a bound against hanging, not a measurement."""
    deadline = time.monotonic() + 30
    while not claim():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def ping(playground: Playground, source: str, target: str) -> bool:
    address = playground.host(target).address
    argv = [str(images.BUSYBOX), "ping", "-c", "1", "-W", "1", address]
    return playground.run(source, *argv, check=False).returncode == 0


def test_a_host_has_its_own_name_network_and_engine_and_keeps_the_folder(lab: Playground) -> None:
    assert lab.run("w1", "hostname").stdout == "w1\n"
    assert lab.run("w1", "pwd").stdout.strip() == os.getcwd()  # noqa: PTH109 - what a shell says
    assert lab.run("w1", "docker", "info", "-f", "{{.Name}}").stdout == "w1\n"
    assert lab.host("w1").address in lab.run("w1", "ip", "-4", "addr").stdout
    assert lab.run("w1", "cat", "/etc/resolv.conf").stdout == "nameserver 127.0.0.1\n"


def test_a_container_serves_the_machine_and_the_other_host(lab: Playground) -> None:
    command = ["docker", "run", "-d", "--name=web", "-p", "8080:80", "busybox:lab"]
    lab.run("m1", *command, "sh", "-c", "echo hello > /var/www/index.html; httpd -f -h /var/www")
    address = lab.host("m1").address
    assert eventually(lambda: connects(address, 8080))
    fetched = lab.run("w1", str(images.BUSYBOX), "wget", "-qO-", f"http://{address}:8080")
    assert fetched.stdout == "hello\n"
    lab.run("m1", "docker", "rm", "-f", "web")


def test_every_engine_has_the_lab_image_under_the_same_id(lab: Playground) -> None:
    command = ["docker", "image", "inspect", "-f", "{{.Id}}", "busybox:lab", "busybox:latest"]
    ids = {line for host in ("m1", "w1") for line in lab.run(host, *command).stdout.split()}
    assert len(ids) == 1


def test_a_cut_cable_silences_a_host_that_runs_on(lab: Playground) -> None:
    lab.cut("w1")
    assert lab.host("w1").cable == "cut"
    assert lab.host("w1").state == "running"
    assert not refuses(lab.host("w1").address)
    lab.heal("w1")
    assert lab.host("w1").cable == "up"
    assert eventually(lambda: refuses(lab.host("w1").address))


def test_a_partition_parts_hosts_from_each_other_but_not_from_the_machine(lab: Playground) -> None:
    assert eventually(lambda: ping(lab, "m1", "w1"))
    lab.partition(["m1"], ["w1"])
    assert not ping(lab, "m1", "w1")
    assert not ping(lab, "w1", "m1")
    assert refuses(lab.host("m1").address)
    assert refuses(lab.host("w1").address)
    lab.heal()
    assert ping(lab, "m1", "w1")


@pytest.mark.parametrize("groups", [[["m1"]], [["m1"], ["m1"]], [["m1"], []]])
def test_a_partition_that_parts_nothing_is_refused(
    lab: Playground, groups: list[list[str]]
) -> None:
    with pytest.raises(InvalidInput, match="two groups"):
        lab.partition(*groups)


def test_a_host_that_does_not_exist_is_named_with_those_that_do(lab: Playground) -> None:
    for act in (lab.kill, lab.start, lab.cut, lab.heal, lab.stop_daemon, lab.start_daemon):
        with pytest.raises(NotFound, match="has no host m7") as caught:
            act("m7")
        assert caught.value.advice == "its hosts are m1, w1"


def test_a_saved_image_is_loaded_on_the_hosts_named_only(lab: Playground, tmp_path: Path) -> None:
    tar = tmp_path / "image.tar"
    lab.run("m1", "docker", "tag", "busybox:lab", "shop/web:1")
    lab.run("m1", "docker", "save", "-o", str(tar), "shop/web:1")
    lab.run("m1", "docker", "rmi", "shop/web:1")
    assert lab.load_image(tar, ["w1"]) == ["shop/web:1"]
    assert "shop/web" in lab.run("w1", "docker", "images").stdout
    assert "shop/web" not in lab.run("m1", "docker", "images").stdout


def test_a_root_file_system_becomes_an_image_under_the_tag_given(
    lab: Playground, tmp_path: Path
) -> None:
    tar = tmp_path / "root.tar"
    lab.run("m1", "docker", "create", "--name=source", "busybox:lab")
    lab.run("m1", "docker", "export", "-o", str(tar), "source")
    lab.run("m1", "docker", "rm", "source")
    with pytest.raises(InvalidInput, match="has no name"):
        lab.load_image(tar)
    assert lab.load_image(tar, tag="shop/root:2") == ["shop/root:2"]
    for host in ("m1", "w1"):
        said = lab.run(host, "docker", "run", "--rm", "shop/root:2", "/bin/echo", "hi").stdout
        assert said == "hi\n"


def test_status_prints_what_programs_need(lab: Playground) -> None:
    done = CliRunner().invoke(cli, ["status", "--format", "json", "--name", lab.site.name])
    first, second = json.loads(done.stdout)
    assert (first["name"], first["role"], first["state"]) == ("m1", "manager", "running")
    assert (second["name"], second["role"], second["cable"]) == ("w1", "worker", "up")
    assert first.keys() >= {
        "name",
        "role",
        "address",
        "socket",
        "engine_socket",
        "netns",
        "daemon_pid",
        "engine_pid",
        "state_dir",
        "log",
    }
    assert first["daemon_pid"] is None
    assert Path(f"/proc/{first['engine_pid']}/comm").read_text() == "dockerd\n"


def test_exec_hands_over_status_and_terminal(lab: Playground) -> None:
    """The real command, as it replaces itself by what it runs."""
    words = ["exec", "--name", lab.site.name, "m1", "--", "sh", "-c", "echo $DOCKER_HOST; exit 7"]
    argv = [sys.executable, "-m", "swarmlet.playground", *words]
    done = subprocess.run(argv, check=False, capture_output=True)
    assert done.returncode == 7
    assert done.stdout.decode().strip() == f"unix://{lab.host('m1').engine_socket}"


def test_a_name_in_use_is_refused_and_what_has_it_is_left_alone(lab: Playground) -> None:
    with pytest.raises(AlreadyExists, match="exists already"):
        Playground.create(lab.site.name, managers=1, workers=0, wish=ENGINES_ONLY)
    assert [host.state for host in lab.status()] == ["running", "running"]


def test_nothing_of_a_killed_host_runs_or_answers_until_it_is_started(
    make_playground: MakePlayground,
) -> None:
    playground = make_playground(managers=1, workers=1, wish=ENGINES_ONLY)
    sleeper = f"sleep {os.getpid()}1234"
    playground.run("m1", "docker", "run", "-d", "--name=job", "busybox:lab", *sleeper.split())
    playground.run("w1", "docker", "run", "-d", "--name=job", "busybox:lab", "sleep", "1000")
    assert processes(sleeper)

    playground.kill("m1")

    assert not processes(sleeper)
    assert not processes(str(playground.site.spot("m1").run_dir))
    assert not refuses(playground.host("m1").address)
    assert playground.host("m1").state == "off"
    assert "Up" in playground.run("w1", "docker", "ps", "--format={{.Status}}").stdout
    with pytest.raises(FailedPrecondition, match="m1 is off"):
        playground.run("m1", "true")

    playground.start("m1")

    assert playground.host("m1").state == "running"
    assert refuses(playground.host("m1").address)
    assert "Exited" in playground.run("m1", "docker", "ps", "-a", "--format={{.Status}}").stdout
    with pytest.raises(FailedPrecondition, match="m1 is running"):
        playground.start("m1")


def test_a_host_with_a_paused_container_can_be_killed(make_playground: MakePlayground) -> None:
    """A frozen process does not even die."""
    playground = make_playground(managers=1, workers=0, wish=ENGINES_ONLY)
    sleeper = f"sleep {os.getpid()}4321"
    playground.run("m1", "docker", "run", "-d", "--name=job", "busybox:lab", *sleeper.split())
    playground.run("m1", "docker", "pause", "job")
    playground.kill("m1")
    assert not processes(sleeper)


def test_all_hosts_lose_power_at_once_and_boot_at_once(make_playground: MakePlayground) -> None:
    playground = make_playground(managers=1, workers=1, wish=FAKE_DAEMON)
    playground.kill("m1", "w1")
    assert [host.state for host in playground.status()] == ["off", "off"]
    playground.start("m1", "w1")
    assert [host.state for host in playground.status()] == ["running", "running"]


def test_a_host_whose_daemon_or_engine_died_gets_what_is_missing(
    make_playground: MakePlayground,
) -> None:
    playground = make_playground(managers=1, workers=0, wish=FAKE_DAEMON)
    before = playground.host("m1")
    playground.stop_daemon("m1")
    playground.start("m1")
    between = playground.host("m1")
    assert between.engine_pid == before.engine_pid
    os.kill(before.engine_pid or 0, signal.SIGKILL)
    assert eventually(lambda: playground.host("m1").state == "engine stopped")
    playground.start("m1")
    assert playground.host("m1").state == "running"
    assert playground.host("m1").daemon_pid == between.daemon_pid


def test_an_engine_takes_over_what_a_killed_one_left(make_playground: MakePlayground) -> None:
    """Network stacks of containers above all: two of them would answer for one address."""
    playground = make_playground(managers=1, workers=0, wish=FAKE_DAEMON)
    docker = ["docker", "-H", f"unix://{playground.host('m1').engine_socket}"]
    command = ["run", "-d", "--name=one", "busybox:lab", "sleep", "1000"]
    playground.run("m1", *docker, *command)
    os.kill(playground.host("m1").engine_pid or 0, signal.SIGKILL)
    assert eventually(lambda: playground.host("m1").state == "engine stopped")
    playground.start("m1")
    playground.run("m1", *docker, "start", "one")
    ports = ["ip", "-j", "link", "show", "master", "docker0"]
    assert eventually(lambda: len(json.loads(playground.run("m1", *ports).stdout)) == 1)


#: A process of that name whose first thread is dead, as while it dies: it has no namespaces then.
DYING = """
import ctypes, pathlib, threading, time
pathlib.Path("/proc/self/comm").write_text("containerd")
threading.Thread(target=time.sleep, args=(1000,)).start()
print("dying", flush=True)
ctypes.CDLL(None).pthread_exit(None)
"""


def test_an_engine_starts_beside_what_dies_still(make_playground: MakePlayground) -> None:
    """Its containerd dies a moment after an engine that was killed."""
    playground = make_playground(managers=1, workers=0, wish=FAKE_DAEMON)
    argv, environ = playground.command_on("m1", [sys.executable, "-c", DYING])
    with subprocess.Popen(argv, env=environ, stdout=subprocess.PIPE) as dying:
        try:
            assert dying.stdout
            assert dying.stdout.readline() == b"dying\n"
            os.kill(playground.host("m1").engine_pid or 0, signal.SIGKILL)
            assert eventually(lambda: playground.host("m1").state == "engine stopped")
            playground.start("m1")
        finally:
            dying.kill()
    assert playground.host("m1").state == "running"


def test_daemons_form_a_cluster_and_are_stopped_without_touching_the_engine(
    make_playground: MakePlayground,
) -> None:
    playground = make_playground(managers=2, workers=1, wish=FAKE_DAEMON)
    assert [host.state for host in playground.status()] == ["running"] * 3
    nodes = Client(playground.host("m2").socket).get("/nodes")
    assert {node["Description"]["Hostname"] for node in nodes} == {"m1", "m2", "w1"}

    for kill in (False, True):
        before = playground.host("m1")
        playground.stop_daemon("m1", kill=kill)
        assert playground.host("m1").state == "daemon stopped"
        with pytest.raises(FailedPrecondition, match="no daemon runs on m1"):
            playground.stop_daemon("m1")
        playground.start_daemon("m1")
        after = playground.host("m1")
        assert after.engine_pid == before.engine_pid
        assert after.daemon_pid not in {None, before.daemon_pid}
        with pytest.raises(FailedPrecondition, match="runs already"):
            playground.start_daemon("m1")


def test_a_daemon_that_does_not_start_is_told_with_its_last_words(
    capable: None, defer: Callable[..., object], tmp_path: Path
) -> None:
    program = tmp_path / "broken"
    program.write_text("#!/bin/sh\necho no such option >&2\nexit 2\n")
    program.chmod(0o755)
    site = Site(unique_name(), default_roots())
    defer(cleanup.destroy, site)
    wish = Wish(daemon=(str(program),))
    with pytest.raises(FailedPrecondition, match="no such option"):
        Playground.create(site.name, managers=1, workers=0, wish=wish)
    assert traces(site) == {}


def test_playgrounds_made_at_once_are_strangers_and_leave_nothing(
    capable: None, defer: Callable[..., object]
) -> None:
    names = [unique_name(), unique_name()]
    sites = [Site(name, default_roots()) for name in names]
    for site in sites:
        defer(cleanup.destroy, site)
    with ThreadPoolExecutor() as pool:
        made = list(
            pool.map(partial(Playground.create, managers=1, workers=0, wish=ENGINES_ONLY), names)
        )
    assert made[0].record.network != made[1].record.network
    for site, playground in zip(sites, made, strict=True):
        playground.run("m1", "docker", "run", "-d", "busybox:lab", "sleep", "1000")
        assert {"links", "namespaces", "rules", "folders", "processes"} <= traces(site).keys()

    made[0].down()

    assert traces(sites[0]) == {}
    assert made[1].host("m1").state == "running"
    made[1].down()
    assert traces(sites[1]) == {}


def test_down_needs_no_state_file_and_may_be_repeated(
    make_playground: MakePlayground,
) -> None:
    playground = make_playground(managers=1, workers=0, wish=ENGINES_ONLY)
    site = playground.site
    site.state_file.write_text("not json")
    cleanup.destroy(site)
    assert traces(site) == {}
    cleanup.destroy(site)


@pytest.mark.parametrize("after", ["ip netns add", "docker.sock", "busybox.tar"])
def test_what_a_crash_leaves_half_made_is_taken_down(
    capable: None, defer: Callable[..., object], after: str
) -> None:
    """SIGKILL of `up` as soon as a namespace, an engine or an image exists."""
    site = Site(unique_name(), default_roots())
    defer(cleanup.destroy, site)
    signs: dict[str, Callable[[], bool]] = {
        "ip netns add": lambda: bool(machine.namespaces(site)),
        "docker.sock": site.spot("m1").engine_socket.exists,
        "busybox.tar": (site.run_dir / "busybox.tar").exists,
    }
    argv = [sys.executable, "-m", "swarmlet.playground", "up", "--no-daemon", "--name", site.name]
    process = subprocess.Popen([*argv, "--managers=2", "--workers=0"], stderr=subprocess.DEVNULL)
    while not signs[after]() and process.poll() is None:
        threading.Event().wait(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert traces(site) != {}
    done = CliRunner().invoke(cli, ["down", "--name", site.name])
    assert done.exception is None
    assert traces(site) == {}


def test_down_of_what_never_was_says_so_and_is_no_failure(capable: None) -> None:
    done = CliRunner().invoke(cli, ["down", "--name", unique_name()])
    assert done.exit_code == 0
    assert "nothing was done" in done.stderr
