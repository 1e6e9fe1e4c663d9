"""Everything that is not about the swarm goes to an engine, and back, unchanged.

Bodies are streamed both ways and never kept: a slow reader slows its writer. After an upgrade (or
a raw stream that follows a 200, for clients that did not ask for one) the two connections are
joined until both sides have ended, each end passed on by itself.
"""

from typing import Final

import h11
import trio

from swarmlet.api.exchange import AnswerCut, ClientGone, Exchange
from swarmlet.engine.joining import join
from swarmlet.engine.tunnel import EngineGate, Headers, Tunnel
from swarmlet.errors import EngineUnavailable

#: Headers about one connection, not about the message; each side has its own.
_HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"expect",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"upgrade",
    }
)


class Proxy:
    """Passes exchanges on to an engine."""

    def __init__(self, *, patches: dict[bytes, bytes]) -> None:
        self._patches = patches

    async def forward(
        self, exchange: Exchange, engine: EngineGate, target: bytes, body: bytes | None = None
    ) -> None:
        """Pass one exchange on; ``body`` is its body if that was read already."""
        tunnel = await engine.open()
        try:
            await tunnel.send(_request_head(exchange, target))
            await _Relay(exchange, tunnel, self._patches, body).run()
        finally:
            await tunnel.aclose()


def _request_head(exchange: Exchange, target: bytes) -> h11.Request:
    request = exchange.request
    headers = _end_to_end(request.headers)
    if request.upgrade:
        headers += [(b"Connection", b"Upgrade"), (b"Upgrade", request.upgrade.encode("latin-1"))]
    return h11.Request(method=request.method, target=target, headers=headers)


def _end_to_end(headers: Headers) -> Headers:
    """Headers to pass on. Both sides frame the body in the same way, so that stays."""
    return [(name, value) for name, value in headers if name not in _HOP_BY_HOP]


class _Relay:
    """One exchange with the engine."""

    def __init__(
        self, exchange: Exchange, tunnel: Tunnel, patches: dict[bytes, bytes], body: bytes | None
    ) -> None:
        self._exchange = exchange
        self._tunnel = tunnel
        self._patches = patches
        self._body = body
        self._error: Exception | None = None
        self._uploader = trio.CancelScope()

    async def run(self) -> None:
        """Both directions at once: the engine may answer before it has read everything."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._upload, nursery.cancel_scope)
            try:
                await self._download()
            except (ClientGone, EngineUnavailable, AnswerCut, h11.RemoteProtocolError) as exc:
                self._error = self._error or exc
            nursery.cancel_scope.cancel()
        if self._error is not None:
            raise self._error

    async def _upload(self, everything: trio.CancelScope) -> None:
        """Send the body; then watch whether the client is still there."""
        with self._uploader:
            try:
                await self._send_body()
                if not self._exchange.request.upgrade:  # else its end is that of its input
                    await self._exchange.wait_gone()
                    await self._leave(everything)
            except EngineUnavailable:
                return  # it took no more of the body; its answer says why
            except (ClientGone, h11.RemoteProtocolError) as exc:
                self._error = exc
                everything.cancel()

    async def _leave(self, everything: trio.CancelScope) -> None:
        """The client has ended its side. One that sent a GET is gone for good.

        Others may still read: the engine is told, and ends what it ends for clients of its own
        (a wait for a container), and not what it does not (a container that is being stopped).
        """
        if self._exchange.request.method not in {"GET", "HEAD"}:
            await self._tunnel.send_eof()
            return
        self._error = ClientGone()
        everything.cancel()

    async def _send_body(self) -> None:
        if self._body is not None:
            await self._tunnel.send(h11.Data(data=self._body))
        while chunk := await self._exchange.receive_body():
            await self._tunnel.send(h11.Data(data=chunk))
        await self._tunnel.send(h11.EndOfMessage())

    async def _download(self) -> None:
        while True:
            event = await self._tunnel.next_event()
            if isinstance(event, h11.Response):
                break
            if not isinstance(event, h11.InformationalResponse):
                raise EngineUnavailable("the Docker Engine sent no answer")
            if event.status_code == 101:
                return await self._join(101, self._upgrade_headers(event))
            if event.status_code > 101:
                await self._exchange.inform(event.status_code, _end_to_end(list(event.headers)))
        headers = self._answer_headers(event)
        if self._is_raw(event):
            return await self._join(event.status_code, headers)
        await self._exchange.start(event.status_code, headers)
        return await self._copy_answer()

    async def _copy_answer(self) -> None:
        try:
            while True:
                event = await self._tunnel.next_event()
                if isinstance(event, h11.Data):
                    await self._send(bytes(event.data))
                elif isinstance(event, h11.EndOfMessage):
                    return await self._exchange.end(event.headers)
        except EngineUnavailable as exc:
            raise AnswerCut(str(exc)) from exc

    async def _send(self, data: bytes) -> None:
        if self._exchange.request.method != "HEAD":
            await self._exchange.send(data)

    def _answer_headers(self, event: h11.Response | h11.InformationalResponse) -> Headers:
        kept = [pair for pair in _end_to_end(list(event.headers)) if pair[0] not in self._patches]
        return [*kept, *self._patches.items()]

    def _upgrade_headers(self, event: h11.InformationalResponse) -> Headers:
        protocol = next((v for k, v in event.headers if k == b"upgrade"), b"tcp")
        return [
            *self._answer_headers(event),
            (b"Connection", b"Upgrade"),
            (b"Upgrade", protocol),
        ]

    def _is_raw(self, event: h11.Response) -> bool:
        """Whether both directions are free after this head (attach and exec without Upgrade)."""
        names = {name for name, _ in event.headers}
        framed = names & {b"content-length", b"transfer-encoding"}
        return self._exchange.request.method == "POST" and event.status_code == 200 and not framed

    async def _join(self, status: int, headers: Headers) -> None:
        """Join the two connections."""
        self._uploader.cancel()
        client = await self._exchange.take_over(status, headers)
        await join(client, self._tunnel.raw())
