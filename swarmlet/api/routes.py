"""The routes that swarmlet answers itself. What is not here is the engine's."""

from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from swarmlet.api import (
    connections,
    containers,
    doctor,
    files,
    later,
    logs,
    networks,
    nodes,
    services,
    swarm,
    system,
    tasks,
)
from swarmlet.api.calls import Answer, Call

Handler = Callable[[Call], Awaitable[Answer | None]]


class Route(msgspec.Struct, frozen=True):
    """One route. ``from_replica``: its answer is as old as this manager's replica."""

    method: str
    pattern: tuple[str, ...]
    handler: Handler
    from_replica: bool = False


def _route(method: str, pattern: str, handler: Handler) -> Route:
    segments = tuple(pattern.split("/")[1:])
    nouns = {"swarm", "nodes", "services", "tasks", "networks", "secrets", "configs", "info"}
    return Route(method, segments, handler, method == "GET" and segments[0] in nouns)


#: Method, pattern and handler; ``{x}`` stands for one segment of any text.
ROUTES: Final = tuple(
    _route(*row)
    for row in (
        ("GET", "/_ping", system.ping),
        ("HEAD", "/_ping", system.ping),
        ("GET", "/version", system.version),
        ("GET", "/info", system.info),
        ("GET", "/swarm", swarm.inspect),
        ("POST", "/swarm/init", swarm.init),
        ("POST", "/swarm/join", swarm.join),
        ("POST", "/swarm/leave", swarm.leave),
        ("POST", "/swarm/update", swarm.update),
        ("GET", "/swarm/unlockkey", later.autolock),
        ("POST", "/swarm/unlock", later.autolock),
        ("GET", "/nodes", nodes.listing),
        ("GET", "/nodes/{id}", nodes.inspect),
        ("POST", "/nodes/{id}/update", nodes.update),
        ("DELETE", "/nodes/{id}", nodes.remove),
        ("GET", "/services", services.listing),
        ("POST", "/services/create", services.create),
        ("GET", "/services/{id}", services.inspect),
        ("POST", "/services/{id}/update", services.update),
        ("DELETE", "/services/{id}", services.remove),
        ("GET", "/services/{id}/logs", logs.of_service),
        ("GET", "/tasks", tasks.listing),
        ("GET", "/tasks/{id}", tasks.inspect),
        ("GET", "/tasks/{id}/logs", logs.of_task),
        ("GET", "/secrets", files.SECRETS.listing),
        ("POST", "/secrets/create", files.SECRETS.create),
        ("GET", "/secrets/{id}", files.SECRETS.inspect),
        ("POST", "/secrets/{id}/update", files.SECRETS.update),
        ("DELETE", "/secrets/{id}", files.SECRETS.remove),
        ("GET", "/configs", files.CONFIGS.listing),
        ("POST", "/configs/create", files.CONFIGS.create),
        ("GET", "/configs/{id}", files.CONFIGS.inspect),
        ("POST", "/configs/{id}/update", files.CONFIGS.update),
        ("DELETE", "/configs/{id}", files.CONFIGS.remove),
        ("POST", "/containers/create", containers.create),
        ("POST", "/containers/{id}/start", containers.start),
        ("POST", "/containers/{id}/restart", containers.start),
        ("GET", "/networks", networks.listing),
        ("POST", "/networks/create", networks.create),
        ("POST", "/networks/prune", networks.prune),
        ("GET", "/networks/{id}", networks.inspect),
        ("DELETE", "/networks/{id}", networks.remove),
        ("POST", "/networks/{id}/connect", containers.connect),
        ("POST", "/networks/{id}/disconnect", containers.disconnect),
        # Not the Engine API's: what it has no words for.
        ("GET", "/swarmlet/network/plan", doctor.plan),
        ("GET", "/swarmlet/network/check", doctor.check),
        ("POST", "/swarmlet/network/check", doctor.repair),
        ("GET", "/swarmlet/services/{id}/connections", connections.of_service),
    )
)

#: First segments that are never passed on: the local engine is in no swarm, its answers mislead.
_OURS: Final = frozenset(
    {"_ping", "swarm", "swarmlet", "nodes", "services", "tasks", "secrets", "configs"}
)


def find(method: str, segments: tuple[str, ...]) -> tuple[Route, dict[str, str]] | None:
    """The route of a call, and what its ``{x}`` stand for. HEAD is answered where GET is."""
    for route in ROUTES:
        if route.method == method or (method == "HEAD" and route.method == "GET"):
            params = _match(route.pattern, segments)
            if params is not None:
                return route, params
    return None


def _match(pattern: tuple[str, ...], segments: tuple[str, ...]) -> dict[str, str] | None:
    if len(pattern) != len(segments):
        return None
    params: dict[str, str] = {}
    for wanted, given in zip(pattern, segments, strict=True):
        if wanted.startswith("{"):
            params[wanted[1:-1]] = given
        elif wanted != given:
            return None
    return params


def is_ours(segments: tuple[str, ...]) -> bool:
    """Whether a path is never the engine's."""
    return segments[:1] != () and segments[0] in _OURS
