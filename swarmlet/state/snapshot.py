"""The whole store as bytes: one versioned msgpack array. Checksums and encryption are below it."""

from collections.abc import Callable
from typing import Final

import msgspec

from swarmlet.errors import Damaged
from swarmlet.model.objects import (
    AttachedContainer,
    Cluster,
    Config,
    Network,
    Node,
    Secret,
    Service,
    Task,
)
from swarmlet.state.addresses import Rested
from swarmlet.state.store import Store

#: Version of the snapshot's form. 2 has networks, and who rests of their addresses; 3 has attached
#: containers; 4 has secrets and configs.
FORMAT: Final = 4


class Snapshot(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Everything that is replicated."""

    format: int
    index: int
    cluster: Cluster | None
    nodes: list[Node]
    services: list[Service]
    tasks: list[Task]
    networks: list[Network] = msgspec.field(default_factory=list[Network])
    rested: list[Rested] = msgspec.field(default_factory=list[Rested])
    containers: list[AttachedContainer] = msgspec.field(default_factory=list[AttachedContainer])
    secrets: list[Secret] = msgspec.field(default_factory=list[Secret])
    configs: list[Config] = msgspec.field(default_factory=list[Config])


_decoder: Final = msgspec.msgpack.Decoder(Snapshot)


def freeze(store: Store) -> Callable[[], bytes]:
    """Copy the tables (objects are immutable); the result encodes them, in any thread."""
    snapshot = Snapshot(
        FORMAT,
        store.index,
        store.cluster,
        *store.tables(),
        store.rested(),
        store.attached(),
        store.secrets.ordered(),
        store.configs.ordered(),
    )
    return lambda: msgspec.msgpack.encode(snapshot)


def thaw(data: bytes) -> Store:
    """Build a store from a snapshot. Raises Damaged when it cannot be read."""
    try:
        snapshot = _decoder.decode(data)
    except msgspec.DecodeError as exc:
        raise Damaged(f"the state in a snapshot cannot be read: {exc}") from exc
    if snapshot.format > FORMAT:
        raise Damaged(
            f"the snapshot has format {snapshot.format}, this version reads up to {FORMAT}",
            advice="upgrade this manager to the version that wrote it",
        )
    store = Store()
    store.index = snapshot.index
    store.cluster = snapshot.cluster
    for network in snapshot.networks:  # first: the others have addresses in them
        store.put_network(network)
    store.rest(snapshot.rested)
    for node in snapshot.nodes:
        store.put_node(node)
    for secret in snapshot.secrets:
        store.secrets.put(secret)
    for config in snapshot.configs:
        store.configs.put(config)
    for service in snapshot.services:
        store.put_service(service)
    for task in snapshot.tasks:
        store.put_task(task)
    for container in snapshot.containers:
        store.put_container(container)
    return store
