"""The resolver: names of the cluster for the tasks of this node, in a process of its own.

Names are part of the data path, and the daemon is not: this process goes on answering while the
daemon restarts or is upgraded. So it imports no more than it needs; the agent starts it and watches
over it (:mod:`swarmlet.net.resolver_keeper`) and tells it everything by replacing a file.

    python -m swarmlet.net.resolver --table FILE [--record FILE] [--ready-fd N]...

It ends at SIGTERM, and when its record names another process: that is its successor, which listens
already.
"""

import argparse
import logging
import os
import resource
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import trio

from swarmlet import __version__
from swarmlet.clock import system_rng
from swarmlet.net import resolver_files
from swarmlet.net.dns import Server
from swarmlet.net.resolver_files import Damaged, NameTable, Watched
from swarmlet.net.upstreams import RESOLV_CONF, Upstreams

#: Seconds between looks at the files. A name is as late as this, which adds to the time to live of
#: its answers; five looks a second cost less than two thousandths of a core.
LOOK_EVERY: Final = 0.2

#: Without a table there is nothing to do. It is written before this process is started.
TABLE_WITHIN: Final = 10.0

#: What is written to the ready descriptor.
READY: Final = b"ready\n"

log = logging.getLogger(__name__)


class Options(argparse.Namespace):
    """The command line."""

    table: Path
    record: Path | None
    ready_fd: list[int]
    version: str
    resolv_conf: Path
    upstream_port: int


def parse(argv: Sequence[str]) -> Options:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m swarmlet.net.resolver")
    parser.add_argument("--table", type=Path, required=True, help="what to answer, and where")
    parser.add_argument("--record", type=Path, help="file that says which process is the resolver")
    parser.add_argument(
        "--ready-fd", type=int, action="append", default=[], help="told once it listens"
    )
    parser.add_argument("--version", default=__version__, help="of whoever starts it, for --record")
    parser.add_argument("--resolv-conf", type=Path, default=RESOLV_CONF, help="of the host")
    parser.add_argument(
        "--upstream-port", type=int, default=resolver_files.PORT, help="of all other resolvers"
    )
    return parser.parse_args(argv, namespace=Options())


def main(argv: Sequence[str] | None = None) -> int:
    """Run until told to end; returns the exit status."""
    options = parse(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(
        format="%(asctime)s %(levelname)-7s resolver[%(process)d] %(message)s",
        level=logging.INFO,
    )
    logging.raiseExceptions = False  # who read our log may be gone, and that is no reason to end
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nor is a terminal that closes
    _raise_limit()
    return trio.run(_run, options)


async def _run(options: Options) -> int:
    rng = system_rng()
    upstreams = Upstreams(rng, port=options.upstream_port, resolv_conf=options.resolv_conf)
    server = Server(upstreams, rng)
    follower = Follower(options.table)
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        with trio.move_on_after(TABLE_WITHIN) as waiting:
            server.use(await follower.wait_table())
        if waiting.cancelled_caught:
            log.error("no-table file=%s", options.table)
            return 1
        async with trio.open_nursery() as nursery:
            await nursery.start(server.run)
            own = _Own(options.record, options.version) if options.record else None
            _tell_ready(options.ready_fd)
            log.info("resolver-ready version=%s", __version__)
            async with trio.open_nursery() as ends:
                ends.start_soon(_wait_signal, signals, ends.cancel_scope)
                await _follow(follower, server, own)
                ends.cancel_scope.cancel()
            await server.retire()
            nursery.cancel_scope.cancel()
        if own is not None:
            own.give_up()
    log.info("resolver-ends")
    return 0


class Follower:
    """The table's file: each good new table once; of a bad one the reason, once."""

    def __init__(self, path: Path) -> None:
        self._file = Watched(path)

    def look(self) -> NameTable | None:
        """A new table, if there is one that can be read."""
        if not self._file.changed():
            return None
        try:
            return resolver_files.decode(self._file.path.read_bytes())
        except (OSError, Damaged) as exc:
            log.warning(
                "table-not-read file=%s reason=%s consequence=%s",
                self._file.path,
                exc,
                "the last good one stays",
            )
            return None

    async def wait_table(self) -> NameTable:
        """The next table."""
        while True:
            table = self.look()
            if table is not None:
                return table
            await trio.sleep(LOOK_EVERY)


async def _follow(follower: Follower, server: Server, own: "_Own | None") -> None:
    """Use each new table, until another process is the resolver."""
    while own is None or own.holds():
        table = follower.look()
        if table is not None:
            server.use(table)
        await trio.sleep(LOOK_EVERY)
    log.info("succeeded-by-another")


async def _wait_signal(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
    async for number in signals:
        log.info("signal number=%d", number)
        scope.cancel()


class _Own:
    """The record, while it names this process."""

    def __init__(self, path: Path, version: str) -> None:
        self._path = path
        self._text = resolver_files.encode_record(resolver_files.this_process(version))
        resolver_files.replace(path, self._text)

    def holds(self) -> bool:
        """Whether it still names us."""
        try:
            return self._path.read_bytes() == self._text
        except OSError:
            return False

    def give_up(self) -> None:
        """Take our name off it, if it is on it."""
        if self.holds():
            with suppress(OSError):
                self._path.unlink()


def _tell_ready(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        with suppress(OSError):  # who wanted to know may be gone
            os.write(descriptor, READY)
        with suppress(OSError):
            os.close(descriptor)


def _raise_limit() -> None:
    """As many files as are allowed: each question for others is a socket."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


if __name__ == "__main__":
    sys.exit(main())
