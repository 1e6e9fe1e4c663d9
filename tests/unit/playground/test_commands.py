"""The commands that make a host."""

from pathlib import Path

import msgspec
from swarmlet.playground import commands
from swarmlet.playground.layout import Site
from swarmlet.playground.records import Record

SITE = Site("lab")
SPOT = SITE.spot("m1")
RECORD = Record("lab", "10.99.0.0/24", "10.99.0.254", (), "/data")


def test_an_engine_has_folders_sockets_and_cgroups_of_its_own() -> None:
    words = commands.engine(RECORD, SPOT)
    assert words[0] == "dockerd"
    assert "--host=unix:///run/swarmlet-playground/lab/m1/docker.sock" in words
    assert "--cgroup-parent=/swarmlet-playground/lab/m1/containers" in words
    own = ("--data-root", "--exec-root", "--pidfile", "--config-file")
    assert all("/lab/m1/" in word for word in words if word.startswith(own))


def test_a_host_may_have_another_engine() -> None:
    record = msgspec.structs.replace(RECORD, engines={"m1": "/opt/docker/dockerd"})
    assert commands.engine(record, SPOT)[0] == "/opt/docker/dockerd"
    assert commands.engine(RECORD, SPOT)[0] == "dockerd"


def test_engine_arguments_come_last_so_that_they_win() -> None:
    record = msgspec.structs.replace(RECORD, engine_args=("--live-restore", "--debug"))
    assert commands.engine(record, SPOT)[-2:] == ["--live-restore", "--debug"]


def test_the_daemon_gets_the_options_every_daemon_knows() -> None:
    assert commands.daemon(["swarmlet", "daemon"], SPOT, "10.99.0.1") == [
        "swarmlet",
        "daemon",
        "--state-dir=/var/lib/swarmlet-playground/lab/m1/swarmlet",
        "--socket=/run/swarmlet-playground/lab/m1/swarmlet.sock",
        "--engine-socket=/run/swarmlet-playground/lab/m1/docker.sock",
        "--advertise-addr=10.99.0.1",
        "--log-format=console",
        "--config=/var/lib/swarmlet-playground/lab/m1/swarmletd.toml",
    ]


def test_a_command_joins_the_cgroup_before_it_enters_the_host() -> None:
    """The other way round a power cut in between would miss the process."""
    words = commands.inside(SITE, SPOT, ["true"], procs=Path("/cg/procs"))
    assert words.index("/cg/procs") < words.index("nsenter") < words.index("unshare")
    assert words[-1] == "true"


def test_a_partition_drops_frames_in_both_directions_and_replaces_an_earlier_one() -> None:
    script = commands.partition(SITE, [["m1", "w1"], ["m2"]])
    tag = SITE.tag
    assert f'iifname {{ "sl{tag}-m1", "sl{tag}-w1" }} oifname {{ "sl{tag}-m2" }} drop' in script
    assert f'iifname {{ "sl{tag}-m2" }} oifname {{ "sl{tag}-m1", "sl{tag}-w1" }} drop' in script
    assert script.index("delete table") < script.index("chain forward")


def test_a_program_may_share_the_mounts_of_one_that_runs() -> None:
    """Then nothing is mounted again."""
    procs = Path("/cgroup/procs")
    words = commands.inside(SITE, SPOT, ["dockerd"], procs=procs, beside={"mnt": 7})
    assert "--mount=/proc/self/fd/7" in words
    assert not any("mount --bind" in word for word in words)
    assert words[-1] == "dockerd"
    assert "unshare" in commands.inside(SITE, SPOT, ["dockerd"], procs=procs)
