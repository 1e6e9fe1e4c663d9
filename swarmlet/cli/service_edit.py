"""Options of ``service create`` and ``update`` applied to a spec (Docker's ``ServiceSpec``)."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from swarmlet.cli.problems import BadValue
from swarmlet.cli.service_flags import CONTAINER, MANY, SCALARS, SWITCHES, Many, keyword
from swarmlet.cli.service_values import env, words
from swarmlet.stack import quantities

Json = Any
Given = Mapping[str, Any]

#: Options that change nothing in a spec.
_NOT_SPEC: Final = frozenset(
    {"detach", "quiet", "timeout", "with_registry_auth", "no_resolve_image", "rollback"}
)


def created(image: str, args: Sequence[str], given: Given) -> Json:
    """The spec of a new service."""
    container: dict[str, Json] = {"Image": image}
    if args:
        container["Args"] = list(args)
    spec: Json = {"Name": given["name"], "Labels": {}, "TaskTemplate": {"ContainerSpec": container}}
    if given["mode"] == "global":
        spec["Mode"] = {"Global": {}}
    else:
        spec["Mode"] = {"Replicated": {"Replicas": 1}}
    if not spec["Name"]:
        del spec["Name"]
    _apply(spec, given)
    return spec


def updated(before: Json, given: Given) -> Json:
    """A spec with the options of an update applied."""
    spec = copy.deepcopy(before)
    container = _at(spec, CONTAINER)
    if given.get("image") is not None:
        container["Image"] = given["image"]
    if given.get("args") is not None:
        container["Args"] = _read("--args", words, given["args"])
    for many in MANY:
        _remove(spec, many, given.get(keyword(many.flag + "-rm")) or ())
    _apply(spec, given)
    if given.get("force"):
        template = spec["TaskTemplate"]
        template["ForceUpdate"] = int(template.get("ForceUpdate") or 0) + 1
    return spec


def anything(given: Given) -> bool:
    """Whether an update was given an option that changes the spec."""
    return any(
        value not in (None, (), False) or (value is False and key.startswith("f_"))
        for key, value in given.items()
        if key not in _NOT_SPEC
    )


def image_of(spec: Json) -> str:
    """The image that a spec runs."""
    return str(((spec.get("TaskTemplate") or {}).get("ContainerSpec") or {}).get("Image", ""))


def _apply_scalars(spec: Json, given: Given) -> None:
    absent = [section for section in ("UpdateConfig", "RollbackConfig") if not spec.get(section)]
    for scalar in SCALARS:
        text = given.get(keyword(scalar.flag))
        if text is not None:
            _at(spec, scalar.path[:-1])[scalar.path[-1]] = _read(scalar.flag, scalar.parse, text)
    for section in absent:
        if spec.get(section):  # without this number it would be all at once
            spec[section].setdefault("Parallelism", 1)


def _apply(spec: Json, given: Given) -> None:
    _apply_scalars(spec, given)
    for flag, path, _ in SWITCHES:
        switch = given.get(keyword(flag))
        if switch is not None:
            _at(spec, path[:-1])[path[-1]] = switch
    for name in given.get("env_file") or ():
        _add(spec, MANY[0], _env_file(name))
    for many in MANY:
        for suffix in ("", "-add"):
            _add(spec, many, given.get(keyword(many.flag + suffix)) or ())
    if given.get("no_healthcheck"):
        _no_healthcheck(spec, given)
    if given.get("replicas") is not None:
        _replicas(spec, given["replicas"])


def _no_healthcheck(spec: Json, given: Given) -> None:
    if any(value for key, value in given.items() if key.startswith("f_health_")):
        raise BadValue("--no-healthcheck and --health-… exclude each other")
    _at(spec, CONTAINER)["Healthcheck"] = {"Test": ["NONE"]}


def _replicas(spec: Json, text: str) -> None:
    number = _read("--replicas", quantities.count, text)
    mode = spec.setdefault("Mode", {})
    if mode.get("Replicated") is None and any(v is not None for v in mode.values()):
        raise BadValue(
            "this service is global: it has one task on each node, not a number of replicas",
            advice="choose its nodes with --constraint, or create it with --mode replicated",
        )
    spec["Mode"] = {"Replicated": {"Replicas": number}}


def _at(spec: Json, path: Sequence[str]) -> Json:
    """The object at a path, made where it is missing."""
    for key in path:
        if spec.get(key) is None:
            spec[key] = {}
        spec = spec[key]
    return spec


def _read(flag: str, parse: Any, text: str) -> Json:  # noqa: ANN401 - readers differ in type
    try:
        return parse(text)
    except ValueError as exc:
        raise BadValue(f"{flag}: {exc}") from exc


def _add(spec: Json, many: Many, texts: Sequence[str]) -> None:
    """Add items; one with the key of an old one takes its place."""
    if not texts:
        return
    read = [_read(many.flag, many.parse, text) for text in texts]
    # A text may stand for several items: a range of ports.
    items = [item for one in read for item in (one if isinstance(one, list) else [one])]
    place = _at(spec, many.path[:-1])
    if many.is_map:
        place[many.path[-1]] = (place.get(many.path[-1]) or {}) | dict(items)
        return
    merged = {many.key(item): item for item in place.get(many.path[-1]) or ()}
    merged |= {many.key(item): item for item in items}
    place[many.path[-1]] = list(merged.values())


def _remove(spec: Json, many: Many, texts: Sequence[str]) -> None:
    if not texts:
        return
    place = _at(spec, many.path[:-1])
    gone = {_read(f"{many.flag}-rm", many.rm, text) for text in texts}
    before: Json = place.get(many.path[-1]) or {}
    if many.is_map:
        place[many.path[-1]] = {k: v for k, v in before.items() if k not in gone}
    else:
        key = many.rm_key or many.key
        place[many.path[-1]] = [item for item in before if key(item) not in gone]


def _env_file(name: str) -> list[str]:
    try:
        text = Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8 text"
        raise BadValue(f"cannot read {name}", why=str(reason)) from exc
    lines = (line.strip() for line in text.splitlines())
    return [_read(name, env, line) for line in lines if line and not line.startswith("#")]


def registry_headers(image: str, *, wanted: bool | None) -> dict[str, str]:
    """The header that carries the user's login at the image's registry, if it is wanted."""
    if not wanted:
        return {}
    from swarmlet.cli.registry import auth_header

    return auth_header(image)
