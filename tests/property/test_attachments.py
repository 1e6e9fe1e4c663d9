"""Plain containers over random lives, with crashes between the steps and commands that come late.

Whatever happened: once each node has compared its engine with what the cluster knows, both know the
same, and nobody uses an address that is another's.
"""

from collections import Counter

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from swarmlet.agent.counterparts import differences, identify
from swarmlet.control import forwarding
from swarmlet.engine.attached import Found
from swarmlet.model.forwarding import Attachment, TaskRecord
from swarmlet.model.objects import AttachedContainer
from swarmlet.state import fsm
from swarmlet.state.commands import (
    AnyCommand,
    AttachContainer,
    DeleteNode,
    DetachContainers,
    PutNetwork,
    PutNode,
    ReportContainers,
    decode,
    encode,
)
from swarmlet.state.store import Store

from tests.fakes.world import START, a_network, a_node
from tests.property.test_addresses import check

NODES = ("n0", "n1")
#: By name: what the engines' copies stand for.
NETWORKS = {"a": "id-a", "b": "id-b"}


class Cluster:
    """A state machine, and engines that know nothing of it."""

    def __init__(self) -> None:
        self.store = Store()
        self.engines: dict[str, dict[str, Found]] = {node: {} for node in NODES}
        self.said: list[AnyCommand] = []
        #: Which object of the cluster each container truly is.
        self.truth: dict[str, str] = {}
        self._count = 0
        self.do(PutNetwork(network=a_network("a", subnet="10.9.0.0/29", attachable=True)))
        self.do(PutNetwork(network=a_network("b", subnet="10.9.1.0/28", attachable=True)))
        for node in NODES:
            self.do(PutNode(node=a_node(node), expect=0))

    def do(self, command: AnyCommand) -> bool:
        """Apply a command; whether it was not refused."""
        self.said.append(command)
        (outcome,) = fsm.apply(self.store, decode(encode((command,), START)), self.store.index + 1)
        check(self.store)
        return outcome is None

    def records(self, node: str) -> dict[str, TaskRecord]:
        found = self.store.containers_on_node(node)
        return {c.id: r for c in found if (r := forwarding.container(self.store, c))}

    def fresh(self) -> str:
        self._count += 1
        return f"{self._count:025x}".ljust(64, "0")

    # --- what a node does -----------------------------------------------------------------------

    def create(self, node: str, networks: list[str], *, address: str, dies: int) -> None:
        """Attach, then create; its daemon dies after so many steps."""
        ident = self.fresh()[:25]
        asked = tuple(Attachment(NETWORKS[n], address if n == "a" else "") for n in networks)
        wanted = AttachedContainer(id=ident, node_id=node, name=ident, attachments=asked)
        if dies == 0 or not self.do(AttachContainer(container=wanted)) or dies == 1:
            return
        self._put(node, Found(label=ident, container_id=self.fresh(), name=ident), networks[:1])
        if dies > 2:
            *_, created = self.engines[node]
            for network in networks[1:]:
                self._put(node, self.engines[node][created], [network])

    def connect(self, node: str, one: Found, network: str, *, dies: int) -> None:
        ident = identify(self.records(node), one.label, one.container_id)
        wanted = AttachedContainer(
            id=ident,
            node_id=node,
            name=one.name,
            container_id=one.container_id,
            attachments=(Attachment(NETWORKS[network]),),
        )
        if network in one.places or not self.do(AttachContainer(container=wanted)):
            return
        if dies > 1:
            self._put(node, one, [network])

    def _put(self, node: str, one: Found, networks: list[str]) -> None:
        """The engine puts a container where the cluster has a place for it."""
        ident = identify(self.records(node), one.label, one.container_id)
        container = self.store.container(ident)
        assert container is not None
        places = {a.network_id: a.address for a in container.attachments}
        given = {n: places[NETWORKS[n]] for n in networks}
        self.truth[one.container_id] = ident
        self.engines[node][one.container_id] = replace(one, places=one.places | given)

    def compare(self, node: str) -> bool:
        """What the node's agent does; whether all was as it should be."""
        engine, right = self.engines[node], self.right(node)
        known = differences(self.records(node), engine.values(), NETWORKS, busy=())
        for intruder in known.intruders:
            one = engine[intruder.container_id]
            places = {n: a for n, a in one.places.items() if n != intruder.network}
            engine[one.container_id] = replace(one, places=places)
        self.do(DetachContainers(node_id=node, ids=known.gone))
        for ident, network_id in known.left:
            self.do(DetachContainers(node_id=node, ids=(ident,), network_id=network_id))
        self.do(ReportContainers(node_id=node, reports=known.news))
        assert right <= self.right(node)
        return not any(msgspec.structs.astuple(known))

    def right(self, node: str) -> set[tuple[str, str, str]]:
        """The places that containers have, in the cluster and on their engine alike."""
        return {
            (one.container_id, network, address)
            for one in self.engines[node].values()
            for network, address in one.places.items()
            if (known := self.store.container(self.truth.get(one.container_id, ""))) is not None
            if known.node_id == node and (NETWORKS[network], address) in _addresses(known)
        }


def _addresses(of: AttachedContainer) -> set[tuple[str, str]]:
    return {(a.network_id, a.address) for a in of.attachments}


def happen(cluster: Cluster, what: str, node: str, number: int, network: str) -> None:
    """One thing of a life; ``number`` chooses among what there is."""
    match what:
        case "create":
            both = ["a", "b"] if number % 2 else [network]
            asked = "10.9.0.4" if number == 7 else ""
            cluster.create(node, both, address=asked, dies=number % 4)
        case "late":  # a command that was given up is carried out all the same
            cluster.do(cluster.said[number * 7 % len(cluster.said)])
        case "compare":
            cluster.compare(node)
        case "node":
            gone = cluster.store.node(node)
            if gone is not None and number > 4:
                cluster.do(DeleteNode(id=node, expect=gone.version))
        case "intrude":
            name = cluster.fresh()
            intruder = Found(container_id=name, name="i", places={network: "10.9.0.3"})
            cluster.engines[node][name] = intruder
        case _:
            change(cluster, what, node, number, network)


def change(cluster: Cluster, what: str, node: str, number: int, network: str) -> None:
    """Something happens to a container that is there."""
    engine = cluster.engines[node]
    if not engine:
        return
    one: Found = list(engine.values())[number % len(engine)]
    match what:
        case "connect":
            cluster.connect(node, one, network, dies=number % 4)
        case "disconnect":
            places = {n: a for n, a in one.places.items() if n != network}
            engine[one.container_id] = replace(one, places=places)
        case "remove":
            del engine[one.container_id]
        case "commit":  # an image of it, and a container of that: labels are passed on
            cluster.compare(node)  # a commit takes longer than the word on which container it is
            name = cluster.fresh()
            engine[name] = replace(one, container_id=name, name="copy", places={})
        case _:
            running = what == "start"
            engine[one.container_id] = replace(one, running=running, name=f"{what}{number}")


lives = st.lists(
    st.tuples(
        st.sampled_from(
            [
                *("create", "create", "create", "create", "connect", "connect", "disconnect"),
                *("remove", "start", "stop", "late", "compare", "node", "intrude", "commit"),
            ]
        ),
        st.sampled_from(NODES),
        st.integers(0, 7),
        st.sampled_from(list(NETWORKS)),
    ),
    min_size=5,
    max_size=40,
)


@given(lives)
def test_cluster_and_engines_agree_whatever_happened(
    life: list[tuple[str, str, int, str]],
) -> None:
    cluster = Cluster()
    for event in life:
        happen(cluster, *event)
    for node in NODES:
        cluster.compare(node)
        cluster.compare(node)  # who was expelled from one place has left it
        assert cluster.compare(node)
    used = Counter(
        (network, address)
        for engine in cluster.engines.values()
        for one in engine.values()
        for network, address in one.places.items()
    )
    assert max(used.values(), default=1) == 1
    held = {
        (name, address)
        for name, ident in NETWORKS.items()
        for address in cluster.store.address_owners(ident)
    }
    assert held == set(used)
