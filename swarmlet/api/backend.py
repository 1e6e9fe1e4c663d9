"""What the HTTP API needs of the daemon behind it. The daemon implements it; tests fake it."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, Protocol

import msgspec

from swarmlet.clock import Instant
from swarmlet.engine.networks import Endpoint
from swarmlet.engine.tunnel import EngineGate
from swarmlet.model.checks import NodeCheck
from swarmlet.model.forwarding import NetworkRecord, ServiceRecord
from swarmlet.model.networks import DEFAULT_DATA_PORT, DEFAULT_SUBNET_SIZE
from swarmlet.model.objects import AttachedContainer
from swarmlet.model.specs import Availability, ClusterSpec, NodeSpec, Role
from swarmlet.state.commands import AnyCommand
from swarmlet.state.store import View

Json = dict[str, Any]


class LocalState(msgspec.Struct, frozen=True, kw_only=True):
    """This node's part in a cluster, as ``/info`` and ``/_ping`` show it.

    ``state`` is ``inactive``, ``pending``, ``active``, ``error`` or ``locked``; ``managers`` are
    (node identifier, ``host:port``) of the managers that are known.
    """

    state: str
    node_id: str = ""
    node_addr: str = ""
    role: Role | None = None
    error: str = ""
    managers: tuple[tuple[str, str], ...] = ()


class ManagerHealth(msgspec.Struct, frozen=True, kw_only=True):
    """A manager as Raft sees it."""

    leader: bool
    reachable: bool


class InitRequest(msgspec.Struct, frozen=True, kw_only=True):
    """``POST /swarm/init``, validated. Addresses may lack a port; "" means: choose.

    ``address_pools`` is where subnets of networks come from, () for the default.
    """

    listen_addr: str = ""
    advertise_addr: str = ""
    force_new_cluster: bool = False
    availability: Availability = Availability.ACTIVE
    address_pools: tuple[str, ...] = ()
    subnet_size: int = DEFAULT_SUBNET_SIZE
    data_port: int = DEFAULT_DATA_PORT
    spec: ClusterSpec = ClusterSpec()


class JoinRequest(msgspec.Struct, frozen=True, kw_only=True):
    """``POST /swarm/join``, validated."""

    remote_addrs: tuple[str, ...]
    token: str
    listen_addr: str = ""
    advertise_addr: str = ""
    availability: Availability = Availability.ACTIVE


class NetworkPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What this node's kernel shall forward by: for people, and for programs.

    ``failure`` is why the kernel does not hold it yet, or "".
    """

    node_id: str
    text: str
    plan: Json
    failure: str = ""


class Backend(Protocol):
    """The daemon, as its API sees it. Every method may raise SwarmletError."""

    def local(self) -> LocalState:
        """This node's part in a cluster."""
        ...

    def now(self) -> Instant:
        """Wall-clock time."""
        ...

    def new_id(self) -> str:
        """A fresh object identifier."""
        ...

    def view(self) -> View:
        """This manager's replica, perhaps behind. Raises NotASwarmManager."""
        ...

    def stale(self) -> str:
        """Why the replica may be behind, in a user's words: no quorum is heard, or it lags."""
        ...

    async def barrier(self, *, within: float | None = None) -> None:
        """Bring the replica up to now, in so many seconds; None: as long as a write may take.

        Raises NoQuorum, LeaderSilent, or ReplicaBehind.
        """
        ...

    def changes(self) -> AbstractContextManager[Callable[[], Awaitable[None]]]:
        """Inside, wait for the next change of the view; the first wait is over at once.

        Raises NotASwarmManager.
        """
        ...

    async def engine_of(self, node_id: str) -> EngineGate:
        """The way to a node's engine, for what managers may ask about containers of tasks.

        Raises Unavailable when the node is down.
        """
        ...

    async def propose(self, *commands: AnyCommand) -> None:
        """Commit commands (on whichever manager leads) and wait until the local replica has them.

        One that lags is not waited for. Raises the error of the first refused command, or, within
        2 s, NoQuorum or OutcomeUnknown.
        """
        ...

    def manager_health(self) -> dict[str, ManagerHealth]:
        """Managers by node identifier."""
        ...

    async def init(self, request: InitRequest) -> str:
        """Form a new cluster of this node; returns its node identifier."""
        ...

    async def join(self, request: JoinRequest) -> None:
        """Join a cluster."""
        ...

    async def leave(self, *, force: bool) -> None:
        """Leave the cluster."""
        ...

    async def rotate_tokens(self, *, worker: bool, manager: bool) -> None:
        """Replace join tokens."""
        ...

    async def update_node(self, node_id: str, expect: int, spec: NodeSpec) -> None:
        """Replace a node's spec, role included, in one entry: all of it is done or nothing.

        Refuses a demotion that costs the quorum, and a node whose version is not ``expect``.
        """
        ...

    async def remove_node(self, node_id: str, *, force: bool) -> None:
        """Forget a node; refuses one that is up, or a manager, as the Engine API does."""
        ...

    async def overlay(self, wanted: str) -> NetworkRecord | None:
        """The network of the cluster that has this name or identifier, by what managers know.

        Raises Unavailable when none answers.
        """
        ...

    def publishing(self) -> Sequence[ServiceRecord]:
        """The services whose published ports lead from this host's addresses to their tasks."""
        ...

    def attaching(
        self, container: AttachedContainer, nameservers: tuple[str, ...] = ()
    ) -> AbstractAsyncContextManager[list[Endpoint]]:
        """Get a container of this node places in networks, in the order that it asks for them.

        Inside, the engine is asked to put it there; an EngineError from inside gives the places
        back. ``nameservers`` are asked for what is not the cluster's; () are the host's.
        """
        ...

    def identify(self, labels: Mapping[str, str], container_id: str) -> str:
        """The identifier in the cluster of a container of this node's engine."""
        ...

    async def detach(self, ident: str, network_id: str) -> None:
        """Note that a container of this node has left a network; one that was not in it is fine."""
        ...

    def network_plan(self) -> NetworkPlan:
        """This node's forwarding plan; on every node, and without a leader."""
        ...

    async def check_network(self, node_id: str, *, fix: bool) -> NodeCheck:
        """Have a node look at its networks, and with ``fix`` repair them; "" is this node.

        Only managers can ask others. Raises Unavailable when the node does not answer.
        """
        ...

    async def connections(self, node_id: str, tasks: Sequence[str]) -> dict[str, int]:
        """How many TCP connections tasks of a node have, by their identifiers.

        Raises Unavailable when the node does not answer.
        """
        ...
