"""What a node may ask for its plain containers: places in attachable networks, for itself only."""

import structlog

from swarmlet.control import forwarding
from swarmlet.errors import NotAllowed, SwarmletError, Unavailable
from swarmlet.manager import hearing
from swarmlet.manager.proposer import Proposer
from swarmlet.manager.replica import Replica
from swarmlet.model.forwarding import NetworkRecord
from swarmlet.rpc.calls import (
    Answer,
    AskAttach,
    AskContainers,
    AskDetach,
    AskNetwork,
    ContainersAre,
    Done,
    NetworkIs,
    OfContainers,
    TellContainers,
)
from swarmlet.rpc.listener import RemoteNode
from swarmlet.state import lookup
from swarmlet.state.commands import DetachContainers

log = structlog.get_logger()


class Attaching:
    """Answers what :data:`swarmlet.rpc.calls.OfContainers` asks, on any manager."""

    def __init__(self, replica: Replica, proposer: Proposer) -> None:
        self._replica = replica
        self._proposer = proposer

    async def answer(self, request: OfContainers, who: RemoteNode) -> Answer:
        """Do it, and answer once it is committed. A certificate outlives its node's removal."""
        if self._replica.view.node(who.node_id) is None:
            await self._proposer.barrier()
        if self._replica.view.node(who.node_id) is None:
            raise NotAllowed("this node was removed from the cluster")
        match request:
            case AskAttach():
                return await self._attach(request, who.node_id)
            case AskDetach():
                await self._proposer.propose(
                    DetachContainers(
                        node_id=who.node_id, ids=request.ids, network_id=request.network_id
                    )
                )
                return Done()
            case TellContainers():
                await self._proposer.propose(*hearing.observations(who.node_id, request.reports))
                return Done()
            case AskContainers():
                await self._proposer.barrier()
                own = self._replica.view.containers_on_node(who.node_id)
                return ContainersAre(containers=tuple(sorted(own, key=lambda one: one.id)))
            case AskNetwork():
                await self._proposer.barrier()
                return NetworkIs(network=self._network(request.wanted))

    def _network(self, wanted: str) -> NetworkRecord | None:
        found = lookup.find_network(self._replica.view, wanted)
        return forwarding.network(found) if found else None

    async def _attach(self, request: AskAttach, node_id: str) -> ContainersAre:
        command = hearing.attachment(node_id, request.container)
        container = command.container
        try:
            await self._proposer.propose(command)
        except SwarmletError as exc:
            log.info("not-attached", node=node_id, container=container.name, reason=exc.message)
            raise
        found = self._replica.view.container(container.id)
        if found is None:
            raise Unavailable("this manager is behind the others", advice="ask another one")
        log.info("attached", node=node_id, container=container.name)
        return ContainersAre(containers=(found,))
