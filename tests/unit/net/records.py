"""Small clusters as records, for tests of names."""

import ipaddress
from typing import Any

from swarmlet.model.forwarding import (
    Attachment,
    NetworkRecord,
    PeerRecord,
    Record,
    ServiceRecord,
    Tables,
    TaskRecord,
)


def network(name: str, subnet: str, **more: Any) -> NetworkRecord:
    gateway = str(ipaddress.IPv4Network(subnet)[1])
    return NetworkRecord(id=f"id-{name}", name=name, subnet=subnet, gateway=gateway, **more)


def at(*places: str) -> tuple[Attachment, ...]:
    """``NETWORK=ADDRESS ALIAS ALIAS``: a place each."""
    found = []
    for place in places:
        where, *aliases = place.split()
        name, _, address = where.partition("=")
        found.append(Attachment(f"id-{name}", address, tuple(aliases)))
    return tuple(found)


def service(name: str, *places: str) -> ServiceRecord:
    return ServiceRecord(id=f"id-{name}", name=name, attachments=at(*places))


def task(name: str, *places: str, node: int = 1, **more: Any) -> TaskRecord:
    """``SERVICE.SLOT.ID``, which serves unless told otherwise."""
    of, slot, task_id = name.split(".")
    fields: dict[str, Any] = {"service_id": f"id-{of}", "slot": int(slot), "serving": True}
    return TaskRecord(id=task_id, name=name, node=node, attachments=at(*places), **fields | more)


def plain(name: str, *places: str, node: int = 1, **more: Any) -> TaskRecord:
    """A plain container, which runs unless told otherwise."""
    fields: dict[str, Any] = {"serving": True, "container_id": f"{name:0<64}"}
    place = at(*places)
    return TaskRecord(
        id=f"id-{name}", service_id="", name=name, node=node, attachments=place, **fields | more
    )


def peer(number: int, **more: Any) -> PeerRecord:
    return PeerRecord(id=f"node{number}", number=number, addr=f"192.0.2.{number}", **more)


def tables(*records: Record, me: int = 1) -> Tables:
    """Nodes 1 and 2 are there unless told otherwise."""
    peers = {p.id: p for p in (peer(1), peer(2))}
    found = Tables(me=me, peers=peers)
    kinds: dict[type[Record], dict[str, Any]] = {
        PeerRecord: found.peers,
        NetworkRecord: found.networks,
        ServiceRecord: found.services,
        TaskRecord: found.tasks,
    }
    for record in records:
        kinds[type(record)][record.id] = record
    return found
