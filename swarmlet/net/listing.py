"""What ``nft -j list table`` says, as values that can be compared with a planned table."""

import msgspec

from swarmlet.net.ruleset import Elements, Table, digest


class Seen(msgspec.Struct, frozen=True):
    """A table of the kernel: the items of its sets, the digests of its chains' rules, its hooks."""

    sets: dict[str, dict[str, str]] = msgspec.field(default_factory=dict[str, dict[str, str]])
    chains: dict[str, tuple[str, ...]] = msgspec.field(default_factory=dict[str, tuple[str, ...]])
    hooks: frozenset[str] = frozenset()


def seen(document: bytes, planned: Table) -> Seen:
    """Read the listing of a table; what packets filled is none of the plan's business."""
    theirs = {name for name, elements in planned.sets.items() if elements.filled_by_packets}
    sets: dict[str, dict[str, str]] = {}
    chains: dict[str, list[str]] = {}
    hooks: set[str] = set()
    for entry in msgspec.json.decode(document)["nftables"]:
        ((kind, body),) = entry.items()
        if kind in {"set", "map"}:
            name = body["name"]
            sets[name] = {} if name in theirs else dict(map(_item, body.get("elem", ())))
        elif kind == "chain":
            chains.setdefault(body["name"], [])
            if body.get("policy") == "accept":
                hooks.add(body["name"])
        elif kind == "rule":
            chains.setdefault(body["chain"], []).append(body.get("comment", ""))
    return Seen(sets, {name: tuple(rules) for name, rules in chains.items()}, frozenset(hooks))


def items(document: bytes) -> set[str]:
    """Read a listing of one set."""
    return {
        _item(element)[0]
        for entry in msgspec.json.decode(document)["nftables"]
        for element in entry.get("set", {}).get("elem", ())
    }


def expected(table: Table) -> Seen:
    """What the listing of a planned table says once it is in the kernel."""
    return Seen(
        {name: _planned(elements) for name, elements in table.sets.items()},
        {name: tuple(map(digest, chain.rules)) for name, chain in table.chains.items()},
        frozenset(name for name, chain in table.chains.items() if chain.hook),
    )


def _planned(elements: Elements) -> dict[str, str]:
    return {_normal(key): _normal(value) for key, value in elements.items.items()}


def _normal(text: str) -> str:
    """As :func:`_text` spells it."""
    if " . " in text:
        return " . ".join(map(_normal, text.split(" . ")))
    if text.startswith("0x"):
        return str(int(text, 16))
    return text.strip('"').removesuffix("/32")


def _item(element: object) -> tuple[str, str]:
    match element:
        case [key, value]:
            return _text(key), _text(value)
        case key:
            return _text(key), ""


def _text(value: object) -> str:
    match value:
        case {"elem": {"val": inner}}:
            return _text(inner)
        case {"concat": parts}:
            return " . ".join(map(_text, parts))
        case {"prefix": {"addr": address, "len": length}}:
            return f"{address}/{length}"
        case {"goto": {"target": target}}:
            return f"goto {target}"
        case _:
            return str(value)
