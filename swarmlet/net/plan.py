"""What a node's kernel must hold so that the cluster's tasks reach each other: a pure function.

The same records and the same host give the same plan, so nothing is remembered: a node that
restarts, or whose state somebody destroyed, gets back to where it was.
"""

from collections.abc import Mapping

import msgspec

from swarmlet.model.forwarding import Tables
from swarmlet.model.networks import Place, node_address
from swarmlet.net import filtering, members
from swarmlet.net.balancing import Backend
from swarmlet.net.facts import HostFacts
from swarmlet.net.frontends import Frontends
from swarmlet.net.links import Links
from swarmlet.net.numbers import TABLE
from swarmlet.net.records import Bridge, Records
from swarmlet.net.routing import links
from swarmlet.net.ruleset import Table
from swarmlet.net.tunnels import troubles


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What the kernel must hold. ``balanced`` are the backends of each virtual address and port.

    ``problems`` say what was left out: records that contradict each other, or that need what is not
    here.
    """

    links: Links = Links()
    rules: dict[str, Table] = msgspec.field(default_factory=dict[str, Table])
    bridges: dict[str, Bridge] = msgspec.field(default_factory=dict[str, Bridge])
    balanced: dict[str, tuple[Backend, ...]] = msgspec.field(
        default_factory=dict[str, tuple[Backend, ...]]
    )
    problems: tuple[str, ...] = ()
    tables: Tables = Tables()

    @property
    def live(self) -> Mapping[str, str]:
        """Addresses of the tasks that are not known to be dead, as keys."""
        table = self.rules.get("ip")
        return table.sets["live"].items if table and "live" in table.sets else {}


def plan(tables: Tables, host: HostFacts) -> Plan:
    """The plan of node ``tables.me``; an empty one while that is not known."""
    if not tables.me:
        return Plan(tables=tables)
    records = Records(tables, host.tunnel)
    bridges = records.bridges(host.underlay_mtu)
    frontends = Frontends(records)
    sources = records.sources()
    chains = filtering.ip_chains(
        tables.data_port,
        tables.control_port,
        vtep=node_address(tables.me),
        underlay=host.underlay,
        encrypted_vtep=node_address(tables.me, Place.ENCRYPTED) if records.encrypted else "",
        bridge_nf=host.bridge_nf,
    )
    return Plan(
        links=links(records, host, bridges),
        rules={
            "ip": Table(
                family="ip",
                name=TABLE,
                sets=members.ip_sets(records, bridges, sources) | frontends.maps(),
                chains=chains | frontends.chains,
            ),
            "bridge": Table(
                family="bridge",
                name=TABLE,
                sets=members.bridge_sets(records, host, sources),
                chains=filtering.bridge_chains(),
            ),
        },
        bridges=bridges,
        balanced=frontends.balanced,
        problems=(*records.problems, *troubles(records, host)),
        tables=tables,
    )


def nothing() -> Plan:
    """The plan of a host that is no node: it names the tables, so that they can be taken away."""
    return Plan(rules={family: Table(family=family, name=TABLE) for family in ("ip", "bridge")})


def forgotten(old: Plan, new: Plan) -> set[str]:
    """Addresses whose UDP flows must be deleted: they are no more a backend of what they were.

    The kernel chooses a backend when a flow begins, and a busy UDP client's flow never ends.
    """
    gone: set[str] = set()
    for frontend, backends in old.balanced.items():
        now = new.balanced.get(frontend, ())
        if now != backends:
            gone |= {b.address for b in backends} - {b.address for b in now}
    return gone
