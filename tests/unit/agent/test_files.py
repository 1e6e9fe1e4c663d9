"""Files of secrets and configs for containers: in memory, shared, and gone in time."""

import os
import stat
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio
from swarmlet.agent import memory
from swarmlet.agent.files import Files, Mounted
from swarmlet.errors import PreparationFailed
from swarmlet.model.expansion import Facts
from swarmlet.model.objects import TaskState
from swarmlet.model.specs import ConfigReference, FileTarget, Platform, SecretReference
from swarmlet.rpc.messages import Assignment, Payloads

from tests.fakes.fake_engine import FakeEngine
from tests.rig import Rig, running, task, wanting
from tests.waiting import eventually

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="owners of files are root's to give")

DATA = {"s1": b"secret one", "s2": b"secret two", "c1": b"config one"}


def secret(ident: str, name: str, *, uid: str = "0", mode: int = 0o444) -> SecretReference:
    target = FileTarget(name=name, uid=uid, gid="0", mode=mode)
    return SecretReference(file=target, secret_id=ident, secret_name=f"name-{ident}")


def config(ident: str, name: str) -> ConfigReference:
    target = FileTarget(name=name, uid="0", gid="0", mode=0o444)
    return ConfigReference(file=target, config_id=ident, config_name=f"name-{ident}")


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that is in memory on every Linux."""
    with tempfile.TemporaryDirectory(prefix="swlt-", dir="/dev/shm") as path:
        yield Path(path) / "files"


@pytest.fixture
def files(place: Path) -> Files:
    files = Files(place)
    files.take(Payloads(data=DATA))
    return files


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def inode_of(path: str) -> int:
    return Path(path).stat().st_ino


def is_there(path: Path) -> bool:
    return path.exists()


async def no_facts(task: Assignment) -> Facts:
    raise AssertionError(f"nothing of {task.name} is a template")


async def prepare(files: Files, one: Assignment) -> list[Mounted]:
    return await files.prepare(one, no_facts)


def found(place: Path) -> list[str]:
    return sorted(str(p.relative_to(place)) for p in place.rglob("*") if p.is_file())


async def test_files_have_owner_mode_and_place(files: Files, place: Path) -> None:
    one = task(
        secrets=(
            secret("s1", "plain"),
            secret("s1", "/etc/mine", uid="1000", mode=0o100400),
            secret("s2", "sub/../two", mode=0o7640),
        ),
        configs=(config("c1", "app.conf"), config("c1", "/etc/app/app.conf")),
    )
    mounted = {one.target: Path(one.source) for one in await prepare(files, one)}
    assert list(mounted) == [
        "/run/secrets/plain",
        "/etc/mine",
        "/run/secrets/two",
        "/app.conf",
        "/etc/app/app.conf",
    ]
    assert {path.read_bytes() for path in mounted.values()} == set(DATA.values())
    status = [mounted[target].stat() for target in ("/etc/mine", "/run/secrets/two")]
    assert [(s.st_uid, stat.S_IMODE(s.st_mode)) for s in status] == [(1000, 0o400), (0, 0o640)]
    assert mounted["/app.conf"] == mounted["/etc/app/app.conf"]
    assert mode_of(place) == 0o700
    assert await prepare(files, one) == [*await prepare(files, one)]  # again: as it was


async def test_a_hundred_tasks_share_one_file(files: Files, place: Path) -> None:
    tasks = [task(secrets=(secret("s1", f"as-{n}"),)) for n in range(100)]
    inodes = {inode_of(mounted.source) for one in tasks for mounted in await prepare(files, one)}
    assert len(inodes) == 1
    for one in tasks[1:]:
        files.release(one.task_id)
    assert len(found(place)) == 2  # one task's link, and what it leads to
    files.release(tasks[0].task_id)
    assert found(place) == []


async def test_what_managers_take_back_is_not_there_any_more(files: Files) -> None:
    files.take(Payloads(gone=("s1",)))
    with pytest.raises(PreparationFailed, match=r"not found: secret name-s1$"):
        await prepare(files, task(secrets=(secret("s1", "a"), secret("s2", "b"))))
    files.keep(["c1"])
    with pytest.raises(PreparationFailed, match="not found: secret name-s1, secret name-s2"):
        await prepare(files, task(secrets=(secret("s2", "b"), secret("s1", "a"))))
    await prepare(files, task(configs=(config("c1", "a"),)))


async def test_a_task_goes_on_with_its_files_without_the_data(files: Files, place: Path) -> None:
    """A daemon that restarts has no data before a manager answers; a container may start again."""
    one, other = task(secrets=(secret("s1", "a"),)), task(secrets=(secret("s1", "a"),))
    await prepare(files, one)
    again = Files(place)
    again.sweep([one.task_id])
    assert not again.awaits(one)
    assert len(await prepare(again, one)) == 1
    assert again.awaits(other)
    again.keep([])
    assert not again.awaits(other)  # nothing more will come


async def test_a_sweep_removes_what_a_cut_off_step_left(files: Files, place: Path) -> None:
    one, other = task(secrets=(secret("s1", "a"),)), task(secrets=(secret("s2", "a"),))
    await prepare(files, one)
    await prepare(files, other)
    (place / "shared" / "half").write_bytes(b"secret")
    (place / one.task_id / "s1.0.0.444").unlink()
    Files(place).sweep([other.task_id])
    assert found(place) == [f"{other.task_id}/s2.0.0.444", "shared/s2.0.0.444"]
    await prepare(files, one)  # the directory may be half gone
    Files(place).sweep([])
    assert found(place) == []


async def test_a_node_that_leaves_keeps_nothing(files: Files, place: Path) -> None:
    one = task(secrets=(secret("s1", "a"),))
    await prepare(files, one)
    await files.clear()
    assert not is_there(place)
    with pytest.raises(PreparationFailed, match="not found"):
        await prepare(files, one)
    await files.clear()


async def test_a_full_file_system_is_said(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fchown", full)
    with pytest.raises(PreparationFailed, match=r"cannot be written to .*: No space left"):
        await prepare(files, task(secrets=(secret("s1", "a"),)))


async def test_a_directory_on_a_disk_gets_a_memory_of_its_own(tmp_path: Path) -> None:
    place = tmp_path / "files"
    await memory.make(place)
    (place / "a").write_bytes(b"x")
    await memory.make(place)
    seen = [memory.is_in_memory(place), place.is_mount(), sorted(p.name for p in place.iterdir())]
    await memory.remove(place)
    assert seen == [True, not memory.is_in_memory(tmp_path), ["a"]]
    assert not is_there(place)


async def test_what_cannot_be_in_memory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(PreparationFailed, match="cannot be made: "):
        await memory.make(tmp_path / "file" / "files")


# --- templates ----------------------------------------------------------------------------------

TEMPLATE = b"""\
{{- if eq .Node.Hostname "h1" -}}
url = http://{{ .Service.Name }}.{{.Task.Slot}}/{{ env "PATH_TO" }}{{ env "NONE" }}
{{- end }}
key = {{ secret "key" }}, {{ config "raw" }}
"""


async def facts(task: Assignment) -> Facts:
    return Facts(
        service_id=task.service_id,
        service_name=task.service_name,
        labels={},
        node_id=task.node_id,
        hostname="h1",
        platform=Platform(),
        task_id=task.task_id,
        task_name=task.name,
        slot=task.slot,
    )


async def test_a_template_is_filled_in_for_each_task(place: Path) -> None:
    files = Files(place)
    files.take(Payloads(data={"t": TEMPLATE, **DATA, "c1": b"\xff{{"}, templates=("t",)))
    for slot in (1, 2):
        one = task(
            slot=slot,
            env=("PATH_TO=a=b", "PATH_TO=later", "BARE"),
            secrets=(secret("s1", "key"),),
            configs=(config("t", "app"), config("c1", "raw")),
        )
        _, filled, raw = await files.prepare(one, facts)
        assert Path(filled.source).read_bytes() == (  # noqa: ASYNC240 - a test may wait
            b"url = http://web.%d/a=b\nkey = secret one, \xff{{\n" % slot
        )
        assert Path(raw.source).read_bytes() == b"\xff{{"  # noqa: ASYNC240
        assert mode_of(Path(filled.source)) == 0o444
    assert len([name for name in found(place) if "/t." in name]) == 2
    assert not [name for name in found(place) if name.startswith("shared/t.")]
    files.sweep([])
    assert found(place) == []


async def test_what_a_template_misses_is_said(place: Path) -> None:
    files = Files(place)
    files.take(Payloads(data={"t": b'a\n {{ secret "x" }}', **DATA}, templates=("t",)))
    one = task(secrets=(secret("s1", "key"),), configs=(config("t", "app"),))
    with pytest.raises(PreparationFailed) as refusal:
        await files.prepare(one, facts)
    assert refusal.value.message == (
        "config name-t: template, line 2, column 5: the task has no secret with this target"
    )
    assert not [name for name in found(place) if one.task_id in name]


# --- a worker -----------------------------------------------------------------------------------


@pytest.fixture
async def rig(fake: FakeEngine, directory: Path, files: Files) -> AsyncIterator[Rig]:
    async with running(fake.socket_path, directory / "state", files=files, full=False) as rig:
        yield rig


def binds(fake: FakeEngine, one: Assignment) -> list[tuple[str, str, bool]]:
    body = fake.of(one.task_id)
    return [(m["Source"], m["Target"], m["ReadOnly"]) for m in body["HostConfig"]["Mounts"]]


async def test_a_container_gets_its_files_and_loses_them_with_the_task(
    rig: Rig, fake: FakeEngine, place: Path
) -> None:
    rig.assign(full=True, payloads=tuple(DATA))
    one = task(secrets=(secret("s1", "a"),), configs=(config("c1", "b"),))
    rig.assign(one)
    await rig.until(one, TaskState.RUNNING)
    own = place / one.task_id
    assert binds(fake, one) == [
        (f"{own}/s1.0.0.444", "/run/secrets/a", True),
        (f"{own}/c1.0.0.444", "/b", True),
    ]
    rig.assign(wanting(one, TaskState.SHUTDOWN))
    await rig.until(one, TaskState.SHUTDOWN)
    assert found(place) == []


async def test_a_task_that_fails_leaves_no_file(rig: Rig, fake: FakeEngine, place: Path) -> None:
    rig.assign(full=True, payloads=tuple(DATA))
    one = task(secrets=(secret("s1", "a"),))
    rig.assign(one)
    await rig.until(one, TaskState.RUNNING)
    assert found(place)
    fake.end(rig.container_id(one), 3)
    await rig.until(one, TaskState.FAILED)
    assert found(place) == []


async def test_a_missing_secret_is_why_a_task_is_rejected(rig: Rig) -> None:
    rig.assign(full=True, payloads=("s1",))
    one = task(secrets=(secret("s2", "a"),))
    rig.assign(one)
    status = await rig.until(one, TaskState.REJECTED)
    assert status.err == "not found: secret name-s2"


async def test_without_managers_a_task_waits_for_its_secret(
    fake: FakeEngine, directory: Path, place: Path
) -> None:
    """A node that booted alone: its tasks without secrets start, the others when one answers."""
    plain, keyed = task(), task(secrets=(secret("s1", "a"),))
    empty = Files(place)
    async with running(fake.socket_path, directory / "state", files=empty, full=False) as rig:
        rig.assign(plain, keyed)
    async with running(
        fake.socket_path, directory / "state", files=Files(place), full=False, alone_after=0.05
    ) as rig:
        await rig.until(plain, TaskState.RUNNING)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert rig.status(keyed.task_id) is not None
        assert TaskState.READY not in rig.states(keyed.task_id)
        rig.worker.take(Payloads(data=DATA))
        rig.assign(plain, keyed, full=True, payloads=tuple(DATA))
        await rig.until(keyed, TaskState.RUNNING)


async def test_a_worker_that_starts_sweeps(
    fake: FakeEngine, directory: Path, files: Files, place: Path
) -> None:
    stray = task(secrets=(secret("s1", "a"),))
    await prepare(files, stray)
    async with running(fake.socket_path, directory / "state", files=Files(place), full=False):
        await eventually(lambda: not found(place), what="nothing of a task that nobody knows")
