"""What holds of every plan."""

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from swarmlet.model.forwarding import (
    Attachment,
    PeerRecord,
    PublishedPort,
    Reach,
    ServiceRecord,
    Tables,
    TaskRecord,
)
from swarmlet.model.networks import Place, node_address
from swarmlet.net.facts import HostFacts
from swarmlet.net.links import Links, changes
from swarmlet.net.listing import expected
from swarmlet.net.numbers import DEVICE, ENCRYPTED_DEVICE, bridge_name
from swarmlet.net.plan import Plan, forgotten, plan
from swarmlet.net.report import Observed, differences, dump
from swarmlet.net.ruleset import replacement, update

from tests.unit.net.clusters import clusters, hosts, network
from tests.unit.net.kernel_model import obey


def reach(tables: Tables, task: TaskRecord) -> Reach:
    if task.node == tables.me:
        return Reach.READY
    return tables.peers[f"p{task.node}"].reach


def addresses(tasks: "list[TaskRecord]") -> set[str]:
    return {place.address for task in tasks for place in task.attachments}


def encrypted(tables: Tables, network: str) -> bool:
    return tables.networks[network].encrypted


def exchanges(tables: Tables, host: HostFacts, task: TaskRecord, network: str) -> bool:
    """Whether this node can reach a task in a network, encrypted if it must be."""
    if task.node == tables.me or not encrypted(tables, network):
        return True
    return host.tunnel is not None and tables.peers[f"p{task.node}"].tunnel is not None


def reached(tables: Tables, host: HostFacts, tasks: "list[TaskRecord]") -> set[str]:
    return {
        place.address
        for task in tasks
        for place in task.attachments
        if exchanges(tables, host, task, place.network_id)
    }


def observed(wanted: Plan) -> Observed:
    return Observed(
        wanted.links,
        {key: expected(table) for key, table in wanted.rules.items()},
        frozenset(bridge.name for bridge in wanted.bridges.values()),
    )


@given(clusters(), hosts(), st.randoms())
def test_the_same_records_give_the_same_plan(
    tables: Tables, host: HostFacts, order: "random.Random"
) -> None:
    """To the byte, in whatever order the records came."""
    shuffled = {}
    for name in ("peers", "networks", "services", "tasks"):
        records = list(getattr(tables, name).items())
        order.shuffle(records)
        shuffled[name] = dict(records)
    other = plan(replace(tables, **shuffled), host)
    this = plan(tables, host)
    assert dump(other) == dump(this)
    assert replacement(other.rules) == replacement(this.rules)


@given(clusters(), hosts())
def test_each_live_remote_task_has_one_route(tables: Tables, host: HostFacts) -> None:
    """By its node; local tasks and those of lost nodes have none."""
    routes = plan(tables, host).links.routes
    remote = [
        t for t in tables.tasks.values() if t.node != tables.me and reach(tables, t) != Reach.LOST
    ]
    to_tasks = {d.removesuffix("/32") for d in routes if d.startswith("10.")}
    assert to_tasks == reached(tables, host, remote)
    for task in remote:
        for place in task.attachments:
            if place.address not in to_tasks:
                continue
            sealed = encrypted(tables, place.network_id)
            node = node_address(task.node, Place.ENCRYPTED if sealed else Place.OVERLAY)
            device = ENCRYPTED_DEVICE if sealed else DEVICE
            assert routes[f"{place.address}/32"].startswith(f"via {node} dev {device} ")


@given(clusters(), hosts())
def test_what_is_not_live_is_dead(tables: Tables, host: HostFacts) -> None:
    """The addresses of all tasks but those of lost nodes are alive, if they can be reached."""
    living = [t for t in tables.tasks.values() if reach(tables, t) != Reach.LOST]
    assert set(plan(tables, host).live) == reached(tables, host, living)


@given(clusters(), hosts(), st.data())
def test_what_has_no_process_is_as_good_as_gone(
    tables: Tables, host: HostFacts, data: st.DataObject
) -> None:
    """To clients; but it may come back, so its places are kept."""
    own = [t for t in tables.tasks.values() if t.node == tables.me]
    dead = data.draw(st.sets(st.sampled_from(own))) if own else set()
    halted = frozenset(task.id for task in dead)
    with_it, without = plan(replace(tables, halted=halted), host), plan(tables, host)
    gone = addresses([tables.tasks[ident] for ident in halted])
    assert set(with_it.live) == set(without.live) - gone
    for frontend, backends in without.balanced.items():
        assert with_it.balanced[frontend] == tuple(b for b in backends if b.address not in gone)
    assert (with_it.links, with_it.bridges) == (without.links, without.bridges)


@given(clusters(), hosts())
def test_backends_are_those_that_serve(tables: Tables, host: HostFacts) -> None:
    """On nodes that are well, with their weights, in that network; all of them and no others."""
    balanced = plan(tables, host).balanced
    for service in tables.services.values():
        serving = [
            t
            for t in tables.tasks.values()
            if t.service_id == service.id
            and t.serving
            and t.weight
            and reach(tables, t) == Reach.READY
        ]
        for place in service.attachments:
            if not place.address:
                continue
            wanted = {
                (p.address, t.weight)
                for t in serving
                for p in t.attachments
                if p.network_id == place.network_id and exchanges(tables, host, t, p.network_id)
            }
            assert set(balanced[place.address]) == wanted
        for port in service.ports:
            at = f"{service.publish_address} . " if service.publish_address else ""
            backends = balanced[f"{at}{port.protocol} . {port.published}"]
            outward = [p.network_id for p in service.attachments]
            outward = [n for n in outward if not tables.networks[n].internal] or outward
            able = [t for t in serving if exchanges(tables, host, t, outward[0])]
            assert len(backends) == len(able)
            assert {b.address for b in backends} <= addresses(able)


@pytest.mark.parametrize(
    ("networks", "reached"),
    [
        (("net1",), "10.1.0.10"),
        (("net2", "net1"), "10.1.0.10"),  # it has just joined net2
        (("net2",), "10.1.0.10"),  # it has just changed from net1 to net2
        (("net3", "net1"), "10.1.0.10"),  # net3 is internal
        ((), "10.1.0.10"),
    ],
)
def test_a_published_port_leads_to_tasks_from_before_the_service_changed_networks(
    networks: tuple[str, ...], reached: str
) -> None:
    """An update replaces them one after the other; meanwhile they are all that there is."""
    tables = Tables(
        me=1,
        networks={f"net{n}": network(n, internal=n == 3) for n in (1, 2, 3)},
        services={
            "s": ServiceRecord(
                id="s",
                name="web",
                attachments=tuple(Attachment(n, f"10.{n[-1]}.0.2") for n in networks),
                ports=(PublishedPort("tcp", 8080, 80),),
            )
        },
        tasks={
            "t": TaskRecord(
                id="t",
                service_id="s",
                name="web.1",
                node=1,
                serving=True,
                attachments=(Attachment("net3", "10.3.0.10"), Attachment("net1", "10.1.0.10")),
            )
        },
    )
    (backend,) = plan(tables, HostFacts()).balanced["tcp . 8080"]
    assert backend.address == reached


@given(clusters(), hosts())
def test_a_bridge_for_each_network_of_a_local_task(tables: Tables, host: HostFacts) -> None:
    """With a name that the kernel takes, and room for VXLAN's headers."""
    bridges = plan(tables, host).bridges
    local = [t for t in tables.tasks.values() if t.node == tables.me]
    assert bridges.keys() == {p.network_id for t in local for p in t.attachments}
    for key, bridge in bridges.items():
        assert bridge.name == bridge_name(key)
        assert len(bridge.name) <= 15
        assert bridge.mtu == host.underlay_mtu - (130 if encrypted(tables, key) else 50)


@given(clusters(), hosts())
def test_only_own_addresses_come_from_a_bridge(tables: Tables, host: HostFacts) -> None:
    """Of a local task, on each bridge that it is plugged into."""
    rules = plan(tables, host).rules
    local = [t for t in tables.tasks.values() if t.node == tables.me]
    assert set(rules["ip"].sets["sources"].items) == {
        f'"{bridge_name(a.network_id)}" . {b.address}'
        for t in local
        for a in t.attachments
        for b in t.attachments
    }


@given(clusters(), hosts())
def test_a_port_brings_what_its_container_was_given(tables: Tables, host: HostFacts) -> None:
    """Its hardware address, and all addresses of that task; others may have none of that."""
    sets = plan(tables, host).rules["bridge"].sets
    owners = {f'"{name}"': port.owner for name, port in host.ports.items() if port.owner}
    local = [t for t in tables.tasks.values() if t.node == tables.me]
    assert sets["owned"].items.keys() == owners.keys()
    assert sets["macs"].items.keys() == {f"{port} . {o.mac}" for port, o in owners.items()}
    assert sets["taken"].items.keys() == {owner.mac for owner in owners.values()}
    for port, owner in owners.items():
        pins = {i.split(" . ")[1] for i in sets["pins"].items if port in i}
        tasks = [addresses([task]) for task in local if owner.address in addresses([task])]
        assert pins in (tasks or [{owner.address}])
    given_out = {owner.address for owner in owners.values()}
    assert sets["unclaimed"].items.keys() == addresses(local) - given_out


@given(clusters(), hosts())
def test_applying_twice_changes_nothing(tables: Tables, host: HostFacts) -> None:
    """From nothing to the plan; and from the plan, nothing is to be done, and nothing differs."""
    wanted = plan(tables, host)
    done = obey(Links(), changes(Links(), wanted.links))
    assert done == wanted.links
    again = changes(done, wanted.links)
    assert not any(msgspec.structs.astuple(again))
    assert update(wanted.rules, wanted.rules) == ""
    assert differences(wanted, observed(wanted)) == []


@given(clusters(), hosts(), clusters(), hosts())
def test_any_plan_leads_to_any_other(
    tables: Tables, host: HostFacts, others: Tables, other_host: HostFacts
) -> None:
    """And back to nothing."""
    old, new = plan(tables, host), plan(others, other_host)
    links = obey(old.links, changes(old.links, new.links))
    # Hairpins and settings of what is no more needed stay with their device.
    assert replace(links, hairpin=new.links.hairpin, sysctls=new.links.sysctls) == new.links
    gone = obey(links, changes(links, Links()))
    assert replace(gone, hairpin=frozenset(), sysctls={}) == Links()
    if old.tables.me != new.tables.me:
        assert differences(old, observed(new))


@given(clusters(), hosts(), st.data())
def test_one_task_changes_little(tables: Tables, host: HostFacts, data: st.DataObject) -> None:
    """Its service's chains and its own elements; never the whole."""
    if not tables.tasks:
        return
    key = data.draw(st.sampled_from(sorted(tables.tasks)))
    task = tables.tasks[key]
    new = replace(tables, tasks=tables.tasks | {key: replace(task, serving=not task.serving)})
    script = update(plan(tables, host).rules, plan(new, host).rules)
    assert script is not None
    if task.is_plain:  # it can be reached before it runs: nothing changes but its names
        assert script == ""
        return
    service = tables.services[task.service_id]
    chains = {f"v_{service.id}_{p.network_id}" for p in service.attachments}
    for line in script.splitlines():
        verb, what, _, _, name, *_ = line.split()
        assert (verb, what) in {("flush", "chain"), ("add", "rule")}
        assert name in chains or name.startswith("p_")


@given(clusters(), hosts(), clusters())
def test_a_busy_flow_is_forgotten_when_its_backend_leaves(
    tables: Tables, host: HostFacts, others: Tables
) -> None:
    """Each that is no more behind what it was behind, and only those."""
    old, new = plan(tables, host), plan(replace(others, me=tables.me), host)
    assert forgotten(old, new) == {
        b.address
        for frontend, backends in old.balanced.items()
        for b in backends
        if b.address not in {n.address for n in new.balanced.get(frontend, ())}
    }
    assert forgotten(old, old) == set()


def test_who_does_not_know_itself_plans_nothing() -> None:
    """Records may come before the node's number does."""
    assert plan(Tables(networks={"net1": network(1)}), HostFacts()).links == Links()


def test_contradictions_are_left_out_and_named() -> None:
    """Nothing that a manager may say breaks the node's whole ruleset."""
    tables = Tables(
        me=1,
        networks={
            "net1": network(1),
            "net2": replace(network(2), subnet="10.1.128.0/17"),
            "net3": replace(network(3), subnet="nonsense"),
        },
        tasks={
            key: TaskRecord(
                id=key,
                service_id="s",
                name=key,
                node=1,
                attachments=(Attachment("net1", address),),
            )
            for key, address in (("a", "10.1.0.5"), ("b", "10.1.0.5"), ("c", "x; flush ruleset"))
        },
    )
    made = plan(tables, HostFacts())
    assert made.problems == (
        "network net-2: overlaps network net-1",
        "network net-3: no usable subnet",
        "10.1.0.5: both of a and of b",
    )
    assert set(made.live) == {"10.1.0.5"}


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"devices": {}}, f"device {DEVICE} is missing"),
        ({"routes": {}}, "route 10.1.0.9/32 (task far) is missing"),
        ({"accept": frozenset()}, "accepting rule in iptables chain DOCKER-USER is missing"),
    ],
)
def test_differences_are_named(change: "dict[str, object]", name: str) -> None:
    """By what is missing, and whose it is."""
    task = TaskRecord(
        id="t", service_id="s", name="far", node=2, attachments=(Attachment("net1", "10.1.0.9"),)
    )
    peers = {f"p{n}": PeerRecord(id=f"p{n}", number=n, addr=f"192.0.2.{n}") for n in (1, 2)}
    tables = Tables(me=1, peers=peers, networks={"net1": network(1)}, tasks={"t": task})
    wanted = plan(tables, HostFacts(accept_chain="DOCKER-USER"))
    found = observed(wanted)
    found = replace(found, links=replace(found.links, **change))
    assert name in differences(wanted, found)
