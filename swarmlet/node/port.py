"""The node's port, both ways: what arrives is handed to the right part, what leaves is dialled."""

import ssl
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from typing import Final

import trio

from swarmlet.errors import EngineUnavailable, InvalidInput, NotAllowed, SwarmletError, Unavailable
from swarmlet.manager.manager import Manager
from swarmlet.model.checks import NodeCheck
from swarmlet.model.specs import Role
from swarmlet.rpc.calls import (
    Answer,
    AskCheck,
    AskConnections,
    CallRefused,
    Checked,
    ConnectionsAre,
    Request,
    call_once,
    serve_calls,
)
from swarmlet.rpc.channel import ConnectionLost, stream_errors
from swarmlet.rpc.frames import RemoteProtocolError
from swarmlet.rpc.halves import Halves
from swarmlet.rpc.listener import Handler, RemoteNode, dial, serve
from swarmlet.security.ca import MANAGER_NAME
from swarmlet.security.identity import IdentityFiles
from swarmlet.security.tls import Protocol, client_context, server_context

#: Seconds that another node may take to answer a probe.
PROBE_TIMEOUT: Final = 1.0

#: Seconds for a node to look at its networks and at its way to all others: milliseconds when all is
#: well, and a second for each 32 nodes that do not answer.
CHECK_TIMEOUT: Final = 90.0

#: Seconds for one call to one manager, consensus included.
CALL_TIMEOUT: Final = 35.0


async def try_listening(host: str, port: int) -> None:
    """Find out whether the port is free, before a cluster counts on it. Raises InvalidInput."""
    for listener in await bind(host, port):
        await listener.aclose()


async def bind(host: str, port: int) -> list[trio.SocketListener]:
    """Bind a port. Raises InvalidInput when it is taken or not ours."""
    try:
        return await trio.open_tcp_listeners(port, host=host)
    except OSError as exc:
        raise InvalidInput(
            f"cannot listen on {host}:{port}: {exc.strerror or exc}",
            advice="free the port, or choose another with --listen-addr",
        ) from exc


class NodePort:
    """TLS contexts, inbound handlers and outbound dials of one node."""

    def __init__(self, files: IdentityFiles) -> None:
        self._files = files
        self._server: ssl.SSLContext | None = None
        self._clients: dict[Protocol, ssl.SSLContext] = {}
        self._manager: Manager | None = None
        self._served: set[trio.CancelScope] = set()
        #: Who answers managers that ask how this node is.
        self.examiner: Callable[[Request, RemoteNode], Awaitable[Answer]] | None = None
        #: Who lets managers ask this node's engine.
        self.door: Callable[[trio.abc.HalfCloseableStream, RemoteNode], Awaitable[None]] | None = (
            None
        )

    @property
    def manager(self) -> Manager | None:
        """The manager part while the node is a manager."""
        return self._manager

    @manager.setter
    def manager(self, manager: Manager | None) -> None:
        """Hand over: what the former part serves ends, or its callers would ask a dead one."""
        self._manager = manager
        for scope in self._served:
            scope.cancel()

    def reload(self) -> None:
        """The certificate changed: new connections use the new one."""
        self._server = None
        self._clients.clear()

    # Inbound.

    async def listen(self, host: str, port: int) -> list[trio.SocketListener]:
        """Bind the port. Raises InvalidInput when it is taken or not ours."""
        return await bind(host, port)

    async def serve(self, listener: trio.SocketListener) -> None:
        """Serve connections until cancelled."""
        handlers: dict[Protocol, Handler] = {
            Protocol.JOIN: self._on_join,
            Protocol.AGENT: self._on_agent,
            Protocol.MANAGER: self._on_manager,
            Protocol.RAFT: self._on_raft,
            Protocol.PROBE: self._on_probe,
            Protocol.ENGINE: self._on_engine,
        }
        await serve(listener, self._server_context, handlers)

    def _server_context(self) -> ssl.SSLContext:
        if self._server is None:
            self._server = server_context(self._files)
        return self._server

    def _required(self) -> Manager:
        if self.manager is None:
            raise NotAllowed("this node is not a manager")
        return self.manager

    async def _on_join(self, stream: trio.abc.Stream, who: RemoteNode) -> None:
        await self._while_it_manages(self._required().serve_stranger, stream, who)

    async def _on_agent(self, stream: trio.abc.Stream, who: RemoteNode) -> None:
        await self._while_it_manages(self._required().serve_agent, stream, who)

    async def _on_manager(self, stream: trio.abc.Stream, who: RemoteNode) -> None:
        await self._while_it_manages(self._required().serve_manager, stream, who)

    async def _on_raft(self, stream: trio.abc.Stream, who: RemoteNode) -> None:
        await self._while_it_manages(self._required().serve_raft, stream, who)

    async def _while_it_manages(
        self, serve: Handler, stream: trio.abc.Stream, who: RemoteNode
    ) -> None:
        with trio.CancelScope() as scope:
            self._served.add(scope)
            try:
                await serve(stream, who)
            finally:
                self._served.discard(scope)

    async def _on_probe(self, stream: trio.abc.Stream, who: RemoteNode) -> None:
        """Say one byte: the daemon lives. Any node of the cluster may ask.

        A manager may go on and ask how this node's networks are.
        """
        if not who.node_id:
            raise NotAllowed("a probe needs a certificate")
        with stream_errors(who.host):
            await stream.send_all(b"!")
        if who.role is not Role.MANAGER or self.examiner is None:
            return
        examiner = self.examiner
        with trio.move_on_after(CHECK_TIMEOUT):
            await serve_calls(
                stream, lambda request: examiner(request, who), peer=who.node_id, calls=1
            )

    async def _on_engine(self, stream: trio.abc.Stream, who: RemoteNode) -> None:
        if who.role is not Role.MANAGER or self.door is None:
            raise NotAllowed("only managers may ask a node's engine")
        with stream_errors(who.host):
            await self.door(Halves(stream), who)

    # Outbound.

    def _client_context(self, protocol: Protocol) -> ssl.SSLContext:
        if protocol not in self._clients:
            self._clients[protocol] = client_context(self._files, protocol)
        return self._clients[protocol]

    async def dial_agent(self, addr: str) -> trio.abc.Stream:
        """Connect to the dispatcher of whichever manager is at ``addr``. Raises ConnectionLost."""
        return await dial(addr, self._client_context(Protocol.AGENT), name=MANAGER_NAME)

    async def dial_manager(self, node_id: str, addr: str) -> trio.abc.Stream:
        """Connect to one manager's calls. Raises ConnectionLost."""
        if not addr:
            raise ConnectionLost(f"the address of manager {node_id} is not known")
        return await dial(addr, self._client_context(Protocol.MANAGER), name=node_id)

    async def dial_raft(self, node_id: str, addr: str) -> trio.abc.Stream:
        """Connect to one manager's Raft member. Raises OSError (the port's contract)."""
        if not addr:
            raise OSError(f"the address of manager {node_id} is not known")
        try:
            return await dial(addr, self._client_context(Protocol.RAFT), name=node_id)
        except ConnectionLost as exc:
            raise OSError(exc.message) from exc

    async def dial_engine(self, node_id: str, addr: str) -> trio.abc.HalfCloseableStream:
        """Connect to another node's engine. Raises EngineUnavailable."""
        try:
            return Halves(await dial(addr, self._client_context(Protocol.ENGINE), name=node_id))
        except ConnectionLost as exc:
            raise EngineUnavailable(
                f"node {node_id} does not answer: {exc.message}", advice=exc.advice
            ) from exc

    async def probe(self, node_id: str, addr: str) -> bool:
        """Whether the daemon of a node answers at an address."""
        with trio.move_on_after(PROBE_TIMEOUT), suppress(ConnectionLost):
            stream = await dial(addr, self._client_context(Protocol.PROBE), name=node_id)
            try:
                with stream_errors(addr):
                    return bool(await stream.receive_some(1))
            finally:
                await trio.aclose_forcefully(stream)
        return False

    async def ask_check(self, node_id: str, addr: str, request: AskCheck) -> NodeCheck:
        """Have another node look at its networks. Raises Unavailable, or what it refused with."""
        answer = await self._ask_node(node_id, addr, request)
        assert isinstance(answer, Checked)
        return answer.check

    async def ask_connections(
        self, node_id: str, addr: str, request: AskConnections
    ) -> dict[str, int]:
        """Ask another node how many connections its tasks have. Raises as ``ask_check`` does."""
        answer = await self._ask_node(node_id, addr, request)
        assert isinstance(answer, ConnectionsAre)
        return answer.tasks

    async def _ask_node(self, node_id: str, addr: str, request: Request) -> Answer:
        with trio.move_on_after(CHECK_TIMEOUT):
            stream = await dial(addr, self._client_context(Protocol.PROBE), name=node_id)
            try:
                with stream_errors(addr):
                    alive = bool(await stream.receive_some(1))
                answer = await call_once(stream, request, peer=addr)
            except (ConnectionLost, RemoteProtocolError) as exc:
                raise Unavailable(
                    f"{addr} does not answer checks: {exc.message}",
                    advice="run the same version of swarmlet on all nodes",
                ) from exc
            finally:
                await trio.aclose_forcefully(stream)
            assert alive
            return answer
        raise ConnectionLost(f"{addr} did not answer")

    async def call_any(
        self,
        addrs: Sequence[str],
        request: Request,
        *,
        seconds: float = CALL_TIMEOUT,
        final: Collection[str] = (),
    ) -> Answer:
        """Make a call to the first manager that carries it out, each within ``seconds``.

        Raises the last refusal, or the first whose code is ``final``.
        """
        refusal: SwarmletError = Unavailable("no manager is known")
        for addr in addrs:
            try:
                with trio.fail_after(seconds):
                    stream = await dial(
                        addr, self._client_context(Protocol.MANAGER), name=MANAGER_NAME
                    )
                    return await call_once(stream, request, peer=addr)
            except (ConnectionLost, CallRefused, RemoteProtocolError) as exc:
                refusal = exc
                if isinstance(exc, CallRefused) and exc.remote_code in final:
                    break
            except trio.TooSlowError:
                refusal = ConnectionLost(f"{addr} did not answer")
        raise refusal
