"""The resolver as a process, and its keeper: tables replaced, damaged, processes killed."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from swarmlet.errors import DiskFailed
from swarmlet.net import resolver, resolver_files, resolver_keeper
from swarmlet.net.resolver_files import RECORD, TABLE, Damaged, NameTable, Record
from swarmlet.net.resolver_keeper import ResolverKeeper

from tests.unit.net import dns_lab
from tests.unit.net.dns_lab import addresses, ask_udp, query, records, table
from tests.waiting import PATIENCE, eventually, eventually_async


async def backends(port: int, *, patience: float = PATIENCE) -> int:
    """How many tasks ``tasks.web`` has; -1 if nobody answers."""
    try:
        with trio.move_on_after(patience):
            return len(addresses(await ask_udp(query("tasks.web."), port)))
    except OSError:
        pass
    return -1


async def until_backends(count: int, port: int) -> None:
    async def reached() -> bool:
        # A question to a process that is being killed is lost: ask again, as resolvers do.
        return await backends(port, patience=0.5) == count

    await eventually_async(reached, what=f"{count} backends")


def with_backends(count: int, port: int) -> NameTable:
    return table(port, tables=records(backends=count))


# --- files --------------------------------------------------------------------------------------


def test_table_is_read_back_as_it_was_written() -> None:
    whole = table(53, nameservers={"t1": ("192.0.2.53",)})
    assert resolver_files.decode(resolver_files.encode(whole)) == whole


@given(st.data())
def test_damaged_table_is_never_taken_for_a_good_one(data: st.DataObject) -> None:
    good = resolver_files.encode(with_backends(2, 53))
    at = data.draw(st.integers(0, len(good) - 1))
    bad = bytearray(good)
    bad[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(Damaged):
        resolver_files.decode(bytes(bad))
    with pytest.raises(Damaged):
        resolver_files.decode(good[:at])


@given(st.binary(max_size=100))
def test_any_bytes_as_a_table_are_damaged(raw: bytes) -> None:
    with pytest.raises(Damaged):
        resolver_files.decode(raw)


def test_table_of_another_format_says_so() -> None:
    with pytest.raises(Damaged, match="format 9"):
        resolver_files.decode(b"\x09" + resolver_files.encode(with_backends(1, 53))[1:])


def test_table_is_its_owners_only(tmp_path: Path) -> None:
    resolver_files.replace(tmp_path / "new" / "file", b"x")
    assert (tmp_path / "new" / "file").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["file"]


def test_record_names_a_running_process_only(tmp_path: Path) -> None:
    file = tmp_path / RECORD
    assert resolver_files.read_record(file) is None
    mine = resolver_files.this_process("1")
    file.write_bytes(resolver_files.encode_record(mine))
    assert resolver_files.read_record(file) == mine
    for other in (
        msgspec.structs.replace(mine, started=mine.started + 1),
        msgspec.structs.replace(mine, boot="another boot"),
        msgspec.structs.replace(mine, pid=2**22 + 1),
    ):
        file.write_bytes(resolver_files.encode_record(other))
        assert resolver_files.read_record(file) is None
    file.write_bytes(b"{")
    assert resolver_files.read_record(file) is None


# --- the process --------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def process(directory: Path, *more: str) -> AsyncIterator[trio.Process]:
    """A resolver that listens, as a child of ours."""
    read_end, write_end = os.pipe()
    command = [sys.executable, "-m", "swarmlet.net.resolver", "--table", str(directory / TABLE)]
    command += ["--ready-fd", str(write_end), *more]
    with (directory / "log").open("ab") as log:
        running = await trio.lowlevel.open_process(
            command, pass_fds=(write_end,), stderr=log, stdin=subprocess.DEVNULL
        )
    os.close(write_end)
    try:
        async with trio.lowlevel.FdStream(read_end) as ready:
            with trio.fail_after(PATIENCE):
                assert await ready.receive_some() == resolver.READY, (directory / "log").read_text()
        yield running
    finally:
        with trio.CancelScope(shield=True):
            running.kill()
            await running.wait()


def write(directory: Path, data: NameTable | bytes) -> None:
    raw = data if isinstance(data, bytes) else resolver_files.encode(data)
    resolver_files.replace(directory / TABLE, raw)


async def test_process_follows_its_table_and_keeps_the_last_good_one(tmp_path: Path) -> None:
    port = dns_lab.free_port()
    write(tmp_path, with_backends(1, port))
    async with process(tmp_path):
        assert await backends(port) == 1
        write(tmp_path, with_backends(2, port))
        await until_backends(2, port)
        for bad in (b"", b"\x09abc", resolver_files.encode(with_backends(4, port))[:-1]):
            seen = (tmp_path / "log").read_text().count("table-not-read")
            write(tmp_path, bad)
            await eventually(
                lambda seen=seen: (  # type: ignore[misc]
                    (tmp_path / "log").read_text().count("table-not-read") > seen
                )
            )
            assert await backends(port) == 2
        (tmp_path / TABLE).unlink()
        assert await backends(port) == 2
        write(tmp_path, with_backends(3, port))
        await until_backends(3, port)


async def test_process_ends_at_sigterm_and_takes_its_name_off_the_record(tmp_path: Path) -> None:
    write(tmp_path, with_backends(1, dns_lab.free_port()))
    async with process(tmp_path, "--record", str(tmp_path / RECORD)) as running:
        record = resolver_files.read_record(tmp_path / RECORD)
        assert record is not None
        assert record.pid == running.pid
        running.send_signal(signal.SIGHUP)  # a terminal that closes: nothing
        running.terminate()
        with trio.fail_after(PATIENCE):
            assert await running.wait() == 0
    assert not (tmp_path / RECORD).exists()


async def test_process_ends_when_another_is_the_resolver_and_no_question_is_lost(
    tmp_path: Path,
) -> None:
    port = dns_lab.free_port()
    write(tmp_path, with_backends(1, port))
    record = ("--record", str(tmp_path / RECORD))
    async with process(tmp_path, *record) as first, process(tmp_path, *record) as second:
        with trio.fail_after(PATIENCE):
            while first.returncode is None:
                assert await backends(port) == 1
                first.poll()
        assert await backends(port) == 1
        assert second.poll() is None


async def test_process_without_a_table_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolver, "TABLE_WITHIN", 0.01)
    options = resolver.parse(["--table", str(tmp_path / TABLE)])
    assert await resolver._run(options) == 1


# --- the keeper ---------------------------------------------------------------------------------


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """Where a keeper keeps a resolver. It outlives its keeper, so it is killed here."""
    yield tmp_path
    (tmp_path / TABLE).unlink(missing_ok=True)
    if (record := resolver_files.read_record(tmp_path / RECORD)) is not None:
        os.kill(record.pid, signal.SIGKILL)
    (tmp_path / RECORD).unlink(missing_ok=True)  # so that any other one ends


@contextlib.asynccontextmanager
async def kept(
    directory: Path, port: int = 0, *, version: str = "1"
) -> AsyncIterator[ResolverKeeper]:
    """A keeper that runs; leaving cancels it, as the end of the daemon does."""
    port = port or dns_lab.free_port()
    keeper = ResolverKeeper(directory, version=version, port=port)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keeper.run)
        yield keeper
        nursery.cancel_scope.cancel()


async def running(keeper: ResolverKeeper, *, but: int = 0) -> Record:
    """The record of the resolver that runs, once it is another than ``but``."""

    def other() -> Record | None:
        found = resolver_files.read_record(keeper.record)
        return found if found is not None and found.pid != but else None

    with trio.fail_after(PATIENCE):
        await keeper.wait_running()
    return await eventually(other)


async def publish(keeper: ResolverKeeper, count: int) -> None:
    await keeper.publish(records(backends=count), [dns_lab.GATEWAY], {"t1": ["192.0.2.53"]})


def alive(record: Record) -> bool:
    return Path(f"/proc/{record.pid}/fd/0").exists()


async def test_first_table_starts_a_resolver(directory: Path) -> None:
    port = dns_lab.free_port()
    async with kept(directory, port) as keeper:
        await publish(keeper, 2)
        record = await running(keeper)
        assert await backends(port) == 2
        assert os.getsid(record.pid) not in (os.getsid(0), os.getpid())
        await publish(keeper, 3)
        await until_backends(3, port)


async def test_resolver_outlives_its_keeper_and_the_next_keeper_keeps_it(directory: Path) -> None:
    port = dns_lab.free_port()
    async with kept(directory, port) as keeper:
        await publish(keeper, 2)
        first = await running(keeper)
    assert await backends(port) == 2
    async with kept(directory, port) as keeper:
        assert await running(keeper) == first
        await publish(keeper, 3)
        await until_backends(3, port)


async def test_killed_resolver_is_started_again(directory: Path) -> None:
    port = dns_lab.free_port()
    async with kept(directory, port) as keeper:
        await publish(keeper, 2)
        first = await running(keeper)
        os.kill(first.pid, signal.SIGKILL)
        await until_backends(2, port)
        assert (await running(keeper, but=first.pid)).pid != first.pid


async def test_resolver_killed_while_no_daemon_ran_is_started_by_the_next(directory: Path) -> None:
    port = dns_lab.free_port()
    async with kept(directory, port) as keeper:
        await publish(keeper, 2)
        first = await running(keeper)
    os.kill(first.pid, signal.SIGKILL)
    await eventually(lambda: resolver_files.read_record(keeper.record) is None)
    async with kept(directory, port) as keeper:
        await running(keeper)
        assert await backends(port) == 2


async def test_resolver_of_another_version_is_succeeded_without_a_gap(directory: Path) -> None:
    port = dns_lab.free_port()
    async with kept(directory, port, version="1") as keeper:
        await publish(keeper, 2)
        first = await running(keeper)
    async with kept(directory, port, version="2") as keeper:

        async def succeeded() -> bool:
            assert await backends(port) == 2
            return not alive(first)

        await eventually_async(succeeded)
        assert await backends(port) == 2
        second = await running(keeper, but=first.pid)
        assert second.version == "2"


async def test_stopped_resolver_ends_and_stays_ended_until_the_next_table(directory: Path) -> None:
    port = dns_lab.free_port()
    async with kept(directory, port) as keeper:
        await publish(keeper, 2)
        first = await running(keeper)
        assert await keeper.trouble() == ""
        await keeper.stop()
        assert await keeper.trouble() == ""  # none is needed now
        assert resolver_files.read_record(keeper.record) is None
        assert await backends(port) == -1
        assert not keeper.table.exists()
        await publish(keeper, 2)
        assert (await running(keeper, but=first.pid)).pid != first.pid
        assert await backends(port) == 2


async def test_stop_ends_a_resolver_that_is_deaf(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolver_keeper, "ENDS_WITHIN", 0.2)
    async with kept(directory) as keeper:
        await publish(keeper, 2)
        first = await running(keeper)
        os.kill(first.pid, signal.SIGSTOP)
        await keeper.stop()
        await eventually(lambda: not alive(first))


async def test_a_resolver_that_hangs_is_noticed_and_replaced(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has its process and its port, and no word comes from it."""
    monkeypatch.setattr(resolver_keeper, "ENDS_WITHIN", 0.2)
    monkeypatch.setattr(resolver_keeper, "ANSWERS_WITHIN", 0.2)
    async with kept(directory) as keeper:
        await publish(keeper, 2)
        first = await running(keeper)
        os.kill(first.pid, signal.SIGSTOP)
        said = f"the resolver (process {first.pid}) does not answer at {dns_lab.GATEWAY}"
        assert await keeper.trouble() == said
        monkeypatch.setattr(resolver_keeper, "ANSWERS_WITHIN", 5.0)
        await keeper.renew()
        assert (await running(keeper, but=first.pid)).pid != first.pid
        await eventually_async(lambda: well(keeper))


async def well(keeper: ResolverKeeper) -> bool:
    return await keeper.trouble() == ""


async def test_resolver_that_cannot_start_is_tried_again(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolver_keeper, "FIRST_PAUSE", 0.01)
    port = dns_lab.free_port()
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(directory))  # no setsid there
        keeper = ResolverKeeper(directory, port=port)
        await publish(keeper, 2)
        assert not await keeper._start()
        assert await keeper.trouble() == "the resolver does not run"
    broken = ResolverKeeper(directory, extra=("--no-such-option",))
    assert not await broken._start()
    async with kept(directory, port) as keeper:
        await running(keeper)
        assert await backends(port) == 2


async def test_names_are_answered_once_they_are_published(directory: Path) -> None:
    port = dns_lab.free_port()
    async with kept(directory, port) as keeper:
        await trio.testing.wait_all_tasks_blocked()
        await publish(keeper, 2)
        assert await backends(port) == 2


async def test_names_that_cannot_be_answered_keep_nobody_waiting(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(_keeper: ResolverKeeper) -> bool:
        return False

    monkeypatch.setattr(ResolverKeeper, "_start", never)
    async with kept(tmp_path) as keeper:
        await trio.testing.wait_all_tasks_blocked()
        await publish(keeper, 2)
        assert trio.current_time() < 60


async def test_table_that_cannot_be_written_is_a_failure_of_the_disk(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DiskFailed):
        await publish(ResolverKeeper(tmp_path / "file"), 2)


async def test_same_table_is_not_written_twice(tmp_path: Path) -> None:
    keeper = ResolverKeeper(tmp_path)
    await publish(keeper, 2)
    before = keeper.table.stat()
    await publish(keeper, 2)
    assert keeper.table.stat().st_ino == before.st_ino
    await publish(keeper, 3)
    assert keeper.table.stat().st_ino != before.st_ino
