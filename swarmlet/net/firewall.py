"""What other programs' nft rules do to our packets: the kernel's whole ruleset, read as values.

A packet must pass every base chain of its hook, whatever another one accepted, so rules of ours
cannot open what a firewall refuses. Rules are judged only where they are understood: a verdict is
certain, or it is none.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from swarmlet.model.checks import Refusal, Traffic
from swarmlet.model.tunnels import lane_ports
from swarmlet.net.numbers import (
    ACCEPTED,
    BRIDGE_PREFIX,
    DEVICE,
    ENCRYPTED_DEVICE,
    LANE_DEVICES,
    TABLE,
)

Json = Any

_ACCEPT: Final = "accept"
_DROP: Final = "drop"
_ON: Final = "on"  # to the next rule, or back to the caller's
_ANY: Final = frozenset({_ACCEPT, _DROP, _ON})

#: Rules call each other no deeper than the kernel allows (NFT_JUMP_STACK_SIZE).
_DEPTH: Final = 16

#: Statements that decide nothing.
_SILENT: Final = frozenset({"counter", "log", "limit", "mangle", "notrack", "comment", "meta"})

_UFW: Final = "ufw-"


class Packet(msgspec.Struct, frozen=True):
    """A packet at a hook. ``fields`` are what is known of it; what is not there is not known."""

    traffic: Traffic
    hook: str
    fields: Mapping[str, str | int]


def packets(
    *, data_port: int, control_port: int, underlay: str, encrypted: bool = False
) -> list[Packet]:
    """The packets that a node must get, and pass on, from others.

    ``encrypted``: those of encrypted networks too.
    """
    fresh: dict[str, str | int] = {"ct state": "new", "ct status": "", "meta nfproto": "ipv4"}
    wire = fresh | ({"meta iifname": underlay} if underlay else {})
    # Our own rules keep it out of connection tracking.
    tunnel = wire | {
        "ct state": "untracked",
        "meta l4proto": "udp",
        "udp dport": data_port,
    }
    found = [
        Packet(Traffic.VXLAN, "input", tunnel),
        Packet(Traffic.CONTROL, "input", wire | {"meta l4proto": "tcp", "tcp dport": control_port}),
        *_between_tasks(Traffic.TASKS, DEVICE, fresh),
    ]
    if encrypted:
        found += [
            Packet(Traffic.WIREGUARD, "input", wire | {"meta l4proto": "udp", "udp dport": port})
            for port in lane_ports(data_port)
        ]
        found += [
            Packet(Traffic.ENCRYPTED, "input", tunnel | {"meta iifname": device})
            for device in LANE_DEVICES
        ]
        found += _between_tasks(Traffic.ENCRYPTED, ENCRYPTED_DEVICE, fresh)
    return found


def _between_tasks(
    traffic: Traffic, device: str, fresh: Mapping[str, str | int]
) -> Iterator[Packet]:
    """To and from bridges, by the device of an overlay."""
    bridge = f"{BRIDGE_PREFIX}any"
    for came, goes in ((device, bridge), (bridge, device)):
        way: dict[str, str | int] = {"meta iifname": came, "meta oifname": goes}
        yield Packet(traffic, "forward", {**fresh, "ct mark": ACCEPTED, **way})


class Ruleset:
    """``nft -j list ruleset``. Raises ValueError if it is none."""

    def __init__(self, document: bytes) -> None:
        self._rules: dict[tuple[str, str, str], list[Sequence[Json]]] = {}
        self._bases: dict[tuple[str, str, str], tuple[str, str]] = {}
        for entry in msgspec.json.decode(document)["nftables"]:
            if chain := entry.get("chain"):
                key = (chain["family"], chain["table"], chain["name"])
                self._rules.setdefault(key, [])
                if chain.get("type") == "filter":
                    self._bases[key] = (chain["hook"], chain.get("policy", _ACCEPT))
            elif rule := entry.get("rule"):
                key = (rule["family"], rule["table"], rule["chain"])
                self._rules.setdefault(key, []).append(rule["expr"])

    def refusals(self, wanted: Collection[Packet]) -> tuple[Refusal, ...]:
        """The chains that refuse these for certain."""
        found = {
            Refusal(chain=f"nft table {family} {table}, chain {name}", traffic=packet.traffic)
            for packet in wanted
            for (family, table, name), policy in self._met_by(packet)
            if self._verdicts((family, table, name), policy, packet) == {_DROP}
        }
        return tuple(sorted(found, key=lambda r: (r.chain, r.traffic)))

    def suspects(self, wanted: Collection[Packet]) -> tuple[str, ...]:
        """Who may refuse one of these: what to look at when packets do not come in."""
        found = {
            self._program(family, table) or f"nft table {family} {table}, chain {name}"
            for packet in wanted
            for (family, table, name), policy in self._met_by(packet)
            if _DROP in self._verdicts((family, table, name), policy, packet)
        }
        return tuple(sorted(found))

    def _program(self, family: str, table: str) -> str:
        """The program whose table it is, where that is known."""
        ours = any(k[:2] == (family, table) and k[2].startswith(_UFW) for k in self._rules)
        return "ufw" if ours else table if table == "firewalld" else ""

    def _met_by(self, packet: Packet) -> Iterator[tuple[tuple[str, str, str], str]]:
        for key, (hook, policy) in self._bases.items():
            family, table, _ = key
            if family in {"ip", "inet"} and table != TABLE and hook in {packet.hook, "prerouting"}:
                yield key, policy

    def _verdicts(self, key: tuple[str, str, str], policy: str, packet: Packet) -> set[str]:
        found = self._chain(key, packet, _DEPTH)
        return (found - {_ON}) | ({policy} if _ON in found else set[str]())

    def _chain(self, key: tuple[str, str, str], packet: Packet, depth: int) -> set[str]:
        """Every way that a packet may leave a chain."""
        if depth == 0:
            return set(_ANY)
        found: set[str] = set()
        for rule in self._rules.get(key, ()):
            met, verdicts = self._rule(rule, key, packet, depth)
            if met is False:
                continue
            if "return" in verdicts:
                verdicts = (verdicts - {"return"}) | {_ON}
                found.add(_ON)
                if met and verdicts == {_ON}:
                    return found
            found |= verdicts - {_ON}
            if met and _ON not in verdicts:
                return found
        return found | {_ON}

    def _rule(
        self, rule: Sequence[Json], key: tuple[str, str, str], packet: Packet, depth: int
    ) -> tuple[bool | None, set[str]]:
        """Whether a rule is met (None: perhaps), and what becomes of a packet then."""
        met: bool | None = True
        for statement in rule:
            ((kind, body),) = statement.items()
            if kind == "match":
                holds = _holds(body, packet.fields)
                if holds is False:
                    return False, set()
                met = met if holds else None
            elif kind in {_ACCEPT, _DROP, "return"}:
                return met, {kind}
            elif kind == "reject":
                return met, {_DROP}
            elif kind in {"jump", "goto"}:
                found = self._chain((*key[:2], body["target"]), packet, depth - 1)
                if kind == "goto" and _ON in found:
                    found = (found - {_ON}) | {"return"}
                return met, found
            elif kind not in _SILENT:
                return None, set(_ANY)
        return met, {_ON}


def _holds(match: Json, fields: Mapping[str, str | int]) -> bool | None:
    """Whether a comparison is true, None where that is not known."""
    value = _value(match["left"], fields)
    if value is None:
        return None
    if match["op"] not in {"==", "in", "!="}:
        return None
    found = value is not _OTHER and _among(match["right"], value)
    return found if found is None or match["op"] != "!=" else not found


#: A field that our packets do not have, such as an IPv6 address.
_OTHER: Final = object()


def _value(left: Json, fields: Mapping[str, str | int]) -> object:
    match left:
        case {"meta": {"key": key}}:
            return fields.get(f"meta {key}")
        case {"ct": {"key": key}}:
            return fields.get(f"ct {key}")
        case {"payload": {"protocol": protocol, "field": field}}:
            return _carried(protocol, field, fields)
        case {"&": [inner, int(mask)]}:
            value = _value(inner, fields)
            return value & mask if isinstance(value, int) else None
        case _:
            return None


def _carried(protocol: str, field: str, fields: Mapping[str, str | int]) -> object:
    if (protocol, field) == ("ip", "protocol"):
        return fields.get("meta l4proto")
    if protocol in {"tcp", "udp"} and fields.get("meta l4proto", protocol) == protocol:
        return fields.get(f"{protocol} {field}")
    return None if protocol in {"ip", "th"} else _OTHER


def _among(right: Json, value: object) -> bool | None:
    match right:
        case {"set": list(items)} | list(items):
            found = [_among(item, value) for item in items]
            return True if True in found else None if None in found else False
        case {"range": [int(first), int(last)]}:
            return isinstance(value, int) and first <= value <= last
        case str() if right.startswith("@"):
            return None
        case str() if right.endswith("*"):
            return isinstance(value, str) and value.startswith(right[:-1])
        case str() | int():
            return bool(right == value)
        case _:
            return None
