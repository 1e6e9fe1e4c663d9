r"""The part of Go's templates that ``--format`` takes: fields, and a handful of functions.

``{{.Name}}``, ``{{.Spec.Labels.zone}}``, ``{{json .Spec}}``, ``{{json .}}``, ``{{upper .Name}}``,
``{{lower .Name}}``, ``{{join .Args ","}}``, ``{{truncate .Image 12}}``, pipes
(``{{.Name | upper}}``), and ``\t`` and ``\n``. Anything else is a clear error, never a guess.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from swarmlet.cli.problems import BadValue, plain

Json = Any
_ACTION: Final = re.compile(r"\{\{-?\s*(.*?)\s*-?\}\}", re.DOTALL)
_WORD: Final = re.compile(r'"((?:[^"\\]|\\.)*)"|(\S+)')
_FIELD: Final = re.compile(r"(\.[A-Za-z_][\w-]*)+|\.")
_FUNCTIONS: Final = ("json", "join", "upper", "lower", "truncate")

Step = Callable[[Json], Json]


class Titles(Mapping[str, str]):
    """Stands in for a row when a template prints its head: unknown fields get their own name."""

    def __init__(self, titles: Mapping[str, str]) -> None:
        self._titles = titles

    def __getitem__(self, field: str) -> str:
        return self._titles.get(field, field.upper())

    def __iter__(self):  # type: ignore[no-untyped-def]  # noqa: ANN204
        return iter(self._titles)

    def __len__(self) -> int:
        return len(self._titles)


class Template:
    """A parsed template: literal texts and actions in turn."""

    def __init__(self, parts: list[str | Step]) -> None:
        self._parts = parts

    def render(self, data: Json) -> str:
        """The text for one object."""
        return "".join(p if isinstance(p, str) else _text(p(data)) for p in self._parts)


def parse(source: str) -> Template:
    """Parse a template. Raises BadValue with what is not understood."""
    source = source.replace("\\t", "\t").replace("\\n", "\n")
    parts: list[str | Step] = []
    at = 0
    for found in _ACTION.finditer(source):
        parts.append(source[at : found.start()])
        parts.append(_action(found[1]))
        at = found.end()
    rest = source[at:]
    if not parts or "{{" in rest:
        raise _bad(source, "it has no {{.Field}}" if not parts else "a {{ is not closed")
    return Template([*parts, rest])


def _action(source: str) -> Step:
    steps = [_step(piece.strip(), first=i == 0) for i, piece in enumerate(source.split("|"))]

    def run(data: Json) -> Json:
        for step in steps:
            data = step(data)
        return data

    return run


def _step(source: str, *, first: bool) -> Step:
    words = [m[2] or json.loads(f'"{m[1]}"') for m in _WORD.finditer(source)]
    if first and len(words) == 1 and _FIELD.fullmatch(words[0]):
        return _field(words[0])
    if not words or words[0] not in _FUNCTIONS:
        raise _bad(source, f"known are fields such as .Name and {', '.join(_FUNCTIONS)}")
    name, *rest = words
    if first:
        if not rest or not _FIELD.fullmatch(rest[0]):
            raise _bad(source, f"{name} wants a field such as .Name")
        field, call = _field(rest[0]), _function(name, rest[1:], source)
        return lambda data: call(field(data))
    return _function(name, rest, source)


def _field(path: str) -> Step:
    keys = [key for key in path.split(".") if key]

    def get(data: Json) -> Json:
        for key in keys:
            if not isinstance(data, Mapping):
                raise _bad(path, f"there is nothing below {key}")
            if key not in data and not isinstance(data, Titles):
                if data and key[:1].isupper():
                    raise _bad(path, f"there are {', '.join(sorted(map(str, data)))}")
                return ""
            data = data[key]
        return data

    return get


def _function(name: str, args: list[str], source: str) -> Step:
    match name, args:
        case "json", []:
            return lambda v: json.dumps(dict(v) if isinstance(v, Mapping) else v)
        case "upper", []:
            return lambda v: _text(v).upper()
        case "lower", []:
            return lambda v: _text(v).lower()
        case "join", [separator]:
            return lambda v: separator.join(map(_text, v)) if isinstance(v, list) else _text(v)
        case "truncate", [length] if length.isdigit():
            return lambda v: _text(v)[: int(length)]
        case _:
            raise _bad(source, f"{name} was given the wrong arguments")


def _text(value: Json) -> str:
    if isinstance(value, str):
        return "\t".join("\n".join(map(plain, p.split("\n"))) for p in value.split("\t"))
    if value is None:
        return ""
    return json.dumps(value)


def _bad(source: str, why: str) -> BadValue:
    return BadValue(
        f"--format does not understand {source!r}",
        why=why,
        advice="table, json, or a template such as '{{.Name}}\\t{{.Image}}'",
    )
