"""The other nodes as this one sees them, without managers (:mod:`swarmlet.agent.lookout`)."""

from collections.abc import Set as AbstractSet

from msgspec.structs import replace

from swarmlet.clock import Rng
from swarmlet.model.checks import Passage
from swarmlet.model.forwarding import Reach, Tables
from swarmlet.model.networks import node_address
from swarmlet.net.ping import SMALL, passages


async def answering(tables: Tables, rng: Rng) -> dict[int, bool]:
    """Whether each node that managers call ready answers by the way that tasks' packets take."""
    numbers = {
        node_address(peer.number): peer.number
        for peer in tables.peers.values()
        if peer.number != tables.me and peer.reach is Reach.READY
    }
    passed = (await passages(list(numbers), mtu=SMALL, rng=rng)).both_ways
    return {numbers[address]: passage is Passage.WELL for address, passage in passed.items()}


def avoiding(tables: Tables, silent: AbstractSet[int]) -> Tables:
    """The tables with silent nodes as suspects."""
    peers = {
        ident: replace(peer, reach=Reach.SUSPECT)
        if peer.number in silent and peer.reach is Reach.READY
        else peer
        for ident, peer in tables.peers.items()
    }
    return replace(tables, peers=peers)
