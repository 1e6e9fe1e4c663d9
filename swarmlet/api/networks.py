"""``/networks``: the cluster's overlay networks beside those of the engine.

Managers know the cluster's; an engine knows its own, and has copies of overlays that tasks of its
node are in (:mod:`swarmlet.api.network_shapes`). One network is shown once: the cluster's entry
wins, and a worker shows a copy as what it stands for. What is the engine's goes there unchanged.
"""

import ipaddress
from typing import Final

import msgspec
import trio
from msgspec.structs import replace

from swarmlet.api import bodies, filters, wording
from swarmlet.api import network_shapes as shapes
from swarmlet.api.calls import Answer, Call
from swarmlet.api.engine_networks import EngineNetworks
from swarmlet.api.freshness import UNCONFIRMED, fresh_view
from swarmlet.clock import SECOND
from swarmlet.errors import (
    AlreadyExists,
    EngineUnavailable,
    FailedPrecondition,
    NotAllowed,
    NotASwarmManager,
    NotFound,
)
from swarmlet.model import defaults
from swarmlet.model.networks import NetworkSpec, overlapping
from swarmlet.model.objects import Network, Task, TaskState
from swarmlet.model.problems import NOT_YET, Problem
from swarmlet.model.validate import refuse
from swarmlet.model.validate_network import PREDEFINED, network_problems, network_warnings
from swarmlet.state.commands import DeleteNetwork, PutNetwork
from swarmlet.state.lookup import network_named, network_of_prefix
from swarmlet.state.store import View

Json = shapes.Json

#: Seconds that the removal of a network waits for its last tasks to stop, past their grace period:
#: clients remove a stack's services and its networks in one go.
_STOP_MARGIN: Final = 5.0

#: Seconds at most: a grace period may be hours.
_STOP_MOST: Final = 60.0

#: Seconds that the news of a container's removal may take.
_NEWS_MARGIN: Final = 1.0

#: Seconds between two looks at them.
_STOP_CHECK: Final = 0.05


class NetworkRequest(msgspec.Struct, frozen=True, rename="pascal"):
    """What tells a swarm's network from an engine's own, and what no overlay can have."""

    name: str = ""
    driver: str = ""
    scope: str = ""
    ingress: bool = False

    @property
    def is_ours(self) -> bool:
        """Whether it is the cluster's."""
        return self.driver == "overlay" or self.scope == "swarm" or self.ingress


class ConfigSource(msgspec.Struct, frozen=True, rename="pascal"):
    """The network that another takes its settings from."""

    network: str = ""


class NetworkExtras(msgspec.Struct, frozen=True, rename="pascal"):
    """Fields of a request to create a network that no overlay can have."""

    config_from: ConfigSource = ConfigSource()
    enable_ipv4: bool = msgspec.field(default=True, name="EnableIPv4")


# --- reading ------------------------------------------------------------------------------------


async def listing(call: Call) -> Answer | None:
    """``GET /networks``."""
    if call.backend.local().state == "inactive":
        return None
    wanted = filters.parse(call.query.get("filters", ""), filters.NETWORK_FILTERS)
    view = await _known(call)
    engine = EngineNetworks(call)
    own: list[Json] = []
    copies: list[Json] = []
    try:
        own = await engine.listing(call.query.get("filters", ""))
        copies = [] if view else await engine.copies()
    except EngineUnavailable as exc:
        if view is None:
            raise
        call.doubts.append(f"the engine's own networks are missing: {exc.message}")
    view = call.backend.view() if view else None
    return Answer([*_overlays(view, copies, wanted), *(n for n in own if not shapes.is_copy(n))])


def _overlays(view: View | None, copies: list[Json], wanted: filters.Filters) -> list[Json]:
    if view is None:
        dressed = [shapes.of_copy(copy) for copy in copies]
        return [n for n in dressed if filters.network(n, wanted, used=True)]
    return [
        shape
        for network in sorted(view.networks(), key=lambda n: n.spec.name)
        if filters.network(
            shape := shapes.network(network), wanted, used=shapes.is_used(network, view)
        )
    ]


async def inspect(call: Call) -> Answer | None:
    """``GET /networks/{id}``, with ``verbose`` and ``scope``."""
    found = await find(call, call.params["id"], scope=call.query.get("scope", ""))
    if found is None:
        return None
    if not isinstance(found, Network):
        return Answer(shapes.of_copy(found))
    here = await _copy_here(call, found)
    view = call.backend.view()
    shape = shapes.network(found) | shapes.peers(found, view)
    shape["Containers"] = here.get("Containers")
    if call.flag("verbose"):
        shape |= shapes.services(found, view)
    if call.version >= (1, 47):
        shape["EnableIPv4"] = True
    return Answer(shape)


async def _copy_here(call: Call, network: Network) -> Json:
    """What this node's engine knows of a network: the containers that are in it."""
    try:
        copy = await EngineNetworks(call).named(network.spec.name)
    except EngineUnavailable:
        return {}
    return copy if copy and shapes.original(copy) == network.id else {}


async def _known(call: Call) -> View | None:
    """The replica, as new as it can be; None on a node that is no manager.

    Without a leader or a fresh replica the engine's own networks can still be changed, so that is
    no error yet: what changes one of the cluster finds out when it proposes that.
    """
    try:
        return await fresh_view(call)
    except UNCONFIRMED:
        return call.backend.view()
    except NotASwarmManager:
        return None


async def find(call: Call, wanted: str, *, scope: str = "") -> Network | Json | None:
    """What a user means: a network of the cluster, a copy on a worker, or None for the engine's.

    An identifier or a whole name comes before the beginning of an identifier.
    """
    if call.backend.local().state == "inactive":
        return None
    view = await _known(call)
    if scope == "local":
        return None
    if view is None:
        return await EngineNetworks(call).copy(wanted)
    exact = network_named(view, wanted)
    if exact is not None:
        return exact
    theirs = None if scope else await _of_engine(call, wanted)
    view = call.backend.view()
    if theirs is not None:
        return view.network(shapes.original(theirs))
    found = network_of_prefix(view, wanted)
    if found is None and scope:
        raise NotFound(f"network {wanted} not found")
    return found


async def _of_engine(call: Call, wanted: str) -> Json | None:
    try:
        return await EngineNetworks(call).named(wanted)
    except EngineUnavailable:
        return None  # who asked for a network of the engine's is told that later


# --- create -------------------------------------------------------------------------------------


async def create(call: Call) -> Answer | None:
    """``POST /networks/create``; None passes one of the engine's own on to it."""
    raw = await call.raw_body()
    wanted = bodies.decode(raw, NetworkRequest)
    if not wanted.is_ours:
        view = await _known(call)
        if view is not None and view.network_named(wanted.name) is not None:
            raise AlreadyExists(f"network with name {wanted.name} already exists")
        return None
    if call.backend.local().role is not None:
        _refuse_worker(call)
    call.backend.view()  # a node that is no manager says so before anything else
    if wanted.name in PREDEFINED:
        raise NotAllowed(f"operation is not permitted on predefined {wanted.name} network")
    spec = bodies.decode(raw, NetworkSpec)
    refuse(network_problems(spec) + _extra_problems(bodies.decode(raw, NetworkExtras)))
    view = await fresh_view(call)
    _refuse_overlap(view, spec)
    await _refuse_namesake(call, spec.name)
    network = Network(id=call.backend.new_id(), spec=replace(spec, driver="overlay", scope="swarm"))
    await call.backend.propose(PutNetwork(network=network, avoid=_used_by_nodes(view)))
    return Answer({"Id": network.id, "Warning": "; ".join(network_warnings(spec))}, 201)


def _refuse_worker(call: Call) -> None:
    try:
        call.backend.view()
    except NotASwarmManager as exc:
        raise NotAllowed(wording.OVERLAY_ON_WORKER) from exc


def _extra_problems(extras: NetworkExtras) -> list[Problem]:
    found = []
    if extras.config_from.network:
        found.append(Problem("ConfigFrom", f"config-only networks are {NOT_YET}"))
    if not extras.enable_ipv4:
        found.append(Problem("EnableIPv4", "overlay networks have IPv4 addresses"))
    return found


def _used_by_nodes(view: View) -> tuple[str, ...]:
    """The subnets of all nodes; one that a node spelled wrong must not reach the state machine."""
    found = {s for node in view.nodes() if node.description for s in node.description.subnets}
    return tuple(sorted(s for s in found if _is_subnet(s)))


def _is_subnet(text: str) -> bool:
    try:
        ipaddress.IPv4Network(text)
    except ValueError:
        return False
    return True


def _refuse_overlap(view: View, spec: NetworkSpec) -> None:
    """A subnet that a node has itself would cut that node off from it."""
    subnet = spec.addresses.subnet
    if not subnet:
        return
    # What an older overlay has, the state machine refuses with that network's name.
    for node in sorted(view.nodes(), key=lambda n: n.hostname):
        known = node.description.subnets if node.description else ()
        hit = overlapping(subnet, [s for s in known if _is_subnet(s)])
        if hit:
            raise FailedPrecondition(
                f"subnet {subnet} overlaps {hit}, which node {node.hostname} has an address in or "
                "a route to",
                advice="choose another subnet, or none: the swarm then chooses a free one",
            )


async def _refuse_namesake(call: Call, name: str) -> None:
    """The engine's own names are taken: containers on this node could not tell the two apart."""
    theirs = await _of_engine(call, name)
    if theirs is not None and theirs["Name"] == name and not shapes.is_copy(theirs):
        raise AlreadyExists(
            f"network with name {name} already exists",
            advice="it is one of this node's engine; docker network rm removes it, if unused",
        )


# --- remove -------------------------------------------------------------------------------------


async def remove(call: Call) -> Answer | None:
    """``DELETE /networks/{id}``."""
    found = await find(call, call.params["id"])
    if found is None:
        return None
    if not isinstance(found, Network):
        call.backend.view()  # says that this node is no manager
        return None
    await _wait_stopped(call, found)
    await call.backend.propose(DeleteNetwork(id=found.id))
    return Answer(status=204)


async def _wait_stopped(call: Call, network: Network) -> None:
    """Wait while all that uses a network are tasks that have been told to stop.

    A container that was just removed is in it for a moment more, until its node has said so.
    """
    with trio.move_on_after(_NEWS_MARGIN):
        while _has_containers_only(call.backend.view(), network):  # noqa: ASYNC110 - as below
            await trio.sleep(_STOP_CHECK)
    stopping = _stopping(call.backend.view(), network)
    grace = max((_stop_time(task) for task in stopping), default=0)
    with trio.move_on_after(min(grace / SECOND + _STOP_MARGIN, _STOP_MOST)):
        # Bounded, and rare: nothing else waits for the state to change for a client.
        while _stopping(call.backend.view(), network):  # noqa: ASYNC110
            await trio.sleep(_STOP_CHECK)


def _stop_time(task: Task) -> int:
    container = task.spec.container
    return defaults.drain(container) + defaults.stop_grace(container)


def _stopping(view: View, network: Network) -> list[Task]:
    """The tasks that are still in a network and stop; none when something else uses it too."""
    if any(view.services_in(network.id)):
        return []
    owners = view.address_owners(network.id).values()
    tasks = [task for owner in owners if (task := view.task(owner)) is not None]
    stop = all(task.desired > TaskState.RUNNING for task in tasks)
    return tasks if stop and len(tasks) == len(owners) else []


def _has_containers_only(view: View, network: Network) -> bool:
    owners = view.address_owners(network.id).values()
    return bool(owners) and all(view.container(owner) is not None for owner in owners)


async def prune(call: Call) -> Answer | None:
    """``POST /networks/prune``: the engine's unused networks, and on a manager the cluster's."""
    if call.backend.local().state == "inactive":
        return None
    wanted = filters.parse(call.query.get("filters", ""), filters.PRUNE_FILTERS)
    view = await _known(call)
    removed: list[str] = []
    for network in _prunable(call, view, wanted) if view else []:
        try:
            await call.backend.propose(DeleteNetwork(id=network.id))
        except (FailedPrecondition, NotFound):
            continue  # somebody began to use it, or was faster
        removed.append(network.spec.name)
    removed += await EngineNetworks(call).prune(wanted)
    return Answer({"NetworksDeleted": removed or None})


def _prunable(call: Call, view: View, wanted: filters.Filters) -> list[Network]:
    """Unused networks; never the one of published ports, which nobody would miss before it is."""
    before = filters.until(wanted, call.backend.now())
    return [
        network
        for network in sorted(view.networks(), key=lambda n: n.spec.name)
        if not network.spec.ingress
        and network.created_at < before
        and not filters.spares(network.spec.labels, wanted)
        and not shapes.is_used(network, view)
    ]
