"""The DNS server that tasks ask: on the gateway address of each of the node's networks.

Its clients are strangers, so everything has a bound: sizes, questions under way (in all, and for
each asker, so that one task cannot use up what all need), connections, and time. What is ours is
answered at once, on the spot; only questions for others wait, each in a task of its own.
"""

import logging
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

import dns.rcode
import trio

from swarmlet.clock import Rng
from swarmlet.model.forwarding import Tables
from swarmlet.net import dns_messages, upstreams
from swarmlet.net.dns_messages import Frame, Question
from swarmlet.net.names import Asker, Kind, Names
from swarmlet.net.resolver_files import NameTable

#: Questions for others that are under way at once. Each has a socket or two, and lives 3.5 s at
#: most; Docker's own resolver allows 1,024 for each container, and this is for a node.
MOST_FORWARDED: Final = 512
MOST_FORWARDED_FOR_ONE: Final = 128

MOST_CONNECTIONS: Final = 256
MOST_CONNECTIONS_OF_ONE: Final = 32

#: A connection that asks nothing for so long is closed (RFC 7766, 6.2.3: some seconds).
IDLE_FOR: Final = 10.0

#: For one answer to leave by TCP: on one machine only an asker that does not read takes long.
SEND_WITHIN: Final = 5.0

#: Questions that are read before others get their turn.
BATCH: Final = 32

#: Frames of answers that are kept until the table changes: a few megabytes at most.
MOST_FRAMES: Final = 4_096

#: Longer questions have options that differ each time (cookies): keeping them helps nobody.
LONGEST_KEPT: Final = 128

#: An address that another program has, or that the kernel refuses, is asked for again.
LISTEN_AGAIN_AFTER: Final = 2.0

#: A server that ends gives questions under way this long.
RETIRE_WITHIN: Final = 2.0

#: Listen on an address before its bridge exists (ip(7)); Python has no name for it.
_IP_FREEBIND: Final = 15

_BACKLOG: Final = 128

log = logging.getLogger(__name__)


class Server:
    """Answers from the table that it was given last; ``run`` serves, ``use`` changes the table."""

    def __init__(self, ask: upstreams.Upstreams, rng: Rng) -> None:
        self._ask = ask
        self._rng = rng
        self._table = NameTable(tables=Tables())
        self._names = Names(self._table.tables)
        self._frames: dict[tuple[str, bool, bytes], Frame] = {}
        self._changed = trio.Event()
        self._listening: dict[tuple[str, int], trio.CancelScope] = {}
        self._forwards = _Bound(MOST_FORWARDED, MOST_FORWARDED_FOR_ONE)
        self._connections = _Bound(MOST_CONNECTIONS, MOST_CONNECTIONS_OF_ONE)

    def use(self, table: NameTable) -> None:
        """Answer from this table from the next question on."""
        self._names = Names(table.tables, table.nameservers)
        self._table = table
        self._frames.clear()
        self._changed.set()
        self._changed = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve; started once each address has been listened on, or could not be."""
        async with trio.open_nursery() as forwards, trio.open_nursery() as nursery:
            while True:
                changed = self._changed
                await self._listen(nursery, forwards)
                task_status.started()
                task_status = trio.TASK_STATUS_IGNORED
                await changed.wait()

    async def retire(self) -> None:
        """Wait until what is under way is answered, for a while; then ``run`` may be cancelled."""
        with trio.move_on_after(RETIRE_WITHIN):
            await self._forwards.wait_none()

    # --- listening ------------------------------------------------------------------------------

    async def _listen(self, nursery: trio.Nursery, forwards: trio.Nursery) -> None:
        wanted = {(address, self._table.port) for address in self._table.listen}
        for place in set(self._listening) - wanted:
            self._listening.pop(place).cancel()
        for place in sorted(wanted - set(self._listening)):
            scope = self._listening[place] = trio.CancelScope()
            await nursery.start(self._serve, place, scope, forwards)

    async def _serve(
        self,
        place: tuple[str, int],
        scope: trio.CancelScope,
        forwards: trio.Nursery,
        *,
        task_status: trio.TaskStatus[None],
    ) -> None:
        async def udp(sock: socket.socket) -> None:
            await self._serve_udp(sock, forwards)

        with scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(_keep, place, socket.SOCK_DGRAM, udp)
                await nursery.start(_keep, place, socket.SOCK_STREAM, self._serve_tcp)
                task_status.started()

    # --- UDP ------------------------------------------------------------------------------------

    async def _serve_udp(self, sock: socket.socket, forwards: trio.Nursery) -> None:
        try:
            while True:
                await trio.lowlevel.wait_readable(sock)
                self._read_batch(sock, forwards)
        finally:
            # A connected socket gets nothing from others: from here on the kernel gives questions
            # to our successor's socket alone, and those that came before are answered.
            with suppress(OSError):
                sock.connect(sock.getsockname())
            self._read_batch(sock, None)

    def _read_batch(self, sock: socket.socket, forwards: trio.Nursery | None) -> None:
        for _ in range(BATCH):
            try:
                wire, peer = sock.recvfrom(dns_messages.LARGEST_QUESTION + 1)
            except BlockingIOError:
                return
            with _survived():
                answer = self._decide(wire, peer[0], tcp=False)
                if isinstance(answer, _Forward):
                    if forwards is not None and self._forwards.take(peer[0]):
                        forwards.start_soon(self._forward_udp, sock, peer, answer)
                        continue
                    answer = dns_messages.failure(answer.question, dns.rcode.SERVFAIL)
                _send(sock, answer, peer)

    async def _forward_udp(
        self, sock: socket.socket, peer: tuple[str, int], forward: "_Forward"
    ) -> None:
        try:
            with _survived():
                _send(sock, await self._forward(forward, tcp=False), peer)
        finally:
            self._forwards.give_back(peer[0])

    # --- TCP ------------------------------------------------------------------------------------

    async def _serve_tcp(self, sock: socket.socket) -> None:
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
        await trio.serve_listeners(self._connection, [listener])

    async def _connection(self, stream: trio.SocketStream) -> None:
        with _survived(), suppress(trio.BrokenResourceError, OSError):
            host = stream.socket.getpeername()[0]
            if not self._connections.take(host):
                return  # closed: the asker may come back
            try:
                await self._converse(stream, host)
            finally:
                self._connections.give_back(host)

    async def _converse(self, stream: trio.SocketStream, host: str) -> None:
        """Answer one question after the other, in order."""
        while True:
            wire = b""
            with trio.move_on_after(IDLE_FOR):
                wire = await upstreams.read_framed(stream, largest=dns_messages.LARGEST_QUESTION)
            answer = self._decide(wire, host, tcp=True) if wire else b""
            if isinstance(answer, _Forward):
                answer = await self._forward_for(answer, host)
            if not answer:
                return
            with trio.move_on_after(SEND_WITHIN) as sending:
                await stream.send_all(len(answer).to_bytes(2, "big") + answer)
            if sending.cancelled_caught:
                return

    async def _forward_for(self, forward: "_Forward", host: str) -> bytes:
        if not self._forwards.take(host):
            return dns_messages.failure(forward.question, dns.rcode.SERVFAIL)
        try:
            return await self._forward(forward, tcp=True)
        finally:
            self._forwards.give_back(host)

    # --- answers --------------------------------------------------------------------------------

    def _decide(self, wire: bytes, host: str, *, tcp: bool) -> "bytes | _Forward":
        """An answer, or what must be asked of others; b"" for what deserves none."""
        key = (host, tcp, wire[2:])
        frame = self._frames.get(key)
        if frame is not None:
            return frame.fill(wire[:2], self._rng)
        question = dns_messages.read(wire)
        if question is None:
            return b""
        asker = self._names.asker(host)
        if asker is None:  # who is not in our networks has other resolvers
            return dns_messages.failure(question, dns.rcode.REFUSED)
        refusal = question.refusal
        if asker.closed and not question.ours:  # nothing of internal networks goes out
            refusal = refusal or dns.rcode.REFUSED
        if refusal:
            return dns_messages.failure(question, refusal)
        answer = self._names.answer(asker, question.name, question.rtype)
        if answer.kind is Kind.FOREIGN or not question.ours:
            return _Forward(wire, question, asker)
        limit = dns_messages.TCP_LARGEST if tcp else question.udp_size
        frame = dns_messages.frame(question, answer, limit)
        if len(wire) <= LONGEST_KEPT:
            if len(self._frames) >= MOST_FRAMES:
                self._frames.clear()
            self._frames[key] = frame
        return frame.fill(wire[:2], self._rng)

    async def _forward(self, forward: "_Forward", *, tcp: bool) -> bytes:
        servers = self._ask.choose(forward.asker.nameservers, self._table.listen)
        question = forward.question
        answer = await self._ask.ask(forward.wire, question.end, servers, tcp=tcp)
        return answer or dns_messages.failure(question, dns.rcode.SERVFAIL)


class _Forward:
    """A question that others must answer."""

    __slots__ = ("asker", "question", "wire")

    def __init__(self, wire: bytes, question: Question, asker: Asker) -> None:
        self.wire, self.question, self.asker = wire, question, asker


class _Bound:
    """Counts what is under way, in all and for each asker."""

    def __init__(self, most: int, most_for_one: int) -> None:
        self._most, self._most_for_one = most, most_for_one
        self._for: Counter[str] = Counter()
        self._total = 0
        self._none = trio.Event()

    def take(self, host: str) -> bool:
        """Whether there is room for one more, which is counted then."""
        if self._total >= self._most or self._for[host] >= self._most_for_one:
            return False
        self._total += 1
        self._for[host] += 1
        return True

    def give_back(self, host: str) -> None:
        """One less."""
        self._total -= 1
        self._for[host] -= 1
        if not self._for[host]:
            del self._for[host]
        if not self._total:
            self._none.set()

    async def wait_none(self) -> None:
        """Wait until nothing is under way."""
        if self._total:
            self._none = trio.Event()
            await self._none.wait()


async def _keep(
    place: tuple[str, int],
    kind: socket.SocketKind,
    serve: Callable[[socket.socket], Awaitable[None]],
    *,
    task_status: trio.TaskStatus[None],
) -> None:
    """Listen and serve; an address that cannot be had is asked for again. Started either way."""
    told = ""
    while True:
        try:
            with _open(place, kind) as sock:
                log.info("listening address=%s port=%d kind=%s", *place, kind.name)
                told = ""
                task_status.started()
                task_status = trio.TASK_STATUS_IGNORED
                await serve(sock)
        except OSError as exc:
            if told != str(exc):
                told = str(exc)
                log.warning(
                    "address-not-had address=%s port=%d kind=%s reason=%s", *place, kind.name, exc
                )
        task_status.started()
        task_status = trio.TASK_STATUS_IGNORED
        await trio.sleep(LISTEN_AGAIN_AFTER)


def _open(place: tuple[str, int], kind: socket.SocketKind) -> socket.socket:
    sock = socket.socket(socket.AF_INET, kind)
    try:
        sock.settimeout(0.0)
        # A server of the host's that listens on all addresses, as dnsmasq does, stays where it is.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # The next version listens before this one ends, so that no question meets a closed port.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
        sock.bind(place)
        if kind is socket.SOCK_STREAM:
            sock.listen(_BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def _send(sock: socket.socket, answer: bytes, peer: tuple[str, int]) -> None:
    """Send, or not: an asker that gets no answer asks again."""
    if answer:
        with suppress(OSError):
            sock.sendto(answer, peer)


@contextmanager
def _survived() -> Iterator[None]:
    """One question that brings out a mistake of ours must not take the names from all tasks."""
    try:
        yield
    except Exception:
        log.exception("question-failed")
