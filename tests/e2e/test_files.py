"""Secrets and configs through the stock client, on real hosts: who gets them, and what is left."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.cluster import Cluster, eventually
from tests.e2e.conftest import MakePlayground

pytestmark = [pytest.mark.netns, pytest.mark.docker, pytest.mark.slow]

#: Managers and workers of its playground.
HOSTS = (1, 2)

Json = Any
Defer = Callable[..., object]

SECRET = "correct-horse-battery-staple"
CONFIG = "listen = 8080\n"


@pytest.fixture
def given(cluster: Cluster, defer: Defer) -> Cluster:
    """A secret ``key`` and a config ``conf``."""
    cluster.docker("m1", "secret", "create", "key", "-", stdin=SECRET)
    cluster.docker("m1", "config", "create", "--label", "a=b", "conf", "-", stdin=CONFIG)

    def remove() -> None:
        cluster.remove_all()
        for kind in ("secret", "config"):
            names = cluster.docker("m1", kind, "ls", "-q").stdout.split()
            if names:
                cluster.docker("m1", kind, "rm", *names)

    defer(remove)
    return cluster


def container(cluster: Cluster, service: str) -> tuple[str, str]:
    """The host and the identifier of a service's only container."""
    (found,) = cluster.wait_containers(service, 1)
    return found["Host"], found["Id"]


def inside(cluster: Cluster, service: str, script: str) -> str:
    """What a shell in a service's only container prints."""
    host, ident = container(cluster, service)
    return cluster.engine(host, "exec", ident, "sh", "-c", script).stdout


def files_on(cluster: Cluster, host: str) -> list[str]:
    """Names of the files of secrets and configs on a host."""
    place = cluster.playground.site.spot(host).run_dir / "swarmlet.files"
    return sorted(path.name for path in place.rglob("*") if path.is_file())


def holds(place: Path, text: str) -> bool:
    """Whether any file below a directory holds a text."""
    argv = ["grep", "-rqsaF", "-D", "skip", "-e", text, str(place)]
    return subprocess.run(argv, check=False, timeout=60).returncode == 0


def has_on_disk(cluster: Cluster, host: str, text: str) -> bool:
    """Whether anything that a host keeps on its disk, or has in its /run, holds a text."""
    spot = cluster.playground.site.spot(host)
    return holds(spot.data_dir, text) or holds(spot.run_dir, text)


def in_memory_of_daemon(cluster: Cluster, host: str, text: str) -> bool:
    """Whether a host's swarmletd holds a text."""
    pid = int(cluster.playground.site.spot(host).daemon_pidfile.read_text())
    wanted = text.encode()
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            area, rights, *_ = line.split()
            start, end = (int(part, 16) for part in area.split("-"))
            if not rights.startswith("rw") or end - start > 256 << 20:
                continue
            try:
                memory.seek(start)
                if wanted in memory.read(end - start):
                    return True
            except OSError:
                continue
    return False


def test_the_stock_client_keeps_secrets_and_configs(given: Cluster) -> None:
    names = ("--format", "{{.Name}}")
    assert given.docker("m1", "secret", "ls", *names).stdout == "key\n"
    assert given.docker("m1", "config", "ls", "--filter", "label=a=b", *names).stdout == "conf\n"
    shown = given.docker("m1", "secret", "inspect", "key").stdout
    assert json.loads(shown)[0]["Spec"] == {"Name": "key", "Labels": {}}
    pretty = given.docker("m1", "config", "inspect", "--pretty", "conf").stdout
    assert CONFIG in pretty
    again = given.docker("m1", "secret", "create", "key", "-", check=False, stdin="other")
    assert "secret key already exists" in again.stderr
    bad = given.docker("m1", "config", "create", "-x-", "-", check=False, stdin="x")
    assert bad.returncode != 0
    worker = given.docker("w1", "secret", "ls", check=False)
    assert "This node is not a swarm manager." in worker.stderr


def test_files_are_as_they_were_asked_for(given: Cluster) -> None:
    given.create(
        "app",
        *("--constraint", "node.role==worker", "--read-only"),
        *("--secret", "key", "--config", "conf"),
        *("--secret", "source=key,target=/etc/own/key,uid=1000,gid=1001,mode=0400"),
        *("--config", "source=conf,target=etc/app/app.conf,mode=0440"),
    )
    given.wait_running("app", 1)
    listed = inside(
        given,
        "app",
        "stat -c '%n %u:%g %a %s' /run/secrets/key /etc/own/key /conf /etc/app/app.conf",
    )
    assert listed.splitlines() == [
        f"/run/secrets/key 0:0 444 {len(SECRET)}",
        f"/etc/own/key 1000:1001 400 {len(SECRET)}",
        f"/conf 0:0 444 {len(CONFIG)}",
        f"/etc/app/app.conf 0:0 440 {len(CONFIG)}",
    ]
    assert inside(given, "app", "cat /run/secrets/key /etc/own/key") == SECRET * 2
    assert inside(given, "app", "cat /conf /etc/app/app.conf") == CONFIG * 2
    mounts = inside(given, "app", "grep -e /run/secrets/key -e /conf /proc/mounts")
    assert {tuple(line.split()[2:3]) for line in mounts.splitlines()} == {("tmpfs",)}
    host, ident = container(given, "app")
    written = given.engine(
        host, "exec", ident, "sh", "-c", "echo x > /run/secrets/key", check=False
    )
    assert "Read-only file system" in written.stderr


def test_only_nodes_that_need_it_ever_have_it(given: Cluster) -> None:
    """Data on the node that runs a task, in memory, while it runs; nothing on the other one."""
    fresh = "never-seen-before"  # what a daemon had before may still lie in its memory
    given.docker("m1", "secret", "create", "fresh", "-", stdin=fresh)
    given.create("app", "--constraint", "node.hostname==w1", "--secret=fresh", "--config=conf")
    given.wait_running("app", 1)
    assert len(files_on(given, "w1")) == 4  # each shared file, and the task's link to it
    assert files_on(given, "w2") == []
    assert in_memory_of_daemon(given, "w1", fresh)
    assert not in_memory_of_daemon(given, "w2", fresh)
    for host in ("w2", "m1"):
        assert not has_on_disk(given, host, fresh), host
    data = given.playground.site.spot("w1").data_dir
    assert not holds(data, fresh)

    refused = given.docker("m1", "secret", "rm", "fresh", check=False)
    assert "secret 'fresh' is in use by the following service: app" in refused.stderr
    given.remove("app")
    eventually(lambda: not files_on(given, "w1"), "the files are gone with the task")
    assert not has_on_disk(given, "w1", fresh)


def test_updates_take_and_give(given: Cluster) -> None:
    given.docker("m1", "secret", "create", "new", "-", stdin="rotated")
    given.create("app", "--secret", "key")
    given.wait_running("app", 1)
    given.docker(
        "m1",
        *("service", "update", "--quiet", "--secret-rm", "key"),
        *("--secret-add", "source=new,target=key", "--config-add", "source=conf,target=/c"),
        "app",
    )
    given.wait_running("app", 1)
    assert inside(given, "app", "cat /run/secrets/key /c") == "rotated" + CONFIG
    given.docker("m1", "secret", "rm", "key")
    host, _ = container(given, "app")
    eventually(lambda: len(files_on(given, host)) == 4, "the old task's files are gone")
    given.docker("m1", "service", "update", "--quiet", "--config-rm", "conf", "app")
    given.wait_running("app", 1)
    assert inside(given, "app", "ls /c 2>&1 || true").endswith("No such file or directory\n")


def test_replicas_on_one_node_share_what_is_the_same(given: Cluster) -> None:
    given.create("app", "--replicas=5", "--constraint", "node.hostname==w2", "--secret", "key")
    given.wait_running("app", 5)
    place = given.playground.site.spot("w2").run_dir / "swarmlet.files"
    inodes = {path.stat().st_ino for path in place.rglob("*") if path.is_file()}
    assert (len(files_on(given, "w2")), len(inodes)) == (6, 1)


def test_templates_are_filled_in_for_each_task(given: Cluster) -> None:
    create = ("config", "create", "--template-driver=golang")
    text = '{{ .Service.Name }} {{ .Task.Slot }} on {{ .Node.Hostname }}: {{ secret "key" }}'
    given.docker("m1", *create, "page", "-", stdin=text)
    given.create(
        "app",
        *("--constraint", "node.hostname==w1", "--secret", "key", "--config", "page"),
        *("--hostname", "{{.Service.Name}}-{{.Task.Slot}}", "--env", "N={{.Service.Labels.tier}}"),
        *("--label", "tier=front", "--mount", "type=volume,source=v-{{.Task.Slot}},target=/v"),
    )
    given.wait_running("app", 1)
    assert inside(given, "app", "cat /page") == f"app 1 on w1: {SECRET}"
    assert inside(given, "app", "hostname; echo $N").split() == ["app-1", "front"]
    volumes = given.engine("w1", "volume", "ls", "-q").stdout.split()
    assert "v-1" in volumes
    refused = given.docker("m1", *create, "bad", "-", check=False, stdin="{{ x }}")
    assert "Data: template, line 1, column 4: there is no such function here" in refused.stderr
    given.remove("app")
    given.engine("w1", "volume", "rm", "v-1")


STACK = """
services:
  app:
    image: busybox:lab
    command: sh -c "trap 'exit 0' TERM; while :; do sleep 1000 & wait $$!; done"
    secrets: [key, {source: own, target: /own, mode: 0400}]
    configs: [{source: conf, target: /etc/conf}]
secrets:
  key: {external: true}
  own: {file: ./own.txt}
configs:
  conf: {file: ./conf.txt}
"""


def test_a_stack_brings_its_own(given: Cluster, tmp_path: Path) -> None:
    file = tmp_path / "stack.yml"
    file.write_text('version: "3.8"\n' + STACK)
    (tmp_path / "own.txt").write_text("stack's own")
    (tmp_path / "conf.txt").write_text("a = 1\n")
    deploy = ("stack", "deploy", "--resolve-image=never", "-c", str(file), "st")
    given.docker("m1", *deploy)
    given.wait_running("st_app", 1)
    read = "cat /run/secrets/key /own /etc/conf; stat -c %a /own"
    assert inside(given, "st_app", read) == f"{SECRET}stack's owna = 1\n400\n"
    before = given.started("st_app")
    given.docker("m1", *deploy)
    assert given.started("st_app") == before

    (tmp_path / "conf.txt").write_text("a = 2\n")
    changed = given.docker("m1", *deploy, check=False)
    assert "only updates to Labels are allowed" in changed.stderr
    given.docker("m1", "stack", "rm", "st")
    given.wait_no_containers("st_app")
    assert given.docker("m1", "secret", "ls", "--format", "{{.Name}}").stdout == "key\n"


@pytest.mark.parametrize("kill", [False, True], ids=["stopped", "killed"])
def test_files_outlive_the_daemon(given: Cluster, *, kill: bool) -> None:
    given.create("app", "--constraint", "node.hostname==w1", "--secret", "key")
    given.wait_running("app", 1)
    before, started = files_on(given, "w1"), given.started("app")
    given.bounce_daemon("w1", kill=kill)
    given.wait_state("w1", "ready")
    assert inside(given, "app", "cat /run/secrets/key") == SECRET
    assert (files_on(given, "w1"), given.started("app")) == (before, started)
    given.remove("app")
    eventually(lambda: not files_on(given, "w1"), "the files are gone with the task")


def test_a_task_that_goes_while_its_daemon_is_away_leaves_nothing(given: Cluster) -> None:
    given.create("app", "--constraint", "node.hostname==w1", "--secret", "key")
    given.wait_running("app", 1)
    given.playground.stop_daemon("w1", kill=True)
    given.docker("m1", "service", "rm", "app")
    given.playground.start_daemon("w1")
    given.wait_no_containers("app")
    eventually(lambda: not files_on(given, "w1"), "the files are gone with the task")


def test_a_host_that_lost_its_power_gets_its_files_anew(given: Cluster) -> None:
    """All hosts at once: the task starts in place, with what its manager says again."""
    given.create("app", "--constraint", "node.hostname==w1", "--secret", "key")
    (task,) = given.wait_running("app", 1)
    _, ident = container(given, "app")
    given.playground.kill(*given.hosts)
    assert not holds(given.playground.site.spot("w1").data_dir, SECRET)
    given.playground.start(*given.hosts)
    given.wait_all_ready()
    given.wait_running("app", 1)
    assert container(given, "app")[1] == ident
    assert [t["ID"] for t in given.running("app")] == [task["ID"]]
    assert inside(given, "app", "cat /run/secrets/key") == SECRET


def test_a_node_that_leaves_takes_nothing_along(make_playground: MakePlayground) -> None:
    cluster = Cluster(make_playground(managers=1, workers=1))
    cluster.docker("m1", "secret", "create", "key", "-", stdin=SECRET)
    cluster.create("app", "--constraint", "node.hostname==w1", "--secret", "key")
    cluster.wait_running("app", 1)
    cluster.swarmlet("w1", "leave", "--yes")
    spot = cluster.playground.site.spot("w1")
    assert not (spot.run_dir / "swarmlet.files").exists()
    assert not has_on_disk(cluster, "w1", SECRET)
