"""A network on loopback addresses, askers in it, and resolvers outside that do as they are told.

Loopback addresses need no set-up and no rights: 127.X.1.0/24 is the network, 127.X.9.N are
resolvers outside, and a port of the system's choice stands for 53.
"""

import os
import random
import socket
from collections.abc import Callable
from typing import Any

import dns.message
import dns.rcode
import trio
from swarmlet.model.forwarding import Tables
from swarmlet.net.resolver_files import NameTable

from tests.unit.net.records import network, service, tables, task
from tests.waiting import PATIENCE

#: One second number for each run, so that runs side by side do not meet.
OWN = 1 + os.getpid() % 250

GATEWAY = f"127.{OWN}.1.1"
ASKER = f"127.{OWN}.1.11"
STRANGER = f"127.{OWN}.5.5"
VIP = f"127.{OWN}.1.100"


def outside(number: int) -> str:
    """The address of a resolver outside."""
    return f"127.{OWN}.9.{number}"


def free_port() -> int:
    """A port that is free for UDP and TCP on all addresses."""
    while True:
        with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            tcp.bind(("0.0.0.0", 0))
            port: int = tcp.getsockname()[1]
            try:
                udp.bind(("0.0.0.0", port))
            except OSError:
                continue
            return port


def records(*, backends: int = 2) -> Tables:
    """Service ``web`` in network ``front``, with its tasks, the first of which asks."""
    return tables(
        network("front", f"127.{OWN}.1.0/24"),
        service("web", f"front={VIP}"),
        *(task(f"web.{n}.t{n}", f"front=127.{OWN}.1.{10 + n}") for n in range(1, backends + 1)),
    )


def table(port: int, *, listen: tuple[str, ...] = (GATEWAY,), **more: Any) -> NameTable:
    fields: dict[str, Any] = {"tables": records(), "listen": listen, "port": port}
    return NameTable(**fields | more)


def query(name: str, rtype: str = "A", **more: Any) -> dns.message.Message:
    message = dns.message.make_query(name, rtype, **more)
    message.id = random.getrandbits(16)
    return message


async def ask_udp(
    message: dns.message.Message | bytes,
    port: int,
    *,
    by: str = ASKER,
    to: str = GATEWAY,
) -> dns.message.Message:
    """Ask once and wait; nothing is asked again."""
    wire = message if isinstance(message, bytes) else message.to_wire()
    with trio.socket.socket(type=socket.SOCK_DGRAM) as sock:
        await sock.bind((by, 0))
        await sock.connect((to, port))
        await sock.send(wire)
        with trio.fail_after(PATIENCE):
            answer = dns.message.from_wire(await sock.recv(65_535))
    assert answer.id == int.from_bytes(wire[:2], "big")
    return answer


async def connect_tcp(port: int, *, by: str = ASKER, to: str = GATEWAY) -> trio.SocketStream:
    sock = trio.socket.socket()
    try:
        await sock.bind((by, 0))
        await sock.connect((to, port))
    except BaseException:
        sock.close()
        raise
    return trio.SocketStream(sock)


async def ask_stream(
    stream: trio.SocketStream, message: dns.message.Message
) -> dns.message.Message:
    wire = message.to_wire()
    await stream.send_all(len(wire).to_bytes(2, "big") + wire)
    raw = bytearray()
    with trio.fail_after(PATIENCE):
        while len(raw) < 2 or len(raw) < 2 + int.from_bytes(raw[:2], "big"):
            part = await stream.receive_some()
            if not part:
                raise EOFError
            raw += part
    return dns.message.from_wire(bytes(raw[2:]))


async def ask_tcp(message: dns.message.Message, port: int, **more: str) -> dns.message.Message:
    async with await connect_tcp(port, **more) as stream:
        return await ask_stream(stream, message)


def addresses(message: dns.message.Message) -> list[str]:
    return [item.to_text() for rrset in message.answer for item in rrset]


#: What a resolver outside says to a question: bytes, or nothing.
Says = Callable[[bytes], list[bytes]]


def says(address: str) -> Says:
    """An honest answer, with a flag and a record that only an untouched answer still has."""

    def answer(wire: bytes) -> list[bytes]:
        reply = dns.message.make_response(dns.message.from_wire(wire), recursion_available=True)
        reply.flags |= dns.flags.AD
        name = reply.question[0].name
        reply.answer.append(dns.rrset.from_text(name, 77, "IN", "A", address))
        return [reply.to_wire()]

    return answer


def fails(rcode: int = dns.rcode.SERVFAIL) -> Says:
    def answer(wire: bytes) -> list[bytes]:
        reply = dns.message.make_response(dns.message.from_wire(wire))
        reply.set_rcode(dns.rcode.Rcode(rcode))
        return [reply.to_wire()]

    return answer


def silent(_wire: bytes) -> list[bytes]:
    return []


class Outside:
    """A resolver outside. ``asked`` are the questions that it got."""

    def __init__(self, number: int, port: int, answer: Says) -> None:
        self.address = outside(number)
        self.port = port
        self.answer = answer
        self.asked: list[bytes] = []
        self.by_tcp = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        udp = trio.socket.socket(type=socket.SOCK_DGRAM)
        with udp:
            await udp.bind((self.address, self.port))
            listeners = await trio.open_tcp_listeners(self.port, host=self.address)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.serve_listeners, self._connection, listeners)
                task_status.started()
                while True:
                    wire, peer = await udp.recvfrom(4_096)
                    self.asked.append(wire)
                    for answer in self.answer(wire):
                        await udp.sendto(answer, peer)

    async def _connection(self, stream: trio.SocketStream) -> None:
        head = await stream.receive_some(2)
        wire = await stream.receive_some(int.from_bytes(head, "big"))
        self.asked.append(bytes(wire))
        self.by_tcp += 1
        for answer in self.answer(bytes(wire)):
            await stream.send_all(len(answer).to_bytes(2, "big") + answer)
        await stream.aclose()
