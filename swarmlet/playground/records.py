"""The state file of a playground: versioned JSON, written before anything is made."""

from typing import Final, Literal

import msgspec

from swarmlet import durable
from swarmlet.errors import Damaged, NotFound
from swarmlet.playground.layout import Role, Site

FORMAT: Final = 1


class HostRecord(msgspec.Struct, frozen=True):
    """One host as it was asked for."""

    name: str
    role: Role
    address: str


class Record(msgspec.Struct, frozen=True):
    """A playground as it was asked for; what runs is read from the machine itself."""

    name: str
    network: str
    gateway: str
    hosts: tuple[HostRecord, ...]
    data_root: str
    #: The command that is the daemon, without its options; None: hosts with an engine only.
    daemon: tuple[str, ...] | None = None
    engine: str = "dockerd"
    #: Hosts with another one.
    engines: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    engine_args: tuple[str, ...] = ()
    phase: Literal["making", "ready"] = "making"
    format: int = FORMAT

    def engine_of(self, host: str) -> str:
        """The dockerd of a host."""
        return self.engines.get(host, self.engine)


def save(site: Site, record: Record) -> None:
    """Write the state file so that a crash leaves the old or the new one, never a half."""
    site.state_file.parent.mkdir(parents=True, exist_ok=True)
    text = msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n"
    durable.replace_file(site.state_file, text, mode=0o644)


def load(site: Site) -> Record:
    """Read the state file; NotFound when there is no such playground."""
    try:
        raw = site.state_file.read_bytes()
    except FileNotFoundError:
        raise NotFound(
            f"there is no playground named {site.name}",
            advice=f"make it: swarmlet playground up --name {site.name}",
        ) from None
    try:
        record = msgspec.json.decode(raw, type=Record)
    except msgspec.DecodeError as exc:
        raise _unreadable(site, str(exc)) from exc
    if record.format != FORMAT:
        raise _unreadable(site, f"format {record.format}, this swarmlet knows {FORMAT}")
    return record


def find(site: Site) -> Record | None:
    """Read the state file; None when it is missing or cannot be read (cleaning up goes on)."""
    try:
        return load(site)
    except (NotFound, Damaged):
        return None


def _unreadable(site: Site, reason: str) -> Damaged:
    return Damaged(
        f"the state file {site.state_file} cannot be read: {reason}",
        advice=f"take the playground down and make it again: "
        f"swarmlet playground down --name {site.name}",
    )


__all__ = ["FORMAT", "HostRecord", "Record", "find", "load", "save"]
