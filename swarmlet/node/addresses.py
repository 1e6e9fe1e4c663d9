"""Addresses of a node: what a user gave, completed with the default port and a usable host."""

import ipaddress
import socket
from typing import Final

from swarmlet.errors import InvalidInput

DEFAULT_PORT: Final = 2377


def split(addr: str) -> tuple[str, int]:
    """``host[:port]`` (IPv6 in brackets) as (host, port). Raises InvalidInput."""
    host, colon, port = addr.rpartition(":")
    if not colon or (host.count(":") > 0 and not host.endswith("]")):
        host, port = addr, str(DEFAULT_PORT)
    if not port.isdigit() or not 0 < int(port) < 65_536:
        raise InvalidInput(
            f"invalid address {addr!r}: {port!r} is not a port",
            advice="give it as host:port, for example 10.0.0.11:2377",
        )
    return host.strip("[]"), int(port)


def join(host: str, port: int) -> str:
    """``host:port``, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def listen(addr: str) -> tuple[str, int]:
    """(address to bind, port) of a listen address; "" means every address."""
    host, port = split(addr or f"0.0.0.0:{DEFAULT_PORT}")
    return _literal(host or "0.0.0.0", addr), port  # noqa: S104 - the manager port is meant to be reached


def advertise(addr: str, port: int) -> str:
    """``host:port`` that other nodes shall use. "" means: the address of the default route."""
    if not addr:
        return join(_default_source(), port)
    host, own_port = split(addr) if ":" in addr else (addr, port)
    literal = _literal(host, addr)
    if ipaddress.ip_address(literal).is_unspecified:
        raise InvalidInput(
            f"cannot advertise {addr}: other nodes cannot reach an unspecified address",
            advice="give an address of this machine with --advertise-addr",
        )
    return join(literal, own_port)


def _literal(host: str, given: str) -> str:
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
    except OSError as exc:
        raise InvalidInput(f"invalid address {given!r}: {exc}") from exc


def _default_source() -> str:
    """The address that packets to the outside would carry; connecting UDP sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # TEST-NET-1 (RFC 5737)
        except OSError as exc:
            raise InvalidInput(
                "could not choose an IP address to advertise: this machine has no default route",
                advice="give one with --advertise-addr",
            ) from exc
        return str(probe.getsockname()[0])
