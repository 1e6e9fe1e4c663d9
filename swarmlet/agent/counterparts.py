"""Attached containers as the cluster knows them beside what the engine has: pure.

The engine is right about what there is, the cluster about who has which address.
"""

from collections.abc import Container, Iterable, Mapping
from typing import Final

import msgspec

from swarmlet.engine.attached import Found
from swarmlet.model.forwarding import TaskRecord
from swarmlet.state.commands import ContainerReport

#: Characters of an identifier in the cluster. Those of an engine's longer one are as random.
_IDENT: Final = 25


class Intruder(msgspec.Struct, frozen=True):
    """A container in a network where the cluster does not know it, or not at this address."""

    container_id: str
    name: str
    network: str
    address: str


class Differences(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done so that both know the same.

    ``gone`` are attached and not there any more; ``left`` have left a network (both by identifier);
    ``news`` are there and have changed; ``intruders`` must leave.
    """

    gone: tuple[str, ...] = ()
    left: tuple[tuple[str, str], ...] = ()
    news: tuple[ContainerReport, ...] = ()
    intruders: tuple[Intruder, ...] = ()


def differences(
    attached: Mapping[str, TaskRecord],
    found: Iterable[Found],
    networks: Mapping[str, str],
    *,
    busy: Container[str],
) -> Differences:
    """Compare this node's ``attached`` containers with those that were ``found`` on its engine.

    ``networks`` are the engine's copies: the cluster's identifier by name. Whoever is ``busy`` is
    being attached at this moment, and left alone.
    """
    gone = {ident for ident in attached if ident not in busy}
    left: list[tuple[str, str]] = []
    news: list[ContainerReport] = []
    intruders: list[Intruder] = []
    for one in found:
        ident = identify(attached, one.label, one.container_id)
        gone.discard(ident)
        if ident in busy:
            continue
        record = attached.get(ident)
        wanted = {a.network_id: a.address for a in record.attachments} if record else {}
        for name, address in one.places.items():
            if name in networks and (not address or wanted.get(networks[name]) != address):
                intruders.append(Intruder(one.container_id, one.name, name, address))
        if record is None:
            continue
        has = {networks[name] for name in one.places if name in networks}
        left += [(ident, network_id) for network_id in wanted if network_id not in has]
        report = ContainerReport(ident, one.container_id, one.name, one.running)
        if report != _known(record):
            news.append(report)
    return Differences(
        gone=tuple(sorted(gone)), left=tuple(left), news=tuple(news), intruders=tuple(intruders)
    )


def identify(attached: Mapping[str, TaskRecord], label: str, container_id: str) -> str:
    """The identifier in the cluster of an engine's container.

    A label does not prove it: an image that was committed of a container passes its labels on.
    """
    own, record = container_id[:_IDENT], attached.get(label)
    if not label or own in attached:
        return own
    return label if record is None or record.container_id in {"", container_id} else own


def _known(record: TaskRecord) -> ContainerReport:
    return ContainerReport(record.id, record.container_id, record.name, record.serving)
