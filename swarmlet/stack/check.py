"""Everything that is wrong with a stack, at once: the schema's findings and those of the plan."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from importlib import resources
from typing import Any, Final, NamedTuple

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from swarmlet.stack import values
from swarmlet.stack.load import Node
from swarmlet.stack.networks import StackNetwork
from swarmlet.stack.plan import Plan
from swarmlet.stack.problems import Mark, Problem, StackError
from swarmlet.stack.quantities import quoted

Json = Any
Place = tuple[str, int, int]

_VARIABLE: Final = re.compile(r"\$(?:\{[^}]*\}?|[A-Za-z_]\w*|(?=\W|$)|(?=\d))", re.ASCII)
_ESCAPED: Final = "$$"
_TYPES: Final = {
    "string": "a text",
    "number": "a number",
    "integer": "a whole number",
    "boolean": "true or false",
    "array": "a list",
    "object": "a mapping",
    "null": "nothing",
}


class Stack(NamedTuple):
    """What a stack stands for: specs of services, and the networks that they are in."""

    services: list[Json]
    networks: list[StackNetwork]


def checked(root: Node, namespace: str) -> Stack:
    """What a stack stands for. Raises StackError with all its problems."""
    problems = list(_variables(root, ""))
    unresolved = {_place(p.mark) for p in problems}
    errors = list(_validator().iter_errors(root.plain()))
    for error in errors:
        extra = error.validator == "additionalProperties"
        problems += [
            problem
            for problem in _translated(root, error)
            if extra or _place(problem.mark) not in unresolved
        ]
    for error in errors:
        _pass_over(root, error)
    _unescape(root, set())
    plan = Plan(root, namespace)
    found = Stack(plan.services(), plan.networks())
    problems += [p for p in plan.problems if _place(p.mark) not in unresolved]
    if problems:
        raise StackError(_once(problems))
    return found


def _pass_over(root: Node, error: ValidationError) -> None:
    """Mark what the schema refused, so that the plan finds the other problems and only those."""
    path = list(error.absolute_path)
    if error.validator == "additionalProperties" or not path:
        return
    if error.validator == "required" and path[0] == "services" and len(path) == 2:
        return  # a service without an image can be read on
    _find(root, path).bad = True


def namespace_checked(name: str) -> str:
    """The name of a stack. Raises ValueError."""
    return values.service_name(name)


def _once(problems: Sequence[Problem]) -> list[Problem]:
    """Without repetitions: a merged or aliased piece is used by many and wrong once."""
    seen: dict[tuple[Place, str], Problem] = {}
    for problem in problems:
        seen.setdefault((_place(problem.mark), problem.message), problem)
    return list(seen.values())


def _place(mark: Mark) -> Place:
    return (mark.source.name, mark.line, mark.col)


@cache
def _validator() -> Draft202012Validator:
    text = resources.files("swarmlet.stack").joinpath("schema.json").read_text(encoding="utf-8")
    return Draft202012Validator(json.loads(text))


# --- places -------------------------------------------------------------------------------------


def _find(root: Node, path: Sequence[str | int]) -> Node:
    node = root
    for step in path:
        node = node.fields[str(step)] if isinstance(node.value, dict) else node.items[int(step)]
    return node


def _key_mark(root: Node, path: Sequence[str | int]) -> Mark:
    """The place of the key that leads to a node, or of the item itself."""
    if path:
        parent = _find(root, path[:-1])
        if str(path[-1]) in parent.keys:
            return parent.keys[str(path[-1])]
    return _find(root, path).mark


def dotted(path: Sequence[str | int]) -> str:
    """``services.web.ports[0]``."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else (f".{step}" if text else str(step))
    return text


# --- the schema's findings ----------------------------------------------------------------------


def _translated(root: Node, error: ValidationError) -> Iterator[Problem]:
    path = list(error.absolute_path)
    node = _find(root, path)
    value: Json = error.validator_value
    schema = error.schema if isinstance(error.schema, Mapping) else {}
    kind = str(error.validator)
    if kind == "additionalProperties":
        yield from _extra(node, path, schema)
    elif kind == "required":
        missing = next((k for k in value if k not in node.fields), "")
        yield Problem(_key_mark(root, path), dotted(path), f"{missing}: is missing")
    elif kind == "enum":
        yield Problem(node.mark, dotted(path), _enum(node, value, schema))
    else:
        wanted = f"{value} or more" if kind == "minimum" else schema.get("x-wanted")
        wanted = wanted or _wanted(kind, value)
        mark = _key_mark(root, path) if node.empty or not _scalar(node) else node.mark
        yield Problem(mark, dotted(path), f"{wanted} is wanted, this is {_described(node)}")


def _scalar(node: Node) -> bool:
    return not isinstance(node.value, list | dict)


def _wanted(kind: str, types: Json) -> str:
    if kind == "type":
        names = [types] if isinstance(types, str) else [t for t in types if t != "null"]
        return " or ".join(_TYPES[t] for t in names)
    return "something else"


def _enum(node: Node, words: Sequence[str], schema: Mapping[str, Json]) -> str:
    if node.text in schema.get("x-later", ()):
        return f"{node.text} is not supported yet"
    near = get_close_matches(node.text, words, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    choice = " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))
    return f"{choice} is wanted, this is {_described(node)}{hint}"


def _extra(node: Node, path: Sequence[str | int], schema: Mapping[str, Json]) -> Iterator[Problem]:
    known = list(schema.get("properties", ()))
    later, never = schema.get("x-later", ()), schema.get("x-never", {})
    patterns = [re.compile(p) for p in schema.get("patternProperties", ())]
    for key, mark in node.keys.items():
        if key in known or any(p.search(key) for p in patterns):
            continue
        if key in never:
            message = str(never[key])
        elif key in later:
            message = "not supported yet"
        else:
            near = get_close_matches(key, [*known, *later, *never], n=1)
            message = f"unknown key; did you mean {near[0]}?" if near else _unknown(known)
        yield Problem(mark, dotted([*path, key]), message)


def _unknown(known: Sequence[str]) -> str:
    if len(known) > 8:
        return "unknown key"
    return f"unknown key; there are {', '.join(known)}"


def _described(node: Node) -> str:
    match node.value:
        case None:
            return "empty"
        case bool():
            return node.text
        case int() | float():
            return f"the number {node.text}"
        case str():
            blank = any(c.isspace() for c in node.value) or not node.value
            return f"the {'text' if blank else 'word'} {quoted(node.value)}"
        case list():
            return "a list" if node.value else "an empty list"
        case dict():
            return "a mapping" if node.value else "an empty mapping"


# --- variables ----------------------------------------------------------------------------------


def _variables(node: Node, path: str) -> Iterator[Problem]:
    """Places where the file expects a variable to be filled in."""
    if isinstance(node.value, str):
        found = _VARIABLE.search(node.value.replace(_ESCAPED, ""))
        if found is not None:
            message = (
                f"variables are not supported yet, this has {quoted(found[0])};"
                " write the value, or $$ for a dollar sign"
            )
            yield Problem(node.mark, path, message)
    for i, item in enumerate(node.items):
        yield from _variables(item, f"{path}[{i}]")
    for key, item in node.fields.items():
        if not path and key.startswith("x-"):
            continue
        yield from _variables(item, f"{path}.{key}" if path else key)


def _unescape(node: Node, seen: set[int]) -> None:
    """Turn ``$$`` into ``$``, once in each node however many aliases lead to it."""
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node.value, str):
        node.value = node.value.replace(_ESCAPED, "$")
        node.text = node.text.replace(_ESCAPED, "$")
    for item in (*node.items, *node.fields.values()):
        _unescape(item, seen)
