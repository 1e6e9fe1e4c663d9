"""Virtual addresses and published ports: the maps that lead to chains, and the chains."""

import functools
from collections.abc import Iterable
from typing import Final

from swarmlet.model.forwarding import PublishedPort, Reach, ServiceRecord, TaskRecord
from swarmlet.model.networks import is_address
from swarmlet.net.balancing import Backend, redirect
from swarmlet.net.numbers import EMPTY, PUBLISHED
from swarmlet.net.records import Records
from swarmlet.net.ruleset import Chain, Elements

Backends = tuple[Backend, ...]

PROTOCOLS: Final = frozenset({"tcp", "udp", "sctp"})


class Frontends:
    """What clients ask for, and who answers. Of two that claim the same, the first one has it."""

    def __init__(self, records: Records) -> None:
        self._records = records
        #: The backends of each virtual address and port.
        self.balanced: dict[str, Backends] = {}
        self.chains: dict[str, Chain] = {}
        self._vips: dict[str, str] = {}
        self._ports: dict[str, str] = {}
        self._ports_at: dict[str, str] = {}
        serving = _serving(records)
        for key, service in sorted(records.tables.services.items()):
            if key.isalnum():
                self._add(key, service, serving.get(key, ()))

    def maps(self) -> dict[str, Elements]:
        """Which chain each virtual address and port goes to."""
        return {
            "vips": Elements("type ipv4_addr : verdict", self._vips),
            "pub": Elements("type inet_proto . inet_service : verdict", self._ports),
            "pub_at": Elements(
                "type ipv4_addr . inet_proto . inet_service : verdict", self._ports_at
            ),
        }

    def _add(self, key: str, service: ServiceRecord, tasks: Iterable[TaskRecord]) -> None:
        backends = {
            place.network_id: _backends(self._records, tasks, place.network_id)
            for place in service.attachments
            if place.network_id in self._records.networks
        }
        for place in service.attachments:
            vip, network = place.address, place.network_id
            if network in backends and is_address(vip) and vip not in self._vips:
                name = f"v_{key}_{network}"
                self._vips[vip] = f"goto {name}"
                self.balanced[vip] = backends[network]
                self.chains[name] = _vip_chain(backends[network], sticky=service.sticky)
        outlet = _outlet(self._records, service, tasks)
        for port in service.ports:
            self._publish(port, outlet, sticky=service.sticky, at=service.publish_address)

    def _publish(self, port: PublishedPort, backends: Backends, *, sticky: bool, at: str) -> None:
        frontend = f"{port.protocol} . {port.published}"
        if port.protocol not in PROTOCOLS or (at and not is_address(at)):
            self._records.problems.append(f"port {frontend} at {at or 'all'}: not understood")
            return
        where = self._ports
        if at:
            where, frontend = self._ports_at, f"{at} . {frontend}"
        if frontend in where:
            self._records.problems.append(f"port {frontend}: of two services")
            return
        name = "p_" + frontend.replace(" . ", "_").replace(".", "_")
        where[frontend] = f"goto {name}"
        self.balanced[frontend] = backends
        self.chains[name] = _port_chain(port, backends, sticky=sticky)


def _serving(records: Records) -> dict[str, list[TaskRecord]]:
    """Tasks that get new connections, by service."""
    ready = {n for n in records.peers if records.reach(n) is Reach.READY} | {records.me}
    serving: dict[str, list[TaskRecord]] = {}
    tasks = records.tables.tasks
    for key in records.places:
        task = tasks[key]
        serves = task.serving and key not in records.tables.halted
        if serves and task.weight > 0 and task.node in ready:
            serving.setdefault(task.service_id, []).append(task)
    return serving


def _backends(records: Records, tasks: Iterable[TaskRecord], network: str) -> Backends:
    return tuple(
        Backend(address, task.weight)
        for task in tasks
        if (address := records.places[task.id].get(network)) and records.passes(task, network)
    )


def _outlet(
    records: Records, service: ServiceRecord, tasks: Iterable[TaskRecord]
) -> tuple[Backend, ...]:
    """Where published ports lead: to each task in the first of its networks that is not internal.

    In the service's order of networks. While those change, a task from before may be in none of
    them: then it is reached by one of its own.
    """
    order = {place.network_id: at for at, place in enumerate(service.attachments)}

    def rank(network: str) -> tuple[bool, bool, int, str]:
        internal = records.networks[network].internal
        return network not in order, internal, order.get(network, 0), network

    return tuple(
        Backend(places[network], task.weight)
        for task in tasks
        if (places := records.places[task.id])
        and records.passes(task, network := min(places, key=rank))
    )


@functools.lru_cache(maxsize=4096)
def _vip_chain(backends: Backends, *, sticky: bool) -> Chain:
    """Without backends a virtual address stays what it was sent to, and is refused as not live."""
    return Chain((redirect(backends, sticky=sticky),) if backends else ())


@functools.lru_cache(maxsize=4096)
def _port_chain(port: PublishedPort, backends: Backends, *, sticky: bool) -> Chain:
    if not backends:
        return Chain((f"ct mark set ct mark or {EMPTY:#x}",))
    to = redirect(backends, sticky=sticky, port=port.target)
    return Chain((f"ct mark set ct mark or {PUBLISHED:#x}", f"meta l4proto {port.protocol} {to}"))
