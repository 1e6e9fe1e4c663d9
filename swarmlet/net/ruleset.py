"""nft tables as values: their text, and the smallest text that makes one of another.

Each rule bears a digest of its own text as its comment. So the kernel's listing can be compared
with what was asked for, although nft prints rules in other words than it was given.
"""

import functools
import hashlib
from collections.abc import Iterable, Iterator, Mapping

import msgspec


class Elements(msgspec.Struct, frozen=True):
    """A set, or a map from text to text (a set's values are ""). ``kind`` is its declaration."""

    kind: str
    items: Mapping[str, str]

    @property
    def mapping(self) -> bool:
        """Whether it is a map."""
        return " : " in self.kind

    @property
    def filled_by_packets(self) -> bool:
        """Whether what it holds is none of ours to say."""
        return "dynamic" in self.kind

    @property
    def ranges(self) -> bool:
        """Whether elements are ranges: nft 1.0.6 is not to be trusted to change those in place."""
        return "interval" in self.kind


class Chain(msgspec.Struct, frozen=True):
    """Rules; with a ``hook`` if packets come here by themselves."""

    rules: tuple[str, ...]
    hook: str = ""


class Table(msgspec.Struct, frozen=True):
    """A table of one family."""

    family: str
    name: str
    sets: dict[str, Elements] = msgspec.field(default_factory=dict[str, Elements])
    chains: dict[str, Chain] = msgspec.field(default_factory=dict[str, Chain])

    @property
    def ref(self) -> str:
        """How commands name it."""
        return f"{self.family} {self.name}"


@functools.lru_cache(maxsize=16_384)
def digest(rule: str) -> str:
    """The comment that a rule bears."""
    return hashlib.blake2b(rule.encode(), digest_size=6).hexdigest()


def replacement(tables: Mapping[str, Table]) -> str:
    """One transaction that puts these tables in place of any of the same name."""
    lines = list(removal(tables.values()).splitlines())
    for table in tables.values():
        lines.append(f"table {table.ref} {{")
        for name, elements in table.sets.items():
            lines.append(_declaration(name, elements))
        for name, chain in table.chains.items():
            lines += [f"chain {name} {{", *_body(chain), "}"]
        lines.append("}")
    return "\n".join(lines) + "\n"


def removal(tables: Iterable[Table]) -> str:
    """One transaction that removes these tables, whether they are there or not."""
    # Adding first: deleting what is not there is an error.
    lines = [f"add table {table.ref}\ndelete table {table.ref}" for table in tables]
    return "\n".join(lines) + "\n"


def update(old: Mapping[str, Table], new: Mapping[str, Table]) -> str | None:
    """One transaction that makes ``new`` of ``old``, "" if they are equal.

    None if that is not safe or not worth it: then :func:`replacement` is.
    """
    if old.keys() != new.keys():
        return None
    before: list[str] = []
    after: list[str] = []
    for key, table in new.items():
        if not _alike(old[key], table):
            return None
        new_chains, dead_chains = _chains(old[key], table)
        before += new_chains
        before += _elements(old[key], table)
        after += dead_chains
    lines = before + after
    return "\n".join(lines) + "\n" if lines else ""


def _alike(old: Table, new: Table) -> bool:
    """Whether sets and base chains are the same ones, and no ranges changed."""
    if {n: s.kind for n, s in old.sets.items()} != {n: s.kind for n, s in new.sets.items()}:
        return False
    if any(s.ranges and s.items != old.sets[n].items for n, s in new.sets.items()):
        return False
    return _hooks(old) == _hooks(new)


def _hooks(table: Table) -> dict[str, str]:
    return {name: chain.hook for name, chain in table.chains.items() if chain.hook}


def _chains(old: Table, new: Table) -> tuple[list[str], list[str]]:
    """Commands for new and changed chains, and those that remove dead ones."""
    fresh: list[str] = []
    rules: list[str] = []
    for name, chain in new.chains.items():
        was = old.chains.get(name)
        if was is chain or was == chain:
            continue
        fresh.append(f"{'flush' if was else 'add'} chain {new.ref} {name}")
        rules += [f"add rule {new.ref} {name} {line}" for line in _rules(chain)]
    dead = [name for name in old.chains if name not in new.chains]
    # All flushes first: a chain cannot go while another one's rule names it.
    gone = [f"flush chain {new.ref} {name}" for name in dead]
    gone += [f"delete chain {new.ref} {name}" for name in dead]
    return fresh + rules, gone


def _elements(old: Table, new: Table) -> Iterator[str]:
    for name, elements in new.sets.items():
        was, now = old.sets[name].items, elements.items
        if was == now:
            continue
        gone = [_element(k, v) for k, v in was.items() if now.get(k) != v]
        come = [_element(k, v) for k, v in now.items() if was.get(k) != v]
        if gone:
            yield f"delete element {new.ref} {name} {{ {', '.join(gone)} }}"
        if come:
            yield f"add element {new.ref} {name} {{ {', '.join(come)} }}"


def _element(key: str, value: str) -> str:
    return f"{key} : {value}" if value else key


def _declaration(name: str, elements: Elements) -> str:
    word = "map" if elements.mapping else "set"
    items = ", ".join(_element(k, v) for k, v in elements.items.items())
    return f"{word} {name} {{ {elements.kind}; {f'elements = {{ {items} }}; ' if items else ''}}}"


def _body(chain: Chain) -> Iterator[str]:
    if chain.hook:
        yield f"{chain.hook}; policy accept;"
    yield from _rules(chain)


def _rules(chain: Chain) -> Iterator[str]:
    for rule in chain.rules:
        yield f'{rule} comment "{digest(rule)}"'
