"""The worker on a real engine."""

import contextlib
import json
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from swarmlet.engine.convert import create_body
from swarmlet.errors import EngineError, NotFound
from swarmlet.model.objects import TaskState
from swarmlet.model.specs import (
    BindOptions,
    DnsConfig,
    Driver,
    HealthConfig,
    Mount,
    PortConfig,
    Privileges,
    ResourceRequirements,
    Resources,
    Seccomp,
    TmpfsOptions,
    Ulimit,
    VolumeOptions,
)

from tests.docker.host import EngineHost
from tests.rig import Rig, running, task, wanting
from tests.waiting import eventually, eventually_async

pytestmark = pytest.mark.docker

TRAP = 'trap "exit 0" TERM; echo up; while :; do sleep 0.05; done'


@pytest.fixture
async def rig(engine_host: EngineHost, tmp_path: Path) -> AsyncIterator[Rig]:
    async with running(engine_host.socket, tmp_path) as rig:
        yield rig
        rig.assign(full=True)
        await eventually(lambda: not rig.worker.tasks() and not rig.worker.busy)


def output(host: EngineHost, container: str) -> str:
    return host.docker("logs", container).stdout.decode()


async def test_a_task_becomes_a_running_container_step_by_step(rig: Rig) -> None:
    one = task()
    rig.assign(one)
    status = await rig.until(one, TaskState.RUNNING)
    assert rig.states(one.task_id) == [
        TaskState.ACCEPTED,
        TaskState.PREPARING,
        TaskState.READY,
        TaskState.STARTING,
        TaskState.RUNNING,
    ]
    shown = await rig.inspect(one)
    assert status.container is not None
    assert (status.container.container_id, status.container.pid) == (
        shown["Id"],
        shown["State"]["Pid"],
    )
    assert shown["Name"] == f"/web.{one.slot}.{one.task_id}"
    assert shown["HostConfig"]["RestartPolicy"]["Name"] == "no"
    assert {k: v for k, v in shown["Config"]["Labels"].items() if k.startswith("com.docker")} == {
        "com.docker.swarm.task": "",
        "com.docker.swarm.task.id": one.task_id,
        "com.docker.swarm.task.name": one.name,
        "com.docker.swarm.node.id": one.node_id,
        "com.docker.swarm.service.id": one.service_id,
        "com.docker.swarm.service.name": "web",
    }


async def test_a_task_held_at_ready_starts_when_wanted(rig: Rig) -> None:
    one = task(desired=TaskState.READY)
    rig.assign(one)
    await rig.until(one, TaskState.READY)
    assert (await rig.inspect(one))["State"]["Status"] == "created"
    rig.assign(wanting(one, TaskState.RUNNING))
    await rig.until(one, TaskState.RUNNING)


# --- the container spec ---------------------------------------------------------------------------


async def shown(rig: Rig, *args: str, **spec: Any) -> tuple[Any, Any]:
    one = task(*args, **spec)
    rig.assign(one)
    await rig.until(one, TaskState.RUNNING)
    inspected = await rig.inspect(one)
    return inspected["Config"], inspected["HostConfig"]


async def said(rig: Rig, host: EngineHost, *args: str, **spec: Any) -> str:
    """What a container that completes wrote."""
    one = task(*args, **spec)
    rig.assign(one)
    await rig.until(one, TaskState.COMPLETE)
    return output(host, one.name)


async def test_process_settings(rig: Rig, engine_host: EngineHost) -> None:
    text = await said(
        rig,
        engine_host,
        "sh",
        "-c",
        "id -u; id -G; hostname; echo $COLOR; cat /proc/self/limits | grep 'open files'; ls -ld .; "
        "cat /proc/sys/net/ipv4/ip_default_ttl; cat /proc/self/oom_score_adj",
        user="1000:1001",
        groups=("2000",),
        hostname="box",
        env=("COLOR=red",),
        dir="/www/deep",
        ulimits=(Ulimit(name="nofile", soft=100, hard=200),),
        sysctls={"net.ipv4.ip_default_ttl": "42"},
        oom_score_adj=300,
    )
    lines = text.splitlines()
    assert lines[0] == "1000"
    assert set(lines[1].split()) == {"1001", "2000"}
    assert lines[2:4] == ["box", "red"]
    assert lines[4].split()[3:5] == ["100", "200"]
    assert lines[6:8] == ["42", "300"]


async def test_arguments_follow_the_images_entry_point_and_a_command_replaces_it(
    rig: Rig, engine_host: EngineHost
) -> None:
    assert await said(rig, engine_host, "mine", image="busybox:entry") == "entry mine\n"
    text = await said(rig, engine_host, "b", image="busybox:entry", command=("echo", "a"))
    assert text == "a b\n"


async def test_limits_and_isolation(rig: Rig) -> None:
    limits = Resources(nano_cpus=500_000_000, memory_bytes=64 << 20, pids=50)
    _, host = await shown(
        rig,
        resources=ResourceRequirements(limits=limits, reservations=Resources(memory_bytes=1 << 20)),
        capability_add=("CAP_NET_ADMIN",),
        capability_drop=("CAP_MKNOD",),
        privileges=Privileges(no_new_privileges=True, seccomp=Seccomp(mode="unconfined")),
        init=True,
        read_only=True,
        dns_config=DnsConfig(nameservers=("10.1.2.3",), search=("lab",), options=("ndots:2",)),
        hosts=("10.9.8.7 db db.lab",),
    )
    assert (host["NanoCpus"], host["Memory"], host["PidsLimit"]) == (500_000_000, 64 << 20, 50)
    assert host["MemoryReservation"] == 0
    assert host["CapAdd"] == ["CAP_NET_ADMIN"]
    assert host["CapDrop"] == ["CAP_MKNOD"]
    assert set(host["SecurityOpt"]) == {"no-new-privileges:true", "seccomp=unconfined"}
    assert host["Init"] is True
    assert host["ReadonlyRootfs"] is True
    assert (host["Dns"], host["DnsSearch"], host["DnsOptions"]) == (
        ["10.1.2.3"],
        ["lab"],
        ["ndots:2"],
    )
    assert host["ExtraHosts"] == ["db:10.9.8.7", "db.lab:10.9.8.7"]


async def test_labels_terminal_and_log_driver(rig: Rig) -> None:
    one = task(
        labels={"team": "x", "com.docker.swarm.task.id": "forged"}, tty=True, open_stdin=True
    )
    spec = msgspec.structs.replace(
        one.spec, log_driver=Driver(name="json-file", options={"max-size": "1m"})
    )
    one = msgspec.structs.replace(one, spec=spec)
    rig.assign(one)
    await rig.until(one, TaskState.RUNNING)
    inspected = await rig.inspect(one)
    config = inspected["Config"]
    assert config["Labels"]["team"] == "x"
    assert config["Labels"]["com.docker.swarm.task.id"] == one.task_id
    assert config["Tty"]
    assert config["OpenStdin"]
    assert inspected["HostConfig"]["LogConfig"] == {
        "Type": "json-file",
        "Config": {"max-size": "1m"},
    }


async def test_mounts(rig: Rig, engine_host: EngineHost, tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared/hello").write_text("from outside")
    volume = Mount(
        type="volume",
        source="kept",
        target="/kept",
        volume_options=VolumeOptions(labels={"tier": "gold"}, driver_config=Driver(name="local")),
    )
    text = await said(
        rig,
        engine_host,
        "sh",
        "-c",
        "cat /shared/hello; echo; echo no > /shared/x || echo read-only; echo v > /kept/file; "
        "cat /data/seed; ls /empty; grep ' /scratch ' /proc/mounts; ls -ld /scratch",
        mounts=(
            Mount(
                type="bind",
                source=str(tmp_path / "shared"),
                target="/shared",
                read_only=True,
                bind_options=BindOptions(propagation="rprivate"),
            ),
            volume,
            Mount(type="volume", source="seeded", target="/data"),
            Mount(
                type="tmpfs",
                target="/scratch",
                tmpfs_options=TmpfsOptions(size_bytes=1 << 20, mode=0o700),
            ),
        ),
    )
    assert text.startswith("from outside\nread-only\nseed")
    assert "size=1024k" in text
    assert "drwx------" in text
    made = json.loads(engine_host.docker("volume", "inspect", "kept").stdout)
    assert made[0]["Labels"] == {"tier": "gold"}
    again = await said(rig, engine_host, "cat", "/kept/file", mounts=(volume,))
    assert again == "v\n"
    empty = Mount(
        type="volume", source="", target="/data", volume_options=VolumeOptions(no_copy=True)
    )
    assert await said(rig, engine_host, "ls", "/data", mounts=(empty,)) == ""


async def test_host_ports_are_bound_and_a_taken_port_fails_the_task(
    rig: Rig, engine_host: EngineHost
) -> None:
    port = PortConfig(target_port=80, published_port=18080, publish_mode="host", protocol="tcp")
    one, two = task(ports=(port,)), task(ports=(port,))
    rig.assign(one)
    await rig.until(one, TaskState.RUNNING)
    bound = (await rig.inspect(one))["HostConfig"]["PortBindings"]
    assert bound == {"80/tcp": [{"HostIp": "", "HostPort": "18080"}]}
    rig.assign(two)
    status = await rig.until(two, TaskState.FAILED)
    assert "port is already allocated" in status.err


# --- ends -----------------------------------------------------------------------------------------


async def test_exit_codes(rig: Rig) -> None:
    good, bad = task("true"), task("sh", "-c", "exit 3")
    rig.assign(good, bad)
    status = await rig.until(good, TaskState.COMPLETE)
    assert (status.message, status.err) == ("finished", "")
    status = await rig.until(bad, TaskState.FAILED)
    assert status.err == "task: non-zero exit (3)"
    assert status.container is not None
    assert status.container.exit_code == 3


async def test_a_killed_container_is_reported_at_once(rig: Rig) -> None:
    one = task()
    rig.assign(one)
    await rig.until(one, TaskState.RUNNING)
    await rig.engine.kill(rig.container_id(one))
    status = await rig.until(one, TaskState.FAILED)
    assert status.err == "task: non-zero exit (137)"


async def test_memory_limit_is_named_when_it_kills(rig: Rig) -> None:
    one = task(
        "sh",
        "-c",
        "tail /dev/zero",
        resources=ResourceRequirements(limits=Resources(memory_bytes=8 << 20)),
    )
    rig.assign(one)
    status = await rig.until(one, TaskState.FAILED)
    assert "out of memory" in status.err
    assert status.container is not None
    assert status.container.oom_killed


async def test_stop_sends_the_signal_and_waits_for_the_end(
    rig: Rig, engine_host: EngineHost
) -> None:
    trap = 'trap "echo asked; exit 0" USR1; echo up; while :; do sleep 0.05; done'
    one = task("sh", "-c", trap, stop_signal="SIGUSR1", stop_grace_period=20_000_000_000)
    rig.assign(one)
    await rig.until(one, TaskState.RUNNING)
    await eventually(lambda: "up" in output(engine_host, one.name))
    rig.assign(wanting(one, TaskState.SHUTDOWN))
    status = await rig.until(one, TaskState.SHUTDOWN)
    assert status.container is not None
    assert status.container.exit_code == 0
    assert "asked" in output(engine_host, one.name), "ended containers stay for their logs"


async def test_grace_period_ends_by_force(rig: Rig) -> None:
    deaf = 'trap "" TERM; while :; do sleep 0.05; done'
    one = task("sh", "-c", deaf, stop_grace_period=1_000_000_000)
    rig.assign(one)
    await rig.until(one, TaskState.RUNNING)
    rig.assign(wanting(one, TaskState.SHUTDOWN))
    status = await rig.until(one, TaskState.SHUTDOWN)
    assert status.container is not None
    assert status.container.exit_code == 137


async def test_a_task_that_is_gone_leaves_nothing(rig: Rig) -> None:
    one = task(stop_grace_period=0, mounts=(Mount(type="volume", target="/anonymous"),))
    rig.assign(one)
    await rig.until(one, TaskState.RUNNING)
    (mount,) = (await rig.inspect(one))["Mounts"]
    rig.assign(gone=(one.task_id,))
    await eventually(lambda: one.task_id not in rig.worker.tasks() and not rig.worker.busy)
    with pytest.raises(NotFound):
        await rig.inspect(one)
    assert mount["Name"]


async def test_running_means_healthy(rig: Rig, engine_host: EngineHost) -> None:
    check = HealthConfig(
        test=("CMD", "ls", "/tmp/well"), interval=100_000_000, retries=1000, timeout=5_000_000_000
    )
    one = task(healthcheck=check)
    rig.assign(one)
    await rig.until(one, TaskState.STARTING)
    await eventually_async(lambda: _probed(rig, one.name))
    assert TaskState.RUNNING not in rig.states(one.task_id)
    engine_host.docker("exec", one.name, "sh", "-c", "echo > /tmp/well")
    await rig.until(one, TaskState.RUNNING)


async def _probed(rig: Rig, name: str) -> bool:
    # STARTING is reported before the engine starts the container: it has no health until then.
    health = (await rig.engine.inspect(name))["State"].get("Health") or {}
    return bool(health.get("Log"))


async def test_an_unhealthy_container_is_stopped_and_its_task_fails(rig: Rig) -> None:
    check = HealthConfig(
        test=("CMD", "false"), interval=100_000_000, retries=2, timeout=5_000_000_000
    )
    one = task("sh", "-c", TRAP, healthcheck=check)
    rig.assign(one)
    status = await rig.until(one, TaskState.FAILED)
    assert status.err == "unhealthy container"
    assert not (await rig.inspect(one))["State"]["Running"]


# --- refusals -------------------------------------------------------------------------------------


async def test_a_missing_image_rejects_the_task(rig: Rig) -> None:
    one = task(image="nobody/has-this:1")
    rig.assign(one)
    status = await rig.until(one, TaskState.REJECTED)
    assert status.err.startswith("No such image: nobody/has-this:1")


async def test_a_bad_mount_rejects_the_task(rig: Rig) -> None:
    one = task(mounts=(Mount(type="bind", source="/does/not/exist", target="/x"),))
    rig.assign(one)
    status = await rig.until(one, TaskState.REJECTED)
    assert "bind source path does not exist" in status.err


async def test_a_command_that_is_not_there_fails_the_task(rig: Rig) -> None:
    one = task("no-such-program")
    rig.assign(one)
    status = await rig.until(one, TaskState.FAILED)
    assert "no-such-program" in status.err


# --- restarts of the daemon -----------------------------------------------------------------------


async def test_a_new_daemon_adopts_what_runs(engine_host: EngineHost, tmp_path: Path) -> None:
    one = task()
    async with running(engine_host.socket, tmp_path) as rig:
        rig.assign(one)
        await rig.until(one, TaskState.RUNNING)
        before = await rig.inspect(one)
    async with running(engine_host.socket, tmp_path, full=False) as rig:
        rig.assign(one, full=True)
        await rig.until(one, TaskState.RUNNING)
        after = await rig.inspect(one)
        assert after["Id"] == before["Id"]
        assert after["State"]["StartedAt"] == before["State"]["StartedAt"]
        await _clear(rig)


async def test_a_daemon_without_memory_adopts_by_labels(
    engine_host: EngineHost, tmp_path: Path
) -> None:
    one, made, unknown = task(), task(), task(stop_grace_period=0)
    async with running(engine_host.socket, tmp_path / "a") as rig:
        rig.assign(one, unknown, wanting(made, TaskState.READY))
        await rig.until(one, TaskState.RUNNING)
        await rig.until(unknown, TaskState.RUNNING)
        await rig.until(made, TaskState.READY)
        before = await rig.inspect(one)
    async with running(engine_host.socket, tmp_path / "b", full=False, alone_after=0.1) as rig:
        rig.assign(one)
        await rig.until(one, TaskState.RUNNING)
        assert (await rig.inspect(unknown))["State"]["Running"], "only a full set may end it"
        rig.assign(one, made, full=True)
        await rig.until(made, TaskState.RUNNING)
        await eventually_async(lambda: _absent(rig, unknown.name))
        after = await rig.inspect(one)
        assert after["State"]["StartedAt"] == before["State"]["StartedAt"]
        await _clear(rig)


async def test_a_container_that_ended_while_away_is_reported_truthfully(
    engine_host: EngineHost, tmp_path: Path
) -> None:
    one = task("sh", "-c", 'trap "exit 5" TERM; while :; do sleep 0.05; done')
    async with running(engine_host.socket, tmp_path) as rig:
        rig.assign(one)
        await rig.until(one, TaskState.RUNNING)
    engine_host.docker("kill", "-s", "TERM", one.name)
    engine_host.docker("wait", one.name)
    async with running(engine_host.socket, tmp_path, full=False) as rig:
        rig.assign(one, full=True)
        status = await rig.until(one, TaskState.FAILED)
        assert status.err == "task: non-zero exit (5)"
        await _clear(rig)


async def test_others_containers_are_left_alone(engine_host: EngineHost, tmp_path: Path) -> None:
    name = "others"
    engine_host.docker(
        "run", "-d", "--name", name, "--label", "com.docker.swarm.task.id=x", "busybox:lab",
        "sleep", "1000000",
    )  # fmt: skip
    one = task(stop_grace_period=0)
    async with running(engine_host.socket, tmp_path) as rig:
        rig.assign(one, full=True)
        await rig.until(one, TaskState.RUNNING)
        await _clear(rig)
        assert (await rig.engine.inspect(name))["State"]["Running"]
    engine_host.docker("rm", "-f", name)


async def test_a_replaced_task_stops_before_the_new_one_of_its_slot_starts(
    engine_host: EngineHost, tmp_path: Path
) -> None:
    old = task("sh", "-c", TRAP, slot=7777)
    new = task("sh", "-c", TRAP, slot=7777)
    async with running(engine_host.socket, tmp_path) as rig:
        rig.assign(old)
        await rig.until(old, TaskState.RUNNING)
        before = rig.container_id(old)
        rig.assign(new, full=True)
        await rig.until(new, TaskState.RUNNING)
        with contextlib.suppress(NotFound):
            assert not (await rig.engine.inspect(before))["State"]["Running"]
        await _clear(rig)


async def _absent(rig: Rig, name: str) -> bool:
    try:
        await rig.engine.inspect(name)
    except NotFound:
        return True
    return False


async def _clear(rig: Rig) -> None:
    rig.assign(full=True)
    await eventually(lambda: not rig.worker.tasks() and not rig.worker.busy)


async def test_a_second_create_of_the_same_task_takes_over_the_first(
    engine_host: EngineHost, tmp_path: Path
) -> None:
    """The daemon was killed between the engine's create and its own note of it."""
    one = task()
    # No manager has named all tasks yet, as after a boot: the container is nobody's so far.
    async with running(engine_host.socket, tmp_path, full=False) as rig:
        container_id = await rig.engine.create(one.name, create_body(one))
        with pytest.raises(EngineError):
            await rig.engine.create(one.name, create_body(one))
        rig.assign(one, full=True)
        await rig.until(one, TaskState.RUNNING)
        assert rig.container_id(one) == container_id
        await _clear(rig)


# --- the engine and the host go down --------------------------------------------------------------


async def test_tasks_of_a_host_that_lost_power_start_again_in_place(
    doomed_host: EngineHost, tmp_path: Path
) -> None:
    one, done = task(), task("true")
    ended = task()
    async with running(doomed_host.socket, tmp_path) as rig:
        rig.assign(one, done, ended)
        await rig.until(one, TaskState.RUNNING)
        await rig.until(done, TaskState.COMPLETE)
        await rig.until(ended, TaskState.RUNNING)
        await rig.engine.kill(rig.container_id(ended))
        await rig.until(ended, TaskState.FAILED)
        before = await rig.inspect(one)
    doomed_host.kill()
    doomed_host.boot()
    async with running(doomed_host.socket, tmp_path, full=False, alone_after=0) as rig:
        await eventually_async(lambda: _runs_anew(rig, one.name, before))
        await rig.until(one, TaskState.RUNNING)
        assert rig.status(done.task_id).state is TaskState.COMPLETE  # type: ignore[union-attr]
        assert rig.status(ended.task_id).state is TaskState.FAILED  # type: ignore[union-attr]
        assert not (await rig.inspect(ended))["State"]["Running"]


async def _runs_anew(rig: Rig, name: str, before: Any) -> bool:
    now = await rig.engine.inspect(name)
    assert now["Id"] == before["Id"]
    later: bool = now["State"]["StartedAt"] > before["State"]["StartedAt"]
    return now["State"]["Running"] and later


@pytest.mark.parametrize("how", ["stop", "kill_engine", "kill"])
async def test_an_engine_that_comes_back_gets_its_tasks_started_again(
    doomed_host: EngineHost, tmp_path: Path, how: str
) -> None:
    """The daemon watches while its engine goes down, and comes back."""
    quick = task("sh", "-c", TRAP)
    deaf = task(stop_grace_period=1_000_000_000)
    async with running(doomed_host.socket, tmp_path) as rig:
        rig.assign(quick, deaf)
        await rig.until(quick, TaskState.RUNNING)
        await rig.until(deaf, TaskState.RUNNING)
        before = {one.name: await rig.inspect(one) for one in (quick, deaf)}
        await _in_thread(getattr(doomed_host, how))
        both = {quick.task_id, deaf.task_id}
        if how != "kill_engine":  # its containers go on until its successor ends them
            await eventually(lambda: rig.places.halted == both, what="nobody is sent to them")
            assert all(rig.status(task_id).halted for task_id in both)  # type: ignore[union-attr]
        await _in_thread(doomed_host.boot if how == "kill" else doomed_host.start)
        for one in (quick, deaf):
            await eventually_async(partial(_runs_anew, rig, one.name, before[one.name]))
            assert max(rig.states(one.task_id)) is TaskState.RUNNING
            await eventually(lambda one=one: not rig.status(one.task_id).halted)  # type: ignore[misc,union-attr]
        assert (rig.places.ever_halted, rig.places.halted) == (both, frozenset())


async def _in_thread(call: Any) -> None:
    await trio.to_thread.run_sync(call)
