"""Where everything of a playground is, and what it is called: pure functions of its name.

Nothing here is stored. A name alone is enough to find every namespace, link, cgroup and folder
of a playground again, which is why one whose state file is lost can still be taken down.
"""

import hashlib
import re
from pathlib import Path
from typing import Final, Literal

import msgspec

from swarmlet.errors import InvalidInput

Role = Literal["manager", "worker"]

DEFAULT_NAME: Final = "playground"

#: Longest path that ``bind`` takes for a unix socket is 107 bytes; containerd's own sockets lie
#: 33 bytes below a host's run folder. 20 for a name leaves room for both.
NAME_PATTERN: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,19}")

#: More engines than this on one machine is a mistake in the command, not a wish.
MAX_HOSTS: Final = 64

CGROUP_ROOT: Final = "swarmlet-playground"


class Roots(msgspec.Struct, frozen=True):
    """The folders under which all playgrounds of a machine live."""

    run: Path = Path("/run/swarmlet-playground")  # sockets and pid files: short paths, gone at boot
    state: Path = Path("/var/lib/swarmlet-playground")  # state files: they survive a reboot
    data: Path = Path("/var/lib/swarmlet-playground")  # engines' and daemons' data: large


class Spot(msgspec.Struct, frozen=True):
    """The names and paths of one host."""

    name: str
    netns: str
    cable: str
    cgroup: str
    run_dir: Path
    data_dir: Path

    @property
    def socket(self) -> Path:
        """Swarmlet's API."""
        return self.run_dir / "swarmlet.sock"

    @property
    def engine_socket(self) -> Path:
        """The Docker Engine's API."""
        return self.run_dir / "docker.sock"

    @property
    def state_dir(self) -> Path:
        """What swarmletd of this host keeps."""
        return self.data_dir / "swarmlet"

    @property
    def log(self) -> Path:
        """Output of swarmletd."""
        return self.data_dir / "swarmletd.log"

    @property
    def engine_log(self) -> Path:
        """Output of dockerd."""
        return self.data_dir / "dockerd.log"

    @property
    def daemon_pidfile(self) -> Path:
        """Holds the process id of swarmletd."""
        return self.run_dir / "swarmletd.pid"

    @property
    def engine_pidfile(self) -> Path:
        """Holds the process id of dockerd."""
        return self.run_dir / "dockerd.pid"

    @property
    def processes_cgroup(self) -> str:
        """Engine, shims, daemon and shells. A leaf: cgroup v2 forbids processes in inner nodes."""
        return f"{self.cgroup}/system"

    @property
    def containers_cgroup(self) -> str:
        """Parent of the containers' cgroups."""
        return f"{self.cgroup}/containers"


class Site(msgspec.Struct, frozen=True):
    """The names and paths of one playground."""

    name: str
    roots: Roots = Roots()

    @property
    def tag(self) -> str:
        """Six characters that stand for the name where only fifteen fit (interfaces)."""
        return hashlib.sha256(self.name.encode()).hexdigest()[:6]

    @property
    def bridge(self) -> str:
        """The bridge that the hosts' cables are plugged into."""
        return f"sl{self.tag}-br"

    @property
    def link_prefix(self) -> str:
        """Start of the name of every link of this playground in the root namespace."""
        return f"sl{self.tag}-"

    @property
    def filter_table(self) -> str:
        """The nftables table (family bridge) that holds a partition."""
        return f"swarmlet_playground_{self.tag}"

    @property
    def netns_pattern(self) -> re.Pattern[str]:
        """Matches this playground's namespaces and no other's."""
        return re.compile(rf"sl-{re.escape(self.name)}-[mw]\d+")

    @property
    def cgroup(self) -> str:
        """Parent of the hosts' cgroups, relative to the root of a hierarchy."""
        return f"{CGROUP_ROOT}/{self.name}"

    @property
    def run_dir(self) -> Path:
        """Sockets and pid files."""
        return self.roots.run / self.name

    @property
    def data_dir(self) -> Path:
        """Images, containers, volumes, logs and the daemons' state."""
        return self.roots.data / self.name

    @property
    def state_file(self) -> Path:
        """What was made, written before it is made."""
        return self.roots.state / f"{self.name}.json"

    @property
    def resolv_conf(self) -> Path:
        """What the hosts see as /etc/resolv.conf."""
        return self.run_dir / "resolv.conf"

    def spot(self, host: str) -> Spot:
        """Return the names and paths of a host."""
        return Spot(
            name=host,
            netns=f"sl-{self.name}-{host}",
            cable=f"{self.link_prefix}{host}",
            cgroup=f"{self.cgroup}/{host}",
            run_dir=self.run_dir / host,
            data_dir=self.data_dir / host,
        )


def check_name(name: str) -> str:
    """Return the playground's name, or refuse it."""
    if NAME_PATTERN.fullmatch(name):
        return name
    raise InvalidInput(
        f"{name!r} cannot be the name of a playground",
        advice="use 1 to 20 of a-z, 0-9 and -, not - at the start",
    )


def host_names(managers: int, workers: int) -> list[tuple[str, Role]]:
    """Return names and roles: m1, m2, ... and w1, w2, ..."""
    if managers < 1 or workers < 0 or managers + workers > MAX_HOSTS:
        raise InvalidInput(
            f"a playground of {managers} managers and {workers} workers cannot be made",
            advice=f"ask for at least 1 manager and at most {MAX_HOSTS} hosts in all",
        )
    made: list[tuple[str, Role]] = [(f"m{i}", "manager") for i in range(1, managers + 1)]
    return [*made, *[(f"w{i}", "worker") for i in range(1, workers + 1)]]


__all__ = [
    "CGROUP_ROOT",
    "DEFAULT_NAME",
    "MAX_HOSTS",
    "Role",
    "Roots",
    "Site",
    "Spot",
    "check_name",
    "host_names",
]
