"""The server over real sockets, on loopback addresses: UDP, TCP, strangers, garbage, bounds."""

import contextlib
import random
import socket
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import dns.flags
import dns.message
import dns.rcode
import pytest
import trio
from msgspec.structs import replace
from swarmlet.net import dns as server_module
from swarmlet.net.dns import Server
from swarmlet.net.upstreams import Upstreams

from tests.unit.net import dns_lab
from tests.unit.net.dns_lab import (
    ASKER,
    GATEWAY,
    STRANGER,
    VIP,
    Outside,
    addresses,
    ask_tcp,
    ask_udp,
    outside,
    query,
    records,
    says,
    silent,
    table,
)
from tests.waiting import PATIENCE, eventually, eventually_async

#: Where names that are not ours lead.
ELSEWHERE = "192.0.2.80"


class Lab:
    """A server, and one resolver outside that the host's resolv.conf names."""

    def __init__(self, server: Server, port: int, host: Outside, nursery: trio.Nursery) -> None:
        self.server, self.port, self.host, self.nursery = server, port, host, nursery


@contextlib.asynccontextmanager
async def lab_in(directory: Path) -> AsyncIterator[Lab]:
    port, upstream_port = dns_lab.free_port(), dns_lab.free_port()
    conf = directory / "resolv.conf"
    conf.write_text(f"nameserver {outside(1)}\n")
    rng = random.Random(5)
    server = Server(Upstreams(rng, port=upstream_port, resolv_conf=conf), rng)
    server.use(table(port))
    async with trio.open_nursery() as nursery:
        host = Outside(1, upstream_port, says(ELSEWHERE))
        await nursery.start(host.run)
        await nursery.start(server.run)
        yield Lab(server, port, host, nursery)
        nursery.cancel_scope.cancel()


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    async with lab_in(tmp_path) as made:
        yield made


# --- ours ---------------------------------------------------------------------------------------


async def test_service_is_answered_over_udp_and_tcp(lab: Lab) -> None:
    assert addresses(await ask_udp(query("web."), lab.port)) == [VIP]
    assert addresses(await ask_tcp(query("WEB."), lab.port)) == [VIP]
    assert lab.host.asked == []


async def test_answer_comes_again_from_what_was_kept(lab: Lab) -> None:
    for _ in range(3):
        assert addresses(await ask_udp(query("web."), lab.port)) == [VIP]


async def test_ipv6_of_a_known_name_is_empty(lab: Lab) -> None:
    answer = await ask_udp(query("web.", "AAAA"), lab.port)
    assert (answer.rcode(), answer.answer) == (dns.rcode.NOERROR, [])
    assert lab.host.asked == []


async def test_reverse_lookup_of_the_virtual_address(lab: Lab) -> None:
    name = ".".join(reversed(VIP.split("."))) + ".in-addr.arpa."
    assert addresses(await ask_udp(query(name, "PTR"), lab.port)) == ["web.front."]


async def test_what_does_not_fit_in_udp_is_marked_and_whole_over_tcp(lab: Lab) -> None:
    lab.server.use(table(lab.port, tables=records(backends=100)))
    cut = await ask_udp(query("tasks.web."), lab.port)
    assert cut.flags & dns.flags.TC
    assert 0 < len(addresses(cut)) < 100
    more = await ask_udp(query("tasks.web.", use_edns=0, payload=4_096), lab.port)
    assert len(addresses(cut)) < len(addresses(more)) < 100
    whole = await ask_tcp(query("tasks.web."), lab.port)
    assert not whole.flags & dns.flags.TC
    assert len(addresses(whole)) == 100


async def test_new_table_counts_from_the_next_question_on(lab: Lab) -> None:
    assert len(addresses(await ask_udp(query("tasks.web."), lab.port))) == 2
    lab.server.use(table(lab.port, tables=records(backends=3)))
    assert len(addresses(await ask_udp(query("tasks.web."), lab.port))) == 3


async def test_stranger_is_refused_and_nobody_is_asked_for_it(lab: Lab) -> None:
    for name in ("web.", "example.com."):
        assert (await ask_udp(query(name), lab.port, by=STRANGER)).rcode() == dns.rcode.REFUSED
    assert lab.host.asked == []


async def test_nothing_of_an_internal_network_goes_out_in_another_class(lab: Lab) -> None:
    """Questions of a class that is not IN are not ours to answer, whatever their name."""
    question = query("web.", "TXT", rdclass="CH")
    assert addresses(await ask_udp(question, lab.port)) == [ELSEWHERE]
    known = records()
    networks = {key: replace(one, internal=True) for key, one in known.networks.items()}
    lab.server.use(table(lab.port, tables=replace(known, networks=networks)))
    assert len(lab.host.asked) == 1
    for ask in (ask_udp, ask_tcp):
        assert (await ask(question, lab.port)).rcode() == dns.rcode.REFUSED
    assert addresses(await ask_udp(query("web."), lab.port)) == [VIP]
    assert len(lab.host.asked) == 1


async def test_a_connection_carries_many_questions(lab: Lab) -> None:
    async with await dns_lab.connect_tcp(lab.port) as stream:
        assert addresses(await dns_lab.ask_stream(stream, query("web."))) == [VIP]
        assert addresses(await dns_lab.ask_stream(stream, query("a.example."))) == [ELSEWHERE]
        assert addresses(await dns_lab.ask_stream(stream, query("web."))) == [VIP]


# --- addresses ----------------------------------------------------------------------------------


async def answers(lab: Lab, address: str, *, tcp: bool = False) -> bool:
    """Whether the server answers there."""
    try:
        answer = await (ask_tcp if tcp else ask_udp)(query("web."), lab.port, to=address)
    except OSError:
        return False
    return addresses(answer) == [VIP]


async def refuses(lab: Lab, address: str) -> bool:
    return not await answers(lab, address)


async def test_addresses_come_and_go_with_the_table(lab: Lab) -> None:
    second = GATEWAY.replace(".1.1", ".1.2")
    lab.server.use(table(lab.port, listen=(GATEWAY, second)))
    await eventually_async(partial(answers, lab, second))
    lab.server.use(table(lab.port, listen=(second,)))
    await eventually_async(partial(refuses, lab, GATEWAY))
    assert await answers(lab, second)


async def test_address_that_another_program_has_is_taken_when_it_is_free(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "LISTEN_AGAIN_AFTER", 0.01)
    busy = GATEWAY.replace(".1.1", ".1.3")
    with socket.socket(type=socket.SOCK_DGRAM) as other:
        other.bind((busy, lab.port))
        lab.server.use(table(lab.port, listen=(GATEWAY, busy)))
        # TCP of it is free, and other addresses are not disturbed.
        await eventually_async(partial(answers, lab, busy, tcp=True))
        assert await answers(lab, GATEWAY)
    await eventually_async(partial(answers, lab, busy))


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
def test_address_is_listened_on_before_the_node_has_it(kind: socket.SocketKind) -> None:
    """The bridge comes with the first task of its network, and goes when somebody removes it."""
    with server_module._open(("203.0.113.1", dns_lab.free_port()), kind) as sock:
        assert sock.getsockname()[0] == "203.0.113.1"


async def test_two_servers_share_an_address_so_that_one_can_follow_the_other(
    lab: Lab, tmp_path: Path
) -> None:
    rng = random.Random(6)
    successor = Server(Upstreams(rng, resolv_conf=tmp_path / "none"), rng)
    successor.use(table(lab.port))
    async with trio.open_nursery() as nursery:
        await nursery.start(successor.run)
        await lab.server.retire()
        for _ in range(20):
            assert addresses(await ask_udp(query("web."), lab.port)) == [VIP]
        nursery.cancel_scope.cancel()


# --- garbage ------------------------------------------------------------------------------------


async def test_garbage_gets_no_answer_and_does_no_harm(lab: Lab) -> None:
    rng = random.Random(9)
    good = query("tasks.web.", use_edns=0).to_wire()
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind((ASKER, 0))
        sock.setblocking(False)
        for number in range(500):
            wire = bytearray(rng.randbytes(rng.randrange(80)) if number % 2 else good)
            for _ in range(rng.randrange(4)):
                if wire:
                    wire[rng.randrange(len(wire))] = rng.randrange(256)
            with contextlib.suppress(BlockingIOError):
                sock.sendto(wire[: rng.randrange(len(wire) + 1)], (GATEWAY, lab.port))
            await trio.lowlevel.checkpoint()
    assert addresses(await ask_udp(query("web."), lab.port)) == [VIP]


async def test_what_is_no_question_is_dropped(lab: Lab) -> None:
    """The answer to a question that was sent last is the first one that comes."""
    asked = query("web.")
    answer = dns.message.make_response(asked).to_wire()
    with trio.socket.socket(type=socket.SOCK_DGRAM) as sock:
        await sock.bind((ASKER, 0))
        await sock.connect((GATEWAY, lab.port))
        for wire in (b"", b"x", bytes(12)[:11], answer, bytes(5_000), asked.to_wire()):
            await sock.send(wire)
        with trio.fail_after(PATIENCE):
            first = dns.message.from_wire(await sock.recv(4_096))
    assert first.id == asked.id
    assert addresses(first) == [VIP]


@pytest.mark.parametrize(
    "sent",
    [b"\xff\xff" + bytes(50), b"\0\x05abc", b"\0\0", b"\0\x03abc"],
    ids=["too long", "cut off", "empty", "no question"],
)
async def test_connection_with_garbage_is_closed(lab: Lab, sent: bytes) -> None:
    async with await dns_lab.connect_tcp(lab.port) as stream:
        with trio.fail_after(PATIENCE), contextlib.suppress(trio.BrokenResourceError):
            await stream.send_all(sent)
            await stream.send_eof()
            assert await stream.receive_some() == b""
    assert addresses(await ask_tcp(query("web."), lab.port)) == [VIP]


async def test_a_mistake_of_ours_costs_one_question_only(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_wire: bytes) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr("swarmlet.net.dns_messages.read", broken)
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            sock.bind((ASKER, 0))
            sock.sendto(query("web.").to_wire(), (GATEWAY, lab.port))
        with contextlib.suppress(EOFError, trio.BrokenResourceError):
            await ask_tcp(query("web."), lab.port)
    assert addresses(await ask_udp(query("web."), lab.port)) == [VIP]


# --- bounds -------------------------------------------------------------------------------------


async def test_one_asker_cannot_use_up_what_others_need(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.host.answer = silent
    most = server_module.MOST_FORWARDED_FOR_ONE
    async with trio.open_nursery() as nursery:
        for _ in range(most):
            nursery.start_soon(ask_udp, query("slow.example."), lab.port)
        await eventually(lambda: len(lab.host.asked) >= most)
        refused = await ask_udp(query("more.example."), lab.port)
        assert refused.rcode() == dns.rcode.SERVFAIL
        assert not any(b"more" in wire for wire in lab.host.asked)
        assert addresses(await ask_udp(query("web."), lab.port)) == [VIP]
        lab.host.answer = says(ELSEWHERE)
        other = ASKER.replace(".1.11", ".1.12")
        answer = await ask_udp(query("more.example."), lab.port, by=other)
        assert addresses(answer) == [ELSEWHERE]


async def test_connections_of_one_asker_are_bounded(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(server_module.MOST_CONNECTIONS_OF_ONE):
            stream = await stack.enter_async_context(await dns_lab.connect_tcp(lab.port))
            assert addresses(await dns_lab.ask_stream(stream, query("web."))) == [VIP]
        with pytest.raises((EOFError, trio.BrokenResourceError)):
            await ask_tcp(query("web."), lab.port)
        other = ASKER.replace(".1.11", ".1.12")
        assert addresses(await ask_tcp(query("web."), lab.port, by=other)) == [VIP]


async def test_silent_connection_is_closed(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "IDLE_FOR", 0.01)
    async with await dns_lab.connect_tcp(lab.port) as stream:
        await stream.send_all(b"\0")
        with trio.fail_after(PATIENCE):
            assert await stream.receive_some() == b""


# --- others' ------------------------------------------------------------------------------------


async def test_other_names_are_asked_outside_and_the_answer_is_untouched(lab: Lab) -> None:
    asked = query("wWw.example.com.", use_edns=0, payload=1_400, want_dnssec=True)
    answer = await ask_udp(asked, lab.port)
    assert answer.to_wire()[2:] == says(ELSEWHERE)(asked.to_wire())[0][2:]
    assert lab.host.asked[-1][2:] == asked.to_wire()[2:]


async def test_asked_over_tcp_asks_over_tcp(lab: Lab) -> None:
    assert addresses(await ask_tcp(query("example.com."), lab.port)) == [ELSEWHERE]
    assert lab.host.by_tcp == 1


async def test_truncated_answer_is_passed_on_so_that_the_asker_comes_by_tcp(lab: Lab) -> None:
    honest = says(ELSEWHERE)

    def cut(wire: bytes) -> list[bytes]:
        reply = dns.message.make_response(dns.message.from_wire(wire))
        reply.flags |= dns.flags.TC
        return [reply.to_wire()]

    lab.host.answer = cut
    assert (await ask_udp(query("example.com."), lab.port)).flags & dns.flags.TC
    lab.host.answer = honest
    assert addresses(await ask_tcp(query("example.com."), lab.port)) == [ELSEWHERE]


async def test_nobody_outside_answers(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swarmlet.net.upstreams.ANSWER_WITHIN", 0.05)
    lab.host.answer = silent
    assert (await ask_udp(query("example.com."), lab.port)).rcode() == dns.rcode.SERVFAIL
    assert (await ask_tcp(query("example.com."), lab.port)).rcode() == dns.rcode.SERVFAIL


async def test_task_with_name_servers_of_its_own_has_them_asked(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Outside(2, lab.host.port, says("192.0.2.99"))
    await lab.nursery.start(own.run)
    # Only here: a loopback address of a service is never asked (test_upstreams).
    monkeypatch.setattr("swarmlet.net.upstreams._is_loopback", lambda _address: False)
    lab.server.use(table(lab.port, nameservers={"t1": (own.address,)}))
    assert addresses(await ask_udp(query("example.com."), lab.port)) == ["192.0.2.99"]
    other = ASKER.replace(".1.11", ".1.12")
    assert addresses(await ask_udp(query("example.com."), lab.port, by=other)) == [ELSEWHERE]


async def test_question_under_way_is_answered_before_the_server_retires(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "RETIRE_WITHIN", PATIENCE)
    lab.host.answer = silent
    got: list[dns.message.Message] = []

    async def ask() -> None:
        got.append(await ask_udp(query("late.example."), lab.port))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await eventually(lambda: lab.host.asked)
        lab.host.answer = says(ELSEWHERE)  # the next try is answered
        await lab.server.retire()
        assert len(lab.host.asked) == 2
    assert addresses(got[0]) == [ELSEWHERE]
