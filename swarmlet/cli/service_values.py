"""Readers of single options of services: text in, a piece of the spec out. They raise ValueError.

Ports, mounts, constraints and the like are read by :mod:`swarmlet.stack.values` when a stack file
holds them; what is here is what only the command line has.
"""

import shlex
from collections.abc import Callable
from typing import Any, Final

from swarmlet.stack import quantities, values
from swarmlet.stack.quantities import quoted

Json = Any

constraint: Final = values.constraint
capability: Final = values.capability
host: Final = values.extra_host

_SEMI: Final = ("readonly", "ro", "volume-nocopy", "bind-nonrecursive")


def one_of(*words: str) -> Callable[[str], str]:
    """A reader of one of some words."""

    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(f"one of {', '.join(words)} is wanted, not {quoted(text)}")
        return text

    return parse


def words(text: str) -> list[str]:
    """A command line cut into words as a shell cuts it; empty for none."""
    try:
        return shlex.split(text)
    except ValueError as exc:
        raise ValueError(f"a quote is not closed in {quoted(text)}") from exc


def health_command(text: str) -> list[str]:
    """A check through the shell."""
    return ["CMD-SHELL", text] if text else []


def env(text: str) -> str:
    """``KEY=VALUE``; a bare ``KEY`` takes its value from here, as Docker does."""
    import os

    key, equals, _ = text.partition("=")
    if not key or any(c.isspace() for c in key):
        raise ValueError(f"KEY=VALUE is wanted, not {quoted(text)}")
    if equals:
        return text
    if key not in os.environ:
        raise ValueError(f"{key} has no value, here neither; write {key}=VALUE")
    return f"{key}={os.environ[key]}"


def pair(text: str) -> tuple[str, str]:
    """``KEY=VALUE`` or a bare key with an empty value."""
    key, _, value = text.partition("=")
    if not key:
        raise ValueError(f"KEY=VALUE is wanted, not {quoted(text)}")
    return key, value


def before_equals(item: str) -> str:
    """The key of an environment entry."""
    return item.partition("=")[0]


def first(item: tuple[str, str]) -> str:
    """The key of a pair."""
    return item[0]


def squeezed(text: str) -> str:
    """A constraint without blanks: two of the same meaning are equal."""
    return "".join(text.split())


def preference(text: str) -> Json:
    """``spread=node.labels.zone``."""
    strategy, _, label = text.partition("=")
    if strategy != "spread" or not label:
        raise ValueError(f"spread=node.labels.NAME is wanted, not {quoted(text)}")
    return {"Spread": {"SpreadDescriptor": label}}


def preference_key(item: Json) -> str:
    """What tells two preferences apart."""
    return str((item.get("Spread") or {}).get("SpreadDescriptor", ""))


def preference_rm(text: str) -> str:
    """The key that ``--placement-pref-rm`` names."""
    return text.removeprefix("spread=")


def mount_target(item: Json) -> str:
    """What tells two mounts apart."""
    return str(item.get("Target", ""))


def mount(text: str) -> Json:
    """``type=volume,source=data,target=/var/lib/data,readonly``."""
    fields: dict[str, str] = {}
    for part in text.split(","):
        key, equals, value = part.strip().partition("=")
        if not equals and key not in _SEMI:
            raise ValueError(f"KEY=VALUE pairs with commas are wanted, not {quoted(text)}")
        fields[key] = value if equals else "true"
    return values.mount_of_fields(fields)


def port(text: str) -> list[Json]:
    """``published=8080,target=80,mode=host`` or Docker's short ``8080:80/tcp``, or ranges."""
    if "=" not in text:
        return values.short_port(text)
    fields: dict[str, str] = {}
    for part in text.split(","):
        key, equals, value = part.strip().partition("=")
        if not equals:
            raise ValueError(f"published=…,target=…,mode=host is wanted, not {quoted(text)}")
        fields[key] = value
    return values.ports_of_fields(fields)


def port_key(item: Json) -> str:
    """What tells two published ports apart: one target may be published by several numbers."""
    return f"{item.get('PublishedPort') or 0}:{port_target(item)}"


def port_target(item: Json) -> str:
    """What ``--publish-rm`` names: target and protocol."""
    return f"{item.get('TargetPort')}/{item.get('Protocol') or 'tcp'}"


def port_rm(text: str) -> str:
    """The key that ``--publish-rm`` names: a target port."""
    number, _, protocol = text.partition("/")
    return f"{quantities.count(number.rpartition(':')[2])}/{protocol or 'tcp'}"


def network(text: str) -> Json:
    """``backend`` or ``name=backend,alias=db,alias=postgres``."""
    if "=" not in text:
        return {"Target": text.strip()}
    found: dict[str, Json] = {}
    for part in text.split(","):
        key, equals, value = part.strip().partition("=")
        if not equals or key not in ("name", "alias") or not value:
            raise ValueError(f"NAME or name=NAME,alias=OTHER is wanted, not {quoted(text)}")
        if key == "name":
            found["Target"] = value
        else:
            found.setdefault("Aliases", []).append(value)
    if "Target" not in found:
        raise ValueError(f"name=NAME is missing in {quoted(text)}")
    return found


def network_target(item: Json) -> str:
    """What tells two networks apart."""
    return str(item.get("Target", ""))


def network_renamed(text: str, names: Callable[[str], str]) -> str:
    """An option's text with its network under another name."""
    found = network(text)
    fields = [("name", names(found["Target"])), *(("alias", a) for a in found.get("Aliases", ()))]
    return ",".join(f"{key}={value}" for key, value in fields)


def ulimit(text: str) -> Json:
    """``nofile=1024:2048``."""
    name, equals, limits = text.partition("=")
    if not equals:
        raise ValueError(f"NAME=SOFT[:HARD] is wanted, not {quoted(text)}")
    soft, _, hard = limits.partition(":")
    return values.ulimit(name, soft, hard or soft)


def name_of(item: Json) -> str:
    """What tells two ulimits apart."""
    return str(item.get("Name", ""))
