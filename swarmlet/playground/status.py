"""One host as it is now, read from the machine: nothing of it is remembered."""

from pathlib import Path
from typing import Literal

import msgspec

from swarmlet.playground import cgroups, machine
from swarmlet.playground.layout import Role, Spot
from swarmlet.playground.records import HostRecord

State = Literal["running", "daemon stopped", "engine stopped", "off"]


class HostStatus(msgspec.Struct, frozen=True):
    """One host as it is now; the fields of ``status --format json``."""

    name: str
    role: Role
    state: State
    address: str
    cable: Literal["up", "cut"]
    socket: Path
    engine_socket: Path
    netns: str
    daemon_pid: int | None
    engine_pid: int | None
    state_dir: Path
    log: Path
    engine_log: Path


def look(record: HostRecord, spot: Spot, *, daemon_wanted: bool) -> HostStatus:
    """Return a host as it is now."""
    alive = cgroups.members(spot.processes_cgroup)
    engine = machine.pid_in(spot.engine_pidfile, alive)
    daemon = machine.pid_in(spot.daemon_pidfile, alive)
    return HostStatus(
        name=record.name,
        role=record.role,
        state=state_of(engine, daemon, daemon_wanted=daemon_wanted),
        address=record.address,
        cable="up" if machine.link_is_up(spot.cable) else "cut",
        socket=spot.socket,
        engine_socket=spot.engine_socket,
        netns=spot.netns,
        daemon_pid=daemon,
        engine_pid=engine,
        state_dir=spot.state_dir,
        log=spot.log,
        engine_log=spot.engine_log,
    )


def state_of(engine: int | None, daemon: int | None, *, daemon_wanted: bool) -> State:
    """Return the word for what runs."""
    if engine is None and daemon is None:
        return "off"
    if engine is None:
        return "engine stopped"
    return "daemon stopped" if daemon is None and daemon_wanted else "running"


__all__ = ["HostStatus", "State", "look", "state_of"]
