"""Finding one object by what a user calls it: identifier, name, or the start of an identifier."""

from collections.abc import Callable, Iterable
from typing import TypeVar

from swarmlet.errors import InvalidInput, NotFound
from swarmlet.model.objects import Config, Network, Node, Secret, Service, Stored, Task
from swarmlet.state.store import View

S = TypeVar("S", bound=Stored)


def find_node(view: View, wanted: str) -> Node:
    """The node of that identifier, hostname or unique prefix of an identifier."""
    return view.node(wanted) or _find("node", view.nodes(), wanted, lambda n: n.hostname)


def find_service(view: View, wanted: str) -> Service:
    """The service of that identifier, name or unique prefix of an identifier."""
    found = view.service(wanted) or view.service_named(wanted)
    return found or _find("service", view.services(), wanted, lambda s: s.spec.name)


def find_secret(view: View, wanted: str) -> Secret:
    """The secret of that identifier, name or unique prefix of an identifier."""
    found = view.secrets.get(wanted) or view.secrets.named(wanted)
    return found or _find("secret", view.secrets.all(), wanted, lambda s: s.spec.name)


def find_config(view: View, wanted: str) -> Config:
    """The config of that identifier, name or unique prefix of an identifier."""
    found = view.configs.get(wanted) or view.configs.named(wanted)
    return found or _find("config", view.configs.all(), wanted, lambda c: c.spec.name)


def find_network(view: View, wanted: str) -> Network | None:
    """The network of that identifier, name or unique prefix of an identifier; None if none."""
    return network_named(view, wanted) or network_of_prefix(view, wanted)


def network_named(view: View, wanted: str) -> Network | None:
    """The network of that whole identifier or name."""
    return view.network(wanted) or view.network_named(wanted)


def network_of_prefix(view: View, wanted: str) -> Network | None:
    """The network whose identifier begins so; None if there is none."""
    if not any(wanted and network.id.startswith(wanted) for network in view.networks()):
        return None
    return _find("network", view.networks(), wanted, lambda n: n.spec.name)


def find_task(view: View, wanted: str) -> Task:
    """The task of that identifier, full name or unique prefix of an identifier."""
    return view.task(wanted) or _find("task", view.tasks(), wanted, lambda t: t.name)


def _find(kind: str, objects: Iterable[S], wanted: str, name: Callable[[S], str]) -> S:
    every = list(objects)
    named = [o for o in every if wanted and name(o) == wanted]
    found = named or [o for o in every if wanted and o.id.startswith(wanted)]
    if not found:
        raise NotFound(f"{kind} {wanted} not found")
    if len(found) > 1:
        raise InvalidInput(
            f"{kind} {wanted} is ambiguous ({len(found)} matches found)",
            advice="use the identifier: " + ", ".join(sorted(o.id for o in found)[:5]),
        )
    return found[0]
