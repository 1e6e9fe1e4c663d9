"""Ends the redirected flows that lead to what is gone, when a plan is put in place.

Rules do without this where they can refuse; what the kernel tracks already, they do not see.
"""

from socket import IPPROTO_UDP

from swarmlet.net.commands import Commands
from swarmlet.net.flows import Flow, forget
from swarmlet.net.listing import items
from swarmlet.net.nft import Nft
from swarmlet.net.numbers import TABLE
from swarmlet.net.plan import Plan, forgotten
from swarmlet.net.records import within


async def end_all(commands: Commands, new: Plan) -> None:
    """End the flows to what is no backend or not alive, whoever redirected them and when."""
    backends = {b.address for several in new.balanced.values() for b in several}
    subnets, live = new.rules["ip"].sets["overlay"].items, new.live

    def stale(flow: Flow) -> bool:
        keep = backends if flow.protocol == IPPROTO_UDP else live
        return flow.answers not in keep and within(flow.answers, subnets)

    await forget(commands, stale)


async def end_changed(
    commands: Commands, nft: Nft, *, old: Plan, new: Plan, bridge_nf: bool
) -> None:
    """End the flows to what left, if there are any: to walk all flows is not cheap."""
    gone = forgotten(old, new)
    listing = await nft.listing(f"set ip {TABLE} datagrams") if gone else None
    used = items(listing) & gone if listing else set[str]()
    # What was redirected inside a bridge cannot be refused in the name of the address that was
    # asked; by its next packet it is a new flow, which can. Elsewhere rules do without this.
    dead = old.live.keys() - new.live.keys() if bridge_nf else frozenset[str]()
    if used or dead:
        await forget(
            commands,
            lambda flow: flow.answers in (used if flow.protocol == IPPROTO_UDP else dead),
        )
    if used:
        await nft.run(f"delete element ip {TABLE} datagrams {{ {', '.join(used)} }}")
