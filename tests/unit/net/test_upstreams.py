"""Which resolvers outside are asked, and in which order."""

import contextlib
import random
from collections.abc import AsyncIterator
from pathlib import Path

import dns.message
import dns.rcode
import pytest
import trio
from swarmlet.net import dns_messages
from swarmlet.net.upstreams import Upstreams, nameservers

from tests.unit.net import dns_lab
from tests.unit.net.dns_lab import Outside, Says, addresses, fails, query, says, silent

HERE = "192.0.2.80"


@contextlib.asynccontextmanager
async def resolvers(*answers: Says | None) -> AsyncIterator[tuple[Upstreams, list[Outside]]]:
    """Resolvers 1, 2 and so on outside; None for one where nobody listens."""
    port = dns_lab.free_port()
    async with trio.open_nursery() as nursery:
        made = []
        for number, answer in enumerate(answers, start=1):
            made.append(Outside(number, port, answer or silent))
            if answer is not None:
                await nursery.start(made[-1].run)
        yield Upstreams(random.Random(2), port=port, resolv_conf=Path("/nonexistent")), made
        nursery.cancel_scope.cancel()


async def ask(
    upstreams: Upstreams, servers: list[Outside], *, tcp: bool = False
) -> dns.message.Message | None:
    asked = query("example.com.")
    wire = asked.to_wire()
    read = dns_messages.read(wire)
    assert read is not None
    names = [server.address for server in servers]
    raw = await upstreams.ask(wire, read.end, names, tcp=tcp)
    if not raw:
        return None
    answer = dns.message.from_wire(raw)
    assert answer.id == asked.id
    return answer


@pytest.mark.parametrize("tcp", [False, True])
async def test_first_that_answers_is_the_only_one_asked(tcp: bool) -> None:
    async with resolvers(says(HERE), says("192.0.2.1")) as (upstreams, made):
        answer = await ask(upstreams, made, tcp=tcp)
        assert answer is not None
        assert addresses(answer) == [HERE]
        assert made[1].asked == []


@pytest.mark.parametrize("tcp", [False, True])
@pytest.mark.parametrize("first", [None, fails(), fails(dns.rcode.REFUSED), silent])
async def test_next_one_is_asked_when_the_first_does_not_help(
    first: Says | None, tcp: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if first is silent:
        monkeypatch.setattr("swarmlet.net.upstreams.NEXT_AFTER", 0.05)
    async with resolvers(first, says(HERE)) as (upstreams, made):
        answer = await ask(upstreams, made, tcp=tcp)
        assert answer is not None
        assert addresses(answer) == [HERE]


async def test_a_name_that_does_not_exist_is_an_answer() -> None:
    async with resolvers(fails(dns.rcode.NXDOMAIN), says(HERE)) as (upstreams, made):
        answer = await ask(upstreams, made)
        assert answer is not None
        assert answer.rcode() == dns.rcode.NXDOMAIN
        assert made[1].asked == []


async def test_of_failures_only_the_last_is_passed_on_and_each_is_asked_once() -> None:
    async with resolvers(fails(), fails(dns.rcode.REFUSED)) as (upstreams, made):
        answer = await ask(upstreams, made)
        assert answer is not None
        assert answer.rcode() == dns.rcode.REFUSED
        assert [len(server.asked) for server in made] == [1, 1]


async def test_a_lost_packet_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swarmlet.net.upstreams.NEXT_AFTER", 0.05)
    async with resolvers(silent) as (upstreams, made):

        def second_time(wire: bytes) -> list[bytes]:
            return says(HERE)(wire) if len(made[0].asked) > 1 else []

        made[0].answer = second_time
        answer = await ask(upstreams, made)
        assert answer is not None
        assert addresses(answer) == [HERE]


async def test_forged_answers_are_passed_over() -> None:
    def forged(wire: bytes) -> list[bytes]:
        wrong_id = bytes([wire[0] ^ 1]) + says("192.0.2.66")(wire)[0][1:]
        other = dns.message.make_query("example.org.", "A", id=int.from_bytes(wire[:2], "big"))
        return [b"", b"x", wire, wrong_id, *says("192.0.2.67")(other.to_wire()), *says(HERE)(wire)]

    async with resolvers(forged) as (upstreams, made):
        answer = await ask(upstreams, made)
        assert answer is not None
        assert addresses(answer) == [HERE]


async def test_identifier_of_the_asker_is_not_used_outside() -> None:
    async with resolvers(says(HERE)) as (upstreams, made):
        for _ in range(8):
            await ask(upstreams, made)
        assert len({wire[:2] for wire in made[0].asked}) > 1


async def test_without_resolvers_there_is_no_answer() -> None:
    async with resolvers() as (upstreams, made):
        assert await ask(upstreams, made) is None


async def test_slow_resolver_comes_last_for_a_while(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstreams = Upstreams(random.Random(1), resolv_conf=Path("/nonexistent"))
    both = ["192.0.2.1", "192.0.2.2"]

    async def by_udp(self: object, server: str) -> bytes:
        if server == both[0]:
            await trio.sleep_forever()
        return b"xx\x80\x00"

    monkeypatch.setattr("swarmlet.net.upstreams._Race._by_udp", by_udp)
    assert upstreams.choose(both, ()) == both
    assert await upstreams.ask(b"abcd", 4, both, tcp=False) == b"ab\x80\x00"
    assert upstreams.choose(both, ()) == both[::-1]
    await trio.sleep(20)
    assert upstreams.choose(both, ()) == both


# --- which --------------------------------------------------------------------------------------


def test_resolv_conf_is_read_as_the_c_library_does() -> None:
    text = """
# nameserver 192.0.2.9
search example.com
nameserver 192.0.2.1
nameserver\t2001:db8::53  # tail
nameserver nonsense
nameserver
options ndots:2
nameserver 127.0.0.53
nameserver 192.0.2.4
"""
    assert nameservers(text) == ("192.0.2.1", "2001:db8::53", "127.0.0.53")
    assert nameservers("") == ("127.0.0.1",)


async def test_changed_resolv_conf_is_read_again(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    conf = tmp_path / "resolv.conf"
    upstreams = Upstreams(random.Random(1), resolv_conf=conf)
    assert upstreams.choose((), ()) == ["127.0.0.1"]
    for address in ("192.0.2.1", "192.0.2.222"):
        conf.write_text(f"nameserver {address}\n")
        await trio.sleep(2)
        assert upstreams.choose((), ()) == [address]
    conf.unlink()  # while it is replaced, what was known stays
    await trio.sleep(2)
    assert upstreams.choose((), ()) == ["192.0.2.222"]


async def test_name_servers_of_the_task_come_instead_of_the_hosts(tmp_path: Path) -> None:
    conf = tmp_path / "resolv.conf"
    conf.write_text("nameserver 192.0.2.1\n")
    upstreams = Upstreams(random.Random(1), resolv_conf=conf)
    assert upstreams.choose(("192.0.2.7", "192.0.2.8"), ()) == ["192.0.2.7", "192.0.2.8"]


@pytest.mark.parametrize(
    "named", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "0.0.0.0", "10.0.1.1", "junk"]
)
async def test_loopback_of_the_node_and_our_own_addresses_are_never_asked_for_a_task(
    named: str, tmp_path: Path
) -> None:
    conf = tmp_path / "resolv.conf"
    conf.write_text("nameserver 192.0.2.1\nnameserver 10.0.1.1\n")
    upstreams = Upstreams(random.Random(1), resolv_conf=conf)
    assert upstreams.choose((named,), ("10.0.1.1",)) == ["192.0.2.1"]


async def test_resolver_of_the_host_on_its_loopback_is_asked(tmp_path: Path) -> None:
    """systemd-resolved, dnsmasq."""
    conf = tmp_path / "resolv.conf"
    conf.write_text("nameserver 127.0.0.53\n")
    upstreams = Upstreams(random.Random(1), resolv_conf=conf)
    assert upstreams.choose((), ("10.0.1.1",)) == ["127.0.0.53"]
