"""Questions and answers as bytes (RFC 1035, 6891). Pure.

dnspython reads every question, which strangers write, and writes the frame of every answer. The
addresses in between are put in here: sixteen bytes each, so that a frame is made once for
each question and every answer of it is cheap, in its own order, and cut where it must be.
"""

import socket
import struct
from typing import Final

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import msgspec

from swarmlet.clock import Rng
from swarmlet.net.names import Answer, Kind, pick

HEADER: Final = 12

#: What an answer may have over UDP: this much when the asker says that it takes as much (DNS flag
#: day 2020: fits every path, a VXLAN in WireGuard too), else what RFC 1035 says.
UDP_LARGE: Final = 1232
UDP_SMALL: Final = 512
TCP_LARGEST: Final = 65_535

#: A question is a name of 255 bytes at most and some options.
LARGEST_QUESTION: Final = 4_096

#: Pointer to the name in the question, which is where our answers' names are.
_SAME_NAME: Final = struct.pack("!H", 0xC000 | HEADER)

_TRUNCATED: Final = 0x0200

#: Bytes of the type and the class of a question, behind its name.
_TYPE_AND_CLASS: Final = 4

_TRANSFERS: Final = frozenset({dns.rdatatype.AXFR, dns.rdatatype.IXFR})

#: An upstream that says one of these may be worse off than the next one.
_NO_ANSWER: Final = frozenset({1, 2, 4, 5})  # FORMERR, SERVFAIL, NOTIMP, REFUSED


class Question:
    """One question, read. ``refusal`` is an error code if it is one that is not even looked up."""

    __slots__ = ("end", "message", "name", "refusal", "rtype")

    def __init__(self, message: dns.message.Message) -> None:
        self.message = message
        self.refusal = _refusal(message)
        self.name, self.rtype, self.end = "", 0, HEADER
        if message.question:
            asked = message.question[0]
            self.name = asked.name.to_text(omit_final_dot=True)
            self.rtype = int(asked.rdtype)
            self.end += len(asked.name.to_wire() or b"") + _TYPE_AND_CLASS

    @property
    def ours(self) -> bool:
        """Whether it is of the class that all names are of: the others go outside."""
        return self.message.question[0].rdclass == dns.rdataclass.IN

    @property
    def udp_size(self) -> int:
        """The longest answer over UDP."""
        if self.message.edns < 0:
            return UDP_SMALL
        return min(max(self.message.payload, UDP_SMALL), UDP_LARGE)


def read(wire: bytes) -> Question | None:
    """Read a question; None if it is none, which is dropped: an answer might start a loop."""
    if len(wire) > LARGEST_QUESTION:
        return None
    try:
        message = dns.message.from_wire(wire)
    except (dns.exception.DNSException, ValueError):
        return None
    return None if message.flags & dns.flags.QR else Question(message)


class Frame(msgspec.Struct, frozen=True, gc=False):
    """An answer without its identifier and the order of its records, all of one length."""

    flags: int
    question: bytes
    records: tuple[bytes, ...]
    tail: bytes
    limit: int

    def fill(self, ident: bytes, rng: Rng) -> bytes:
        """Make the answer. What has no room is left out and the answer marked: TCP has room.

        As many as fit stay in it, for resolvers that never ask again (musl before 1.2.4).
        """
        flags, records = self.flags, self.records
        if len(records) > 1:
            room = self.limit - HEADER - len(self.question) - len(self.tail)
            fit = room // len(records[0])
            if fit < len(records):
                flags |= _TRUNCATED
            records = tuple(pick(records, fit, rng))
        extra = 1 if self.tail else 0
        counts = struct.pack("!HHHHH", flags, 1, len(records), 0, extra)
        return b"".join((ident, counts, self.question, *records, self.tail))


def frame(question: Question, answer: Answer, limit: int) -> Frame:
    """What answers ``question``; not for answers that others have (FOREIGN)."""
    reply = _reply(question)
    reply.flags |= dns.flags.AA
    rcode = dns.rcode.NOERROR
    if answer.kind is Kind.ABSENT:
        rcode = dns.rcode.NXDOMAIN
    elif answer.kind is Kind.CLOSED:  # what Docker says there
        reply.flags &= ~dns.flags.AA
        rcode = dns.rcode.SERVFAIL
    reply.set_rcode(rcode)
    wire = reply.to_wire()
    flags = int.from_bytes(wire[2:4], "big")
    return Frame(flags, wire[HEADER : question.end], _records(answer), wire[question.end :], limit)


def failure(question: Question, rcode: int) -> bytes:
    """An answer that says that there is none."""
    reply = _reply(question)
    reply.set_rcode(dns.rcode.Rcode(rcode))
    return reply.to_wire()


def answers(question: bytes, end: int, wire: bytes) -> bool:
    """Whether ``wire`` is an answer to ``question``, whose question section ends at ``end``.

    Names may come back in another case. A server that refuses may leave the question out.
    """
    if len(wire) < HEADER or wire[:2] != question[:2] or not wire[2] & 0x80:
        return False
    if wire[4:6] == b"\0\0":
        return failed(wire)
    return wire[4:6] == b"\0\1" and wire[HEADER:end].lower() == question[HEADER:end].lower()


def failed(wire: bytes) -> bool:
    """Whether an answer says that the server could not answer, so that the next one may."""
    return wire[3] & 0x0F in _NO_ANSWER


def _reply(question: Question) -> dns.message.Message:
    return dns.message.make_response(
        question.message, recursion_available=True, our_payload=UDP_LARGE
    )


def _records(answer: Answer) -> tuple[bytes, ...]:
    if answer.kind is Kind.ADDRESSES:
        head = _SAME_NAME + struct.pack("!HHIH", 1, 1, answer.ttl, 4)
        return tuple(head + socket.inet_aton(address) for address in answer.addresses)
    if answer.kind is Kind.POINTER:
        try:
            name = dns.name.from_text(answer.name, origin=dns.name.root).to_wire() or b""
        except (dns.exception.DNSException, ValueError):
            return ()  # a network may have a name that is none in DNS
        return (_SAME_NAME + struct.pack("!HHIH", 12, 1, answer.ttl, len(name)) + name,)
    return ()


def _refusal(message: dns.message.Message) -> int:
    if message.opcode() != dns.opcode.QUERY:
        return dns.rcode.NOTIMP
    if len(message.question) != 1:
        return dns.rcode.FORMERR
    if message.edns > 0:
        return dns.rcode.BADVERS
    if message.question[0].rdtype in _TRANSFERS:  # answered in many messages, and wanted by nobody
        return dns.rcode.REFUSED
    return dns.rcode.NOERROR
