"""Who is behind a port: the engine is asked, and nobody who may be another is believed."""

import os
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import pytest
import trio
from swarmlet.agent.identification import Identification
from swarmlet.engine.client import Engine
from swarmlet.engine.networks import NETWORK_LABEL
from swarmlet.net.facts import Owner, Port
from swarmlet.net.owners import Guest

from tests.fakes.fake_engine import FakeEngine, Refusal
from tests.waiting import eventually

MAC = "02:42:0a:09:01:05"
OWNER = Owner("10.9.1.5", MAC)


class FakeKernel:
    """Remembers who was named, and by which namespace."""

    def __init__(self) -> None:
        self.ports: Mapping[str, Port] = {}
        self.met: list[tuple[int, Mapping[str, Owner]]] = []
        self._changed = trio.Event()

    def plug(self, *ports: Port) -> None:
        self.ports = {f"veth{port.number}": port for port in ports}
        self._changed.set()
        self._changed = trio.Event()

    async def ports_changed(self) -> None:
        await self._changed.wait()

    async def identify(self, guests: Sequence[Guest]) -> None:
        await trio.lowlevel.checkpoint()
        self.met += [(os.fstat(one.namespace).st_ino, one.places) for one in guests]


class Rig:
    def __init__(self, fake: FakeEngine, kernel: FakeKernel) -> None:
        self.fake, self.kernel = fake, kernel

    def container(self, name: str, **place: str) -> dict[str, Any]:
        """One whose process is this one, in network net1."""
        endpoint = {"NetworkID": "n1", "IPAddress": "10.9.1.5", "MacAddress": MAC} | place
        state = {"Status": "running", "Running": True, "Pid": os.getpid()}
        made = {
            "Id": name,
            "Name": f"/{name}",
            "Config": {"Labels": {}, "Healthcheck": None},
            "State": state,
            "NetworkSettings": {"Networks": {"front": endpoint}},
        }
        self.fake.containers[name] = made
        return made


@pytest.fixture
async def rig(fake: FakeEngine, nursery: trio.Nursery) -> AsyncIterator[Rig]:
    fake.networks["n1"] = {"Id": "n1", "Name": "front", "Labels": {NETWORK_LABEL: "net1"}}
    fake.networks["n2"] = {"Id": "n2", "Name": "bridge", "Labels": {}}
    kernel = FakeKernel()
    async with Engine(fake.socket_path) as engine:
        part = Identification(engine, kernel, rng=random.Random(1))
        nursery.start_soon(part.follow)
        await eventually(lambda: fake.count("GET /events") == 1)
        yield Rig(fake, kernel)
        nursery.cancel_scope.cancel()


def here() -> int:
    return os.stat("/proc/self/ns/net").st_ino  # noqa: PTH116  # followed, it is no path


async def test_a_container_is_named_when_it_starts(rig: Rig) -> None:
    """Before anybody looked at ports: with its namespace, and what it was given at our bridges."""
    made = rig.container("web", MacAddress=MAC.upper())
    made["NetworkSettings"]["Networks"]["other"] = {
        "NetworkID": "n2", "IPAddress": "172.17.0.2", "MacAddress": "02:42:ac:11:00:02",
    }  # fmt: skip
    rig.fake._emit("start", made)
    await eventually(lambda: rig.kernel.met == [(here(), {"sl-net1": OWNER})])


async def test_a_port_that_nobody_named_has_the_engine_asked_until_it_is_known(rig: Rig) -> None:
    """For those of whom it is not known; in the beginning a process may not be there yet."""
    rig.container("known")
    made = rig.container("late", IPAddress="10.9.1.6")
    state = made["State"] | {}
    made["State"] |= {"Running": False, "Pid": 0}
    rig.kernel.plug(Port("sl-net1", 7, 1, OWNER), Port("sl-net1", 8, 2))
    await eventually(lambda: rig.fake.count("GET /containers/late/json") >= 2)
    assert rig.kernel.met == []
    made["State"] = state
    await eventually(lambda: bool(rig.kernel.met))
    assert rig.kernel.met[0][1] == {"sl-net1": Owner("10.9.1.6", MAC)}
    assert rig.fake.count("GET /containers/known/json") == 0


async def test_a_process_that_may_be_anothers_is_not_believed(rig: Rig) -> None:
    """It ended, and its number was given to another one, while it was looked at."""
    made = rig.container("web")
    asked = 0

    def restart() -> None:
        nonlocal asked
        asked += 1
        made["State"]["Pid"] = os.getpid() if asked == 1 else os.getppid()

    with rig.fake.fault("GET /containers/web/json", restart):
        rig.fake._emit("start", made)
        await eventually(lambda: asked == 2)
    rig.container("next")
    rig.fake._emit("start", rig.fake.containers["next"])
    await eventually(lambda: bool(rig.kernel.met))
    assert len(rig.kernel.met) == 1


@pytest.mark.parametrize("place", [{"IPAddress": ""}, {"MacAddress": "} drop"}])
async def test_what_is_no_address_is_left_out(rig: Rig, place: dict[str, str]) -> None:
    rig.fake._emit("start", rig.container("odd", **place))
    rig.fake._emit("start", rig.container("even"))
    await eventually(lambda: bool(rig.kernel.met))
    assert rig.kernel.met == [(here(), {"sl-net1": OWNER})]


async def test_an_engine_that_fails_is_asked_again(rig: Rig) -> None:
    rig.container("web")
    failures = [Refusal(500, "busy"), Refusal(500, "busy")]

    def fail() -> None:
        if failures:
            raise failures.pop()

    with rig.fake.fault("GET /networks", fail):
        rig.kernel.plug(Port("sl-net1", 8, 2))
        await eventually(lambda: bool(rig.kernel.met))
