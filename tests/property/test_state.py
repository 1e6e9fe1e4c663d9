"""The state machine: total, deterministic, forward only; its store: indexes never drift."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from swarmlet.clock import Instant
from swarmlet.control.nodeset import NodeSet
from swarmlet.model.objects import Stored, Task, TaskState
from swarmlet.state import fsm, snapshot
from swarmlet.state.commands import AnyCommand, Batch, decode, encode
from swarmlet.state.store import Store

from tests.property.commands import commands, instants, logs, resolved

Log = list[tuple[Instant, tuple[AnyCommand, ...]]]

_INDEXES = (
    "_nodes",
    "_services",
    "_tasks",
    "_service_names",
    "_globals",
    "_wanted",
    "_by_service",
    "_by_node",
    "_by_slot",
    "_unassigned",
    "_networks",
    "_network_names",
    "_members",
    "_published",
    "_containers_by_node",
)


def replay(log: Log, store: Store | None = None) -> tuple[Store, list[bytes]]:
    """Apply a log; also the entries as they would be in Raft's."""
    store = store or Store()
    entries = []
    for at, entry in log:
        entries.append(encode(tuple(resolved(store, command) for command in entry), at))
        fsm.apply(store, decode(entries[-1]), store.index + 1)
    return store, entries


def objects(store: Store) -> dict[tuple[type[Stored], str], Stored]:
    found: list[Stored] = [one for table in store.tables() for one in table]
    found += [*store.attached(), *store.secrets.all(), *store.configs.all()]
    if store.cluster:
        found.append(store.cluster)
    return {(type(one), one.id): one for one in found}


@given(commands, instants)
def test_every_command_survives_its_encoding(command: AnyCommand, at: Instant) -> None:
    data = encode((command,), at)
    assert decode(data).commands == (command,)
    assert encode(decode(data).commands, at) == data


@given(logs)
def test_two_replicas_of_one_log_hold_the_same_bytes(log: Log) -> None:
    """Also when one of them starts from the other's snapshot in the middle."""
    one, entries = replay(log)
    other = Store()
    for index, entry in enumerate(entries, start=1):
        if index == len(entries) // 2:
            other = snapshot.thaw(snapshot.freeze(other)())
        fsm.apply(other, decode(entry), index)
    assert snapshot.freeze(one)() == snapshot.freeze(other)()


@given(logs)
def test_a_snapshot_brings_back_tables_and_indexes(log: Log) -> None:
    store, _ = replay(log)
    data = snapshot.freeze(store)()
    again = snapshot.thaw(data)
    assert snapshot.freeze(again)() == data
    for name in _INDEXES:
        assert getattr(again, name) == getattr(store, name), name
    for network in store.networks():
        assert again.address_owners(network.id) == store.address_owners(network.id)


@given(logs)
def test_versions_grow_and_tell_what_changed(log: Log) -> None:
    store = Store()
    for at, entry in log:
        before = objects(store)
        replay([(at, entry)], store)
        for key, new in objects(store).items():
            old = before.get(key)
            assert new is old or new == old or new.version == store.index
            assert old is None or new.version >= old.version


def _step(old: Task, new: Task) -> bool:
    return (
        new.status.state >= old.status.state
        and new.desired >= old.desired
        and old.node_id in {"", new.node_id}
        and (new.spec, new.spec_version, new.slot) == (old.spec, old.spec_version, old.slot)
    )


@given(logs)
def test_tasks_only_move_forward(log: Log) -> None:
    store = Store()
    for at, entry in log:
        # An entry may delete a task and create one of the same id; then it is another task.
        before = {task.id: task for task in store.tasks()}
        for command in entry:
            replay([(at, (command,))], store)
            for task in store.tasks():
                assert task.id not in before or _step(before[task.id], task)
            before = {task.id: task for task in store.tasks()}


@given(logs)
def test_what_follows_by_itself_is_settled(log: Log) -> None:
    """Nobody wants an ended task; one that nobody wants ends, or an agent has to end it."""
    store, _ = replay(log)
    for task in store.tasks():
        state = task.status.state
        assert state.ended <= (task.desired >= TaskState.SHUTDOWN)
        assert task.wanted or state.ended or state >= TaskState.ASSIGNED
        assert state < TaskState.ASSIGNED or state.ended or task.node_id


@given(logs, logs)
def test_what_was_refused_changes_nothing(log: Log, more: Log) -> None:
    store, _ = replay(log)
    for at, entry in more:
        for command in entry:
            before = objects(store), store.rested()
            batch = Batch(1, at, (resolved(store, command),))
            (outcome,) = fsm.apply(store, batch, store.index + 1)
            assert outcome is None or (objects(store), store.rested()) == before


@given(logs, st.integers(1, 4))
def test_a_node_set_led_by_changes_equals_one_built_anew(log: Log, stride: int) -> None:
    store = Store()
    nodes = NodeSet()
    for number, (at, entry) in enumerate(log):
        replay([(at, entry)], store)
        if number % stride == 0:
            nodes.update(store, store.take_change())
    nodes.update(store, store.take_change())
    assert nodes.loads == NodeSet.of(store).loads
    nodes.reset(store)
    assert nodes.loads == NodeSet.of(store).loads


@given(logs)
def test_a_snapshot_reads_as_plain_msgpack(log: Log) -> None:
    """Other tools can look into it: no object needs this package to be read."""
    store, _ = replay(log)
    assert msgspec.msgpack.decode(snapshot.freeze(store)())[0] == snapshot.FORMAT
