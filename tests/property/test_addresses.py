"""Addresses and ports over random lives of services and containers: never two owners, no leak."""

import ipaddress
from collections import Counter

from hypothesis import given
from swarmlet.state import fsm, snapshot
from swarmlet.state.addresses import REST
from swarmlet.state.commands import AttachContainer, DeleteNode, decode, encode
from swarmlet.state.store import Store, ingress_ports

from tests.fakes.world import START
from tests.property.commands import logs, resolved
from tests.property.test_state import Log


def held(store: Store) -> list[tuple[str, str, str]]:
    """By the objects alone: network, address and owner."""
    living = {t.id: t.attachments for t in store.tasks() if not t.status.state.ended}
    lasting = {s.id: s.attachments for s in store.services()}
    plain = {c.id: c.attachments for c in store.attached()}
    return [
        (attachment.network_id, attachment.address, owner)
        for owner, attachments in [*living.items(), *lasting.items(), *plain.items()]
        for attachment in attachments
        if attachment.address
    ]


def holdings(store: Store) -> Counter[tuple[str, str]]:
    """How many of those that live have each address."""
    return Counter((network_id, address) for network_id, address, _ in held(store))


def check(store: Store) -> None:
    """What holds after every command."""
    assert max(holdings(store).values(), default=1) == 1
    for network in store.networks():
        account = store.address_owners(network.id)
        assert account == {a: owner for n, a, owner in held(store) if n == network.id}
        pool, subnet = map(ipaddress.IPv4Network, (network.pool, network.subnet))
        for address, owner in account.items():
            # A container may have asked for one beside the pool.
            given = pool if store.container(owner) is None else subnet
            assert ipaddress.IPv4Address(address) in given
            assert ipaddress.IPv4Address(address) not in {subnet[0], subnet[-1]}
            assert address != network.gateway
    for container in store.attached():
        assert store.node(container.node_id) is not None
        assert all(a.address and store.network(a.network_id) for a in container.attachments)
    ports = Counter(key for service in store.services() for key in ingress_ports(service.ports))
    assert max(ports.values(), default=1) == 1
    numbers = Counter(node.number for node in store.nodes() if node.number)
    assert max(numbers.values(), default=1) == 1


@given(logs)
def test_an_address_has_one_owner_and_no_address_leaks(log: Log) -> None:
    """Also when the member restarts from a snapshot at any moment."""
    store = Store()
    for at, entry in log:
        for command in entry:
            data = encode((resolved(store, command),), at)
            fsm.apply(store, decode(data), store.index + 1)
            check(store)
        store = snapshot.thaw(snapshot.freeze(store)())
        check(store)


@given(logs)
def test_an_address_rests_before_it_has_another_owner(log: Log) -> None:
    """In the time of the log, as long as that does not go back."""
    store = Store()
    ended: dict[tuple[str, str], int] = {}
    for at, entry in sorted(log, key=lambda item: item[0]):
        for command in entry:
            before = holdings(store)
            networks = {network.id for network in store.networks()}
            fsm.apply(store, decode(encode((resolved(store, command),), at)), store.index + 1)
            after = holdings(store)
            asked = isinstance(command, AttachContainer) and {
                (a.network_id, a.address) for a in command.container.attachments
            }
            for key in after.keys() - before.keys() - (asked or set()):
                assert at - ended.get(key, at - REST) >= REST
            for gone in networks - {network.id for network in store.networks()}:
                ended = {key: since for key, since in ended.items() if key[0] != gone}
            ended |= dict.fromkeys(before.keys() - after.keys(), at)


@given(logs)
def test_whatever_is_removed_gives_everything_back(log: Log) -> None:
    """When services, tasks and nodes are gone, nothing is held: containers go with their nodes."""
    store = Store()
    for at, entry in log:
        for command in entry:
            fsm.apply(store, decode(encode((resolved(store, command),), at)), store.index + 1)
    for service in list(store.services()):
        store.delete_service(service.id)
    for task in list(store.tasks()):
        store.delete_task(task.id)
    for node in list(store.nodes()):
        gone = DeleteNode(id=node.id, expect=node.version)
        fsm.apply(store, decode(encode((gone,), START)), store.index + 1)
    assert store.attached() == []
    for network in store.networks():
        assert store.address_owners(network.id) == {}
        assert not list(store.services_in(network.id))
