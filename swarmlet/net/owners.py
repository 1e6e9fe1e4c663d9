"""Who is plugged into the ports of our bridges: what its engine says of it, never what it says.

A container that may set up its own links can give itself any address; what the engine gave it, it
cannot change. Pure.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from msgspec.structs import replace

from swarmlet.net.facts import HostFacts, Owner, Port
from swarmlet.net.namespaces import UNKNOWN


class Guest(NamedTuple):
    """A container: its network namespace, and what it was given at the bridges it is plugged into.

    The namespace is an open file of it; ``places`` are by the names of bridges.
    """

    namespace: int
    places: Mapping[str, Owner]


class Owners:
    """Remembers each port's owner, by the interface's number: the kernel uses none twice."""

    def __init__(self) -> None:
        self._known: dict[int, Owner] = {}

    def added(self, facts: HostFacts) -> HostFacts:
        """The host's facts, with the owners that are known."""
        ports = {
            name: replace(port, owner=self._known.get(port.number))
            for name, port in facts.ports.items()
        }
        return replace(facts, ports=ports)

    def meet(
        self, ports: Mapping[str, Port], guests: Iterable[tuple[int, Mapping[str, Owner]]]
    ) -> bool:
        """Take in guests, by the numbers of their namespaces; says whether a port's was missing."""
        places = {
            (number, bridge): owner
            for number, owners in guests
            if number != UNKNOWN
            for bridge, owner in owners.items()
        }
        found = {
            port.number: owner
            for port in ports.values()
            if port.number not in self._known
            and (owner := places.get((port.namespace, port.bridge))) is not None
        }
        self._known |= found
        return bool(found)

    def forget(self, ports: Mapping[str, Port]) -> None:
        """Know nothing any more of ports that are not among these."""
        there = {port.number for port in ports.values()}
        self._known = {number: one for number, one in self._known.items() if number in there}


def strangers(ports: Mapping[str, Port]) -> dict[str, Port]:
    """Those whose owner is not known."""
    return {name: port for name, port in ports.items() if port.owner is None}
