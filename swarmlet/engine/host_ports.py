"""Ports of the host that plain containers ask for, beside those that services have: pure.

Services are published at IPv4 addresses, so what is bound to an IPv6 address is in nobody's way.
A port that the engine chooses itself is not asked for.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from swarmlet.model.forwarding import ServiceRecord

Json = Any

#: Modes without ports of their own: the engine ignores those that are given.
_NONE: Final = ("host", "none", "container:")

_EVERYWHERE: Final = frozenset({"", "0.0.0.0"})  # noqa: S104 - compared, not listened on


def taken(
    host_config: Mapping[str, Json], services: Sequence[ServiceRecord]
) -> tuple[str, ServiceRecord] | None:
    """The first port (``ADDRESS:PORT``) that a service has already, and which.

    ``host_config`` is the engine's ``HostConfig``. Of a range, the engine may choose any.
    """
    for address, first, last, protocol in _wanted(host_config):
        for service in services:
            at = service.publish_address
            if at and address not in _EVERYWHERE and address != at:
                continue
            for port in service.ports:
                if port.protocol == protocol and first <= port.published <= last:
                    return f"{address or '0.0.0.0'}:{port.published}", service  # noqa: S104
    return None


def _wanted(host_config: Mapping[str, Json]) -> Iterator[tuple[str, int, int, str]]:
    """Address, first and last port, protocol."""
    if str(host_config.get("NetworkMode") or "").startswith(_NONE):
        return
    for target, bindings in (host_config.get("PortBindings") or {}).items():
        protocol = target.partition("/")[2] or "tcp"
        for binding in bindings or ():
            address = str(binding.get("HostIp") or "")
            first, _, last = str(binding.get("HostPort") or "").partition("-")
            if ":" not in address and first.isdecimal() and int(first):
                yield address, int(first), int(last) if last.isdecimal() else int(first), protocol
