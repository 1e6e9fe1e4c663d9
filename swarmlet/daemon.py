"""``swarmlet daemon``: the composition root, the only module that builds the whole object graph.

Start here to read: settings → :class:`~swarmlet.node.node.Node` (this machine in its cluster) →
API server. One trio event loop; SIGTERM says goodbye and leaves every container running.
"""

import os
import resource
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

import click
import structlog
import trio

from swarmlet import __version__, clock
from swarmlet.api.http1 import Limits
from swarmlet.api.server import Api, serve_unix
from swarmlet.config import DEFAULT_FILE, LOG_FORMATS, LOG_LEVELS, Configured, DaemonConfig, load
from swarmlet.engine.client import Engine
from swarmlet.errors import SwarmletError, first_error
from swarmlet.node.node import Node
from swarmlet.obs import log as logs

log = structlog.get_logger()

#: Seconds for goodbyes and a hand-over at the end; systemd's own limit is far above.
STOP_TIMEOUT: Final = 3.0

#: Seconds of these for systemctl, which hangs when systemd's bus goes first. It runs in a thread,
#: and STOP_TIMEOUT does not end a thread.
SYSTEMCTL_TIMEOUT: Final = 1.0

#: File descriptors that the daemon wants (the unit's LimitNOFILE). The usual soft limit of 1024 is
#: for programs that use select(2).
DESCRIPTORS: Final = 65_536


def notify(message: str) -> None:
    """Tell systemd (sd_notify(3)); nothing happens when nobody listens."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with (
        suppress(OSError),  # a listener that is gone is systemd's affair, and no reason to stop
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out,
    ):
        out.sendto(message.encode(), address)


def watchdog_period() -> float | None:
    """Seconds between two signs of life that systemd wants; None when it wants none."""
    micros = os.environ.get("WATCHDOG_USEC")
    return int(micros) / 2e6 if micros else None


async def _watchdog() -> None:
    """Say that the event loop turns: a daemon that hangs is restarted."""
    period = watchdog_period()
    while period is not None:
        notify("WATCHDOG=1")
        await trio.sleep(period)


def raise_descriptors() -> int:
    """Take as many file descriptors as the hard limit and :data:`DESCRIPTORS` allow."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft >= wanted:
        return soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def host_is_stopping() -> bool:
    """Whether the machine goes down, or only this daemon; only this daemon when nobody says."""
    if not Path("/run/systemd/system").exists():
        return False
    with suppress(OSError, subprocess.TimeoutExpired):
        result = subprocess.run(
            ["/usr/bin/systemctl", "is-system-running"],
            capture_output=True,
            text=True,
            check=False,
            timeout=SYSTEMCTL_TIMEOUT,
        )
        return result.stdout.strip() == "stopping"
    return False


async def run(config: DaemonConfig) -> None:
    """Run the daemon until SIGTERM or SIGINT. Raises SwarmletError for what it cannot survive."""
    log.info("starting", version=__version__, state_dir=config.state_dir)
    limits = Limits.within(raise_descriptors())
    async with Engine(Path(config.engine_socket)) as engine:
        node = Node(config, engine=engine, now=clock.wall_clock, rng=clock.system_rng())
        async with trio.open_nursery() as nursery:
            await nursery.start(node.run)
            api = Api(node, config.engine_socket, limits=limits)
            await nursery.start(serve_unix, Path(config.socket), api)
            nursery.start_soon(_watchdog)
            notify("READY=1")
            log.info("ready", socket=config.socket)
            await _until_stopped()
            notify("STOPPING=1")
            log.info("stopping")
            with trio.move_on_after(STOP_TIMEOUT):
                await node.stop(host_stops=await trio.to_thread.run_sync(host_is_stopping))
            nursery.cancel_scope.cancel()


def log_settings(configured: Configured) -> None:
    """Say which settings are not the default, and who set them: what one asks of a strange log."""
    for name, source in configured.sources.items():
        if source != "default":
            log.info("setting", name=name, value=getattr(configured.config, name), source=source)


async def _until_stopped() -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            log.info("signal", name=signal.Signals(number).name)
            return


@click.command()
@click.option("--state-dir", metavar="DIR", help="Where the node keeps its state.")
@click.option("--socket", metavar="PATH", help="Unix socket of the API.")
@click.option("--engine-socket", metavar="PATH", help="Unix socket of the local Docker Engine.")
@click.option("--advertise-addr", metavar="ADDR", help="Address that other nodes shall use.")
@click.option("--listen-addr", metavar="ADDR:PORT", help="Where to listen for other nodes.")
@click.option("--log-format", type=click.Choice(LOG_FORMATS), help="Form of the log.")
@click.option("--log-level", type=click.Choice(LOG_LEVELS))
@click.option("--config", metavar="FILE", default=str(DEFAULT_FILE), show_default=True)
def command(config: str, **flags: str | None) -> None:
    """Run swarmletd in the foreground (what the systemd unit calls).

    Example: swarmlet daemon --state-dir /var/lib/swarmlet --log-format json
    """
    configured = load(flags, os.environ, Path(config))
    settings = configured.config
    logs.configure(form=settings.log_format, level=settings.log_level)
    log_settings(configured)
    try:
        trio.run(run, settings)
    except BaseExceptionGroup as group:
        failure = first_error(group)
        if failure is None:
            raise
        _give_up(failure)
    except SwarmletError as failure:
        _give_up(failure)


def _give_up(failure: SwarmletError) -> None:
    """Say why the daemon cannot go on; systemd's restart will show it again if it lasts."""
    log.error("fatal", reason=failure.message, advice=failure.advice, code=failure.code)
    sys.exit(failure.exit_status)
