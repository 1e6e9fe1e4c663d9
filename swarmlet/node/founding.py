"""What a new cluster begins with: its CA, tokens, first node, and the commands that store them."""

import msgspec

from swarmlet.api.backend import InitRequest
from swarmlet.clock import Rng, WallClock
from swarmlet.model import defaults, ids
from swarmlet.model.networks import DEFAULT_POOLS, INGRESS, NODE_POOL, NetworkSpec
from swarmlet.model.objects import Cluster, JoinTokens, Network, Node, NodeStatus
from swarmlet.model.specs import ClusterSpec, NodeSpec, Role
from swarmlet.node import addresses
from swarmlet.security import ca, tokens
from swarmlet.security.identity import Identity
from swarmlet.state.addresses import first_free_subnet
from swarmlet.state.commands import AnyCommand, PutCluster, PutNetwork, PutNode


class Founded(msgspec.Struct, frozen=True):
    """A cluster that exists on paper: the first manager's identity and the first commands."""

    identity: Identity
    commands: tuple[AnyCommand, ...]


def found(
    request: InitRequest,
    advertise_addr: str,
    *,
    subnets: tuple[str, ...] = (),
    now: WallClock,
    rng: Rng,
) -> Founded:
    """Make a cluster's CA and tokens, and its first manager's identity.

    ``subnets`` are those of this machine: the ingress network keeps clear of them if it can.
    """
    cluster_id, node_id = ids.new_id(rng), ids.new_id(rng)
    root = ca.create_root(now())
    key = ca.new_key()
    cert = ca.issue(
        root,
        ca.signing_request(key),
        ca.CertificateSubject(node_id, Role.MANAGER, cluster_id),
        now=now(),
        life=defaults.cert_expiry(request.spec),
    )
    digest = ca.digest(root.cert)
    cluster = Cluster(
        id=cluster_id,
        spec=_named(request.spec),
        root_ca=root,
        tokens=JoinTokens(
            worker=tokens.new_token(digest, rng), manager=tokens.new_token(digest, rng)
        ),
        address_pools=request.address_pools,
        subnet_size=request.subnet_size,
        data_port=request.data_port,
    )
    node = Node(
        id=node_id,
        spec=NodeSpec(role=Role.MANAGER, availability=request.availability),
        role=Role.MANAGER,
        status=NodeStatus(addr=addresses.split(advertise_addr)[0], since=now()),
        manager_addr=advertise_addr,
    )
    return Founded(
        Identity(node_id, Role.MANAGER, cluster_id, key.decode(), cert, root.cert),
        (
            PutCluster(cluster=cluster, expect=0),
            PutNode(node=node, expect=0),
            _ingress(cluster, subnets, rng),
        ),
    )


def _ingress(cluster: Cluster, subnets: tuple[str, ...], rng: Rng) -> PutNetwork:
    """The network of published ports.

    A host that routes the whole pool somewhere else does not stop a cluster from being made: its
    users chose the pool, or will (as Docker does, the overlay then hides what it covers).
    """
    pools = cluster.address_pools or DEFAULT_POOLS
    room = first_free_subnet(pools, cluster.subnet_size, [*subnets, NODE_POOL])
    network = Network(
        id=ids.new_id(rng), spec=NetworkSpec(name=INGRESS, driver="overlay", ingress=True)
    )
    return PutNetwork(network=network, avoid=subnets if room else ())


def _named(spec: ClusterSpec) -> ClusterSpec:
    """A cluster is called ``default`` unless its spec says otherwise (Engine API)."""
    return msgspec.structs.replace(spec, name=spec.name or "default")
