"""Several hosts on one machine, each with its own network namespace, Docker Engine and swarmletd.

with Playground.up(name="trial", managers=3, workers=2) as playground:
    playground.kill("m1")
    playground.start("m1")
"""

import os
import signal
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from swarmlet.client import Client
from swarmlet.errors import AlreadyExists, FailedPrecondition, InvalidInput, NotFound
from swarmlet.playground import (
    addresses,
    boot,
    cgroups,
    cleanup,
    cluster,
    commands,
    engines,
    images,
    machine,
    preflight,
    records,
)
from swarmlet.playground.layout import DEFAULT_NAME, Role, Roots, Site, Spot, check_name, host_names
from swarmlet.playground.progress import Progress, Silent, count
from swarmlet.playground.records import HostRecord, Record
from swarmlet.playground.status import HostStatus, look

#: Where data goes when not to /var/lib: a larger or faster disk.
DATA_VARIABLE: Final = "SWARMLET_PLAYGROUND_DIR"

#: Seconds for swarmletd to end after SIGTERM: it drains its calls first.
STOP_WITHIN: Final = 30.0

T = TypeVar("T")


class HostIsOff(FailedPrecondition):
    """Nothing can be done on a host without power."""

    code = "playground-host-off"

    def __init__(self, name: str) -> None:
        super().__init__(f"host {name} is off", advice=f"boot it: swarmlet playground start {name}")


class Wish(msgspec.Struct, frozen=True):
    """What ``up`` is asked for beside the number of hosts."""

    #: Form a cluster out of the hosts.
    init: bool = True
    #: The program that is the daemon, None for engines only. Tests put a fake here.
    daemon: tuple[str, ...] | None = boot.DAEMON
    engine: str = "dockerd"
    #: Hosts with another one: ``{"w1": "/opt/docker-28/dockerd"}``.
    engines: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    engine_args: tuple[str, ...] = ()
    #: Leave what could not be made, to look at it.
    retain: bool = False


def default_roots(environ: Mapping[str, str] = os.environ) -> Roots:
    """Return the folders of playgrounds, as the environment asks for."""
    data = environ.get(DATA_VARIABLE)
    return Roots(data=Path(data).absolute()) if data else Roots()


class Playground:
    """A playground that exists. Make one with :meth:`create` or :meth:`up`, find it with `open`."""

    def __init__(self, site: Site, record: Record, progress: Progress | None = None) -> None:
        self.site = site
        self.record = record
        self.progress: Progress = progress or Silent()

    @classmethod
    def open(cls, name: str = DEFAULT_NAME, *, progress: Progress | None = None) -> "Playground":
        """Return a playground that was made before; NotFound if there is none."""
        site = Site(check_name(name), default_roots())
        record = records.load(site)
        roots = msgspec.structs.replace(site.roots, data=Path(record.data_root))
        return cls(Site(site.name, roots), record, progress)

    @classmethod
    def create(
        cls,
        name: str = DEFAULT_NAME,
        *,
        managers: int = 3,
        workers: int = 2,
        wish: Wish | None = None,
        progress: Progress | None = None,
    ) -> "Playground":
        """Make a playground and start its hosts. What fails half-way is taken down again."""
        preflight.check()
        wish = wish or Wish()
        site = Site(check_name(name), default_roots())
        hosts = host_names(managers, workers)
        if unknown := wish.engines.keys() - {host for host, _ in hosts}:
            raise InvalidInput(
                f"an engine is named for {', '.join(sorted(unknown))}, which is no host",
                advice=f"the hosts are {', '.join(host for host, _ in hosts)}",
            )
        record = _reserve(site, hosts, wish)
        made = cls(site, record, progress)
        try:
            made.build(init=wish.init)
        except BaseException:
            if not wish.retain:
                with made.progress.step(f"took playground {name} down again"):
                    cleanup.destroy(site)
            raise
        return made

    @classmethod
    @contextmanager
    def up(
        cls,
        name: str = DEFAULT_NAME,
        *,
        managers: int = 3,
        workers: int = 2,
        wish: Wish | None = None,
    ) -> Iterator["Playground"]:
        """Make a playground for the length of a ``with`` block."""
        made = cls.create(name, managers=managers, workers=workers, wish=wish)
        try:
            yield made
        finally:
            made.down()

    def build(self, *, init: bool) -> None:
        """Make the hosts that the record names, and start them."""
        names = [host.name for host in self.record.hosts]
        with self.progress.step(
            f"made network {self.record.network} for {count(len(names), 'host')}"
        ):
            self.site.run_dir.mkdir(parents=True)
            self.site.resolv_conf.write_text("nameserver 127.0.0.1\n")
            for host in self.record.hosts:
                boot.plug_in(self.site, self.record, host)
        with self.progress.step(f"started {count(len(names), 'Docker Engine')}"):
            self._each(names, self._start_engine)
        self._load_busybox(names)
        if self.record.daemon is not None:
            with self.progress.step(f"started {count(len(names), 'daemon')}"):
                self._each(names, self._start_daemon)
        if self.record.daemon is not None and init:
            with self.progress.step(f"formed a cluster of {count(len(names), 'node')}"):
                cluster.form(self.site, self.record.hosts)
        self.record = msgspec.structs.replace(self.record, phase="ready")
        records.save(self.site, self.record)

    def _load_busybox(self, names: Sequence[str]) -> None:
        image = self.site.run_dir / "busybox.tar"
        if images.build_busybox(image):
            with self.progress.step(f"loaded image {images.TAGS[0]}"):
                self.load_image(image, names)

    # -- looking ---------------------------------------------------------------------------------

    def status(self) -> list[HostStatus]:
        """Return every host as it is now."""
        return [self.host(host.name) for host in self.record.hosts]

    def host(self, name: str) -> HostStatus:
        """Return one host as it is now; NotFound if there is none of that name."""
        record, spot = self._find(name)
        return look(record, spot, daemon_wanted=self.record.daemon is not None)

    def client(self, host: str) -> Client:
        """Return a client of a host's API."""
        return Client(self._find(host)[1].socket)

    def _start_engine(self, name: str) -> None:
        boot.start_engine(self.site, self.record, self._find(name)[1])

    def _start_daemon(self, name: str) -> None:
        boot.start_daemon(self.site, self.record, self._find(name)[0])

    def _find(self, name: str) -> tuple[HostRecord, Spot]:
        for host in self.record.hosts:
            if host.name == name:
                return host, self.site.spot(name)
        known = ", ".join(host.name for host in self.record.hosts)
        raise NotFound(
            f"playground {self.site.name} has no host {name}", advice=f"its hosts are {known}"
        )

    # -- power -----------------------------------------------------------------------------------

    def kill(self, *names: str) -> None:
        """Cut the power of hosts at one moment: nothing of them runs on, not even their kernels."""
        spots = [self._find(name)[1] for name in names]
        # Cables first: a host that loses power closes no connection and sends no RST.
        for spot in spots:
            machine.run_quietly(["ip", "link", "set", spot.cable, "down"])
        self._each(names, lambda name: cgroups.kill(self.site.spot(name).cgroup))

    def start(self, *names: str) -> None:
        """Boot hosts that are off: a new network stack, then the engine, then the daemon.

        Of a host that is on, what is missing is started: its engine or its daemon.
        """
        for name in names:
            self._refuse_running(name)
        self._each(names, self._start)

    def _refuse_running(self, name: str) -> None:
        if self.host(name).state == "running":
            raise FailedPrecondition(
                f"host {name} is running",
                advice=f"to cut its power first: swarmlet playground kill {name}",
            )

    def _start(self, name: str) -> None:
        host, spot = self._find(name)
        now = self.host(name)
        if now.state == "off":
            cgroups.kill(spot.cgroup)  # a shell that `exec` started may be left
            boot.wipe_volatile(spot)
            boot.plug_in(self.site, self.record, host)
        if now.engine_pid is None:
            self._start_engine(name)
        if now.daemon_pid is None and self.record.daemon is not None:
            self._start_daemon(name)

    def stop_daemon(self, name: str, *, kill: bool = False) -> None:
        """Stop swarmletd only: with SIGTERM, or SIGKILL."""
        pid = self.host(name).daemon_pid
        if pid is None:
            raise FailedPrecondition(
                f"no daemon runs on {name}", advice=f"swarmlet playground start-daemon {name}"
            )
        os.kill(pid, signal.SIGKILL if kill else signal.SIGTERM)
        gone = boot.wait(STOP_WITHIN, lambda: self.host(name).daemon_pid is None)
        if not gone:
            raise FailedPrecondition(
                f"the daemon of {name} did not end within {STOP_WITHIN:g} s of SIGTERM",
                advice=f"swarmlet playground stop-daemon --kill {name}",
            )

    def start_daemon(self, name: str) -> None:
        """Start swarmletd only."""
        now = self.host(name)
        if self.record.daemon is None:
            raise FailedPrecondition(
                f"playground {self.site.name} was made without daemons",
                advice="make another: swarmlet playground up --name NAME",
            )
        if now.daemon_pid is not None:
            raise FailedPrecondition(f"the daemon of {name} runs already (pid {now.daemon_pid})")
        if now.engine_pid is None:
            raise HostIsOff(name)
        self._start_daemon(name)

    # -- network ---------------------------------------------------------------------------------

    def cut(self, name: str) -> None:
        """Pull a host's cable."""
        _, spot = self._find(name)
        machine.run(["ip", "link", "set", spot.cable, "down"])

    def heal(self, name: str | None = None) -> None:
        """Plug a host's cable in again; without a name, all cables, and end a partition."""
        if name is not None:
            if self.host(name).state == "off":
                raise HostIsOff(name)
            machine.run(["ip", "link", "set", self._find(name)[1].cable, "up"])
            return
        machine.run_quietly(["nft", "delete", "table", "bridge", self.site.filter_table])
        for host in self.status():
            if host.state != "off" and host.cable == "cut":
                self.heal(host.name)

    def partition(self, *groups: Sequence[str]) -> None:
        """Drop every frame between hosts of different groups, in place of an earlier partition.

        Hosts that no group names are not affected.
        """
        named = [host for group in groups for host in group]
        for host in named:
            self._find(host)
        if len(groups) < 2 or not all(groups) or len(set(named)) != len(named):
            raise InvalidInput(
                "a partition needs two groups of hosts or more, and each host in one of them",
                advice="for example: swarmlet playground partition m1,m2 m3,w1,w2",
            )
        machine.run(["nft", "-f", "-"], stdin=commands.partition(self.site, groups))

    # -- use -------------------------------------------------------------------------------------

    def command_on(self, name: str, command: Sequence[str]) -> tuple[list[str], dict[str, str]]:
        """Return arguments and environment that run a command on a host that is on."""
        _, spot = self._find(name)
        if self.host(name).state == "off":
            raise HostIsOff(name)
        procs = cgroups.make(spot.processes_cgroup) / "cgroup.procs"
        socket = spot.engine_socket if self.record.daemon is None else spot.socket
        address = f"unix://{socket}"
        environ = {**os.environ, "DOCKER_HOST": address, "SWARMLET_HOST": address}
        return commands.inside(self.site, spot, command, procs=procs), environ

    def run(self, name: str, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command on a host; returns its output."""
        argv, environ = self.command_on(name, command)
        return subprocess.run(argv, env=environ, capture_output=True, text=True, check=check)

    def load_image(
        self, tar: Path, names: Iterable[str] = (), *, tag: str | None = None
    ) -> list[str]:
        """Give an image to hosts (all that run, if none is named); returns the image's names."""
        saved = engines.is_saved_image(tar)
        if not saved and not tag:
            raise InvalidInput(
                f"{tar} is a root file system, not an image, and has no name",
                advice="give it one: --tag NAME:TAG",
            )

        def give(name: str) -> list[str]:
            engine = self._find(name)[1].engine_socket
            return (
                engines.load(engine, tar) if saved else engines.import_root(engine, tar, tag or "")
            )

        hosts = list(names) or [h.name for h in self.status() if h.engine_pid is not None]
        given = self._each(hosts, give)
        return given[0] if given else []

    def down(self) -> None:
        """Take the playground down, with all its data."""
        cleanup.destroy(self.site)

    def _each(self, names: Sequence[str], act: Callable[[str], T]) -> list[T]:
        """Do the same on several hosts at once; the first failure is raised when all ended."""
        with ThreadPoolExecutor(max_workers=len(names) or 1) as pool:
            return list(pool.map(act, names))


def _reserve(site: Site, hosts: Sequence[tuple[str, Role]], wish: Wish) -> Record:
    """Take a name and a network: state file first, then the bridge that others will see."""
    with machine.locked(site.roots):
        if cleanup.exists(site):
            raise AlreadyExists(
                f"playground {site.name} exists already",
                advice=f"take it down (swarmlet playground down --name {site.name}) "
                "or choose another --name",
            )
        network = addresses.choose(machine.networks_in_use())
        record = Record(
            name=site.name,
            network=str(network),
            gateway=str(addresses.gateway(network)),
            hosts=tuple(
                HostRecord(host, role, str(addresses.host_address(network, index)))
                for index, (host, role) in enumerate(hosts)
            ),
            data_root=str(site.roots.data),
            daemon=wish.daemon,
            engine=wish.engine,
            engines=wish.engines,
            engine_args=wish.engine_args,
        )
        records.save(site, record)
        try:
            for command in commands.make_bridge(site, record.gateway):
                machine.run(command)
        except BaseException:
            cleanup.remove(site)
            raise
    return record


__all__ = ["HostIsOff", "HostStatus", "Playground", "Wish", "default_roots"]
