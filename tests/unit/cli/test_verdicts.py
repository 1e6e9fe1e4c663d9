"""What is wrong, from what nodes found: each fact has its sentence and its way out."""

from typing import Any

import pytest
from swarmlet.cli import verdicts
from swarmlet.cli.verdicts import Finding, Node, Silent, judge

Json = Any

A, B, C = (Node(f"id-{n}", n, f"10.0.0.{i}") for i, n in enumerate("abc", start=1))


def peer(node: Node, control: str = "well", overlay: str = "well", heard: str = "untried") -> Json:
    return {
        "NodeID": node.id,
        "Hostname": node.name,
        "Addr": f"{node.addr}:2377",
        "Control": control,
        "Overlay": overlay,
        "Heard": heard,
        "Encrypted": "untried",
    }


def report(*peers: Json, **more: Json) -> Json:
    return {
        "ClockOffset": 0.0,
        "Differences": [],
        "MoreDifferences": 0,
        "Repaired": [],
        "Failure": "",
        "Unmade": [],
        "Problems": [],
        "Resolver": "",
        "Engine": "",
        "Refusals": [],
        "Suspects": [],
        "MTU": 1450,
        "DataPathPort": 4789,
        "ControlPort": 2377,
        "EncryptedPorts": [4793, 4794],
        "Peers": list(peers),
    } | more


def bad(found: list[Finding]) -> list[Finding]:
    return [one for one in found if one.result == verdicts.PROBLEM]


def test_all_well() -> None:
    found = judge([B, A], {A.id: report(peer(B)), B.id: report(peer(A))}, {})
    assert found == [
        Finding("a", "forwarding", "ok", "the kernel is as planned"),
        Finding("a", "names"),
        Finding("b", "forwarding", "ok", "the kernel is as planned"),
        Finding("b", "names"),
        Finding("a", "clock"),
        Finding("b", "clock"),
        Finding("a <-> b", "control port"),
        Finding("a <-> b", "vxlan", "ok", "1450 bytes pass"),
    ]
    assert verdicts.count(found) == "0 problems"


@pytest.mark.parametrize(
    ("passage", "finding"),
    [
        ("well", ("ok", "full packets pass", "")),
        ("small", ("problem", "full packets do not pass, small ones do", "make the MTU of their")),
        ("none", ("problem", "a gets no packet back", "let udp 4793 and 4794 pass both ways ")),
    ],
)
def test_encrypted_networks_are_judged_where_they_lead(
    passage: str, finding: tuple[str, str, str]
) -> None:
    reports = {A.id: report(peer(B) | {"Encrypted": passage}), B.id: report(peer(A))}
    (found,) = (one for one in judge([A, B], reports, {}) if one.check == "encrypted networks")
    assert found.where == "a <-> b"
    assert (found.result, found.detail) == finding[:2]
    assert found.fix.startswith(finding[2])


def test_what_a_node_cannot_forward_is_named() -> None:
    (found,) = bad(judge([A], {A.id: report(Problems=["node b has no key"])}, {}))
    assert (found.where, found.detail) == ("a", "node b has no key")


def test_each_difference_is_named_with_its_way_out() -> None:
    wrong = report(Differences=["route x is missing"], MoreDifferences=3, Resolver="it is gone")
    found = judge([A], {A.id: wrong}, {})
    fix, log = "swarmlet network doctor --fix", "journalctl -u swarmletd on a says why"
    assert found == [
        Finding("a", "forwarding", "problem", "route x is missing", fix),
        Finding("a", "forwarding", "problem", "3 more differences", fix),
        Finding("a", "names", "problem", "it is gone", fix),
    ]
    (lame,) = bad(judge([A], {A.id: report(Engine="its rules are gone")}, {}, fixed=True))
    assert (lame.check, lame.detail) == ("engine", "its rules are gone")
    assert lame.fix.startswith("systemctl restart docker on a")
    after = judge([A], {A.id: report(Differences=["y"], Repaired=["x"])}, {}, fixed=True)
    assert after[:2] == [
        Finding("a", "forwarding", "repaired", "x"),
        Finding("a", "forwarding", "problem", "y", log),
    ]
    assert verdicts.count(after) == "1 problem"
    failed = judge([A], {A.id: report(Failure="nft: no")}, {})
    assert failed[0] == Finding("a", "forwarding", "problem", "nft: no", log)


def test_a_node_that_is_down_or_silent_is_one_problem_and_its_pairs_are_none() -> None:
    """What others found on their way to the silent one is said, too."""
    down, silent = C._replace(up=False), {B.id: Silent("b:2377 timed out", "look at it")}
    found = judge([A, B, down], {A.id: report(peer(B, "none"))}, silent)
    assert bad(found) == [
        Finding("b", "control port", "problem", "b:2377 timed out", "look at it"),
        Finding(
            *("c", "control port", "problem", "the node is down"),
            "start swarmletd on it, or forget it: swarmlet node rm c",
        ),
        Finding(
            *("a <-> b", "control port", "problem", "a does not reach b at 10.0.0.2:2377"),
            "let tcp 2377 pass between 10.0.0.1 and 10.0.0.2",
        ),
    ]


@pytest.mark.parametrize(
    ("there", "back", "detail", "fix"),
    [
        ("none", "none", "no packet comes back", "let udp 4789 pass both ways"),
        ("none", "well", "no packet comes back", "let udp 4789 pass both ways"),
        ("small", "none", "no packet comes back", "let udp 4789 pass both ways"),
        (
            "small",
            "well",
            "packets of 1450 bytes do not pass, small ones do",
            "make the MTU of their interfaces what the path",
        ),
        ("unknown", "well", "a has not been told of b yet", "if that lasts, journalctl"),
    ],
)
def test_what_does_not_pass_between_two(there: str, back: str, detail: str, fix: str) -> None:
    reports = {A.id: report(peer(B, overlay=there)), B.id: report(peer(A, overlay=back))}
    [found] = bad(judge([A, B], reports, {}))
    assert (found.where, found.check, found.detail) == ("a <-> b", "vxlan", detail)
    assert found.fix.startswith(fix)


@pytest.mark.parametrize(
    ("overlay", "at_a", "at_b", "detail", "fix"),
    [
        (
            *("none", "none", "well", "no packet passes from b to a, the other way they do"),
            "let udp 4789 pass from 10.0.0.2 to 10.0.0.1: in both hosts' firewalls",
        ),
        (
            *("none", "small", "none", "no packet passes from a to b, the other way they do"),
            "let udp 4789 pass from 10.0.0.1 to 10.0.0.2: in both hosts' firewalls",
        ),
        (
            *("none", "none", "none", "no packet passes either way"),
            "let udp 4789 pass both ways between 10.0.0.1 and 10.0.0.2",
        ),
        # A node of an older version does not say what it heard.
        ("none", "none", "untried", "no packet comes back", "let udp 4789 pass both ways"),
        (
            *("small", "small", "well", "packets of 1450 bytes do not pass from b to a, small"),
            "make the MTU",
        ),
    ],
)
def test_the_way_that_is_broken_is_named(
    overlay: str, at_a: str, at_b: str, detail: str, fix: str
) -> None:
    """When one node heard the other's question, and its answer was not heard."""
    reports = {
        A.id: report(peer(B, overlay=overlay, heard=at_a)),
        B.id: report(peer(A, overlay=overlay, heard=at_b)),
    }
    [found] = bad(judge([A, B], reports, {}))
    assert found.detail.startswith(detail)
    assert found.fix.startswith(fix)


@pytest.mark.parametrize(
    ("chain", "traffic", "detail", "fix"),
    [
        (
            *("nft table inet firewalld, chain filter_INPUT", "vxlan"),
            "nft table inet firewalld, chain filter_INPUT refuses 4789/udp of other nodes",
            "sudo firewall-cmd --permanent --add-port=4789/udp && sudo firewall-cmd --reload",
        ),
        (
            *("nft table inet firewalld, chain filter_FORWARD", "tasks"),
            "nft table inet firewalld, chain filter_FORWARD refuses packets between tasks of ",
            "sudo firewall-cmd --permanent --zone=trusted --add-interface=swl0 ",
        ),
        (
            *("nft table inet firewalld, chain filter_INPUT", "wireguard"),
            "nft table inet firewalld, chain filter_INPUT refuses 4793/udp and 4794/udp of other ",
            "sudo firewall-cmd --permanent --add-port=4793/udp --add-port=4794/udp && sudo ",
        ),
        (
            *("nft table inet filter, chain input", "encrypted"),
            "nft table inet filter, chain input refuses packets of encrypted networks",
            "let it accept what comes in by swl1, swlw0, swlw1, sl-*: what another chain",
        ),
        (
            *("nft table inet filter, chain input", "control"),
            "nft table inet filter, chain input refuses 2377/tcp of other nodes",
            "let it accept 2377/tcp from other nodes: what another chain accepts is not enough",
        ),
    ],
)
def test_a_firewall_that_refuses_is_named_with_what_opens_it(
    chain: str, traffic: str, detail: str, fix: str
) -> None:
    found = judge([A], {A.id: report(Refusals=[{"Chain": chain, "Traffic": traffic}])}, {})
    [one] = bad(found)
    assert (one.where, one.check) == ("a", "firewall")
    assert one.detail.startswith(detail)
    assert one.fix.startswith(fix)


def test_a_network_that_the_engine_refuses_to_make_is_named_with_a_way_out() -> None:
    said = "network red (10.0.1.0/24) cannot be made on this node: Pool overlaps"
    [found] = bad(judge([A], {A.id: report(Unmade=[said])}, {}))
    assert (found.where, found.check, found.detail) == ("a", "forwarding", said)
    assert found.fix.startswith("on a, docker network ls: remove the one that has these addresses")


def test_who_may_refuse_packets_is_named_where_none_arrive() -> None:
    reports = {
        A.id: report(peer(B, overlay="none", heard="none"), Suspects=["ufw"]),
        B.id: report(peer(A, overlay="none", heard="well"), Suspects=["firewalld"]),
    }
    [found] = bad(judge([A, B], reports, {}))
    assert found.fix.endswith("; on a look at ufw (sudo ufw allow 4789/udp)")


@pytest.mark.parametrize(
    ("offsets", "named"),
    [
        ((0.0, 0.9, -0.1), {}),
        ((0.0, 2.5, 0.1), {"b": "it is 2.4 s ahead of the others"}),
        # The asker's own clock is wrong: it is the one to blame.
        ((0.0, 3.0, 3.0), {"a": "it is 3.0 s behind the others"}),
        # No single one is far from the middle.
        ((0.0, 0.8, -0.8), {"c <-> b": "b is 1.6 s ahead of c"}),
        ((0.0, 2.0), {"a <-> b": "b is 2.0 s ahead of a"}),
    ],
)
def test_clocks_that_differ_by_more_than_a_second(
    offsets: tuple[float, ...], named: dict[str, str]
) -> None:
    nodes = [A, B, C][: len(offsets)]
    reports = {n.id: report(ClockOffset=o) for n, o in zip(nodes, offsets, strict=True)}
    found = bad(judge(nodes, reports, {}))
    assert {one.where: one.detail for one in found} == named
    assert {one.check for one in found} <= {"clock"}


def test_what_was_not_tried_is_no_check() -> None:
    """As on a worker, which knows no control port of other workers."""
    stranger = B._replace(addr="", asked=False)
    found = judge([A, stranger], {A.id: report(peer(B, "untried", "well"))}, {})
    assert [(one.where, one.check) for one in found] == [
        ("a", "forwarding"),
        ("a", "names"),
        ("a <-> b", "vxlan"),
    ]
