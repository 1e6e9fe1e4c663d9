"""``/swarmlet/network/…``: what every node says of itself, and managers of all."""

from swarmlet.api.backend import LocalState
from swarmlet.api.server import Api
from swarmlet.clock import Nanos
from swarmlet.model.checks import NodeCheck, Passage, PeerCheck
from swarmlet.model.specs import Role

from tests.fakes.backend import FakeBackend
from tests.unit.api.http_client import ask

CHECK = "/swarmlet/network/check"


def become_worker(backend: FakeBackend) -> None:
    backend.become(LocalState(state="active", node_id="w1", role=Role.WORKER))


async def test_every_node_shows_its_plan_without_a_quorum(api: Api, backend: FakeBackend) -> None:
    backend.quorum = False
    become_worker(backend)
    reply = await ask(api, "GET", "/v1.47/swarmlet/network/plan")
    assert (reply.status, reply.json) == (
        200,
        {"NodeID": "w1", "Failure": "", "Text": "node 1\n", "Plan": {"links": {}}},
    )
    assert backend.barriers == 0


async def test_a_node_in_no_swarm_has_no_plan(api: Api, backend: FakeBackend) -> None:
    backend.become(LocalState(state="inactive"))
    reply = await ask(api, "GET", "/swarmlet/network/plan")
    assert (reply.status, reply.message) == (503, "This node is not part of a swarm")


async def test_a_check_is_shown_in_full(api: Api, backend: FakeBackend) -> None:
    peer = PeerCheck(id="w1", hostname="h", addr="10.0.0.2:2377", overlay=Passage.SMALL)
    backend.check = NodeCheck(
        offset=Nanos(1_500_000_000),
        differences=("x",),
        more=2,
        problems=("node m2 has no key",),
        mtu=1450,
        peers=(peer,),
    )
    reply = await ask(api, "GET", CHECK)
    assert reply.json == {
        "NodeID": backend.local().node_id,
        "ClockOffset": 1.5,
        "Differences": ["x"],
        "MoreDifferences": 2,
        "Repaired": [],
        "Failure": "",
        "Unmade": [],
        "Problems": ["node m2 has no key"],
        "Resolver": "",
        "Refusals": [],
        "Suspects": [],
        "Engine": "",
        "MTU": 1450,
        "DataPathPort": 4789,
        "ControlPort": 2377,
        "EncryptedPorts": [4793, 4794],
        "Peers": [
            {
                "NodeID": "w1",
                "Hostname": "h",
                "Addr": "10.0.0.2:2377",
                "Control": "untried",
                "Overlay": "small",
                "Encrypted": "untried",
                "Heard": "untried",
            }
        ],
    }


async def test_a_manager_asks_others_by_name_and_repairs_when_posted_to(
    api: Api, backend: FakeBackend
) -> None:
    own, other = backend.local().node_id, backend.add_node("w1").id
    await ask(api, "GET", f"{CHECK}?node=w1")
    await ask(api, "POST", f"{CHECK}?node={own}")
    assert backend.checked == [(other, False), ("", True)]
    assert (await ask(api, "GET", f"{CHECK}?node=nobody")).status == 404


async def test_a_worker_asks_only_itself(api: Api, backend: FakeBackend) -> None:
    become_worker(backend)
    assert (await ask(api, "GET", f"{CHECK}?node=w1")).status == 200
    reply = await ask(api, "GET", f"{CHECK}?node=w2")
    assert reply.status == 503
    assert "not a swarm manager" in reply.message
    assert backend.checked == [("", False)]


async def test_what_is_not_there_is_not_the_engines(api: Api) -> None:
    assert (await ask(api, "GET", "/swarmlet/nothing")).status == 404
