"""Echo requests as bytes, and both read from whatever arrives."""

import struct

from hypothesis import given
from hypothesis import strategies as st
from swarmlet.net import icmp


@given(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF), st.integers(28, 9000))
def test_a_request_has_the_size_that_was_asked_for_and_its_sum_is_right(
    ident: int, number: int, size: int
) -> None:
    packet = icmp.request(ident, number, size=size)
    assert len(packet) + icmp.IP_HEADER == size
    assert icmp.HEADER.unpack_from(packet)[3:] == (ident, number)
    padded = packet + b"\0" * (len(packet) % 2)
    total = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    assert (total & 0xFFFF) + (total >> 16) == 0xFFFF


def test_a_reply_is_told_from_a_request_and_both_from_other_messages() -> None:
    asked = bytes([0x45]) + bytes(19) + icmp.request(7, 3, size=1450)
    assert icmp.echo(asked) == icmp.Echo(False, 7, 3, 1450)
    answered = asked[:20] + b"\0" + asked[21:]
    assert icmp.echo(answered) == icmp.Echo(True, 7, 3, 1450)
    unreachable = asked[:20] + b"\3" + asked[21:]
    assert icmp.echo(unreachable) is None


@given(st.binary(max_size=64))
def test_rubbish_is_no_crash(packet: bytes) -> None:
    icmp.echo(packet)
