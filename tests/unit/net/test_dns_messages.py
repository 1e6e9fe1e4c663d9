"""Questions and answers as bytes."""

import random

import dns.flags
import dns.message
import dns.rcode
import pytest
from hypothesis import given
from hypothesis import strategies as st
from swarmlet.net import dns_messages
from swarmlet.net.dns_messages import TCP_LARGEST, UDP_LARGE, UDP_SMALL, Question
from swarmlet.net.names import Answer, Kind

RNG = random.Random(1)


def question(
    name: str = "web.", rtype: str = "A", *, payload: int | None = None, version: int = 0
) -> tuple[bytes, Question]:
    """A question; with EDNS if it has a ``payload``."""
    message = dns.message.make_query(name, rtype)
    if payload is not None:
        message.use_edns(version, payload=payload)
    wire = message.to_wire()
    found = dns_messages.read(wire)
    assert found is not None
    return wire, found


def answered(
    answer: Answer,
    *,
    name: str = "web.",
    rtype: str = "A",
    limit: int = TCP_LARGEST,
    payload: int | None = None,
) -> tuple[dns.message.Message, bytes]:
    wire, asked = question(name, rtype, payload=payload)
    raw = dns_messages.frame(asked, answer, limit).fill(wire[:2], RNG)
    message = dns.message.from_wire(raw)
    assert message.id == int.from_bytes(wire[:2], "big")
    return message, raw


def many(count: int) -> Answer:
    found = tuple(f"10.0.{n >> 8}.{n & 255}" for n in range(count))
    return Answer(Kind.ADDRESSES, found, ttl=2)


def addresses(message: dns.message.Message) -> list[str]:
    return [item.to_text() for rrset in message.answer for item in rrset]


@given(st.binary(max_size=600))
def test_any_bytes_are_a_question_or_dropped(wire: bytes) -> None:
    dns_messages.read(wire)


@given(st.data())
def test_damaged_questions_are_read_or_dropped_and_readable_ones_are_answered(
    data: st.DataObject,
) -> None:
    wire = bytearray(dns.message.make_query("tasks.web.", "A", use_edns=0).to_wire())
    for _ in range(data.draw(st.integers(1, 6))):
        wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(wire[: data.draw(st.integers(0, len(wire)))] + data.draw(st.binary(max_size=20)))
    found = dns_messages.read(cut)
    if found is None:
        return
    if found.refusal:
        dns_messages.failure(found, found.refusal)
    else:
        dns_messages.frame(found, many(3), found.udp_size).fill(b"ab", RNG)


def test_answers_are_no_questions() -> None:
    """Answering them would have two servers talk forever."""
    wire, asked = question()
    assert dns_messages.read(dns_messages.failure(asked, dns.rcode.REFUSED)) is None
    assert dns_messages.read(wire[:2] + bytes([wire[2] | 0x80]) + wire[3:]) is None


def test_answer_keeps_the_letters_of_the_question() -> None:
    """Some clients check them, against forged answers."""
    message, _ = answered(many(1), name="wEb.FroNT.")
    assert message.question[0].name.to_text() == "wEb.FroNT."
    assert message.answer[0].name.to_text() == "wEb.FroNT."


def test_own_answers_are_authoritative_and_recursion_is_available() -> None:
    message, _ = answered(many(1))
    assert message.flags & (dns.flags.QR | dns.flags.AA | dns.flags.RA | dns.flags.RD) == (
        dns.flags.QR | dns.flags.AA | dns.flags.RA | dns.flags.RD
    )
    assert message.answer[0].ttl == 2


@pytest.mark.parametrize(
    ("kind", "rcode"),
    [
        (Kind.EMPTY, dns.rcode.NOERROR),
        (Kind.ABSENT, dns.rcode.NXDOMAIN),
        (Kind.CLOSED, dns.rcode.SERVFAIL),
    ],
)
def test_answers_without_records(kind: Kind, rcode: int) -> None:
    message, _ = answered(Answer(kind))
    assert (message.rcode(), message.answer, message.authority) == (rcode, [], [])


def test_pointer_is_a_name_below_the_root() -> None:
    answer = Answer(Kind.POINTER, name="web.1.abc.shop_front", ttl=5)
    message, _ = answered(answer, name="9.1.0.10.in-addr.arpa.", rtype="PTR")
    assert addresses(message) == ["web.1.abc.shop_front."]


def test_pointer_to_what_is_no_name_is_empty() -> None:
    message, _ = answered(Answer(Kind.POINTER, name=f"web.{'x' * 64}"), rtype="PTR")
    assert message.answer == []


@given(
    st.integers(0, 400),
    st.one_of(st.none(), st.integers(0, 5_000)),
    st.sampled_from(["web.", f"{'a' * 63}.{'b' * 63}.{'c' * 63}.{'d' * 59}."]),
)
def test_answer_fits_and_says_so_when_it_is_cut(count: int, payload: int | None, name: str) -> None:
    _, asked = question(name, payload=payload)
    limit = asked.udp_size
    message, raw = answered(many(count), name=name, limit=limit, payload=payload)
    got = addresses(message)
    assert len(raw) <= limit <= UDP_LARGE
    assert set(got) <= set(many(count).addresses)
    assert bool(message.flags & dns.flags.TC) == (len(got) < count)
    assert len(got) >= min(count, 14)
    assert (message.edns == 0) == (payload is not None)


def test_sizes_that_askers_may_wish() -> None:
    assert question()[1].udp_size == UDP_SMALL
    assert question(payload=100)[1].udp_size == UDP_SMALL
    assert question(payload=1_000)[1].udp_size == 1_000
    assert question(payload=4_096)[1].udp_size == UDP_LARGE


def test_each_answer_has_its_own_order() -> None:
    wire, asked = question()
    frame = dns_messages.frame(asked, many(5), TCP_LARGEST)
    rng = random.Random(3)
    orders = {tuple(addresses(dns.message.from_wire(frame.fill(wire[:2], rng)))) for _ in range(50)}
    assert len(orders) > 10


def test_each_address_has_a_chance_in_cut_answers() -> None:
    wire, asked = question()
    frame = dns_messages.frame(asked, many(200), UDP_SMALL)
    rng = random.Random(3)
    seen = {
        a for _ in range(200) for a in addresses(dns.message.from_wire(frame.fill(wire[:2], rng)))
    }
    assert len(seen) == 200


@pytest.mark.parametrize("rtype", ["AXFR", "IXFR"])
def test_transfers_are_refused(rtype: str) -> None:
    assert question("web.", rtype)[1].refusal == dns.rcode.REFUSED


def test_other_operations_are_not_implemented() -> None:
    message = dns.message.make_query("web.", "A")
    message.set_opcode(dns.opcode.NOTIFY)
    found = dns_messages.read(message.to_wire())
    assert found is not None
    assert found.refusal == dns.rcode.NOTIMP


def test_unknown_edns_version_is_bad() -> None:
    found = question("web.", payload=512, version=1)[1]
    assert found.refusal == dns.rcode.BADVERS
    assert dns.message.from_wire(dns_messages.failure(found, found.refusal)).rcode() == 16


# --- answers of others --------------------------------------------------------------------------


def reply(wire: bytes, rcode: int = dns.rcode.NOERROR) -> bytes:
    message = dns.message.make_response(dns.message.from_wire(wire))
    message.set_rcode(dns.rcode.Rcode(rcode))
    return message.to_wire()


def test_an_answer_has_the_identifier_and_the_question() -> None:
    wire, asked = question("example.com.")
    other = dns.message.make_query("example.org.", "A", id=int.from_bytes(wire[:2], "big"))
    assert dns_messages.answers(wire, asked.end, reply(wire))
    assert dns_messages.answers(wire, asked.end, reply(wire).replace(b"example", b"exAMple"))
    assert not dns_messages.answers(wire, asked.end, reply(other.to_wire()))
    assert not dns_messages.answers(wire, asked.end, bytes([wire[0] ^ 1]) + reply(wire)[1:])
    assert not dns_messages.answers(wire, asked.end, wire)
    assert not dns_messages.answers(wire, asked.end, b"")


def test_only_a_refusal_may_leave_the_question_out() -> None:
    wire, asked = question("example.com.")
    bare = dns.message.Message(id=int.from_bytes(wire[:2], "big"))
    bare.flags = dns.flags.QR
    assert not dns_messages.answers(wire, asked.end, bare.to_wire())
    bare.set_rcode(dns.rcode.REFUSED)
    assert dns_messages.answers(wire, asked.end, bare.to_wire())


@given(st.binary(max_size=60))
def test_any_bytes_may_come_from_a_resolver(wire: bytes) -> None:
    asked, found = question("example.com.")
    dns_messages.answers(asked, found.end, wire)
