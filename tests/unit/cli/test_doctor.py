"""``network plan`` and ``network doctor``: what is asked, what is printed, how they end."""

from typing import Any

import pytest

from tests.fakes import swarm
from tests.fakes.api_server import FakeApi, Request
from tests.unit.cli.conftest import Cli
from tests.unit.cli.test_verdicts import report

Json = Any

CHECK = "/swarmlet/network/check"
MANAGER, WORKER = swarm.node("mgr-1")["ID"], swarm.node("wrk-1")["ID"]


def peer(node_id: str, overlay: str = "well") -> Json:
    return {
        "NodeID": node_id,
        "Hostname": "",
        "Addr": "10.0.0.11:2377",
        "Control": "well",
        "Overlay": overlay,
        "Heard": "untried",
        "Encrypted": "untried",
    }


@pytest.fixture(autouse=True)
def nodes(api: FakeApi) -> None:
    def check(request: Request) -> Json:
        asked = request.query.get("node", MANAGER)
        return report(peer(WORKER if asked == MANAGER else MANAGER))

    api.on(f"GET {CHECK}", check)
    api.on(f"POST {CHECK}", check)


def test_plan_prints_the_text_or_all_of_it(api: FakeApi, cli: Cli) -> None:
    api.on(
        "GET /swarmlet/network/plan",
        {"NodeID": "n", "Failure": "", "Text": "node 1\n\nlinks\n", "Plan": {"links": {}}},
    )
    assert cli("network", "plan").out == "node 1\n\nlinks\n"
    assert '"Plan": {"links": {}}' in cli("network", "plan", "--format", "json").out
    assert cli("network", "plan", "--format", "{{.NodeID}}").out == "n\n"


def test_a_plan_that_is_not_in_the_kernel_says_so(api: FakeApi, cli: Cli) -> None:
    api.on(
        "GET /swarmlet/network/plan",
        {"NodeID": "n", "Failure": "nft: no", "Text": "node 1\n", "Plan": {}},
    )
    assert "the kernel does not hold this plan yet: nft: no" in cli("network", "plan").err


def test_a_healthy_cluster(cli: Cli) -> None:
    result = cli("network", "doctor")
    assert result.status == 0
    assert result.out.splitlines() == [
        "WHERE             CHECK          RESULT   DETAIL                     FIX",
        "mgr-1             forwarding     ok       the kernel is as planned",
        "mgr-1             names          ok",
        "wrk-1             forwarding     ok       the kernel is as planned",
        "wrk-1             names          ok",
        "mgr-1             clock          ok",
        "wrk-1             clock          ok",
        "mgr-1 <-> wrk-1   control port   ok",
        "mgr-1 <-> wrk-1   vxlan          ok       1450 bytes pass",
    ]
    lines = result.err.splitlines()
    assert sorted(line.split()[1] for line in lines[:2]) == ["mgr-1", "wrk-1"]
    assert lines[1].endswith("(2 of 2)")
    assert lines[2:] == ["8 checks, no problem."]
    assert cli("-q", "network", "doctor").err == ""


def test_problems_are_named_and_end_with_status_1(api: FakeApi, cli: Cli) -> None:
    api.on(f"GET {CHECK}", lambda r: report(Differences=["route x is missing"]))
    result = cli("network", "doctor", "--format", "json")
    assert result.status == 1
    assert (
        '{"Where": "wrk-1", "Check": "forwarding", "Result": "problem", '
        '"Detail": "route x is missing", "Fix": "swarmlet network doctor --fix"}'
    ) in result.out.splitlines()
    assert "error: 2 problems" in result.err


def test_fix_asks_every_node_to_repair(api: FakeApi, cli: Cli) -> None:
    api.on(f"POST {CHECK}", lambda r: report(Repaired=["route x is missing"]))
    result = cli("network", "doctor", "--fix")
    assert result.status == 0
    assert "mgr-1   forwarding   repaired   route x is missing" in result.out
    assert {r.query["node"] for r in api.sent(f"POST {CHECK}")} == {MANAGER, WORKER}
    assert not api.sent(f"GET {CHECK}")


def test_a_node_that_cannot_be_asked_is_a_problem_and_not_the_end(api: FakeApi, cli: Cli) -> None:
    def check(request: Request) -> Json:
        if request.query["node"] == WORKER:
            return 503, {"message": "it timed out", "code": "unavailable", "advice": "look at it"}
        return report()

    api.on(f"GET {CHECK}", check)
    result = cli("network", "doctor")
    assert result.status == 1
    assert "wrk-1   control port   problem   it timed out               look at it" in result.out


def test_a_node_that_is_down_is_not_asked(api: FakeApi, cli: Cli) -> None:
    api.on("GET /nodes", [swarm.node("mgr-1", leader=True), swarm.node("wrk-1", state="down")])
    result = cli("network", "doctor")
    assert result.status == 1
    assert "the node is down" in result.out
    assert [r.query["node"] for r in api.sent(f"GET {CHECK}")] == [MANAGER]


def test_a_worker_checks_itself(api: FakeApi, cli: Cli) -> None:
    api.on("GET /info", swarm.info("wrk-1", manager=False))
    api.on(f"GET {CHECK}", report(peer(MANAGER, "none") | {"Hostname": "mgr-1"}))
    result = cli("network", "doctor")
    assert result.status == 1
    assert [line.split()[0] for line in result.out.splitlines()[1:]] == [
        "wrk-1",
        "wrk-1",
        "mgr-1",
        "mgr-1",
    ]
    assert api.sent(f"GET {CHECK}")[0].query == {}
    assert not api.sent("GET /nodes")


def test_of_many_checks_only_the_bad_ones_are_shown(api: FakeApi, cli: Cli) -> None:
    names = [f"wrk-{n}" for n in range(60)]
    api.on("GET /nodes", [swarm.node(name) for name in names])
    bad = swarm.node("wrk-7")["ID"]
    api.on(
        f"GET {CHECK}",
        lambda r: report(Resolver="it is gone" if r.query["node"] == bad else ""),
    )
    result = cli("network", "doctor")
    assert len(result.out.splitlines()) == 2
    assert "wrk-7   names   problem   it is gone" in result.out
    assert "179 more checks are ok" in result.err
