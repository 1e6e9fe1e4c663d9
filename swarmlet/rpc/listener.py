"""The port of a node: accepts TLS, learns who calls and what they want to speak, hands over."""

import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import msgspec
import structlog
import trio

from swarmlet.errors import InvalidInput, SwarmletError
from swarmlet.model.specs import Role
from swarmlet.rpc.admission import Handshakes, client_hello
from swarmlet.rpc.channel import ConnectionLost, stream_errors
from swarmlet.security.ca import subject_of
from swarmlet.security.tls import Protocol

#: Seconds for TCP and TLS to stand. A LAN needs milliseconds; more is a stranger who holds a slot.
HANDSHAKE_TIMEOUT: Final = 5.0

#: Milliseconds that sent bytes may stay unacknowledged by the other host. TCP alone waits twice as
#: long before each next try, so that a host that was away for ten seconds would stay silent for ten
#: more on the connections of before.
UNACKNOWLEDGED_FOR: Final = 3_000

#: Seconds without a byte after which the other host is asked whether it is there.
ASKED_AFTER: Final = 10

#: Connections at once: a session for each node, Raft, and callers. Thousands of nodes fit.
MAX_CONNECTIONS: Final = 16_384

log = structlog.get_logger()


class RemoteNode(msgspec.Struct, frozen=True):
    """Who is at the other end, as its certificate says; ``node_id`` is "" without a certificate."""

    node_id: str
    role: Role | None
    cluster_id: str
    host: str


Handler = Callable[[trio.abc.Stream, RemoteNode], Awaitable[None]]


async def serve(
    listener: trio.SocketListener,
    context: Callable[[], ssl.SSLContext],
    handlers: Mapping[Protocol, Handler],
) -> None:
    """Serve connections until cancelled. ``context`` gives the present TLS context.

    A connection that fails, in the handshake or later, concerns nobody else.
    """
    limit = trio.CapacityLimiter(MAX_CONNECTIONS)
    handshakes = Handshakes()

    async def one(raw: trio.SocketStream) -> None:
        async with limit:
            try:
                stream, host = await _shake_hands(raw, context(), handshakes)
                await _serve_one(stream, host, handlers)
            except* SwarmletError as group:
                log.debug("connection-ended", reason=[str(e) for e in group.exceptions])
            except* Exception:
                # The supervised unit of this module: a bug met by one peer must not stop the rest.
                log.exception("connection-handler-failed")
            finally:
                await trio.aclose_forcefully(raw)

    await trio.serve_listeners(one, [listener])


async def _shake_hands(
    raw: trio.SocketStream, context: ssl.SSLContext, handshakes: Handshakes
) -> tuple[trio.SSLStream[trio.SocketStream], str]:
    """Find out who calls, and from where. Raises ConnectionLost."""
    with trio.move_on_after(HANDSHAKE_TIMEOUT) as scope, stream_errors("caller"):
        _bound_silence(raw)
        host = str(raw.socket.getpeername()[0])
        await client_hello(raw.socket)
        async with handshakes.place(host, scope):
            stream = trio.SSLStream(raw, context, server_side=True, https_compatible=True)
            await stream.do_handshake()
        return stream, host
    # Raised here, not from the cancellation: its traceback would hold on to the TLS state.
    raise ConnectionLost("the caller did not finish its handshake")


async def _serve_one(
    stream: trio.SSLStream[trio.SocketStream], host: str, handlers: Mapping[Protocol, Handler]
) -> None:
    handler = handlers.get(stream.selected_alpn_protocol())
    if handler is None:
        raise InvalidInput(f"{host} asked for a protocol that this node does not speak")
    await handler(stream, _caller(stream, host))


def _caller(stream: trio.SSLStream[trio.SocketStream], host: str) -> RemoteNode:
    der = stream.getpeercert(binary_form=True)
    if not der:
        return RemoteNode("", None, "", host)
    subject = subject_of(der)
    return RemoteNode(subject.node_id, subject.role, subject.cluster_id, host)


async def dial(
    addr: str, context: ssl.SSLContext, *, name: str
) -> trio.SSLStream[trio.SocketStream]:
    """Connect to ``host:port`` and shake hands; ``name`` is what its certificate must say.

    Raises ConnectionLost.
    """
    host, _, port = addr.rpartition(":")
    if not port.isdigit() or not 0 < int(port) < 65_536:
        raise ConnectionLost(f"{addr} is no address")
    with stream_errors(addr), trio.fail_after(HANDSHAKE_TIMEOUT):
        raw = await trio.open_tcp_stream(host.strip("[]"), int(port))
        _bound_silence(raw)
        stream = trio.SSLStream(raw, context, server_hostname=name, https_compatible=True)
        try:
            await stream.do_handshake()
        except BaseException:
            await trio.aclose_forcefully(raw)
            raise
    if stream.selected_alpn_protocol() is None:
        await trio.aclose_forcefully(stream)
        raise ConnectionLost(
            f"{addr} does not speak this version of the protocol",
            advice="run the same version of swarmlet on all nodes",
        )
    return stream


def _bound_silence(raw: trio.SocketStream) -> None:
    # Where nothing is to be said for hours (a log that is followed), the kernel asks.
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, ASKED_AFTER)
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_FOR)
