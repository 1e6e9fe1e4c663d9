"""What rules of other programs do to our packets, read from nft's own listing."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from swarmlet.model.checks import Refusal, Traffic
from swarmlet.net.firewall import Packet, Ruleset, packets

Json = Any

WANTED = packets(data_port=4789, control_port=2377, underlay="eth0")
INCOMING = [packet for packet in WANTED if packet.hook == "input"]


def match(left: Json, right: Json, op: str = "==") -> Json:
    return {"match": {"op": op, "left": left, "right": right}}


IIF = {"meta": {"key": "iifname"}}
MARK = {"ct": {"key": "mark"}}
STATE, STATUS = ({"ct": {"key": key}} for key in ("state", "status"))
UDP, TCP = ({"payload": {"protocol": p, "field": "dport"}} for p in ("udp", "tcp"))
ACCEPT, DROP = {"accept": None}, {"drop": None}
REJECT = {"reject": {"type": "icmpx", "expr": "admin-prohibited"}}


def ruleset(
    *rules: tuple[str, list[Json]],
    table: tuple[str, str] = ("inet", "wall"),
    policy: str = "accept",
    hooks: tuple[str, ...] = ("input", "forward"),
) -> Ruleset:
    """A table with a base chain for each hook, and further chains; rules by their chain."""
    family, name = table
    where = {"family": family, "table": name}
    entries: list[Json] = [{"metainfo": {}}, {"table": {"family": family, "name": name}}]
    for hook in hooks:
        base = {"type": "filter", "hook": hook, "prio": 10, "policy": policy}
        entries.append({"chain": where | {"name": hook} | base})
    others = {chain for chain, _ in rules} - set(hooks)
    entries += [{"chain": where | {"name": chain}} for chain in others]
    entries += [{"rule": where | {"chain": chain, "expr": expr}} for chain, expr in rules]
    return Ruleset(json.dumps({"nftables": entries}).encode())


def refused(found: Ruleset, wanted: Sequence[Packet] = WANTED) -> set[tuple[str, str]]:
    return {(r.chain.rpartition(" ")[2], r.traffic.value) for r in found.refusals(wanted)}


def firewalld(*opened: tuple[str, list[Json]]) -> Ruleset:
    """The shape of firewalld's own chains, with the default zone at their end."""
    established = match(STATE, {"set": ["established", "related"]})
    rules: list[tuple[str, list[Json]]] = []
    for hook in ("input", "forward"):
        rules += [
            (hook, [established, ACCEPT]),
            (hook, [match(STATUS, "dnat", "in"), ACCEPT]),
            (hook, [match(IIF, "lo"), ACCEPT]),
            (hook, [match(STATE, "invalid", "in"), DROP]),
            (hook, [{"jump": {"target": f"{hook}_zones"}}]),
            (hook, [REJECT]),
        ]
    rules += [("input_public", [match(TCP, 22), ACCEPT]), *opened]
    for hook in ("input", "forward"):
        rules += [
            (f"{hook}_zones", [{"goto": {"target": f"{hook}_public"}}]),
            (f"{hook}_public", [REJECT]),
        ]
    return ruleset(*rules, table=("inet", "firewalld"))


EVERYTHING = {
    ("input", "vxlan"),
    ("input", "control"),
    ("forward", "tasks"),
}


def test_a_host_without_rules_refuses_nothing() -> None:
    assert Ruleset(b'{"nftables": []}').refusals(WANTED) == ()


def test_encrypted_networks_need_ports_and_devices_of_their_own() -> None:
    """Where there is none of them, they are not asked for."""
    wanted = packets(data_port=4789, control_port=2377, underlay="eth0", encrypted=True)

    ours = {("input", "wireguard"), ("input", "encrypted"), ("forward", "encrypted")}
    assert refused(firewalld(), wanted) == EVERYTHING | ours
    one = ("input_public", [match(UDP, 4793), ACCEPT])
    assert refused(firewalld(one), wanted) == EVERYTHING | ours  # the other lane's is refused
    both = ("input_public", [match(UDP, {"set": [4793, 4794]}), ACCEPT])
    assert refused(firewalld(both), wanted) == EVERYTHING | ours - {("input", "wireguard")}


def test_a_zone_firewall_refuses_all_until_ports_and_devices_are_opened() -> None:
    assert refused(firewalld()) == EVERYTHING
    opened = [
        ("input_public", [match(UDP, 4789), ACCEPT]),
        ("input_public", [match(TCP, {"set": [{"range": [2300, 2400]}]}), ACCEPT]),
    ]
    assert refused(firewalld(*opened)) == {("forward", "tasks")}
    zone = [
        ("forward_zones", [match(IIF, name), {"goto": {"target": "forward_trusted"}}])
        for name in ("swl0", "sl-*")
    ]
    trusted = ("forward_trusted", [ACCEPT])
    assert refused(firewalld(*opened, *zone, trusted)) == set()
    # Only the answers of half the tasks would come through.
    assert refused(firewalld(*opened, zone[0], trusted)) == {("forward", "tasks")}


def test_a_policy_refuses_what_no_rule_accepts() -> None:
    assert refused(ruleset(policy="drop")) == EVERYTHING
    # The engine's own: the rule that accepts what we marked is in its FORWARD's own way.
    marked = match({"&": [MARK, 0x1000_0000]}, 0x1000_0000)
    jump = ("forward", [{"jump": {"target": "DOCKER-USER"}}])
    user = ("DOCKER-USER", [marked, {"counter": {"packets": 1, "bytes": 1}}, ACCEPT])
    found = ruleset(jump, user, table=("ip", "filter"), policy="drop", hooks=("forward",))
    assert refused(found) == set()


@pytest.mark.parametrize(
    "rule",
    [
        [{"xt": None}, ACCEPT],
        [match(UDP, "@allowed"), ACCEPT],
        [match({"payload": {"protocol": "ip", "field": "saddr"}}, "10.0.0.2"), ACCEPT],
        [{"vmap": {"key": UDP, "data": "@ports"}}],
    ],
)
def test_what_is_not_understood_refuses_nothing_but_is_a_suspect(rule: list[Json]) -> None:
    found = ruleset(("input", rule), policy="drop", hooks=("input",))
    assert ("input", "vxlan") not in refused(found)
    assert found.suspects(INCOMING) == ("nft table inet wall, chain input",)


def test_the_program_is_named_where_its_chains_tell() -> None:
    user = ("ufw-user-input", [{"xt": None}, ACCEPT])
    jump = ("INPUT", [{"jump": {"target": "ufw-user-input"}}])
    found = ruleset(jump, user, table=("ip", "filter"), policy="drop", hooks=("INPUT",))
    assert found.suspects(INCOMING) == ()  # hooks are in small letters; such a chain meets nothing
    found = ruleset(
        ("input", jump[1]), user, table=("ip", "filter"), policy="drop", hooks=("input",)
    )
    assert found.suspects(INCOMING) == ("ufw",)
    assert firewalld().suspects(INCOMING) == ("firewalld",)


def test_a_chain_may_return_and_may_call_itself() -> None:
    """As after a goto; and no listing, however odd, hangs the reader."""
    back = ruleset(
        ("input", [{"goto": {"target": "maybe"}}]),
        ("input", [DROP]),
        ("maybe", [match(TCP, 2377), {"return": None}]),
        ("maybe", [match(UDP, 4789), DROP]),
    )
    assert refused(back) == {("input", "vxlan")}
    endless = ruleset(
        ("input", [{"jump": {"target": "self"}}]), ("self", [{"jump": {"target": "self"}}])
    )
    assert refused(endless) == set()


def test_our_own_table_and_other_families_are_not_judged() -> None:
    assert refused(ruleset(policy="drop", table=("ip", "swarmlet"))) == set()
    assert refused(ruleset(policy="drop", table=("ip6", "wall"))) == set()
    found = ruleset(policy="drop").refusals(WANTED)
    assert Refusal(chain="nft table inet wall, chain input", traffic=Traffic.VXLAN) in found


def test_vxlan_is_not_tracked() -> None:
    """A firewall that lets new connections in by their state does not see one."""
    rule = ("input", [match(STATE, "new"), match(UDP, 4789), ACCEPT])
    assert ("input", "vxlan") in refused(ruleset(rule, policy="drop", hooks=("input",)))
    opened = ("input", [match(STATE, {"set": ["new", "untracked"]}), match(UDP, 4789), ACCEPT])
    assert ("input", "vxlan") not in refused(ruleset(opened, policy="drop", hooks=("input",)))
