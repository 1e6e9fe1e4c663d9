"""The resolvers outside: which there are, and asking them.

Answers are passed on as they are, so whatever an asker and a resolver agree on (EDNS, DNSSEC) works
through us. A question over UDP goes out over UDP, one over TCP over TCP: a truncated answer makes
the asker come back by TCP.
"""

import ipaddress
import itertools
import math
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import trio

from swarmlet.clock import Rng
from swarmlet.net import dns_messages
from swarmlet.net.resolver_files import PORT, Watched

RESOLV_CONF: Final = Path("/etc/resolv.conf")

#: The whole time for an answer. Docker's own resolver, which asks us, gives up after 4 s.
ANSWER_WITHIN: Final = 3.5

#: A resolver that has not answered after this is not given up, but the next is asked as well.
NEXT_AFTER: Final = 0.6

#: One resolver is asked so often, as a packet may be lost; of several, each twice.
TRIES: Final = 3

#: A resolver that was overtaken comes last for this long.
SLOW_FOR: Final = 15.0

#: As the C library: more are not asked.
MOST: Final = 3

#: The C library asks this one if the file names none.
_WITHOUT_FILE: Final[tuple[str, ...]] = ("127.0.0.1",)

#: The file is looked at this often, when somebody asks.
_LOOK_EVERY: Final = 1.0


def nameservers(text: str) -> tuple[str, ...]:
    """The name servers of a resolv.conf(5)."""
    found = []
    for line in text.splitlines():
        match line.split():
            case ["nameserver", address, *_] if _is_address(address):
                found.append(address)
            case _:
                pass
    return tuple(found[:MOST]) or _WITHOUT_FILE


class Upstreams:
    """The host's resolvers, and how to ask them or others. ``port`` is theirs."""

    def __init__(self, rng: Rng, *, port: int = PORT, resolv_conf: Path = RESOLV_CONF) -> None:
        self._rng = rng
        self._port = port
        self._file = Watched(resolv_conf)
        self._host = _WITHOUT_FILE
        self._looked = -math.inf
        self._slow: dict[str, float] = {}

    def choose(self, named: Iterable[str], ourselves: Iterable[str]) -> list[str]:
        """The resolvers to ask for a task whose service names ``named``, the quick ones first.

        Never ``ourselves``: that would go round. Nor a loopback address that a service names: it
        means the container's own, and here it would be the node's.
        """
        mine = set(ourselves)
        usable = [a for a in named if _is_address(a) and a not in mine and not _is_loopback(a)]
        if not usable:
            usable = [address for address in self._of_host() if address not in mine]
        now = trio.current_time()
        return sorted(usable[:MOST], key=lambda address: self._slow.get(address, 0.0) > now)

    async def ask(self, question: bytes, end: int, servers: list[str], *, tcp: bool) -> bytes:
        """Ask; the next one as soon as one fails or takes long. Returns b"" if none answers.

        ``end`` is where the question section ends. The first good answer counts; if there is none,
        the last that said why not.
        """
        # The asker's identifier may be guessable, and whoever guesses it could answer for them.
        asked = self._rng.getrandbits(16).to_bytes(2, "big") + question[2:]
        race = _Race(asked, end, tcp=tcp, port=self._port)
        rounds = max(TRIES, 2 * len(servers)) if servers else 0
        with trio.move_on_after(ANSWER_WITHIN):
            async with trio.open_nursery() as nursery:
                for server in itertools.islice(itertools.cycle(servers), rounds):
                    if server in race.done:
                        continue
                    ended = trio.Event()
                    nursery.start_soon(race.run, server, ended, nursery.cancel_scope)
                    with trio.move_on_after(NEXT_AFTER):
                        await ended.wait()
        if race.winner:
            self._remember(race)
        return question[:2] + race.answer[2:] if race.answer else b""

    def _remember(self, race: "_Race") -> None:
        self._slow.pop(race.winner, None)
        if len(self._slow) > 1000:  # services may name ever new ones
            self._slow.clear()
        until = trio.current_time() + SLOW_FOR
        self._slow |= dict.fromkeys(race.asked - race.done, until)

    def _of_host(self) -> tuple[str, ...]:
        """Read on the spot, without a thread: a small file on the host's own disk."""
        now = trio.current_time()
        if now - self._looked >= _LOOK_EVERY:
            self._looked = now
            if self._file.changed():
                try:
                    text = self._file.path.read_text(errors="replace")
                except OSError:
                    text = ""
                self._host = nameservers(text)
        return self._host


class _Race:
    """One question to several resolvers. ``done`` are those that answered, or cannot."""

    def __init__(self, question: bytes, end: int, *, tcp: bool, port: int) -> None:
        self._question, self._end, self._tcp, self._port = question, end, tcp, port
        self.answer = b""
        self.winner = ""
        self.asked: set[str] = set()
        self.done: set[str] = set()

    async def run(self, server: str, ended: trio.Event, scope: trio.CancelScope) -> None:
        """Ask one; a good answer ends the race."""
        self.asked.add(server)
        try:
            answer = await (self._by_tcp if self._tcp else self._by_udp)(server)
        except (OSError, trio.BrokenResourceError):  # nobody listens there, or there is no way
            self.done.add(server)
        else:
            self.done.add(server)
            if answer and not self.winner:
                self.answer = answer
                if not dns_messages.failed(answer):
                    self.winner = server
                    scope.cancel()
        finally:
            ended.set()

    async def _by_udp(self, server: str) -> bytes:
        with trio.socket.socket(_family(server), socket.SOCK_DGRAM) as sock:
            # Connected: answers of others are not even seen, and a closed port is an error.
            await sock.connect((server, self._port))
            await sock.send(self._question)
            while True:
                answer = await sock.recv(dns_messages.TCP_LARGEST)
                if dns_messages.answers(self._question, self._end, answer):
                    return answer

    async def _by_tcp(self, server: str) -> bytes:
        with trio.socket.socket(_family(server), socket.SOCK_STREAM) as sock:
            await sock.connect((server, self._port))
            stream = trio.SocketStream(sock)
            await stream.send_all(len(self._question).to_bytes(2, "big") + self._question)
            answer = await read_framed(stream, largest=dns_messages.TCP_LARGEST)
            return answer if dns_messages.answers(self._question, self._end, answer) else b""


async def read_framed(stream: trio.abc.ReceiveStream, *, largest: int) -> bytes:
    """One message of a TCP stream (RFC 1035, 4.2.2); b"" at its end, or if it is too large."""
    length = int.from_bytes(await _exactly(stream, 2), "big")
    return await _exactly(stream, length) if length <= largest else b""


async def _exactly(stream: trio.abc.ReceiveStream, count: int) -> bytes:
    parts = []
    while count:
        part = await stream.receive_some(count)
        if not part:
            return b""
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_loopback(address: str) -> bool:
    """Whether packets to it stay here: loopback in either family, and "no address"."""
    ip = ipaddress.ip_address(address)
    ip = getattr(ip, "ipv4_mapped", None) or ip
    return ip.is_loopback or ip.is_unspecified


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


__all__ = ["ANSWER_WITHIN", "NEXT_AFTER", "RESOLV_CONF", "Upstreams", "nameservers", "read_framed"]
