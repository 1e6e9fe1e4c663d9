"""Looks whether the firewalls of other programs on this host refuse what this node needs."""

from collections.abc import Collection

from swarmlet.errors import ForwardingFailed
from swarmlet.model.checks import Refusal
from swarmlet.net.firewall import Packet, Ruleset
from swarmlet.net.nft import Nft


async def refusals(
    nft: Nft, wanted: Collection[Packet]
) -> tuple[tuple[Refusal, ...], tuple[str, ...]]:
    """Chains of other programs that refuse ``wanted`` packets, and who may do so.

    Raises ForwardingFailed.
    """
    listing = await nft.listing("ruleset")
    try:
        ruleset = Ruleset(listing or b'{"nftables": []}')
    except (ValueError, KeyError, TypeError) as exc:
        raise ForwardingFailed("nft", f"it lists what we do not understand: {exc!r}") from exc
    incoming = [packet for packet in wanted if packet.hook == "input"]
    return ruleset.refusals(wanted), ruleset.suspects(incoming)
