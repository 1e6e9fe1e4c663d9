"""Reading a stack's tree: every problem is noted at its place, and the reading goes on. Pure."""

from collections.abc import Callable
from typing import Final, TypeVar

from swarmlet.stack.load import Node
from swarmlet.stack.pieces import sound
from swarmlet.stack.problems import Mark, Problem

T = TypeVar("T")

NAMESPACE_LABEL: Final = "com.docker.stack.namespace"
IMAGE_LABEL: Final = "com.docker.stack.image"


class Reading:
    """The tree, and what is wrong with it so far."""

    def __init__(self, root: Node) -> None:
        self.root = root
        self.problems: list[Problem] = []

    def section(self, key: str) -> Node:
        """A section at the top of the file; an empty one if it is not there."""
        return sound(self.root.fields).get(key, Node(self.root.mark, {}))

    def report(self, mark: Mark, path: str, message: str) -> None:
        """Note a problem."""
        self.problems.append(Problem(mark, path, message))

    def at(self, mark: Mark, path: str, read: Callable[[], T]) -> T | None:
        """Read something at a place; None, and a problem, when it is wrong."""
        try:
            return read()
        except ValueError as exc:
            self.report(mark, path, str(exc))
            return None

    def read(self, node: Node, path: str, parse: Callable[[str], T]) -> T | None:
        """Read the text of a scalar; None, and a problem, when it is wrong."""
        if node.bad:
            return None
        return self.at(node.mark, path, lambda: parse(node.text))

    def pairs(self, fields: dict[str, Node], key: str, path: str) -> dict[str, str]:
        """``KEY=VALUE`` in a list, or a mapping; nothing is an empty value."""
        node = fields.get(key)
        if node is None:
            return {}
        if isinstance(node.value, dict):
            return {k: "" if v.empty else v.text for k, v in sound(node.value).items()}
        pairs: dict[str, str] = {}
        for i, one in enumerate(node.items):
            if one.bad:
                continue
            name, _, value = one.text.partition("=")
            if not name.strip():
                self.report(one.mark, f"{path}[{i}]", "KEY=VALUE is wanted")
            pairs[name] = value
        return pairs
