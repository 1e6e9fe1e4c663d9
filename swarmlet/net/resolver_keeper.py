"""Watching over the resolver's process from the agent: started, told, replaced, ended.

The process is nobody's child, in a session of its own, so it outlives the daemon; the next daemon
finds it by its record and keeps it, unless it is of another version. Its successor listens beside
it on the same addresses before it ends, so that no question is lost.

It stays in the daemon's cgroup: what ends all of a host ends it as well.
"""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import structlog
import trio

import swarmlet
from swarmlet.errors import DiskFailed
from swarmlet.model.forwarding import Tables
from swarmlet.net import resolver_files
from swarmlet.net.resolver_files import PORT, RECORD, TABLE, NameTable, Record

#: For a resolver to listen. It takes half a second; a busy machine is no reason to start another.
READY_WITHIN: Final = 30.0

#: For names to be answered before a container starts.
PUBLISHED_WITHIN: Final = 5.0

#: For a resolver to end: it answers for two seconds what is under way.
ENDS_WITHIN: Final = 5.0

#: For a resolver to answer a question; it takes a millisecond.
ANSWERS_WITHIN: Final = 1.0

#: A question (RFC 1035): the addresses of "swarmlet".
_QUESTION: Final = bytes.fromhex("5357 0100 0001 0000 0000 0000 08") + b"swarmlet\0\0\1\0\1"

#: Pauses between starts of a resolver that does not live, doubled each time.
FIRST_PAUSE: Final = 0.2
LONGEST_PAUSE: Final = 10.0

#: A resolver that lived so long was a good one.
LIVES: Final = 10.0

#: What the resolver must not inherit: it is not systemd's service.
_NOT_INHERITED: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS")

log = structlog.get_logger(__name__)


class ResolverKeeper:
    """Keeps one resolver running for ``directory``, which is wiped at boot or need not survive one.

    ``port`` is 53 but in tests; ``extra`` are further arguments for the resolver.
    """

    def __init__(
        self,
        directory: Path,
        *,
        version: str = swarmlet.__version__,
        port: int = PORT,
        extra: tuple[str, ...] = (),
    ) -> None:
        self.table = directory / TABLE
        self.record = directory / RECORD
        self._version = version
        self._extra = extra
        self._port = port
        self._runs = False
        self._wanted = trio.Event()
        self._running = trio.Event()
        self._files = trio.Lock()  # tables are written in the order in which they were published
        self._life = trio.Lock()  # a start and a stop do not cross
        self._written = b""
        self._listen: tuple[str, ...] = ()
        if self.table.exists():  # of an earlier daemon
            self._wanted.set()

    async def publish(
        self,
        tables: Tables,
        listen: Sequence[str],
        nameservers: Mapping[str, Sequence[str]],
    ) -> None:
        """Hand the resolver a new table; it has read it within a fifth of a second.

        ``listen`` are the gateway addresses of this node's networks, ``nameservers`` those that
        services name, by task. While ``run`` runs, a resolver listens when this returns, unless
        that takes long: names that are late must not keep containers from their start.
        Raises DiskFailed if the file cannot be written.
        """
        named = {task: tuple(servers) for task, servers in nameservers.items()}
        table = NameTable(tables=tables, listen=tuple(listen), nameservers=named, port=self._port)
        data = resolver_files.encode(table)
        async with self._files:
            if data != self._written or not self._wanted.is_set():
                try:
                    await trio.to_thread.run_sync(resolver_files.replace, self.table, data)
                except OSError as exc:
                    said = f"names cannot be handed to the resolver in {self.table}: {exc}"
                    raise DiskFailed(said) from exc
                self._written = data
            self._wanted.set()
            self._listen = tuple(listen)
        if self._runs:
            with trio.move_on_after(PUBLISHED_WITHIN):
                await self._running.wait()

    async def run(self) -> None:
        """Keep a resolver running from the first table on, until cancelled; it stays then."""
        self._runs = True
        try:
            await self._keep()
        finally:
            self._runs = False

    async def _keep(self) -> None:
        pause = FIRST_PAUSE
        while True:
            await self._wanted.wait()
            with self._found() as process:
                if process is not None and process.version == self._version:
                    lived = await self._watch(process)
                    pause = FIRST_PAUSE if lived else pause
                    if lived:
                        continue
                elif await self._start():
                    continue
            await trio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def wait_running(self) -> None:
        """Wait until a resolver of this version listens."""
        await self._running.wait()

    async def trouble(self) -> str:
        """Why no resolver of this version answers now, or nothing: also while none is needed."""
        if not self._wanted.is_set():
            return ""
        with self._found() as process:
            if process is None:
                return "the resolver does not run"
            if process.version != self._version:
                return f"the resolver that runs is of version {process.version}"
            for address in self._listen:
                if not await answers(address, self._port):
                    return f"the resolver (process {process.pid}) does not answer at {address}"
            return ""

    async def renew(self) -> None:
        """End a resolver that is no good, and wait for its successor for a while."""
        with self._found() as process:
            if process is not None:
                await process.end()
        with trio.move_on_after(PUBLISHED_WITHIN):
            while await self.trouble():  # noqa: ASYNC110 - its end and a start are seen from outside
                await trio.sleep(FIRST_PAUSE)

    async def stop(self) -> None:
        """End the resolver and forget the names: the node leaves. ``publish`` begins anew."""
        async with self._life, self._files:
            self._wanted = trio.Event()
            self._written = b""
            self.table.unlink(missing_ok=True)
            with self._found() as process:
                if process is not None:
                    await process.end()
            self.record.unlink(missing_ok=True)

    async def _watch(self, process: "_Process") -> bool:
        """Wait until a resolver ends; says whether it had lived well."""
        self._running.set()
        began = trio.current_time()
        log.info("resolver-runs", pid=process.pid)
        await process.wait_ended()
        self._running = trio.Event()
        if self._wanted.is_set():
            log.warning("resolver-ended", pid=process.pid)
        return trio.current_time() - began >= LIVES

    async def _start(self) -> bool:
        """Start a resolver; says whether it listens."""
        async with self._life:
            if not self._wanted.is_set():
                return True  # stopped meanwhile: nothing to start
            read_end, write_end = os.pipe()
            async with trio.lowlevel.FdStream(read_end) as ready:
                try:
                    await self._launch(write_end)
                except (OSError, subprocess.CalledProcessError) as exc:
                    log.warning("resolver-not-started", reason=str(exc))
                    return False
                finally:
                    os.close(write_end)
                with trio.move_on_after(READY_WITHIN):
                    if await ready.receive_some(64):
                        return True
            log.warning("resolver-not-ready", why="it ended, or hangs: see the lines above")
            return False

    async def _launch(self, ready: int) -> None:
        command = [
            *("setsid", "--fork", sys.executable, "-m", "swarmlet.net.resolver"),
            *("--table", str(self.table), "--record", str(self.record)),
            *("--version", self._version, "--ready-fd", str(ready), *self._extra),
        ]
        await trio.run_process(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=(ready,),
            env=_environ(),
            cwd="/",
        )

    @contextmanager
    def _found(self) -> "Iterator[_Process | None]":
        """The resolver that runs, held so that its number cannot become another's."""
        process = _Process.find(self.record)
        try:
            yield process
        finally:
            if process is not None:
                process.close()


async def answers(address: str, port: int) -> bool:
    """Whether a DNS server of this host says anything; yes also where nobody could listen."""
    with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            await sock.bind((address, 0))
            await sock.connect((address, port))
            with trio.move_on_after(ANSWERS_WITHIN):
                await sock.send(_QUESTION)
                return bool(await sock.recv(512))
        except ConnectionError:
            return False
        except OSError:  # its bridge is not there (yet), and named as such elsewhere
            return True
    return False


class _Process:
    """A process that is not our child."""

    def __init__(self, record: Record, pidfd: int) -> None:
        self.pid = record.pid
        self.version = record.version
        self._pidfd = pidfd

    @classmethod
    def find(cls, path: Path) -> "_Process | None":
        """The process that a record names, if it runs."""
        record = resolver_files.read_record(path)
        if record is None:
            return None
        try:
            pidfd = os.pidfd_open(record.pid)
        except OSError:
            return None
        if resolver_files.read_record(path) != record:  # it ended before we held it
            os.close(pidfd)
            return None
        return cls(record, pidfd)

    async def wait_ended(self) -> None:
        """Wait until it has ended."""
        await trio.lowlevel.wait_readable(self._pidfd)

    async def end(self) -> None:
        """SIGTERM, and SIGKILL if that does not help."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with trio.move_on_after(ENDS_WITHIN):
                self._send(number)
                await self.wait_ended()
                return

    def _send(self, number: signal.Signals) -> None:
        try:
            signal.pidfd_send_signal(self._pidfd, number)
        except ProcessLookupError:
            return

    def close(self) -> None:
        """Let go of it."""
        os.close(self._pidfd)


def _environ() -> dict[str, str]:
    """Ours, with this code first on the path: the daemon may run from a checkout."""
    package = str(Path(swarmlet.__file__ or "").parents[1])
    path = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    kept = {key: value for key, value in os.environ.items() if key not in _NOT_INHERITED}
    return kept | {"PYTHONPATH": os.pathsep.join(path)}
