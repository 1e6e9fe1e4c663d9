"""What a monkey may break on hosts: power, engines, daemons, cables, and the kernel's tables."""

import json
import os
import random
import signal
import time
from contextlib import suppress
from functools import partial
from typing import Final

from swarmlet.errors import SwarmletError
from swarmlet.playground import machine

from tests.e2e.chaos.monkey import Broken, Fault, Refused
from tests.e2e.cluster import Cluster

#: Seconds for which a process stands still.
STILL: Final = (0.5, 8.0)

#: The table of a fault's own on a host: a firewall that drops.
FIREWALL: Final = "chaos"


# --- power and programs ---------------------------------------------------------------------------


def kill(cluster: Cluster, host: str, _rng: random.Random) -> Broken:
    """Cut the power."""
    _wants(cluster, host, "running")
    cluster.playground.kill(host)
    return Broken("", partial(_start, cluster, host))


def kill_daemon(cluster: Cluster, host: str, _rng: random.Random) -> Broken:
    """SIGKILL for the daemon."""
    _wants(cluster, host, "running")
    cluster.playground.stop_daemon(host, kill=True)
    return Broken("", partial(_start, cluster, host))


def stop_daemon(cluster: Cluster, host: str, _rng: random.Random) -> Broken:
    """SIGTERM for the daemon."""
    _wants(cluster, host, "running")
    cluster.playground.stop_daemon(host)
    return Broken("", partial(_start, cluster, host))


def kill_leader(cluster: Cluster, host: str, rng: random.Random) -> Broken:
    """SIGKILL for the daemon of whoever leads, says the first manager that answers."""
    for manager in sorted(cluster.managers, key=lambda name: name != host):
        with suppress(SwarmletError):
            if leader := cluster.leader(manager):
                return kill_daemon(cluster, leader, rng)._replace(what=f"it is {leader}")
    raise Refused("nobody knows a leader")


def kill_engine(cluster: Cluster, host: str, _rng: random.Random) -> Broken:
    """SIGKILL for the engine."""
    _wants(cluster, host, "running")
    os.kill(cluster.playground.host(host).engine_pid or 0, signal.SIGKILL)
    return Broken("", partial(_start, cluster, host))


def bounce(cluster: Cluster, host: str, _rng: random.Random) -> Broken:
    """Restart the daemon."""
    _wants(cluster, host, "running")
    cluster.bounce_daemon(host)
    return Broken("")


def bounce_engine(cluster: Cluster, host: str, _rng: random.Random) -> Broken:
    """Restart the engine, as an upgrade does."""
    _wants(cluster, host, "running")
    cluster.bounce_engine(host)
    return Broken("")


def freeze_daemon(cluster: Cluster, host: str, rng: random.Random) -> Broken:
    """SIGSTOP for the daemon, for a while."""
    _wants(cluster, host, "running")
    return _freeze(cluster.playground.host(host).daemon_pid, rng)


def freeze_engine(cluster: Cluster, host: str, rng: random.Random) -> Broken:
    """SIGSTOP for the engine, for a while."""
    _wants(cluster, host, "running")
    return _freeze(cluster.playground.host(host).engine_pid, rng)


def kill_resolver(cluster: Cluster, host: str, _rng: random.Random) -> Broken:
    """SIGKILL for the process that answers names."""
    pids = cluster.processes(host, "swarmlet.net.resolver")
    if not pids:
        raise Refused("there is no resolver")
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    return Broken("")


def kill_container(cluster: Cluster, host: str, rng: random.Random) -> Broken:
    """SIGKILL for a container."""
    _wants(cluster, host, "running")
    found = sorted(cluster.containers_on(host), key=lambda c: str(c["Names"]))
    if not found:
        raise Refused("there is no container")
    container = rng.choice(found)
    cluster.engine(host, "kill", container["Id"], check=False)
    return Broken(container["Names"][0])


def _wants(cluster: Cluster, host: str, state: str) -> None:
    now = cluster.playground.host(host).state
    if now != state:
        raise Refused(f"{host} is {now}")


def _start(cluster: Cluster, host: str) -> None:
    if cluster.playground.host(host).state != "running":
        cluster.playground.start(host)


def _freeze(pid: int | None, rng: random.Random) -> Broken:
    if pid is None:
        raise Refused("there is no such process")
    seconds = rng.uniform(*STILL)
    os.kill(pid, signal.SIGSTOP)
    time.sleep(seconds)
    os.kill(pid, signal.SIGCONT)
    return Broken(f"for {seconds:.1f} s")


# --- cables ---------------------------------------------------------------------------------------


def cut(cluster: Cluster, host: str, _rng: random.Random) -> Broken:
    """Pull the cable."""
    cluster.playground.cut(host)
    return Broken("", partial(_plug, cluster, host))


def split(cluster: Cluster, host: str, rng: random.Random) -> Broken:
    """Make two groups of hosts that do not hear each other."""
    others = [name for name in cluster.hosts if name != host]
    rng.shuffle(others)
    size = rng.randrange(0, len(others))
    cluster.playground.partition([host, *others[:size]], others[size:])
    site = cluster.playground.site
    undo = partial(machine.run_quietly, ["nft", "delete", "table", "bridge", site.filter_table])
    return Broken(f"from {', '.join(others[size:])}", undo)


def deafen(cluster: Cluster, host: str, rng: random.Random) -> Broken:
    """Drop what comes from another host: all of it, VXLAN only, or what daemons say to daemons."""
    other = rng.choice([name for name in cluster.hosts if name != host])
    what = rng.choice(("", "udp dport 4789", "tcp dport 2377", "tcp sport 2377"))
    rule = f"ip saddr {cluster.address(other)} {what} drop"
    script = (
        f"add table ip {FIREWALL}; flush table ip {FIREWALL}; add chain ip {FIREWALL} input "
        f"{{ type filter hook input priority -10; }}; add rule ip {FIREWALL} input {rule}"
    )
    _run(cluster, host, "nft", script)
    return Broken(f"to {what or 'all'} of {other}", partial(_hear, cluster, host))


def _hear(cluster: Cluster, host: str) -> None:
    if cluster.playground.host(host).state != "off":  # no boot finds it again
        _run(cluster, host, "nft", f"add table ip {FIREWALL}; delete table ip {FIREWALL}")


def _plug(cluster: Cluster, host: str) -> None:
    if cluster.playground.host(host).state != "off":  # its start plugs it in
        cluster.playground.heal(host)


# --- the kernel's tables --------------------------------------------------------------------------


def wreck_rules(cluster: Cluster, host: str, rng: random.Random) -> Broken:
    """Flush or delete one of our nft tables."""
    command = f"{rng.choice(('flush', 'delete'))} table {rng.choice(('ip', 'bridge'))} swarmlet"
    _run(cluster, host, "nft", *command.split())
    return Broken(command)


def wreck_links(cluster: Cluster, host: str, rng: random.Random) -> Broken:
    """Delete a route, a neighbour, a policy rule, an FDB entry, an address, or the device."""
    words = rng.choice(
        (
            "route flush proto 94",
            "neigh flush dev swl0 nud permanent",
            "rule del pref {pref}",
            "address flush dev swl0",
            "link del swl0",
            "link set swl0 down",
            "fdb",
        )
    )
    if words == "fdb":
        listed = json.loads(_run(cluster, host, "bridge", "-j", "fdb", "show", "dev", "swl0"))
        entries = [entry["mac"] for entry in listed if "dst" in entry]
        if not entries:
            raise Refused("there is no entry")
        _run(cluster, host, "bridge", "fdb", "del", rng.choice(entries), "dev", "swl0", "self")
        return Broken("an FDB entry")
    rules = json.loads(_run(cluster, host, "ip", "-j", "rule", "show"))
    ours = [rule["priority"] for rule in rules if rule.get("protocol") == "94"]
    if "{pref}" in words and not ours:
        raise Refused("there is no rule")
    words = words.format(pref=rng.choice(ours) if ours else 0)
    _run(cluster, host, "ip", *words.split())
    return Broken(words)


def _run(cluster: Cluster, host: str, *words: str) -> str:
    done = cluster.playground.run(host, *words, check=False)
    if done.returncode:
        raise Refused(done.stderr.strip())
    return done.stdout


#: What the hosts and the wires between them may suffer.
OF_HOSTS: Final[dict[str, Fault]] = {
    "kill": kill,
    "kill-daemon": kill_daemon,
    "kill-engine": kill_engine,
    "cut": cut,
    "split": split,
    "bounce": bounce,
}

#: What a network must stand besides.
OF_NETWORKS: Final[dict[str, Fault]] = {
    "stop-daemon": stop_daemon,
    "kill-leader": kill_leader,
    "bounce-engine": bounce_engine,
    "freeze-daemon": freeze_daemon,
    "freeze-engine": freeze_engine,
    "kill-resolver": kill_resolver,
    "kill-container": kill_container,
    "deafen": deafen,
    "wreck-rules": wreck_rules,
    "wreck-links": wreck_links,
}
