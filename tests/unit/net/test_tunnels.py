"""What holds of every plan with encrypted networks: there is no way beside the tunnels."""

import itertools

from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec.structs import replace
from swarmlet.model.forwarding import Attachment, PeerRecord, Tables, TaskRecord
from swarmlet.model.tunnels import TunnelKeys
from swarmlet.net.facts import HostFacts, OwnTunnel
from swarmlet.net.filtering import ip_chains
from swarmlet.net.links import changes
from swarmlet.net.numbers import DEVICE, ENCRYPTED_DEVICE, LANE_DEVICES
from swarmlet.net.plan import plan
from swarmlet.net.report import as_json, dump

from tests.unit.net.clusters import clusters, hosts, key, keys, network
from tests.unit.net.kernel_model import obey

OWN = HostFacts(tunnel=OwnTunnel(keys(1)))


def cluster(**theirs: TunnelKeys | None) -> Tables:
    """Node 1, with a task on node 2 in an encrypted network; other nodes ``n3=keys``."""
    peers = {
        name: PeerRecord(
            id=name, number=int(name[1:]), addr=f"192.0.2.{name[1:]}", hostname=name, tunnel=tunnel
        )
        for name, tunnel in ({"n1": keys(1), "n2": keys(2)} | theirs).items()
    }
    task = TaskRecord(
        id="t", service_id="s", name="t", node=2, attachments=(Attachment("net1", "10.1.0.9"),)
    )
    return Tables(
        me=1, peers=peers, networks={"net1": network(1, encrypted=True)}, tasks={"t": task}
    )


@given(clusters(), hosts())
def test_no_address_of_an_encrypted_network_leads_to_the_plain_device(
    tables: Tables, host: HostFacts
) -> None:
    """Nor do tunnels lead anywhere but to the node that they are for."""
    links = plan(tables, host).links
    hidden = {
        f"{place.address}/32"
        for task in tables.tasks.values()
        for place in task.attachments
        if tables.networks[place.network_id].encrypted
    }
    for destination, to in links.routes.items():
        if destination in hidden:
            assert f" dev {ENCRYPTED_DEVICE} " in to
        elif destination.startswith("10."):
            assert f" dev {DEVICE} " in to
    inside = {p.address for t in links.tunnels.values() for p in t.peers.values()}
    for entry, address in links.fdb.items():
        if entry.endswith(ENCRYPTED_DEVICE):
            assert address in inside
            assert any(f"dev {name} " in links.routes[f"{address}/32"] for name in LANE_DEVICES)
        else:
            assert address not in inside


@given(clusters(), hosts())
def test_what_leaves_plainly_is_dropped_wherever_there_is_an_encrypted_network(
    tables: Tables, host: HostFacts
) -> None:
    """Also where no tunnel can be; and where there is none, no packet meets such a rule."""
    made = plan(tables, host)
    table = made.rules["ip"]
    subnets = {n.subnet for n in tables.networks.values() if n.encrypted}
    assert ("sealed" in table.chains) == bool(subnets)
    if subnets:
        assert set(table.sets["encrypted"].items) == subnets
        assert f'"{DEVICE}"' not in table.sets["inside"].items
    else:
        assert not any("@encrypted" in r for c in table.chains.values() for r in c.rules)
        assert not made.links.tunnels
        assert made.links.devices.keys() == {DEVICE}


@given(clusters(), hosts())
def test_tunnels_are_there_when_packets_may_pass_and_not_else(
    tables: Tables, host: HostFacts
) -> None:
    """A task of another node is known, or one of this node is published."""
    wanted = host.tunnel is not None and any(
        tables.networks[place.network_id].encrypted
        and (task.node != tables.me or (task.service_id and tables.services[task.service_id].ports))
        for task in tables.tasks.values()
        for place in task.attachments
    )
    links = plan(tables, host).links
    lanes = host.tunnel.keys.lanes if host.tunnel and wanted else ("", "")
    assert links.tunnels.keys() == {
        name for name, lane in zip(LANE_DEVICES, lanes, strict=True) if lane
    }
    assert (ENCRYPTED_DEVICE in links.devices) == wanted


@given(clusters(), hosts(), st.integers(0, 1))
def test_a_new_lane_of_another_node_disturbs_no_tunnel(
    tables: Tables, host: HostFacts, lane: int
) -> None:
    """First its key is added; then packets go to it; nothing is made anew or taken away."""
    others = [p for p in tables.peers.values() if p.number != tables.me and p.tunnel]
    assume(others and host.tunnel)
    peer = others[0]

    def told(tunnel: TunnelKeys) -> Tables:
        return replace(tables, peers=tables.peers | {peer.id: replace(peer, tunnel=tunnel)})

    n = peer.number
    steps = [keys(n, lane), keys(n, lane, both=True), keys(n, 1 - lane, both=True)]
    plans = [plan(told(step), host).links for step in steps]
    for old, new in itertools.pairwise(plans):
        todo = changes(old, new)
        assert not any(change.anew or change.gone for change in todo.tunnels)
        assert not todo.removals
        assert not any(line.startswith("link") for line in todo.ip)
        assert replace(obey(old, todo), sysctls=new.sysctls) == new


def test_lanes_that_are_used_or_about_to_be_are_kept_ready() -> None:
    """To the lane that the other node wants to be sent to, only."""
    own = keys(1, both=True)
    tables = cluster(n2=keys(2, both=True))
    for warming in (False, True):
        links = plan(tables, HostFacts(tunnel=OwnTunnel(own, warming=warming))).links
        ready = {
            (name, peer.address)
            for name, tunnel in links.tunnels.items()
            for peer in tunnel.peers.values()
            if peer.keepalive
        }
        used = {("swlw0", "100.64.32.2")}
        assert ready == (used | {("swlw1", "100.64.32.2")} if warming else used)


def test_a_node_without_a_key_is_named_and_its_tasks_are_refused() -> None:
    made = plan(cluster(n2=None), OWN)
    assert made.problems == (
        "node n2 has no key: its tasks in encrypted networks are not reached from here",
    )
    assert not made.live
    assert "10.1.0.9/32" not in made.links.routes


def test_a_node_that_cannot_encrypt_says_why() -> None:
    made = plan(cluster(), HostFacts(no_tunnel="there is no wg here"))
    assert made.problems == (
        "encrypted networks reach no other node from here: there is no wg here",
    )
    assert not made.live
    assert made.links.routes["unreachable 100.64.32.0/19"] == ""


def test_nobody_takes_the_tunnels_of_another() -> None:
    """A node that claims another's key is left out, not the other."""
    made = plan(cluster(n3=keys(2), n4=TunnelKeys(lanes=("x; reboot", ""))), OWN)
    assert made.problems == ("node n3: its key is that of node n2",)
    assert made.links.tunnels["swlw0"].peers.keys() == {key(0, 2)}


def test_a_plan_can_be_shown() -> None:
    """Private keys are not in it, so anybody may see it."""
    made = plan(cluster(), OWN)
    text = dump(made)
    assert f"swlw0: wireguard {key(0, 1)}, udp port 4793, mtu 1420" in text
    assert f"peer {key(0, 2)} at 192.0.2.2:4793, 100.64.32.2" in text
    assert as_json(made)["links"]["tunnels"]["swlw0"]["key"] == key(0, 1)


def test_ports_of_tunnels_cannot_be_published() -> None:
    """As those of the control connection and of VXLAN cannot."""
    for chain in ("nat_in", "nat_local"):
        rules = ip_chains(4789, 2377, vtep="100.64.0.1", underlay="eth0", bridge_nf=False)[
            chain
        ].rules
        own = rules.index("udp dport { 4789, 4793, 4794 } return")
        assert own < rules.index("fib daddr type local jump published")
