"""Places of plain containers in attachable networks, given by the state machine."""

from collections import Counter
from typing import Final

from msgspec.structs import replace

from swarmlet.errors import AlreadyExists, FailedPrecondition, InvalidInput, NotAllowed, NotFound
from swarmlet.model.forwarding import Attachment
from swarmlet.model.networks import is_address
from swarmlet.model.objects import AttachedContainer, Network
from swarmlet.state.commands import Refusal
from swarmlet.state.endpoints import hostname, no_address
from swarmlet.state.store import Store

#: Attached containers of one node: who has one node must not be able to take all that there is.
MAX_CONTAINERS: Final = 1000


def attach(
    store: Store, new: AttachedContainer, old: AttachedContainer | None
) -> tuple[Attachment, ...] | Refusal:
    """All places of a container, those that it has and those that ``new`` asks for."""
    refusal = _stranger(store, new, old)
    if refusal is not None:
        return refusal
    has = {a.network_id: a for a in old.attachments} if old else {}
    for wanted in new.attachments:
        refusal = _refusal(store, wanted, has.get(wanted.network_id))
        if refusal is not None:
            return refusal
    asked = {a.network_id: a for a in new.attachments if a.network_id not in has}
    given = (
        replace(a, address=a.address or store.take_address(a.network_id, new.id))
        for a in asked.values()
    )
    return (*has.values(), *given)


def _stranger(
    store: Store, new: AttachedContainer, old: AttachedContainer | None
) -> Refusal | None:
    """Why a node cannot have this container at all."""
    if store.node(new.node_id) is None or (old is not None and old.node_id != new.node_id):
        return Refusal(NotAllowed.code, f"container {new.name} is not of node {new.node_id}")
    # Owners of addresses are told apart by their identifiers.
    tables = (store.service, store.task, store.node, store.network)
    if any(table(new.id) is not None for table in tables):
        return Refusal(AlreadyExists.code, f"{new.id} is the identifier of something else")
    if old is None and len(list(store.containers_on_node(new.node_id))) >= MAX_CONTAINERS:
        return Refusal(
            FailedPrecondition.code,
            f"node {hostname(store, new.node_id)} has {MAX_CONTAINERS} attached containers, and "
            "that is the most",
        )
    return None


def _refusal(store: Store, wanted: Attachment, has: Attachment | None) -> Refusal | None:
    """Why a container cannot be in a network as it asks for."""
    network = store.network(wanted.network_id)
    if network is None:
        return Refusal(NotFound.code, f"network {wanted.network_id} not found")
    name = network.spec.name
    if has is not None and wanted.address not in {"", has.address}:
        text = f"it is in network {name} already, as {has.address}"
        return Refusal(FailedPrecondition.code, text)
    if has is not None:
        return None
    if not network.spec.attachable or network.spec.ingress:
        return Refusal(NotAllowed.code, f"network {name} not manually attachable")
    if wanted.address:
        return _taken(store, network, wanted.address)
    full = not store.free_addresses(network.id, store.at)
    return Refusal(FailedPrecondition.code, _full(store, network)) if full else None


def _taken(store: Store, network: Network, address: str) -> Refusal | None:
    """Why a container cannot have one address."""
    if not is_address(address) or not store.is_given(network.id, address):
        return Refusal(
            InvalidInput.code,
            f"{address} is no address for a container in network {network.spec.name}: its subnet "
            f"is {network.subnet}, its gateway {network.gateway}",
        )
    owner = store.address_owner(network.id, address)
    if not owner:
        return None
    return Refusal(
        FailedPrecondition.code,
        f"address {address} of network {network.spec.name} is in use by {_named(store, owner)}",
    )


def _named(store: Store, ident: str) -> str:
    """Who has an address, in a user's words."""
    service, task, container = store.service(ident), store.task(ident), store.container(ident)
    if service is not None:
        return f"service {service.spec.name}"
    if task is not None:
        return f"task {task.name}"
    if container is not None:
        return f"container {container.name} on node {hostname(store, container.node_id)}"
    return ident


def _full(store: Store, network: Network) -> str:
    """That a network is full, and which node's containers have most of it."""
    counts = Counter(
        container.node_id
        for owner in store.address_owners(network.id).values()
        if (container := store.container(owner)) is not None
    )
    text = no_address(network)
    if not counts:
        return text
    node_id, most = min(counts.items(), key=lambda item: (-item[1], item[0]))
    return f"{text}; containers on node {hostname(store, node_id)} have {most} of its addresses"
