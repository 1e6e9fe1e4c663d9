"""Containers of tasks on other nodes: ``/containers/{ref}/…`` and ``/exec/{id}/…``.

On a manager, a task's identifier, its full name, and its container's identifier name its
container, wherever it is; what is asked of it goes to its node's engine (ADR 17). The life of a
container is its task's, so nothing that ends or changes it is passed on. Workers know their own
containers only.
"""

import re
from collections import OrderedDict
from typing import Final, NamedTuple

import msgspec

from swarmlet.api.backend import Backend
from swarmlet.errors import NotASwarmManager, Unavailable
from swarmlet.model.objects import Task
from swarmlet.state.store import View

#: What is passed on; see also :mod:`swarmlet.engine.door`.
_OF_CONTAINER: Final = frozenset(
    {"json", "logs", "top", "stats", "archive", "attach", "exec", "resize", "wait"}
)
_OF_COMMAND: Final = frozenset({"json", "start", "resize"})

#: The shortest beginning of a container's identifier that names it, as clients show it.
_SHORT: Final = 12

#: Commands whose node is remembered. Clients ask for theirs within moments.
_REMEMBERED: Final = 10_000


_IDENT: Final = re.compile("[0-9a-f]{64}")


class Place(NamedTuple):
    """Where something is, and its path there. ``node_id`` is "" on this node."""

    node_id: str
    path: str

    @property
    def makes_command(self) -> bool:
        """Whether a POST makes a command (``docker exec``), which has an identifier of its own."""
        return self.path.startswith("/containers/") and self.path.endswith("/exec")


class Elsewhere:
    """Knows on which node's engine a path is to be asked."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._commands: OrderedDict[str, str] = OrderedDict()

    def place(self, segments: tuple[str, ...]) -> Place | None:
        """Where a path leads, if it is about a task's container; else None."""
        if len(segments) != 3:
            return None
        kind, ref, what = segments
        if kind == "exec" and what in _OF_COMMAND and ref in self._commands:
            return Place(self._commands[ref], f"/exec/{ref}/{what}")
        if kind != "containers" or what not in _OF_CONTAINER:
            return None
        try:
            task = of_task(self._backend.view(), ref)
        except (NotASwarmManager, Unavailable):
            return None
        container = task.status.container if task else None
        if task is None or container is None or not _IDENT.fullmatch(container.container_id):
            return None  # a node may say anything
        here = task.node_id == self._backend.local().node_id
        path = f"/containers/{container.container_id}/{what}"
        return Place("" if here else task.node_id, path)

    def remember(self, body: bytes, node_id: str) -> None:
        """A node's engine answered the wish for a command with its identifier."""
        try:
            ident = msgspec.json.decode(body, type=_Created).Id
        except msgspec.MsgspecError:
            return
        if not _IDENT.fullmatch(ident):
            return
        self._commands[ident] = node_id
        while len(self._commands) > _REMEMBERED:
            self._commands.popitem(last=False)


class _Created(msgspec.Struct):
    Id: str


def of_task(view: View, ref: str) -> Task | None:
    """The task that a container's reference means: whole identifier, name, or container."""
    found = view.task(ref)
    if found is not None:
        return found
    for task in view.tasks():
        container = task.status.container
        if container and len(ref) >= _SHORT and container.container_id.startswith(ref):
            return task
        if task.name == ref:
            return task
    return None
