"""Containers of tasks on other nodes: ``/containers/{ref}/…`` and ``/exec/{id}/…``.

On a manager, a task's identifier, its full name, and its container's identifier name its
container, wherever it is; what is asked of it goes to its node's engine (ADR 17). The life of a
container is its task's, so nothing that ends or changes it is passed on. Workers know their own
containers only.
"""

from collections import OrderedDict
from typing import Final, NamedTuple

import msgspec

from swarmlet.api.backend import Backend
from swarmlet.engine.door import IDENT, MAY_ASK
from swarmlet.errors import NotASwarmManager, Unavailable
from swarmlet.model.objects import Task
from swarmlet.state.store import View

#: The shortest beginning of a container's identifier that names it, as clients show it.
_SHORT: Final = 12

#: Commands whose node is remembered. Clients ask for theirs within moments.
_REMEMBERED: Final = 10_000


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
        if what not in MAY_ASK.get(kind, ()):
            return None
        if kind == "exec":
            known = self._commands.get(ref)
            return Place(known, f"/exec/{ref}/{what}") if known else None
        try:
            task = of_task(self._backend.view(), ref)
        except (NotASwarmManager, Unavailable):
            return None
        container = task.status.container if task else None
        if task is None or container is None or not IDENT.fullmatch(container.container_id):
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
        if not IDENT.fullmatch(ident):
            return
        self._commands[ident] = node_id
        while len(self._commands) > _REMEMBERED:
            self._commands.popitem(last=False)


class _Created(msgspec.Struct):
    Id: str


def of_task(view: View, ref: str) -> Task | None:
    """The task that a container's reference means: whole identifier, name, or container."""
    named = view.task(ref.rpartition(".")[2])  # a task's name ends with its identifier
    if named is not None and ref in {named.id, named.name}:
        return named
    if len(ref) < _SHORT:
        return None
    of = ((task, task.status.container) for task in view.tasks())
    return next((t for t, found in of if found and found.container_id.startswith(ref)), None)
