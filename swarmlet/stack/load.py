"""Reads YAML 1.2 into a tree in which every key and every item knows its line and column.

Only ruamel's scanner and parser are used (events), never its constructors: tags are refused, so
nothing in a file can make anything but text, numbers, booleans, lists and mappings. Limits make
hostile files fail in less than a second.
"""

import io
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)
from ruamel.yaml.reader import ReaderError

from swarmlet.stack.problems import Mark, Problem, Source, StackError

#: Docker's largest published stacks have 20 KB; the parser takes 0.1 s for this.
MAX_BYTES: Final = 256 * 1024
#: Nodes after aliases are resolved; a stack of a hundred services has about 5,000.
MAX_NODES: Final = 10_000
MAX_DEPTH: Final = 40

_DEEP: Final = re.compile(rf"(?:[\[{{]\s*){{{MAX_DEPTH + 1}}}")
_INT: Final = re.compile(r"[-+]?[0-9]{1,18}", re.ASCII)
_BASED: Final = re.compile(r"0o[0-7]{1,21}|0x[0-9a-fA-F]{1,15}", re.ASCII)
_FLOAT: Final = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", re.ASCII)
_WORDS: Final[dict[str, bool | None]] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
MERGE: Final = "<<"

Scalar = str | int | float | bool | None
Event = Any  # ruamel.yaml has no types for its events


@dataclass(slots=True)
class Node:
    """A scalar, a list or a mapping. ``text`` is a scalar as it was written (``1.10``, ``"a"``)."""

    mark: Mark
    value: "Scalar | list[Node] | dict[str, Node]"
    text: str = ""
    keys: dict[str, Mark] = field(default_factory=dict)
    #: A problem was found here; whoever reads the tree passes over it.
    bad: bool = False

    @property
    def items(self) -> "list[Node]":
        """The items of a list; nothing for anything else."""
        return self.value if isinstance(self.value, list) else []

    @property
    def fields(self) -> "dict[str, Node]":
        """The fields of a mapping; nothing for anything else."""
        return self.value if isinstance(self.value, dict) else {}

    @property
    def empty(self) -> bool:
        """Whether nothing was written."""
        return self.value is None

    def plain(self) -> Any:  # noqa: ANN401 - what json.loads would give
        """The tree without places, for the schema."""
        if isinstance(self.value, list):
            return [item.plain() for item in self.value]
        if isinstance(self.value, dict):
            return {key: item.plain() for key, item in self.value.items()}
        return self.value


def load_file(path: str) -> Node:
    """Read one stack file; ``-`` is standard input. Raises StackError."""
    name = "stdin" if path == "-" else path
    try:
        if path == "-":
            raw = sys.stdin.buffer.read(MAX_BYTES + 1)
        else:
            with Path(path).open("rb") as file:
                raw = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as exc:
        reason = getattr(exc, "strerror", None) or str(exc)
        raise _one(Source(name), f"cannot be read: {reason}") from exc
    return load(raw, name)


def load(raw: bytes, name: str) -> Node:
    """Parse the bytes of one stack file. Raises StackError with the one thing that stops it."""
    if len(raw) > MAX_BYTES:
        raise _one(Source(name), f"larger than {MAX_BYTES // 1024} KiB; this is no stack file")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        before = raw[: exc.start].decode("utf-8", errors="replace")
        mark = _mark_at(Source(name), before, len(before))
        raise StackError([Problem(mark, "", "not UTF-8 text")]) from exc
    source = Source(name, text.splitlines())
    deep = _DEEP.search(text)
    if deep is not None:
        mark = _mark_at(source, text, deep.start())
        raise StackError([Problem(mark, "", f"nested more than {MAX_DEPTH} levels deep")])
    try:
        return _Composer(source, text).document()
    except StackError:
        raise
    except YAMLError as exc:
        raise _translated(exc, source, text) from exc
    except (ValueError, IndexError, AttributeError, TypeError, KeyError, AssertionError) as exc:
        # ruamel fails with all of these on input that nobody wrote on purpose
        raise _one(source, "not YAML") from exc


def _one(source: Source, message: str) -> StackError:
    return StackError([Problem(Mark(source), "", message)])


def _mark_at(source: Source, text: str, offset: int) -> Mark:
    before = text[:offset]
    return Mark(source, before.count("\n"), len(before) - before.rfind("\n") - 1)


def _translated(exc: YAMLError, source: Source, text: str) -> StackError:
    """The complaint of ruamel.yaml in one line, at its place."""
    if isinstance(exc, ReaderError):
        at = exc.position if isinstance(exc.position, int) else 0
        mark = _mark_at(source, text, at)
        return StackError([Problem(mark, "", "a control character that YAML does not allow")])
    if not isinstance(exc, MarkedYAMLError):
        return _one(source, "not YAML")
    unclosed = "while scanning a quoted" in str(exc.context)
    place = (exc.context_mark if unclosed else None) or exc.problem_mark or exc.context_mark
    mark = Mark(source, place.line, place.column) if place else Mark(source)
    line = source.lines[mark.line] if mark.line < len(source.lines) else ""
    problem = str(exc.problem or exc.context or "not YAML")
    if "\t" in line[: mark.col + 1]:
        message = "a tab where YAML wants blanks"
    elif unclosed:
        message = "this quote is not closed"
    elif "mapping values are not allowed" in problem:
        message = "a colon that YAML does not expect here: check the indentation, or put quotes"
    elif "expected <block end>" in problem:
        message = "this line is not indented like the lines around it"
    elif "could not find expected ':'" in problem:
        message = "a colon is missing after this key"
    elif "undefined alias" in problem:
        message = "this alias has no anchor"
    else:
        message = f"not YAML: {problem}"
    return StackError([Problem(mark, "", message)])


class _Composer:
    """Builds the tree from ruamel's events."""

    def __init__(self, source: Source, text: str) -> None:
        self.source = source
        self.events = iter(YAML(typ="safe", pure=True).parse(io.StringIO(text)))
        self.anchors: dict[str, tuple[Node, int]] = {}
        self.count = 0

    def document(self) -> Node:
        """The one document of the file."""
        root: Node | None = None
        for event in self.events:
            if isinstance(event, DocumentStartEvent):
                if root is not None:
                    self._refuse(event, "a second document; a stack file holds one")
                root = self._node(next(self.events), 0)
        if root is None or (root.value is None and not root.text):
            raise _one(self.source, "the file is empty")
        if not isinstance(root.value, dict):
            raise StackError(
                [Problem(root.mark, "", "a mapping with services: is wanted at the top")]
            )
        return root

    def _node(self, event: Event, depth: int) -> Node:
        if depth > MAX_DEPTH:
            self._refuse(event, f"nested more than {MAX_DEPTH} levels deep")
        if isinstance(event, AliasEvent):
            return self._alias(event)
        self._counted(event, 1)
        tag = event.ctag
        if tag is not None and str(tag):
            self._refuse(event, f"the tag {_tag(str(tag))} is not allowed; write plain values")
        before = self.count
        if isinstance(event, ScalarEvent):
            node = self._scalar(event)
        elif isinstance(event, SequenceStartEvent):
            node = self._list(event, depth)
        else:
            node = self._mapping(event, depth)
        if event.anchor:
            self.anchors[event.anchor] = (node, self.count - before + 1)
        return node

    def _alias(self, event: Event) -> Node:
        if event.anchor not in self.anchors:
            self._refuse(event, "this alias has no anchor before it")
        node, size = self.anchors[event.anchor]
        self._counted(event, size)
        return node

    def _counted(self, event: Event, size: int) -> None:
        self.count += size
        if self.count > MAX_NODES:
            self._refuse(event, f"more than {MAX_NODES} values, aliases resolved")

    def _scalar(self, event: Event) -> Node:
        text = str(event.value)
        value = _resolve(text) if event.style is None or event.style == "" else text
        return Node(self._mark(event), value, text)

    def _list(self, event: Event, depth: int) -> Node:
        items = []
        while not isinstance(inner := next(self.events), SequenceEndEvent):
            items.append(self._node(inner, depth + 1))
        return Node(self._mark(event), items)

    def _mapping(self, event: MappingStartEvent, depth: int) -> Node:
        fields: dict[str, Node] = {}
        keys: dict[str, Mark] = {}
        merged: list[Node] = []
        while not isinstance(inner := next(self.events), MappingEndEvent):
            if not isinstance(inner, ScalarEvent):
                self._refuse(inner, "a key must be a word, not a list or a mapping")
            key_node = self._node(inner, depth + 1)
            key = key_node.text
            value = self._node(next(self.events), depth + 1)
            if key == MERGE and key_node.value == key:
                merged += self._merged(value)
                continue
            if key in keys:
                self._refuse(inner, f'"{key}" is here twice, first on line {keys[key].line + 1}')
            fields[key], keys[key] = value, key_node.mark
        for one in merged:
            for key, value in one.fields.items():
                if key not in fields:
                    fields[key], keys[key] = value, one.keys[key]
        return Node(self._mark(event), fields, keys=keys)

    def _merged(self, value: Node) -> list[Node]:
        found = value.items if isinstance(value.value, list) else [value]
        for one in found:
            if not isinstance(one.value, dict):
                raise StackError([Problem(one.mark, "", "<< merges mappings; this is none")])
        return found

    def _mark(self, event: Event) -> Mark:
        start, end = event.start_mark, event.end_mark
        line = self.source.lines[start.line] if start.line < len(self.source.lines) else ""
        same = end.line == start.line and end.column > start.column
        block = not same or not isinstance(event, ScalarEvent)
        length = 1 if block else end.column - start.column
        return Mark(self.source, start.line, min(start.column, len(line)), length)

    def _refuse(self, event: Event, message: str) -> None:
        raise StackError([Problem(self._mark(event), "", message)])


def _tag(tag: str) -> str:
    return tag.replace("tag:yaml.org,2002:", "!!")[:40]


def _resolve(text: str) -> Scalar:
    """The value of a plain scalar by YAML 1.2's core schema: ``yes``, ``22:22`` stay text."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text)
    if _BASED.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text) and any(c.isdigit() for c in text):
        number = float(text)
        return number if number - number == 0 else text
    return text
