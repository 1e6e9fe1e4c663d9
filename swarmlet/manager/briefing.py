"""What agents are told, made from the state: pure."""

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from swarmlet.model import defaults
from swarmlet.model.objects import Task, TaskState
from swarmlet.model.specs import ClusterSpec, Role
from swarmlet.rpc.messages import Assignment, Peer, Settings
from swarmlet.state.store import View

#: Bytes of tasks in one message: far below a frame's limit, and a heartbeat fits in between.
MAX_ASSIGNMENTS: Final = 4 << 20


def managers(view: View) -> tuple[Peer, ...]:
    """The managers that agents may turn to."""
    return tuple(
        Peer(node.id, node.manager_addr)
        for node in sorted(view.nodes(), key=lambda n: n.id)
        if node.manager_addr
    )


def settings_of(view: View) -> dict[Role, Settings]:
    """What agents are told, by the role that their node shall act in."""
    spec = view.cluster.spec if view.cluster else ClusterSpec()
    heartbeat = defaults.heartbeat(spec, sum(1 for _ in view.nodes()))
    peers = managers(view)
    return {role: Settings(heartbeat=heartbeat, managers=peers, role=role) for role in Role}


def sendable(task: Task) -> bool:
    """A task that the scheduler has placed. One that is only preassigned still waits for it."""
    return task.status.state >= TaskState.ASSIGNED


def assignment(view: View, task: Task) -> Assignment:
    """What an agent needs to know of a task."""
    service = view.service(task.service_id)
    return Assignment(
        task_id=task.id,
        service_id=task.service_id,
        service_name=task.service_name,
        slot=task.slot,
        node_id=task.node_id,
        spec=task.spec,
        desired=task.desired,
        state=task.status.state,
        ports=task.ports,
        attachments=task.attachments,
        registry_auth=service.registry_auth if service else "",
        service_labels=service.spec.labels if service else {},
    )


def pieces(tasks: Sequence[Assignment]) -> Iterator[tuple[Assignment, ...]]:
    """Tasks cut into messages that fit in a frame; one empty piece when there are none."""
    piece: list[Assignment] = []
    room = MAX_ASSIGNMENTS
    for task in tasks:
        size = len(msgspec.msgpack.encode(task))
        if piece and size > room:
            yield tuple(piece)
            piece, room = [], MAX_ASSIGNMENTS
        piece.append(task)
        room -= size
    yield tuple(piece)
