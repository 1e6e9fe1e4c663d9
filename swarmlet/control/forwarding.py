"""What of the cluster's state each node forwards by: objects to records, and who needs which.

A node gets the records of the networks that its own tasks and containers are in, and of everything
that is published (any node takes a client's packet to any published service). All nodes and
networks are told to all: there are few, and they change seldom.
"""

from collections.abc import Iterator
from typing import Final

from swarmlet.model.expansion import Facts, fill
from swarmlet.model.forwarding import (
    MAX_WEIGHT,
    PUBLISH_ADDRESS_LABEL,
    STICKY_LABEL,
    WEIGHT_LABEL,
    NetworkRecord,
    PeerRecord,
    PublishedPort,
    Reach,
    Record,
    ServiceRecord,
    TaskRecord,
)
from swarmlet.model.objects import (
    AttachedContainer,
    Network,
    Node,
    NodeState,
    Service,
    Task,
    TaskState,
)
from swarmlet.model.specs import Platform
from swarmlet.model.templates import BadTemplate, Scope, is_template
from swarmlet.state.store import View

#: Characters of a container's identifier that engines take for its host name.
SHORT_ID: Final = 12

_REACH: Final = {NodeState.DOWN: Reach.LOST, NodeState.DISCONNECTED: Reach.SUSPECT}


def peer(node: Node) -> PeerRecord | None:
    """A node that packets can be sent to; None before its address is known."""
    if not node.number or not node.status.addr:
        return None
    return PeerRecord(
        id=node.id,
        number=node.number,
        addr=node.status.addr,
        reach=_REACH.get(node.status.state, Reach.READY),
        hostname=node.hostname,
        tunnel=node.description.tunnel if node.description else None,
    )


def network(of: Network) -> NetworkRecord:
    """A network."""
    return NetworkRecord(
        id=of.id,
        name=of.spec.name,
        subnet=of.subnet,
        gateway=of.gateway,
        internal=of.spec.internal,
        encrypted=of.spec.encrypted,
        attachable=of.spec.attachable and not of.spec.ingress,
    )


def service(of: Service) -> ServiceRecord | None:
    """A service that has a network; None for others."""
    if not of.attachments:
        return None
    ports = tuple(
        PublishedPort(port.protocol or "tcp", port.published_port, port.target_port)
        for port in of.ports
        if port.publish_mode != "host"
    )
    return ServiceRecord(
        id=of.id,
        name=of.spec.name,
        attachments=of.attachments,
        ports=ports,
        sticky=of.spec.labels.get(STICKY_LABEL) == "client-ip",
        publish_address=of.spec.labels.get(PUBLISH_ADDRESS_LABEL, ""),
    )


def task(view: View, of: Task) -> TaskRecord | None:
    """A task that has addresses and has not ended; None for others."""
    host = view.node(of.node_id)
    if host is None or of.status.state.ended or not any(a.address for a in of.attachments):
        return None
    return TaskRecord(
        id=of.id,
        service_id=of.service_id,
        name=of.name,
        slot=of.slot,
        node=host.number,
        hostname=_hostname(view, of, host) or _default_hostname(of),
        attachments=of.attachments,
        serving=serves(of),
        weight=_weight(of),
    )


def container(view: View, of: AttachedContainer) -> TaskRecord | None:
    """An attached container; all is ready for it before it runs."""
    host = view.node(of.node_id)
    return container_on(of, host.number) if host else None


def container_on(of: AttachedContainer, number: int) -> TaskRecord:
    """An attached container on the node of that number."""
    return TaskRecord(
        id=of.id,
        service_id="",
        name=of.name,
        node=number,
        hostname=of.hostname,
        attachments=of.attachments,
        serving=of.running,
        container_id=of.container_id,
    )


def _hostname(view: View, of: Task, host: Node) -> str:
    """The one that was asked for; a template is filled in as the node does it."""
    asked = of.spec.container.hostname
    if not is_template(asked):
        return asked
    owner = view.service(of.service_id)
    facts = Facts(
        service_id=of.service_id,
        service_name=of.service_name,
        labels=owner.spec.labels if owner else {},
        node_id=of.node_id,
        hostname=host.hostname,
        platform=host.description.platform if host.description else Platform(),
        task_id=of.id,
        task_name=of.name,
        slot=of.slot,
    )
    try:
        return fill(asked, Scope(facts.fields))
    except BadTemplate:
        return ""  # no container comes of it


def _default_hostname(of: Task) -> str:
    """What a container calls itself unless told otherwise: programs tell it to their peers."""
    container = of.status.container
    return container.container_id[:SHORT_ID] if container else ""


def serves(of: Task) -> bool:
    """Whether new connections may go to a task: it runs, is healthy, and shall go on."""
    runs = of.status.state is TaskState.RUNNING and not of.status.halted
    return runs and of.desired <= TaskState.RUNNING


def _weight(of: Task) -> int:
    text = of.spec.container.labels.get(WEIGHT_LABEL, "1")
    return min(int(text), MAX_WEIGHT) if text.isascii() and text.isdigit() else 1


def networks_on(view: View, node_id: str) -> frozenset[str]:
    """The networks that a node takes part in: those of its containers, and of its living tasks."""
    tasks = (t.attachments for t in view.tasks_on_node(node_id) if not t.status.state.ended)
    plain = (c.attachments for c in view.containers_on_node(node_id))
    return frozenset(
        attachment.network_id
        for attachments in (*tasks, *plain)
        for attachment in attachments
        if attachment.address
    )


def is_published(of: Service | None) -> bool:
    """Whether every node forwards to a service."""
    return of is not None and any(port.publish_mode != "host" for port in of.ports)


def record(view: View, ident: str, networks: frozenset[str]) -> Record | None:
    """The record of an object, if there is one and a node in these networks needs it."""
    found_task = view.task(ident)
    if found_task is not None:
        known = is_published(view.service(found_task.service_id))
        needed = known or any(a.network_id in networks for a in found_task.attachments)
        return task(view, found_task) if needed else None
    found_container = view.container(ident)
    if found_container is not None:
        near = any(a.network_id in networks for a in found_container.attachments)
        return container(view, found_container) if near else None
    found_service = view.service(ident)
    if found_service is not None:
        near = any(a.network_id in networks for a in found_service.attachments)
        return service(found_service) if near or is_published(found_service) else None
    found_node = view.node(ident)
    if found_node is not None:
        return peer(found_node)
    found_network = view.network(ident)
    return network(found_network) if found_network is not None else None


def everything(view: View, networks: frozenset[str]) -> Iterator[str]:
    """Identifiers of all that a node in these networks may need a record of; some come twice."""
    for one in (*view.nodes(), *view.networks()):
        yield one.id
    for network_id in sorted(networks):
        yield from view.address_owners(network_id).values()
        yield from (of.id for of in view.services_in(network_id))
    for of in view.services():
        if is_published(of):
            yield of.id
            yield from (t.id for t in view.tasks_of_service(of.id) if not t.status.state.ended)
