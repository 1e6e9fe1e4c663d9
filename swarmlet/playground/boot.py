"""Bring up a host: its network, its Docker Engine, its daemon."""

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import swarmlet
from swarmlet.errors import FailedPrecondition
from swarmlet.playground import cgroups, commands, engines, machine
from swarmlet.playground.layout import Site, Spot
from swarmlet.playground.records import HostRecord, Record

#: Seconds for an engine to answer. Under a second on a quiet machine; with five starting at once
#: on two busy cores a hundred times that is still no reason to give up.
ENGINE_WITHIN: Final = 90.0

#: Seconds for a containerd to end after its engine, as the kernel has it do. An engine that finds
#: it dying waits for its answer, and gives up.
CONTAINERD_ENDS_WITHIN: Final = 5.0

#: Seconds for swarmletd to answer its first ping.
DAEMON_WITHIN: Final = 60.0

#: A freshly launched program writes its pid file within milliseconds; past this it never will.
PIDFILE_WITHIN: Final = 10.0

#: The command that is the daemon, unless a playground is asked for another.
DAEMON: Final = (sys.executable, "-m", "swarmlet", "daemon")

#: What the daemon must not inherit from whoever runs the playground: where another daemon is, and
#: the systemd unit whose watchdog it is not.
_NOT_INHERITED: Final = frozenset(
    {"DOCKER_HOST", "SWARMLET_HOST", "NOTIFY_SOCKET", "WATCHDOG_USEC"}
)


class DoesNotAnswer(FailedPrecondition):
    """A program of a host was started, and ended or hangs. The end of its log is a note."""

    code = "playground-no-answer"

    def __init__(self, what: str, host: str, socket: Path, log: Path) -> None:
        super().__init__(
            f"the {what} of {host} does not answer on {socket}",
            advice=f"read {log} (after a failed up it is gone, unless made with --retain)",
        )
        last = machine.tail(log)
        self.why = last[-1] if last else f"its log {log} is empty"
        self.add_note("\n".join(f"      | {line}" for line in last))


def plug_in(site: Site, record: Record, host: HostRecord) -> None:
    """Make a host's network namespace, and its cable to the bridge."""
    for command in commands.plug_in(site, site.spot(host.name), host.address, record.gateway):
        machine.run(command)


def wipe_volatile(spot: Spot) -> None:
    """Remove what no boot finds again: the network stack with all its settings, and /run."""
    machine.run_quietly(["ip", "link", "del", spot.cable])
    machine.run_quietly(["ip", "netns", "del", spot.netns])
    for mount in machine.mounts_below(spot.run_dir):
        machine.run_quietly(["umount", "-l", str(mount)])
    shutil.rmtree(spot.run_dir, ignore_errors=True)


def _make_run_dir(spot: Spot) -> None:
    """Make a host's /run, which is in memory, and the same for its engine and its daemon."""
    if not spot.run_dir.exists():
        spot.run_dir.mkdir(parents=True)
        machine.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", str(spot.run_dir)])


def start_engine(site: Site, record: Record, spot: Spot) -> None:
    """Start a host's Docker Engine and wait until it answers."""
    _make_run_dir(spot)
    spot.data_dir.mkdir(parents=True, exist_ok=True)
    containerd = spot.run_dir / "exec/containerd/containerd.pid"
    ended = wait(
        CONTAINERD_ENDS_WITHIN,
        lambda: machine.pid_in(containerd, cgroups.members(spot.processes_cgroup)) is None,
    )
    stale = [spot.run_dir / "docker.pid", spot.engine_socket, *([containerd] if ended else [])]
    for path in stale:
        path.unlink(missing_ok=True)
    (spot.run_dir / "daemon.json").write_text("{}\n")
    environ = {"PATH": _path(record.engine_of(spot.name)), "HOME": "/root"}
    program = _Program("Docker Engine", spot.engine_pidfile, spot.engine_log, spot.engine_socket)
    with _kin(spot) as beside:
        program.launch(site, spot, commands.engine(record, spot), environ, beside=beside)
    program.wait_answer(spot, ENGINE_WITHIN)


def _path(engine: str) -> str:
    """Where an engine finds its containerd: beside it, if it is named with a folder."""
    path = os.environ.get("PATH", os.defpath)
    folder = str(Path(engine).parent)
    return path if folder == "." else f"{folder}{os.pathsep}{path}"


@contextmanager
def _kin(spot: Spot) -> Iterator[dict[str, int] | None]:
    """Hold the namespaces of what an earlier engine left: a container's shim, or its containerd.

    Containers' namespaces are mounted where only these see them. The next engine must, too: it
    cleans up by them, as it would on a machine of its own. Descriptors, not a process's id: a
    containerd dies with its engine, a moment later.
    """
    for pid in sorted(cgroups.members(spot.processes_cgroup)):
        with ExitStack() as stack:
            try:
                if not Path(f"/proc/{pid}/comm").read_text().startswith("containerd"):
                    continue
                held = {
                    kind: stack.enter_context(Path(f"/proc/{pid}/ns/{kind}").open("rb")).fileno()
                    for kind in commands.NAMESPACES
                }
            except OSError:
                continue  # it ended meanwhile
            yield held
            return
    yield None


def start_daemon(site: Site, record: Record, host: HostRecord) -> None:
    """Start a host's swarmletd and wait until it answers."""
    spot = site.spot(host.name)
    spot.state_dir.mkdir(parents=True, exist_ok=True)
    spot.socket.unlink(missing_ok=True)
    command = commands.daemon(record.daemon or DAEMON, spot, host.address)
    program = _Program("daemon", spot.daemon_pidfile, spot.log, spot.socket)
    program.launch(site, spot, command, daemon_environ())
    program.wait_answer(spot, DAEMON_WITHIN)


def daemon_environ() -> dict[str, str]:
    """Return the daemon's environment: ours, with the code that started the playground first."""
    inherited = {key: value for key, value in os.environ.items() if key not in _NOT_INHERITED}
    package = Path(swarmlet.__file__ or "").parents[1]
    path = [str(package), *filter(None, [inherited.get("PYTHONPATH")])]
    return inherited | {"PYTHONPATH": os.pathsep.join(path), "PYTHONUNBUFFERED": "1"}


def wait(seconds: float, done: Callable[[], bool]) -> bool:
    """Wait until ``done()``; False if it is not within the time."""
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


class _Program:
    """A server of a host: where its id, its output and its API are."""

    def __init__(self, what: str, pidfile: Path, log: Path, socket: Path) -> None:
        self.what, self.pidfile, self.log, self.socket = what, pidfile, log, socket

    def launch(
        self,
        site: Site,
        spot: Spot,
        command: Sequence[str],
        environ: dict[str, str],
        *,
        beside: Mapping[str, int] | None = None,
    ) -> None:
        """Start the program in its host, in these namespaces if any are given."""
        self.pidfile.unlink(missing_ok=True)
        procs = cgroups.make(spot.processes_cgroup) / "cgroup.procs"
        argv = commands.inside(
            site, spot, command, procs=procs, pidfile=self.pidfile, beside=beside
        )
        machine.launch(
            argv, log=self.log, env=environ, cwd=spot.data_dir, pass_fds=(beside or {}).values()
        )

    def wait_answer(self, spot: Spot, within: float) -> None:
        """Wait until the program answers; one that ended is not waited for."""
        started = time.monotonic()

        def settled() -> bool:
            if engines.answers(self.socket):
                return True
            if not machine.is_written(self.pidfile):
                return time.monotonic() - started > PIDFILE_WITHIN
            alive = cgroups.members(spot.processes_cgroup)
            return machine.pid_in(self.pidfile, alive) is None

        wait(within, settled)
        if not engines.answers(self.socket):
            raise DoesNotAnswer(self.what, spot.name, self.socket, self.log)


__all__ = [
    "DAEMON",
    "DoesNotAnswer",
    "daemon_environ",
    "plug_in",
    "start_daemon",
    "start_engine",
    "wait",
    "wipe_volatile",
]
