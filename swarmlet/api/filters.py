"""Docker's ``filters`` query parameter, in both encodings, and how each filter matches."""

import datetime as dt
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from swarmlet.clock import SECOND, Instant
from swarmlet.control.template import Template
from swarmlet.errors import InvalidInput
from swarmlet.model.objects import Config, Node, Secret, Service, Task, TaskState
from swarmlet.model.specs import Role
from swarmlet.stack.quantities import duration
from swarmlet.state.store import View

Filters = Mapping[str, tuple[str, ...]]

NODE_FILTERS: Final = frozenset({"id", "label", "membership", "name", "node.label", "role"})
SERVICE_FILTERS: Final = frozenset({"id", "label", "mode", "name", "runtime"})
TASK_FILTERS: Final = frozenset(
    {"_up-to-date", "desired-state", "id", "label", "name", "node", "runtime", "service"}
)
NETWORK_FILTERS: Final = frozenset({"dangling", "driver", "id", "label", "name", "scope", "type"})
PRUNE_FILTERS: Final = frozenset({"label", "label!", "until"})
OBJECT_FILTERS: Final = frozenset({"id", "label", "name", "names"})

_MODES: Final = frozenset({"replicated", "global", "replicated-job", "global-job"})

#: Words of ``desired-state``, as the engine accepts them.
_DESIRED: Final = {state.word: state for state in TaskState}


def parse(text: str, known: frozenset[str]) -> Filters:
    """Read ``{"name": {"a": true}}`` (Go clients) or ``{"name": ["a"]}`` (all others)."""
    if not text:
        return {}
    try:
        raw: Any = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise InvalidInput(f"invalid filter: {exc}") from exc
    if not isinstance(raw, dict):
        raise InvalidInput("invalid filter: an object is needed")
    unknown = sorted(set(raw) - known)
    if unknown:
        raise InvalidInput(f"invalid filter '{unknown[0]}'")
    return {name: _values(name, given) for name, given in raw.items()}


def _values(name: str, given: object) -> tuple[str, ...]:
    if not isinstance(given, dict | list) or not all(isinstance(v, str) for v in given):
        raise InvalidInput(f"invalid filter '{name}': names or a list of names is needed")
    return tuple(given)


def _prefixed(wanted: Filters, key: str, *actual: str) -> bool:
    """Whether the filter is absent, or one of its values begins one of the actual ones."""
    values = wanted.get(key)
    return not values or any(a.startswith(value) for a in actual for value in values)


def _labelled(wanted: Filters, key: str, labels: Mapping[str, str]) -> bool:
    """Whether all of ``k`` (present) and ``k=v`` (equal) hold."""
    return all(_has_label(labels, term) for term in wanted.get(key, ()))


def _has_label(labels: Mapping[str, str], term: str) -> bool:
    name, equals, value = term.partition("=")
    return labels.get(name) == value if equals else name in labels


def _checked(wanted: Filters, key: str, allowed: Iterable[str]) -> tuple[str, ...]:
    values = wanted.get(key, ())
    for value in values:
        if value not in allowed:
            raise InvalidInput(f"invalid {key} filter '{value}'")
    return values


def nodes(view: View, wanted: Filters) -> list[Node]:
    """The nodes that match."""
    roles = _checked(wanted, "role", [role.value for role in Role])
    memberships = _checked(wanted, "membership", ["accepted", "pending"])
    if memberships and "accepted" not in memberships:
        return []  # a node that may not join is never stored
    return [
        node
        for node in view.nodes()
        if _prefixed(wanted, "id", node.id)
        and _prefixed(wanted, "name", node.hostname, node.spec.name)
        and _labelled(wanted, "label", node.description.engine_labels if node.description else {})
        and _labelled(wanted, "node.label", node.spec.labels)
        and (not roles or node.spec.role.value in roles)
    ]


def mode_of(service: Service) -> str:
    """The word for a service's mode."""
    mode = service.spec.mode
    if mode.replicated_job is not None:
        return "replicated-job"
    if mode.global_job is not None:
        return "global-job"
    return "global" if service.spec.is_global else "replicated"


def services(view: View, wanted: Filters) -> list[Service]:
    """The services that match."""
    modes = _checked(wanted, "mode", _MODES)
    runtimes = wanted.get("runtime", ())
    if runtimes and "container" not in runtimes:
        return []
    return [
        service
        for service in view.services()
        if _prefixed(wanted, "id", service.id)
        and _prefixed(wanted, "name", service.spec.name)
        and _labelled(wanted, "label", service.spec.labels)
        and (not modes or mode_of(service) in modes)
    ]


def tasks(view: View, wanted: Filters) -> list[Task]:
    """The tasks that match; ``service`` and ``node`` hold identifiers here (see lookup)."""
    desired = {_DESIRED[word] for word in _checked(wanted, "desired-state", _DESIRED)}
    runtimes = wanted.get("runtime", ())
    if runtimes and "container" not in runtimes:
        return []
    return [
        task
        for task in _candidates(view, wanted)
        if _prefixed(wanted, "id", task.id)
        and _prefixed(wanted, "name", task.name, task.service_name)
        and _prefixed(wanted, "service", task.service_id)
        and _prefixed(wanted, "node", task.node_id)
        and (not desired or task.desired in desired)
        and _fits_service(view, wanted, task)
    ]


def _candidates(view: View, wanted: Filters) -> Iterable[Task]:
    """Tasks to look at: clients ask for those of one service five times a second."""
    named = wanted.get("service", ())
    if len(named) == 1 and view.service(named[0]) is not None:
        return view.tasks_of_service(named[0])
    return view.tasks()


def _fits_service(view: View, wanted: Filters, task: Task) -> bool:
    """Filters that look at the task's service: its labels, and whether the task is current."""
    labels, current = wanted.get("label"), wanted.get("_up-to-date")
    if not labels and not current:
        return True
    service = view.service(task.service_id)
    if service is None:
        return False
    if not _labelled(wanted, "label", service.spec.labels):
        return False
    is_current = "true" if Template(view, service).fits(task) else "false"
    return not current or is_current in {_word(value) for value in current}


def _word(flag: str) -> str:
    return "true" if flag.lower() in {"1", "true"} else "false"


# --- secrets and configs ------------------------------------------------------------------------


def file(one: Secret | Config, wanted: Filters) -> bool:
    """Whether a secret or a config matches: any of what names it, and all of the labels."""
    ways = (
        ("id", one.id.startswith),
        ("name", one.spec.name.startswith),
        ("names", one.spec.name.__eq__),
    )
    asked = [(fits, wanted[key]) for key, fits in ways if wanted.get(key)]
    named = not asked or any(fits(value) for fits, values in asked for value in values)
    return named and _labelled(wanted, "label", one.spec.labels)


# --- networks -----------------------------------------------------------------------------------

_YES: Final = frozenset({"1", "true", "t"})
_NO: Final = frozenset({"0", "false", "f"})


def network(shape: Mapping[str, Any], wanted: Filters, *, used: bool) -> bool:
    """Whether an overlay network, in the Engine API's form, matches."""
    types = _checked(wanted, "type", ["custom", "builtin"])
    return (
        _contained(wanted, "id", str(shape["Id"]))
        and _contained(wanted, "name", str(shape["Name"]))
        and _labelled(wanted, "label", shape["Labels"] or {})
        and shape["Driver"] in (wanted.get("driver") or {shape["Driver"]})
        and shape["Scope"] in (wanted.get("scope") or {shape["Scope"]})
        and (not types or "custom" in types)
        and _dangling(wanted) in {None, not used}
    )


def _contained(wanted: Filters, key: str, actual: str) -> bool:
    """Whether one of the values is a part of the actual one; ``^`` and ``$`` hold it to an end.

    The engine takes any regular expression; clients send names, some with these anchors.
    """
    values = wanted.get(key)
    return not values or any(_is_part(value, actual) for value in values)


def _is_part(value: str, actual: str) -> bool:
    text = value.removeprefix("^").removesuffix("$")
    return (
        text in actual
        and (not value.startswith("^") or actual.startswith(text))
        and (not value.endswith("$") or actual.endswith(text))
        and (value != f"^{text}$" or actual == text)
    )


def _dangling(wanted: Filters) -> bool | None:
    values = wanted.get("dangling", ())
    word = values[0].lower() if len(values) == 1 else ""
    if values and word not in _YES | _NO:
        raise InvalidInput(f"invalid filter 'dangling={list(values)}'")
    return word in _YES if values else None


def spares(labels: Mapping[str, str], wanted: Filters) -> bool:
    """Whether the label filters of a prune leave this object alone."""
    return not _labelled(wanted, "label", labels) or any(
        _has_label(labels, term) for term in wanted.get("label!", ())
    )


def until(wanted: Filters, now: Instant) -> Instant:
    """The time before which a prune removes: a duration ago, or a date, or seconds since 1970."""
    values = wanted.get("until", ())
    if len(values) > 1:
        raise InvalidInput("more than one until filter specified")
    if not values:
        return now
    text = values[0]
    try:
        if text.replace(".", "", 1).isdigit():
            return Instant(int(float(text) * SECOND))
        if text[:1].isdigit() and "-" in text:
            return Instant(int(dt.datetime.fromisoformat(text).timestamp()) * SECOND)
        return Instant(now - duration(text))
    except (ValueError, OverflowError) as exc:
        raise InvalidInput(f"invalid until filter '{text}'") from exc
