"""Placement constraints: ``node.labels.zone == east``.

Syntax and meaning are swarmkit's (manager/constraint): ``==`` and ``!=`` only, values compare
without regard to case, a label that is not there has the value "". Unlike swarmkit an unknown key
is refused when it is written, not left to match nothing.
"""

import functools
import ipaddress
import re
from collections.abc import Iterable
from typing import Final

import msgspec

from swarmlet.model.objects import Node

_KEY: Final = re.compile(r"[a-z_][a-z0-9\-_.]+", re.IGNORECASE)
_VALUE: Final = re.compile(r"[a-z0-9:\-_\s.*()?+\[\]\\^$|/]+", re.IGNORECASE)
_NODE_LABEL: Final = "node.labels."
_ENGINE_LABEL: Final = "engine.labels."
_PLAIN_KEYS: Final = frozenset(
    {"node.id", "node.hostname", "node.ip", "node.role", "node.platform.os", "node.platform.arch"}
)

#: Names that one architecture goes by: the kernel's on the left, Go's and Docker's on the right.
_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}


class Constraint(msgspec.Struct, frozen=True):
    """One parsed expression. ``label`` is the label's key, "" for other keys."""

    key: str
    label: str
    equal: bool
    value: str

    def matches(self, node: Node) -> bool:
        """Whether ``node`` satisfies this."""
        if self.key == "node.ip":
            return _ip_matches(self.value, node.status.addr) == self.equal
        value, found = self.value.casefold(), _value(self, node).casefold()
        if self.key == "node.platform.arch":
            value, found = architecture(value), architecture(found)
        return (value == found) == self.equal


def architecture(name: str) -> str:
    """The one name for an architecture that has several."""
    name = name.casefold()
    return _ARCHITECTURES.get(name, name)


def parse(expression: str) -> Constraint | str:
    """The constraint, or what is wrong with the expression (swarmkit's words)."""
    key, operator, value = _split(expression)
    if not operator:
        return "constraint expected one operator from ==, !="
    if not _KEY.fullmatch(key) or not _known(key):
        return f"key '{key}' is invalid"
    if not _VALUE.fullmatch(value):
        return f"value '{value}' is invalid"
    folded, label = _folded(key)
    if folded == "node.ip" and _network(value) is None:
        return f"value '{value}' is invalid: not an IP address or CIDR"
    return Constraint(key=folded, label=label, equal=operator == "==", value=value)


def problems(expressions: Iterable[str]) -> list[str]:
    """What is wrong with these expressions, all of it; empty when nothing is."""
    return [text for text in map(parse, expressions) if isinstance(text, str)]


def satisfied(expressions: tuple[str, ...], node: Node) -> bool:
    """Whether a node satisfies all of them. One that cannot be parsed is satisfied by no node."""
    return all(
        not isinstance(constraint, str) and constraint.matches(node)
        for constraint in _parsed(expressions)
    )


@functools.lru_cache(maxsize=1024)
def _parsed(expressions: tuple[str, ...]) -> tuple[Constraint | str, ...]:
    """Tasks of a service share their expressions: parse them once."""
    return tuple(map(parse, expressions))


def _split(expression: str) -> tuple[str, str, str]:
    for operator in ("==", "!="):
        key, found, value = expression.partition(operator)
        if found:
            return key.strip(), operator, value.strip()
    return expression, "", ""


def _known(key: str) -> bool:
    folded, label = _folded(key)
    return folded in _PLAIN_KEYS or bool(label)


def _folded(key: str) -> tuple[str, str]:
    """The key without regard to case, and a label's own key, whose case matters."""
    folded = key.casefold()
    for prefix in (_NODE_LABEL, _ENGINE_LABEL):
        if folded.startswith(prefix):
            return prefix, key[len(prefix) :]
    return folded, ""


def _value(constraint: Constraint, node: Node) -> str:
    about = node.description
    match constraint.key:
        case "node.id":
            return node.id
        case "node.hostname":
            return node.hostname
        case "node.role":
            return node.role.value
        case "node.platform.os":
            return about.platform.os if about else ""
        case "node.platform.arch":
            return about.platform.architecture if about else ""
        case _:
            return label_value(constraint.key + constraint.label, node)


def label_value(key: str, node: Node) -> str:
    """The value of ``node.labels.K`` or ``engine.labels.K`` on a node, "" when it has none."""
    prefix, label = _folded(key)
    if prefix == _NODE_LABEL:
        return node.spec.labels.get(label, "")
    if prefix == _ENGINE_LABEL and node.description is not None:
        return node.description.engine_labels.get(label, "")
    return ""


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None


def _ip_matches(text: str, addr: str) -> bool:
    network = _network(text)
    try:
        return network is not None and ipaddress.ip_address(addr) in network
    except ValueError:
        return False
