"""Several stack files make one: the later ones add to and override the earlier ones. Pure."""

from collections.abc import Sequence
from typing import Final

from swarmlet.stack.load import Node

#: Lists of commands are replaced as a whole; other lists grow.
_REPLACED: Final = frozenset({"command", "entrypoint", "test"})


def merged(roots: Sequence[Node]) -> Node:
    """The tree of all files. Every part keeps its place in its own file."""
    result = roots[0]
    for root in roots[1:]:
        result = _merge("", result, root)
    return result


def _merge(key: str, below: Node, above: Node) -> Node:
    if isinstance(below.value, dict) and isinstance(above.value, dict):
        fields = dict(below.value)
        for name, node in above.value.items():
            fields[name] = _merge(name, fields[name], node) if name in fields else node
        return Node(above.mark, fields, keys={**below.keys, **above.keys})
    if isinstance(below.value, list) and isinstance(above.value, list) and key not in _REPLACED:
        return Node(above.mark, [*below.value, *above.value])
    return above
