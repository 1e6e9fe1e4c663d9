"""Render the commands that make a host: pure text and argument lists, run elsewhere."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from swarmlet.playground.layout import Site, Spot
from swarmlet.playground.records import Record

#: Runs first, in the machine's namespaces: it joins the host's cgroup, so that whatever it starts
#: dies with the host. Arguments: cgroup.procs, then the command.
_JOIN: Final = 'echo $$ > "$1" && shift && exec "$@"'

#: Runs inside the host: its name, its resolver (look-ups fail at once instead of leaving for the
#: machine's DNS), a /run/containerd of its own (shims' sockets go there, whatever the exec-root),
#: and a /run/wireguard that is the host's (its tunnels have the names that every host's have).
_ENTER: Final = """
set -e
hostname "$1"; mount --bind "$2" /etc/resolv.conf
mkdir -p /run/containerd; mount -t tmpfs -o mode=711 tmpfs /run/containerd
mkdir -p /run/wireguard "$3"; mount --bind "$3" /run/wireguard
if [ -n "$4" ]; then echo $$ > "$4"; fi
shift 4; exec "$@"
"""


#: The namespaces of a host: their files in /proc/PID/ns, and the options of nsenter.
NAMESPACES: Final = {"net": "net", "uts": "uts", "mnt": "mount"}

#: The same in the mounts of a process of the host: they are made.
_FOLLOW: Final = 'if [ -n "$1" ]; then echo $$ > "$1"; fi; shift; exec "$@"'


def inside(
    site: Site,
    spot: Spot,
    command: Sequence[str],
    *,
    procs: Path,
    pidfile: Path | None = None,
    beside: Mapping[str, int] | None = None,
) -> list[str]:
    """Return the command that runs ``command`` in a host's namespaces and cgroup.

    ``beside`` are descriptors of the namespaces of a process whose mounts it shall see, as
    :data:`NAMESPACES` names them; the command must inherit them.

    ``ip netns exec`` would not do: it remounts /sys, which hides the cgroups from the engine.
    Propagation is slave so that what is unmounted on the machine is not held by a host.
    The process keeps its id through every exec; the pid file holds it.
    """
    joined = ["sh", "-c", _JOIN, "sh", str(procs)]
    if beside is not None:
        of = [f"--{NAMESPACES[kind]}=/proc/self/fd/{fd}" for kind, fd in beside.items()]
        return [
            *joined,
            "nsenter",
            *of,
            "--",
            "sh",
            "-c",
            _FOLLOW,
            "sh",
            str(pidfile or ""),
            *command,
        ]
    namespaces = ["nsenter", f"--net=/run/netns/{spot.netns}", "--"]
    namespaces += ["unshare", "--uts", "--mount", "--propagation", "slave", "--"]
    entered = ["sh", "-c", _ENTER, "sh", spot.name, str(site.resolv_conf)]
    entered += [f"{spot.run_dir}/wireguard", str(pidfile or "")]
    return [*joined, *namespaces, *entered, *command]


def engine(record: Record, spot: Spot) -> list[str]:
    """Return the Docker Engine's command.

    The empty configuration file keeps the machine's own /etc/docker/daemon.json out: an option
    given both there and here would stop the engine. cgroupfs, because below our own cgroups
    systemd manages nothing.
    """
    return [
        record.engine_of(spot.name),
        f"--config-file={spot.run_dir}/daemon.json",
        f"--data-root={spot.data_dir}/engine",
        f"--exec-root={spot.run_dir}/exec",
        f"--pidfile={spot.run_dir}/docker.pid",
        f"--host=unix://{spot.engine_socket}",
        "--exec-opt=native.cgroupdriver=cgroupfs",
        f"--cgroup-parent=/{spot.containers_cgroup}",
        f"--insecure-registry={record.network}",
        *record.engine_args,
    ]


def daemon(program: Sequence[str], spot: Spot, address: str) -> list[str]:
    """Return swarmletd's command.

    The configuration file is the host's own and need not exist: the machine's is not for it.
    """
    return [
        *program,
        f"--state-dir={spot.state_dir}",
        f"--socket={spot.socket}",
        f"--engine-socket={spot.engine_socket}",
        f"--advertise-addr={address}",
        "--log-format=console",
        f"--config={spot.data_dir}/swarmletd.toml",
    ]


def plug_in(site: Site, spot: Spot, address: str, gateway: str) -> list[list[str]]:
    """Return the commands that make a host's namespace and its cable."""
    inner = ["ip", "-n", spot.netns]
    cable = ["ip", "link", "add", spot.cable, "type", "veth"]
    return [
        ["ip", "netns", "add", spot.netns],
        [*cable, "peer", "name", "eth0", "netns", spot.netns],
        ["ip", "link", "set", spot.cable, "master", site.bridge, "up"],
        [*inner, "addr", "add", f"{address}/24", "dev", "eth0"],
        [*inner, "link", "set", "eth0", "up"],
        [*inner, "link", "set", "lo", "up"],
        [*inner, "route", "add", "default", "via", gateway],
    ]


def make_bridge(site: Site, gateway: str) -> list[list[str]]:
    """Return the commands that make the bridge between the hosts."""
    return [
        ["ip", "link", "add", site.bridge, "type", "bridge"],
        ["ip", "addr", "add", f"{gateway}/24", "dev", site.bridge],
        ["ip", "link", "set", site.bridge, "up"],
        ["iptables", "-w", "-I", *forward_rule(site)],
    ]


def forward_rule(site: Site) -> list[str]:
    """Return the rule that lets hosts talk to each other, for ``iptables -I`` and ``-D``.

    Where br_netfilter is loaded, bridged frames pass through FORWARD, and a Docker on the machine
    sets that chain's policy to DROP. One rule of our own needs no change of a global setting.
    """
    return ["FORWARD", "-i", site.bridge, "-o", site.bridge, "-j", "ACCEPT"]


def partition(site: Site, groups: Sequence[Sequence[str]]) -> str:
    """Return the nftables script that drops every frame between hosts of different groups."""
    rules: list[str] = []
    for group in groups:
        others = [host for other in groups if other is not group for host in other]
        rules.append(f"iifname {_cables(site, group)} oifname {_cables(site, others)} drop")
    body = "\n".join(f"  {rule}" for rule in rules)
    table = f"table bridge {site.filter_table}"
    chain = f"chain forward {{\n  type filter hook forward priority -300;\n{body}\n }}"
    return f"{table} {{}}\ndelete {table}\n{table} {{\n {chain}\n}}\n"


def _cables(site: Site, hosts: Sequence[str]) -> str:
    return "{ " + ", ".join(f'"{site.spot(host).cable}"' for host in hosts) + " }"


__all__ = [
    "daemon",
    "engine",
    "forward_rule",
    "inside",
    "make_bridge",
    "partition",
    "plug_in",
]
