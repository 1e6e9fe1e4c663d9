"""``/swarm``: forming, joining, leaving and changing the cluster."""

import msgspec
from msgspec.structs import replace

from swarmlet.api import shapes
from swarmlet.api.backend import InitRequest, JoinRequest
from swarmlet.api.calls import Answer, Call
from swarmlet.api.freshness import fresh_view
from swarmlet.errors import InvalidInput, NotSupported, OutOfSequence, Unavailable
from swarmlet.model.naming import docker_name
from swarmlet.model.networks import DEFAULT_DATA_PORT, DEFAULT_SUBNET_SIZE
from swarmlet.model.objects import Cluster
from swarmlet.model.specs import Availability, ClusterSpec
from swarmlet.model.validate import cluster_problems, refuse
from swarmlet.model.validate_network import pool_problems
from swarmlet.state.commands import PutCluster


class InitBody(msgspec.Struct, frozen=True, kw_only=True, rename=docker_name):
    """``POST /swarm/init`` as clients send it."""

    listen_addr: str = ""
    advertise_addr: str = ""
    data_path_addr: str = ""
    data_path_port: int = 0
    default_addr_pool: tuple[str, ...] = ()
    subnet_size: int = 0
    force_new_cluster: bool = False
    auto_lock_managers: bool = False
    availability: str = ""
    spec: ClusterSpec = msgspec.field(default_factory=ClusterSpec)


class JoinBody(msgspec.Struct, frozen=True, kw_only=True, rename=docker_name):
    """``POST /swarm/join`` as clients send it."""

    listen_addr: str = ""
    advertise_addr: str = ""
    data_path_addr: str = ""
    remote_addrs: tuple[str, ...] = ()
    join_token: str = ""
    availability: str = ""


def _availability(word: str) -> Availability:
    try:
        return Availability(word.lower()) if word else Availability.ACTIVE
    except ValueError:
        raise InvalidInput(f'invalid Availability: "{word}"') from None


def _cluster(call: Call) -> Cluster:
    cluster = call.backend.view().cluster
    if cluster is None:
        raise Unavailable("the swarm is being formed, or this manager has not caught up with it")
    return cluster


async def inspect(call: Call) -> Answer:
    """``GET /swarm``."""
    await fresh_view(call)
    return Answer(shapes.swarm(_cluster(call)))


def _refuse_data_path(address: str) -> None:
    if address:
        raise NotSupported(
            "DataPathAddr is not supported yet by swarmlet: packets between nodes go to the "
            "address that a node advertises",
            advice="leave it out, or advertise that address",
        )


async def init(call: Call) -> Answer:
    """``POST /swarm/init``."""
    body = await call.body(InitBody)
    if body.auto_lock_managers:
        raise NotSupported("autolock is not supported yet by swarmlet")
    _refuse_data_path(body.data_path_addr)
    pools = tuple(pool for pool in body.default_addr_pool if pool)
    refuse(
        cluster_problems(body.spec) + pool_problems(pools, body.subnet_size, body.data_path_port)
    )
    request = InitRequest(
        listen_addr=body.listen_addr,
        advertise_addr=body.advertise_addr,
        force_new_cluster=body.force_new_cluster,
        availability=_availability(body.availability),
        address_pools=pools,
        subnet_size=body.subnet_size or DEFAULT_SUBNET_SIZE,
        data_port=body.data_path_port or DEFAULT_DATA_PORT,
        spec=replace(body.spec, name=body.spec.name or "default"),
    )
    return Answer(await call.backend.init(request))


async def join(call: Call) -> Answer:
    """``POST /swarm/join``."""
    body = await call.body(JoinBody)
    _refuse_data_path(body.data_path_addr)
    if not body.remote_addrs:
        raise InvalidInput("at least one RemoteAddr is required to join")
    if not body.join_token:
        raise InvalidInput("a join token is required", advice="swarm join-token worker shows it")
    request = JoinRequest(
        remote_addrs=body.remote_addrs,
        token=body.join_token.strip(),
        listen_addr=body.listen_addr,
        advertise_addr=body.advertise_addr,
        availability=_availability(body.availability),
    )
    await call.backend.join(request)
    return Answer()


async def leave(call: Call) -> Answer:
    """``POST /swarm/leave``."""
    await call.backend.leave(force=call.flag("force"))
    return Answer()


async def update(call: Call) -> Answer:
    """``POST /swarm/update``: settings, then tokens."""
    version = call.object_version()
    if call.flag("rotateManagerUnlockKey"):
        raise NotSupported("autolock is not supported yet by swarmlet")
    spec = await call.body(ClusterSpec)
    refuse(cluster_problems(spec))
    await fresh_view(call)
    cluster = _cluster(call)
    if cluster.version != version:
        raise OutOfSequence("the swarm")
    if shapes.cluster_spec(spec) != shapes.cluster_spec(cluster.spec):
        changed = replace(cluster, spec=replace(spec, name=spec.name or "default"))
        await call.backend.propose(PutCluster(cluster=changed, expect=version))
    worker, manager = call.flag("rotateWorkerToken"), call.flag("rotateManagerToken")
    if worker or manager:
        await call.backend.rotate_tokens(worker=worker, manager=manager)
    return Answer()
