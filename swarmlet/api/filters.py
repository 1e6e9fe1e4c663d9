"""Docker's ``filters`` query parameter, in both encodings, and how each filter matches."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from swarmlet.control.template import Template
from swarmlet.errors import InvalidInput
from swarmlet.model.objects import Node, Service, Task, TaskState
from swarmlet.model.specs import Role
from swarmlet.state.store import View

Filters = Mapping[str, tuple[str, ...]]

NODE_FILTERS: Final = frozenset({"id", "label", "membership", "name", "node.label", "role"})
SERVICE_FILTERS: Final = frozenset({"id", "label", "mode", "name", "runtime"})
TASK_FILTERS: Final = frozenset(
    {"_up-to-date", "desired-state", "id", "label", "name", "node", "runtime", "service"}
)
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
