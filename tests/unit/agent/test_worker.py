"""The worker against an engine that fails on request."""

import copy
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
import trio
from swarmlet.agent import keeping, pulse
from swarmlet.agent.storage import Kept, Storage
from swarmlet.engine.client import Engine
from swarmlet.model.objects import TaskState
from swarmlet.model.specs import HealthConfig
from swarmlet.rpc.messages import Assignment, Assignments

from tests.fakes.fake_engine import Dropped, FakeEngine, Refusal
from tests.rig import NoPlaces, Rig, running, task, wanting
from tests.waiting import PATIENCE, eventually


@pytest.fixture
async def rig(fake: FakeEngine, directory: Path) -> AsyncIterator[Rig]:
    async with running(fake.socket_path, directory / "state") as rig:
        yield rig


def refuse(status: int, message: str) -> Callable[[], None]:
    def effect() -> None:
        raise Refusal(status, message)

    return effect


async def slow() -> None:
    await trio.sleep(0.02)


def drop() -> None:
    raise Dropped


async def test_a_task_costs_three_calls(rig: Rig, fake: FakeEngine) -> None:
    """Create, start, inspect: more would slow the start of many."""
    one = task()
    rig.assign(one)
    await rig.until(one, TaskState.RUNNING)
    calls = [c for c in fake.calls if c[0] == "POST" or c[1].endswith("/json")]
    assert [c for c in calls if c[1] != "/containers/json"] == [
        ("POST", "/containers/create"),
        ("POST", f"/containers/{rig.container_id(one)}/start"),
        ("GET", f"/containers/{rig.container_id(one)}/json"),
    ]


async def test_no_more_calls_at_once_than_allowed(rig: Rig, fake: FakeEngine) -> None:
    tasks = [task() for _ in range(40)]
    with fake.fault("POST /containers", slow):
        rig.assign(*tasks)
        for one in tasks:
            await rig.until(one, TaskState.RUNNING)
    creates = rig.worker.parallel // 3
    assert 2 <= fake.most_at_once <= rig.worker.parallel + creates


async def test_connections_dropped_in_a_create_do_not_make_two(rig: Rig, fake: FakeEngine) -> None:
    """The engine made the container, but its answer was lost."""
    one = task()
    real = fake._create
    lost: list[str] = []

    def create(name: str, body: dict[str, object]) -> dict[str, object]:
        answer = real(name, body)
        if not lost:
            lost.append(name)
            raise Dropped
        return answer

    fake._create = create  # type: ignore[method-assign]
    rig.assign(one)
    await rig.until(one, TaskState.RUNNING)
    assert lost
    assert len(fake.containers) == 1


async def test_an_engine_that_drops_calls_is_asked_again(rig: Rig, fake: FakeEngine) -> None:
    one = task()
    with fake.fault("POST .*/start", drop):
        rig.assign(one)
        await eventually(lambda: fake.count("POST .*/start") >= 2)
        assert max(rig.states(one.task_id)) is TaskState.STARTING
    await rig.until(one, TaskState.RUNNING)


async def test_an_error_at_create_rejects(rig: Rig, fake: FakeEngine) -> None:
    one = task()
    with fake.fault("POST /containers/create", refuse(500, "no space left on device")):
        rig.assign(one)
        status = await rig.until(one, TaskState.REJECTED)
    assert status.err == "no space left on device"


async def test_an_engine_that_lost_its_rules_rejects_no_task(rig: Rig, fake: FakeEngine) -> None:
    """Somebody flushed them: it publishes no port until it is restarted."""
    words = "driver failed programming external connectivity: No chain/target/match by that name."
    one = task()
    with fake.fault("POST .*/start", refuse(500, words)):
        rig.assign(one)
        await eventually(lambda: fake.count("POST .*/start") >= 2)
    await rig.until(one, TaskState.RUNNING)


async def test_a_cut_stream_misses_nothing(rig: Rig, fake: FakeEngine) -> None:
    """A container ends while no stream of events is open."""
    one, two = task(), task()
    rig.assign(one, two)
    await rig.until(one, TaskState.RUNNING)
    await rig.until(two, TaskState.RUNNING)
    with fake.fault("GET /containers/json", drop):
        fake.cut_streams()
        fake.end(rig.container_id(one), 3)
    status = await rig.until(one, TaskState.FAILED)
    assert status.err == "task: non-zero exit (3)"
    fake.end(rig.container_id(two), 0)
    await rig.until(two, TaskState.COMPLETE)


async def test_what_died_with_its_engine_serves_no_more(rig: Rig, fake: FakeEngine) -> None:
    """An engine that stops says who died, and takes no question more."""
    one, two = task(), task()
    rig.assign(one, two)
    await rig.until(one, TaskState.RUNNING)
    await rig.until(two, TaskState.RUNNING)
    with fake.fault("GET", drop):
        fake.end(rig.container_id(one), 143)
        await eventually(lambda: rig.places.halted == {one.task_id})
        status = await rig.until(one, TaskState.RUNNING)
        assert status.halted
        assert status == rig.reports[-1][1]
    assert not (await rig.until(two, TaskState.RUNNING)).halted


async def test_an_answer_from_before_the_end_revives_nothing(rig: Rig, fake: FakeEngine) -> None:
    """The engine was asked for another reason, and the container ended before it answered."""
    one = task(healthcheck=HealthConfig(test=("CMD", "true")))
    rig.assign(one)
    await rig.until(one, TaskState.STARTING)
    await eventually(lambda: fake.of(one.task_id)["State"]["Running"])
    real, told = fake._of_container, trio.Event()

    def look(method: str, path: str) -> object:
        seen = copy.deepcopy(real(method, path))
        if not told.is_set():
            told.set()
            fake.end(rig.container_id(one), 143)
        else:
            raise Dropped
        return seen

    fake.health(rig.container_id(one), "healthy")
    await rig.until(one, TaskState.RUNNING)
    fake._of_container = look  # type: ignore[method-assign]
    fake.health(rig.container_id(one), "healthy")
    await eventually(lambda: fake.count("GET .*/json") > 5)
    assert told.is_set()
    assert rig.places.halted == {one.task_id}
    assert (await rig.until(one, TaskState.RUNNING)).halted


@pytest.fixture
def quick_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulse, "PROBE_EVERY", 0.02)
    monkeypatch.setattr(pulse, "PROBE_AGAIN", 0.02)
    monkeypatch.setattr(pulse, "PROBE_TIMEOUT", 2.0)


async def test_an_engine_that_hangs_is_away_until_it_answers(
    quick_probes: None, rig: Rig, fake: FakeEngine
) -> None:
    """It takes connections, keeps the stream of events open, and says nothing."""
    one, two = task(), task()
    rig.assign(one)
    await rig.until(one, TaskState.RUNNING)
    await eventually(lambda: not rig.worker.engine_away())
    thaw = trio.Event()
    with fake.fault("", thaw.wait):
        await eventually(lambda: rig.worker.engine_away() > 1)
        fake.end(rig.container_id(one), 3, silent=True)
        rig.assign(two)
    thaw.set()
    await rig.until(one, TaskState.FAILED)  # what it did not tell is looked up
    await rig.until(two, TaskState.RUNNING)
    await eventually(lambda: not rig.worker.engine_away())


async def test_an_engine_that_answers_slowly_keeps_its_stream(
    quick_probes: None, rig: Rig, fake: FakeEngine
) -> None:
    """A machine that is short of processors is no reason to look at everything again."""
    one = task()
    rig.assign(one)
    await rig.until(one, TaskState.RUNNING)
    looks, pings = fake.count("GET /containers/json"), fake.count("GET /_ping")
    with fake.fault("", slow):
        await eventually(lambda: fake.count("GET /_ping") > pings + 5)
    assert fake.count("GET /containers/json") == looks
    assert not rig.worker.engine_away()


async def test_a_slow_inspect_of_one_task_delays_no_other(rig: Rig, fake: FakeEngine) -> None:
    one, two = task(), task()
    rig.assign(one, two)
    await rig.until(one, TaskState.RUNNING)
    await rig.until(two, TaskState.RUNNING)
    with fake.fault(f"GET .*{rig.container_id(one)}", trio.sleep_forever):
        fake.end(rig.container_id(one), 1)
        fake.end(rig.container_id(two), 1)
        await rig.until(two, TaskState.FAILED)
        assert rig.states(one.task_id)[-1] is TaskState.RUNNING


async def test_one_pull_serves_all_tasks_of_an_image(rig: Rig, fake: FakeEngine) -> None:
    fake.registry["web:2"] = ""
    tasks = [task(image="web:2") for _ in range(5)]
    with fake.fault("POST /images/create", slow):
        rig.assign(*tasks)
        for one in tasks:
            await rig.until(one, TaskState.RUNNING)
    assert fake.count("POST /images/create") == 1


async def test_a_pull_that_fails_in_the_middle_rejects(rig: Rig, fake: FakeEngine) -> None:
    fake.registry["web:2"] = "unexpected EOF"
    one = task(image="web:2")
    rig.assign(one)
    status = await rig.until(one, TaskState.REJECTED)
    assert status.err == "No such image: web:2: unexpected EOF"


async def test_an_image_that_is_pulled_and_still_missing_rejects(
    rig: Rig, fake: FakeEngine
) -> None:
    """It is there for another platform: asking again and again would not help."""
    one = task()
    with fake.fault("POST /containers/create", refuse(404, "No such image: busybox:lab")):
        rig.assign(one)
        await rig.until(one, TaskState.REJECTED)
    assert fake.count("POST /containers/create") == 2


async def test_a_pull_nobody_wants_any_more_is_given_up(rig: Rig, fake: FakeEngine) -> None:
    fake.registry["web:2"] = ""
    one = task(image="web:2")
    with fake.fault("POST /images/create", trio.sleep_forever):
        rig.assign(one)
        await eventually(lambda: fake.count("POST /images/create") == 1)
        rig.assign(wanting(one, TaskState.SHUTDOWN))
        await rig.until(one, TaskState.SHUTDOWN)


async def test_health_decides_when_a_task_runs(rig: Rig, fake: FakeEngine) -> None:
    one = task(healthcheck=HealthConfig(test=("CMD", "true")))
    rig.assign(one)
    await rig.until(one, TaskState.STARTING)
    await eventually(lambda: rig.container_id(one))
    fake_id = await eventually(lambda: next(iter(fake.containers), ""))
    await eventually(lambda: fake.containers[fake_id]["State"]["Running"])
    fake.health(fake_id, "healthy")
    await rig.until(one, TaskState.RUNNING)
    fake.health(fake_id, "unhealthy")
    status = await rig.until(one, TaskState.FAILED)
    assert status.err == "unhealthy container"
    assert fake.count("POST .*/stop") == 1


async def test_a_container_removed_by_hand_fails_its_task(rig: Rig, fake: FakeEngine) -> None:
    one = task()
    rig.assign(one)
    await rig.until(one, TaskState.RUNNING)
    fake._remove(fake.of(one.task_id))
    status = await rig.until(one, TaskState.FAILED)
    assert status.err


async def test_nothing_starts_from_disk_before_a_manager_spoke(
    fake: FakeEngine, directory: Path
) -> None:
    one, two = task(), task(desired=TaskState.READY)
    async with running(fake.socket_path, directory / "state") as rig:
        rig.assign(one, two)
        await rig.until(one, TaskState.RUNNING)
        await rig.until(two, TaskState.READY)
    fake.end(fake.of(one.task_id)["Id"], 1)
    fake.containers.pop(fake.of(two.task_id)["Id"])
    async with running(fake.socket_path, directory / "state", full=False) as rig:
        # What ended is said at once, what is to start waits.
        await rig.until(one, TaskState.FAILED)
        assert fake.count("POST /containers/create") == 2
        rig.assign(wanting(two, TaskState.RUNNING), full=True)
        await rig.until(two, TaskState.RUNNING)


async def test_a_node_alone_runs_its_tasks_from_disk(fake: FakeEngine, directory: Path) -> None:
    one = task()
    with fake.fault("POST /containers/create", trio.sleep_forever):
        async with running(fake.socket_path, directory / "state") as rig:
            rig.assign(one)
            await rig.until(one, TaskState.PREPARING)
    async with running(fake.socket_path, directory / "state", full=False, alone_after=0) as rig:
        await rig.until(one, TaskState.RUNNING)


class Disk:
    """A disk that takes its time: nothing is written while it is ``closed``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.writes = 0
        self._open = threading.Event()
        self._open.set()
        real = Storage.save

        def save(storage: Storage, kept: list[Kept]) -> None:
            self._open.wait(PATIENCE)
            real(storage, kept)
            self.writes += 1

        monkeypatch.setattr(Storage, "save", save)

    @contextmanager
    def closed(self) -> Iterator[None]:
        self._open.clear()
        try:
            yield
        finally:
            self._open.set()


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


async def test_a_task_is_on_disk_before_its_container_starts(
    rig: Rig, fake: FakeEngine, directory: Path, disk: Disk
) -> None:
    """Power may fail in the next moment, and no manager be there when the node boots.

    As it shall run then, and under which engine, or its end would seem its own fault. One write
    serves all that wait.
    """
    held, late = task(desired=TaskState.READY), list[int]()

    def look() -> None:
        kept = Storage(directory / "state").load()
        ready = [one for one in kept if one.task.desired is TaskState.RUNNING and one.seen_in]
        late.append(fake.count("POST .*/start") - len(ready))

    rig.assign(held)
    await rig.until(held, TaskState.READY)
    tasks = [wanting(held, TaskState.RUNNING), *(task() for _ in range(20))]
    with fake.fault("POST .*/start", look):
        with disk.closed():
            rig.assign(*tasks)
            await eventually(lambda: len(fake.containers) == len(tasks))
            assert fake.count("POST .*/start") == 0
            before = disk.writes
        for one in tasks:
            await rig.until(one, TaskState.RUNNING)
    assert max(late) <= 0
    assert disk.writes - before < len(tasks)


async def test_a_disk_that_hangs_keeps_no_task_from_running(
    rig: Rig, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "KEPT_WITHIN", 0.02)
    one = task()
    with disk.closed():
        rig.assign(one)
        await rig.until(one, TaskState.RUNNING)


async def test_a_manager_may_speak_before_the_disk_was_read(
    fake: FakeEngine, directory: Path
) -> None:
    kept, dropped = task(), task()
    async with running(fake.socket_path, directory / "state") as rig:
        rig.assign(kept, dropped)
        await rig.until(kept, TaskState.RUNNING)
        await rig.until(dropped, TaskState.RUNNING)
    async with Engine(fake.socket_path) as engine, trio.open_nursery() as nursery:
        rig = Rig(engine, directory / "state")
        rig.assign(kept, full=True)
        await nursery.start(rig.worker.run)
        await rig.until(kept, TaskState.RUNNING)
        await eventually(lambda: len(fake.containers) == 1)
        assert fake.of(kept.task_id)["State"]["Running"]
        nursery.cancel_scope.cancel()


async def test_strangers_leave_only_on_a_full_word(fake: FakeEngine, directory: Path) -> None:
    stranger, known = task(slot=5), task(slot=5)
    async with running(fake.socket_path, directory / "one") as rig:
        rig.assign(stranger)
        await rig.until(stranger, TaskState.RUNNING)
    async with running(fake.socket_path, directory / "two", full=False, alone_after=0) as rig:
        rig.assign(known)
        await rig.until(known, TaskState.RUNNING)
        assert len(fake.containers) == 2
        rig.assign(known, full=True)
        await eventually(lambda: len(fake.containers) == 1)
        assert fake.of(known.task_id)["State"]["Running"]


async def test_registry_credentials_reach_the_engine(rig: Rig, fake: FakeEngine) -> None:
    fake.registry["web:2"] = ""
    one = msgspec.structs.replace(task(image="web:2"), registry_auth="c2VjcmV0")
    rig.assign(one)
    await rig.until(one, TaskState.RUNNING)
    assert fake.auths == ["c2VjcmV0"]


PINNED = f"reg.example:5000/web:2@sha256:{'a' * 64}"


async def test_a_pinned_image_is_pulled_and_run_by_its_digest(rig: Rig, fake: FakeEngine) -> None:
    """Name, tag and digest go to the engine as they are: the tag may have moved since."""
    fake.registry[PINNED] = ""
    one = task(image=PINNED)
    rig.assign(one)
    await rig.until(one, TaskState.RUNNING)
    assert PINNED in fake.images  # the fake creates containers of images it has by that very name


async def test_a_pinned_image_that_is_there_is_never_pulled(rig: Rig, fake: FakeEngine) -> None:
    fake.images.add(PINNED)
    one = task(image=PINNED)
    rig.assign(one)
    await rig.until(one, TaskState.RUNNING)
    assert fake.count("POST /images/create") == 0


async def test_statuses_are_kept_for_a_new_session(rig: Rig) -> None:
    one = task()
    rig.assign(one)
    status = await rig.until(one, TaskState.RUNNING)
    assert rig.worker.statuses() == {one.task_id: status}


class BusyPlaces(NoPlaces):
    """A node whose tasks have clients until they are let go."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = trio.Event()
        self.left = trio.Event()

    async def relieve(self, task: Assignment) -> None:
        self.asked.set()
        await self.left.wait()


async def test_a_task_is_told_to_stop_when_its_clients_have_left(
    fake: FakeEngine, directory: Path
) -> None:
    places, one = BusyPlaces(), task()
    async with running(fake.socket_path, directory / "state", places=places) as rig:
        rig.assign(one)
        await rig.until(one, TaskState.RUNNING)
        rig.assign(wanting(one, TaskState.SHUTDOWN))
        await places.asked.wait()
        assert fake.count("POST .*/stop") == 0
        places.left.set()
        await rig.until(one, TaskState.SHUTDOWN)


@pytest.mark.parametrize("stopping", [True, False])
async def test_a_node_that_leaves_waits_for_no_clients(
    fake: FakeEngine, directory: Path, *, stopping: bool
) -> None:
    """Nobody tells it of others to go to any more; nor does it go on with a wait."""
    places, one = BusyPlaces(), task()
    async with running(fake.socket_path, directory / "state", places=places) as rig:
        rig.assign(one)
        await rig.until(one, TaskState.RUNNING)
        if stopping:
            rig.assign(wanting(one, TaskState.SHUTDOWN))
            await places.asked.wait()
        rig.worker.assign(Assignments(full=True))
        await rig.worker.wait_idle()
        assert fake.containers == {}
    assert places.asked.is_set() == stopping


async def test_a_task_that_failed_has_no_clients_to_wait_for(
    fake: FakeEngine, directory: Path
) -> None:
    places, one = BusyPlaces(), task(healthcheck=HealthConfig(test=("CMD", "true")))
    async with running(fake.socket_path, directory / "state", places=places) as rig:
        rig.assign(one)
        fake_id = await eventually(lambda: next(iter(fake.containers), ""))
        await eventually(lambda: fake.containers[fake_id]["State"]["Running"])
        fake.health(fake_id, "healthy")
        await rig.until(one, TaskState.RUNNING)
        fake.health(fake_id, "unhealthy")
        await rig.until(one, TaskState.FAILED)
        await eventually(lambda: fake.count("POST .*/stop"))
    assert not places.asked.is_set()
