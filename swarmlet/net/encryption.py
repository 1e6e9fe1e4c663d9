"""This node's part in encrypted networks as it is now: its keys, and whether its tunnels work.

What tunnels there should be is :mod:`.tunnels`; how they are made is :mod:`.wireguard`.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Final

import trio
from msgspec.structs import replace

from swarmlet.errors import TunnelFailed
from swarmlet.model.forwarding import PeerRecord
from swarmlet.net.facts import HostFacts, OwnTunnel
from swarmlet.net.kernel import Kernel
from swarmlet.net.links import Changes
from swarmlet.net.numbers import LANE_DEVICES

#: Seconds before tunnels that could not be made are tried again: other networks wait for the try.
TUNNEL_RETRY: Final = 15.0


class Encryption:
    """The keys that were given, and what came of them."""

    def __init__(self) -> None:
        self._own: OwnTunnel | None = None
        #: Private keys by public ones.
        self._private: dict[str, str] = {}
        #: Why there are no keys.
        self._unable = ""
        #: Why tunnels could not be made, and when that is tried again.
        self._broken = ""
        self.mend_at = math.inf

    def use(self, own: OwnTunnel | None, private: Mapping[str, str], why: str) -> None:
        """Encrypt with these keys from now on, ``private`` ones by public ones; or say why not."""
        self._own, self._private, self._unable = own, dict(private), why
        self._broken, self.mend_at = "", math.inf

    def added(self, facts: HostFacts) -> HostFacts:
        """The host's facts, with this node's part in encrypted networks."""
        if self._broken and trio.current_time() < self.mend_at:
            return replace(facts, tunnel=None, no_tunnel=self._broken)
        return replace(facts, tunnel=self._own, no_tunnel=self._unable)

    def unable(self) -> str:
        """Why this node will never exchange packets of encrypted networks as it is, or nothing."""
        return "" if self._own else self._unable

    def trouble(self) -> str:
        """Why this node exchanges no packets of encrypted networks now, or nothing."""
        facts = self.added(HostFacts())
        return "" if facts.tunnel else facts.no_tunnel

    async def make(self, kernel: Kernel, todo: Changes, *, planned: HostFacts) -> None:
        """Make tunnels, as they were planned by these facts.

        What cannot be made is planned without: then the rules refuse what would need it. Raises
        TunnelFailed, so that it is planned again.
        """
        try:
            await kernel.make_tunnels(todo, self._private)
        except TunnelFailed as exc:
            self._broken, self.mend_at = exc.message, trio.current_time() + TUNNEL_RETRY
            raise
        if planned.tunnel is not None:
            self._broken, self.mend_at = "", math.inf


async def handshakes(
    kernel: Kernel, peers: Iterable[PeerRecord], made: Iterable[str]
) -> tuple[dict[int, int], dict[int, int]]:
    """When tunnels of each lane last agreed on session keys, by node, in seconds (epoch).

    Of the devices that were ``made``.
    """
    numbers = {key: peer.number for peer in peers if peer.tunnel for key in peer.tunnel.lanes}
    found: list[dict[int, int]] = []
    for name in LANE_DEVICES:
        seen = await kernel.wireguard.handshakes(name) if name in made else {}
        latest: dict[int, int] = {}
        for key, at in seen.items():
            number = numbers.get(key, 0)
            latest[number] = max(at, latest.get(number, 0))
        found.append(latest)
    return found[0], found[1]
