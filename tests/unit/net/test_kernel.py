"""What of the kernel's answers is a failure. That it obeys is tested in namespaces."""

from pathlib import Path

import pytest
import trio
from swarmlet.errors import ForwardingFailed
from swarmlet.net.commands import Commands, Output
from swarmlet.net.facts import Owner, Port
from swarmlet.net.kernel import Kernel
from swarmlet.net.links import Changes

#: What iproute2 6.1 says to ``ip -force -batch -`` when others were there before.
GONE = """RTNETLINK answers: No such process
Command failed -:1
Cannot find device "sl-red"
Command failed -:2
Error: FIB table does not exist.
Command failed -:3
"""


class Refusing(Commands):
    """Every program fails, and says this."""

    def __init__(self, words: str) -> None:
        super().__init__()
        self._words = words

    async def run(self, *words: str, stdin: str = "", patience: float = 0) -> Output:
        await trio.lowlevel.checkpoint()
        return Output(1, b"", self._words.encode())


REMOVALS = Changes(removals=["route del 10.9.0.3/32"])


async def test_what_somebody_else_removed_need_not_be_removed(tmp_path: Path) -> None:
    await Kernel(Refusing(GONE), tmp_path).finish(REMOVALS)


async def test_what_cannot_be_removed_is_a_failure(tmp_path: Path) -> None:
    said = GONE + "RTNETLINK answers: Operation not permitted\nCommand failed -:4\n"
    with pytest.raises(ForwardingFailed, match="Operation not permitted"):
        await Kernel(Refusing(said), tmp_path).finish(REMOVALS)


PORTS = {"veth1": Port("sl-red", 7, 1, Owner("10.9.0.3", "02:42:0a:09:00:03"))}


async def test_a_port_that_went_meanwhile_needs_no_place(tmp_path: Path) -> None:
    await Kernel(Refusing(GONE), tmp_path).seat(PORTS)


async def test_a_port_that_gets_no_place_is_a_failure(tmp_path: Path) -> None:
    said = "RTNETLINK answers: Operation not permitted\nCommand failed -:1\n"
    with pytest.raises(ForwardingFailed, match="Operation not permitted"):
        await Kernel(Refusing(said), tmp_path).seat(PORTS)
