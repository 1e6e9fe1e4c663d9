"""Request bodies: JSON as Go's decoder reads it, into typed structs.

Unknown fields are ignored, ``null`` means absent, field names match without regard to case (the
exact spelling wins). Wrong types are refused with the path of the value.
"""

import functools
import re
from collections.abc import Mapping
from typing import Any, Final, TypeVar

import msgspec
from msgspec import inspect

from swarmlet.errors import InvalidInput

T = TypeVar("T")

Json = Any  # what JSON decodes to, before it has a type

#: Levels of nesting: the deepest spec has nine.
_DEPTH: Final = 32

#: What the replicated log can hold (msgpack's integers).
_SMALLEST: Final = -(2**63)
_LARGEST: Final = 2**64 - 1


def decode(data: bytes, kind: type[T]) -> T:
    """Decode a body. Raises InvalidInput."""
    if not data.strip():
        raise InvalidInput("invalid JSON: got EOF while reading request body")
    try:
        raw: Json = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise InvalidInput(f"invalid JSON: {exc}") from exc
    except RecursionError as exc:
        raise InvalidInput(f"invalid JSON: more than {_DEPTH} levels deep") from exc
    try:
        shape = _type_of(kind)  # type: ignore[arg-type]  # mypy doubts that classes are hashable
        return msgspec.convert(_fitted(raw, shape, 0), kind)
    except msgspec.ValidationError as exc:
        raise InvalidInput(_with_path(str(exc))) from exc


@functools.cache
def _type_of(kind: type) -> inspect.Type:
    return inspect.type_info(kind)


def _fitted(raw: Json, kind: inspect.Type, depth: int) -> Json:
    """``raw`` with its keys spelled as ``kind`` spells them, and without what Go ignores."""
    if depth > _DEPTH:
        raise InvalidInput(f"invalid JSON: more than {_DEPTH} levels deep")
    if isinstance(raw, dict):
        return _fitted_object(raw, kind, depth)
    if isinstance(raw, list):
        items = _item_type(kind)
        return [_fitted(item, items, depth + 1) for item in raw]
    if isinstance(raw, str):
        return _text(raw)
    if isinstance(raw, int) and not _SMALLEST <= raw <= _LARGEST:
        raise InvalidInput(f"invalid JSON: {raw} does not fit 64 bits")
    return raw


def _fitted_object(raw: dict[str, Json], kind: inspect.Type, depth: int) -> dict[str, Json]:
    struct = _struct(kind)
    if struct is None:
        values = _value_type(kind)
        empty = "" if isinstance(values, inspect.StrType) else None
        return {
            _text(key): _fitted(empty if value is None else value, values, depth + 1)
            for key, value in raw.items()
        }
    fields, folded = _fields(struct)
    fitted: dict[str, Json] = {}
    for key in sorted(raw, key=lambda key: key in fields):  # the exact spelling comes last and wins
        name = key if key in fields else folded.get(key.casefold())
        if name is not None and raw[key] is not None:
            fitted[name] = _fitted(raw[key], fields[name], depth + 1)
    return fitted


@functools.cache
def _fields_of(cls: type) -> tuple[Mapping[str, inspect.Type], Mapping[str, str]]:
    struct = inspect.type_info(cls)
    assert isinstance(struct, inspect.StructType)
    fields = {field.encode_name: field.type for field in struct.fields}
    return fields, {name.casefold(): name for name in fields}


def _fields(struct: inspect.StructType) -> tuple[Mapping[str, inspect.Type], Mapping[str, str]]:
    return _fields_of(struct.cls)


def _alternatives(kind: inspect.Type) -> tuple[inspect.Type, ...]:
    return kind.types if isinstance(kind, inspect.UnionType) else (kind,)


def _struct(kind: inspect.Type) -> inspect.StructType | None:
    return next((t for t in _alternatives(kind) if isinstance(t, inspect.StructType)), None)


def _value_type(kind: inspect.Type) -> inspect.Type:
    found = (t.value_type for t in _alternatives(kind) if isinstance(t, inspect.DictType))
    return next(found, inspect.AnyType())


def _item_type(kind: inspect.Type) -> inspect.Type:
    for one in _alternatives(kind):
        if isinstance(one, inspect.VarTupleType | inspect.ListType):
            return one.item_type
    return inspect.AnyType()


def _text(text: str) -> str:
    """``text``, if it can be sent on: JSON's escapes can spell halves of characters."""
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise InvalidInput("invalid JSON: a string is not valid UTF-8") from exc
    return text


_AT: Final = re.compile(r"(?P<what>.*?)(?: - at `(?P<path>.*)`)?", re.DOTALL)


def _with_path(text: str) -> str:
    """The message of msgspec, path first: ``TaskTemplate.Image: expected str, got int``."""
    match = _AT.fullmatch(text)
    assert match is not None
    what = match["what"].replace("`", "")
    path = (match["path"] or "").removeprefix("$").removeprefix(".")
    return f"{path or 'body'}: {what[:1].lower()}{what[1:]}"
