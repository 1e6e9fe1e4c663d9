"""``swarmlet playground``: the commands."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click
import msgspec

from swarmlet.playground import cleanup, preflight
from swarmlet.playground.layout import DEFAULT_NAME, Site, check_name
from swarmlet.playground.playground import Playground, Wish, default_roots
from swarmlet.playground.progress import Lines
from swarmlet.playground.status import HostStatus

NAME: Final = click.option(
    "--name", default=DEFAULT_NAME, show_default=True, metavar="NAME", help="Which playground."
)


def _example(*lines: str) -> str:
    """Return an epilog that click prints as it stands."""
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in lines)


def _engines(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    pairs = [text.partition("=") for text in given]
    for host, _sign, program in pairs:
        if not host or not program:
            raise click.BadParameter("give it as HOST=PROGRAM, for example w1=/opt/docker/dockerd")
    return {host: program for host, _sign, program in pairs}


@click.group(
    "playground",
    epilog=_example("sudo swarmlet playground up", "sudo swarmlet playground status"),
)
def playground() -> None:
    """Run a whole cluster on this machine: each host with its own network and Docker Engine."""


@playground.command(epilog=_example("sudo swarmlet playground up --managers 3 --workers 2"))
@click.option("--managers", default=3, show_default=True, help="Number of managers.")
@click.option("--workers", default=2, show_default=True, help="Number of workers.")
@click.option("--init/--no-init", default=True, help="Form a cluster, or only start the daemons.")
@click.option("--engine", default="dockerd", metavar="PROGRAM", help="Another dockerd to run.")
@click.option(
    "--engine-of",
    "engines",
    multiple=True,
    metavar="HOST=PROGRAM",
    callback=_engines,
    help="Another dockerd for one host; it finds its containerd beside it.",
)
@click.option(
    "--engine-arg", "engine_args", multiple=True, metavar="ARG", help="One more option for dockerd."
)
@click.option("--retain", is_flag=True, help="Do not take down what could not be made.")
@click.option("--daemon/--no-daemon", default=True, hidden=True)
@NAME
def up(  # noqa: PLR0913 - one parameter an option
    *,
    managers: int,
    workers: int,
    init: bool,
    engine: str,
    engines: dict[str, str],
    engine_args: tuple[str, ...],
    retain: bool,
    daemon: bool,
    name: str,
) -> None:
    """Make a playground and form a cluster on it."""
    wish = Wish(init=init, engine=engine, engines=engines, engine_args=engine_args, retain=retain)
    if not daemon:
        wish = msgspec.structs.replace(wish, daemon=None)
    made = Playground.create(name, managers=managers, workers=workers, wish=wish, progress=Lines())
    first = made.status()[0]
    option = "" if name == DEFAULT_NAME else f" --name {name}"
    click.echo(f"\nplayground {name} is up, {first.name} is {first.address}.  Next:\n", err=True)
    if daemon:
        click.echo(f"    swarmlet playground exec{option} {first.name} -- docker node ls", err=True)
    click.echo(f"    swarmlet playground status{option}", err=True)
    click.echo(f"    swarmlet playground down{option}", err=True)


@playground.command(epilog=_example("sudo swarmlet playground status --format json"))
@click.option(
    "--format", "style", type=click.Choice(["table", "json"]), default="table", show_default=True
)
@NAME
def status(style: str, name: str) -> None:
    """Show the hosts: what runs, where it listens, where its log is."""
    hosts = Playground.open(name).status()
    if style == "json":
        click.echo(json.dumps(msgspec.to_builtins(hosts, enc_hook=str), indent=1))
    else:
        click.echo(_table(hosts))


@playground.command(
    epilog=_example("sudo swarmlet playground kill m1", "sudo swarmlet playground kill m1 m2")
)
@click.argument("hosts", nargs=-1, required=True, metavar="HOST...")
@NAME
def kill(hosts: tuple[str, ...], name: str) -> None:
    """Cut the power of hosts: SIGKILL to all of them, and their network goes silent."""
    _open(name).kill(*hosts)


@playground.command(epilog=_example("sudo swarmlet playground start m1"))
@click.argument("hosts", nargs=-1, required=True, metavar="HOST...")
@NAME
def start(hosts: tuple[str, ...], name: str) -> None:
    """Boot hosts again: engine, then daemon."""
    found = _open(name)
    with Lines().step(f"started {', '.join(hosts)}"):
        found.start(*hosts)


@playground.command("stop-daemon", epilog=_example("sudo swarmlet playground stop-daemon m1"))
@click.argument("host")
@click.option("--kill", "sigkill", is_flag=True, help="SIGKILL in place of SIGTERM.")
@NAME
def stop_daemon(*, host: str, sigkill: bool, name: str) -> None:
    """Stop swarmletd of a host; its engine and containers run on."""
    _open(name).stop_daemon(host, kill=sigkill)


@playground.command("start-daemon", epilog=_example("sudo swarmlet playground start-daemon m1"))
@click.argument("host")
@NAME
def start_daemon(host: str, name: str) -> None:
    """Start swarmletd of a host again."""
    _open(name).start_daemon(host)


@playground.command(epilog=_example("sudo swarmlet playground cut w1"))
@click.argument("host")
@NAME
def cut(host: str, name: str) -> None:
    """Pull a host's network cable; all of it runs on."""
    _open(name).cut(host)


@playground.command(
    epilog=_example("sudo swarmlet playground heal w1", "sudo swarmlet playground heal")
)
@click.argument("host", required=False)
@NAME
def heal(host: str | None, name: str) -> None:
    """Plug a host's cable in again; without HOST: all cables, and the partition ends."""
    _open(name).heal(host)


@playground.command(epilog=_example("sudo swarmlet playground partition m1,w1 m2,m3,w2"))
@click.argument("groups", nargs=-1, required=True, metavar="HOST,HOST... HOST,HOST...")
@NAME
def partition(groups: tuple[str, ...], name: str) -> None:
    """Let hosts of different groups no longer reach each other, until `heal`."""
    _open(name).partition(*[group.split(",") for group in groups])


@playground.command(
    "exec",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    epilog=_example("sudo swarmlet playground exec m1 -- docker ps"),
)
@NAME
@click.argument("host")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def exec_(host: str, command: tuple[str, ...], name: str) -> None:
    """Run a command on a host: its network, its hostname, DOCKER_HOST set to its API."""
    words = command[1:] if command[0] == "--" else command
    argv, environ = _open(name).command_on(host, words)
    os.execvpe(argv[0], argv, environ)  # noqa: S606 - the command takes our place, terminal and all


@playground.command(
    "load-image", epilog=_example("sudo swarmlet playground load-image shop.tar w1 w2")
)
@click.argument("tar", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("hosts", nargs=-1)
@click.option("--tag", metavar="NAME:TAG", help="Name of an image made from a root file system.")
@NAME
def load_image(*, tar: Path, hosts: tuple[str, ...], tag: str | None, name: str) -> None:
    """Give an image to HOSTS (all, if none is named): from `docker save`, or a root file system."""
    found = _open(name)
    with Lines().step(f"loaded {tar.name} on {', '.join(hosts) or 'all hosts'}"):
        names = found.load_image(tar, hosts, tag=tag)
    for loaded in names:
        click.echo(loaded)


@playground.command(epilog=_example("sudo swarmlet playground down"))
@NAME
def down(name: str) -> None:
    """Take a playground down with all its data, however little of it is left."""
    preflight.check_root()
    site = Site(check_name(name), default_roots())
    if not cleanup.exists(site):
        click.echo(f"there is no playground {name}; nothing was done", err=True)
        return
    with Lines().step(f"took playground {name} down"):
        cleanup.destroy(site)


def _open(name: str) -> Playground:
    """Find a playground that is to be changed, which only root may."""
    preflight.check_root()
    return Playground.open(name)


def _table(hosts: Sequence[HostStatus]) -> str:
    rows = [("HOST", "ROLE", "STATE", "CABLE", "ADDRESS", "DOCKER_HOST")]
    rows += [(h.name, h.role, h.state, h.cable, h.address, f"unix://{h.socket}") for h in hosts]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


__all__ = ["playground"]
