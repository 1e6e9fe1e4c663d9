"""What agents may say, cut to what the managers' log can take: pure.

A worker must not be able to fill that log, or to speak for the tasks of others.
"""

import re
from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec.structs import replace

from swarmlet.errors import InvalidInput
from swarmlet.model.objects import AttachedContainer, NodeDescription, TaskStatus
from swarmlet.rpc.frames import RemoteProtocolError
from swarmlet.rpc.messages import FromAgent, Hello, Report
from swarmlet.state.commands import (
    AttachContainer,
    ContainerReport,
    ReportContainers,
    ReportTasks,
    TaskReport,
)
from swarmlet.state.store import View

#: Bytes that one text of a status, and a description as a whole, may have.
MAX_TEXT: Final = 2_000
MAX_DESCRIPTION: Final = 64 << 10

#: Statuses in one command.
MAX_REPORTED: Final = 100


#: Bytes that an attached container may have as a message, and characters each of its names.
MAX_CONTAINER: Final = 16 << 10
MAX_NAME: Final = 255

_IDENT: Final = re.compile(r"[0-9a-z]{25}")


def checked_hello(message: FromAgent, peer: str) -> Hello:
    """The first message of a session, if it is one. Raises RemoteProtocolError."""
    if not isinstance(message, Hello):
        raise RemoteProtocolError(f"{peer} did not say hello")
    check_description(message.description, peer)
    if not 0 < message.listen_port < 65_536:
        raise RemoteProtocolError(f"{peer} listens on no port: {message.listen_port}")
    return message


def check_description(description: NodeDescription, peer: str) -> None:
    """Refuse one that is too long. Raises RemoteProtocolError."""
    if _size(description) > MAX_DESCRIPTION:
        raise RemoteProtocolError(f"{peer} describes itself at too great length")


def with_own_keys(view: View, node_id: str, description: NodeDescription) -> NodeDescription:
    """What a node says of itself, without keys if one of them is another node's.

    Who announced it first has it: a second one would take that node's packets from it.
    """
    tunnel = description.tunnel
    if tunnel is None:
        return description
    ours = set(filter(None, tunnel.lanes))
    for node in view.nodes():
        theirs = node.description.tunnel if node.description else None
        if node.id != node_id and theirs is not None and not ours.isdisjoint(theirs.lanes):
            return replace(description, tunnel=None)
    return description


def commands(view: View, node_id: str, report: Report) -> list[ReportTasks]:
    """A report as commands that fit in the log, whatever the agent said: of its own tasks only."""
    reports = [
        TaskReport(id_, _bounded(status))
        for id_, status in report.statuses
        if (task := view.task(id_)) is not None and task.node_id == node_id
    ]
    return [
        ReportTasks(node_id=node_id, reports=tuple(reports[start : start + MAX_REPORTED]))
        for start in range(0, len(reports), MAX_REPORTED)
    ]


def _bounded(status: TaskStatus) -> TaskStatus:
    container = status.container
    if container is not None:
        container = replace(container, container_id=_cut(container.container_id))
    return replace(status, message=_cut(status.message), err=_cut(status.err), container=container)


def _cut(text: str) -> str:
    return text.encode()[:MAX_TEXT].decode(errors="ignore")


def attachment(node_id: str, asked: AttachedContainer) -> AttachContainer:
    """What a node asks for a container, as a command about its own. Raises InvalidInput."""
    container = AttachedContainer(
        id=asked.id,
        node_id=node_id,
        name=asked.name,
        container_id=asked.container_id,
        hostname=asked.hostname,
        attachments=asked.attachments,
    )
    names = [asked.name, asked.container_id, asked.hostname]
    names += [name for a in asked.attachments for name in (a.network_id, a.address, *a.aliases)]
    if not _IDENT.fullmatch(asked.id) or not asked.attachments:
        raise InvalidInput("a container needs an identifier, and a network to be attached to")
    if any(len(n) > MAX_NAME for n in names) or _size(container) > MAX_CONTAINER:
        raise InvalidInput(f"container {_cut(asked.name)[:MAX_NAME]}: its names are too long")
    return AttachContainer(container=container)


def observations(node_id: str, reports: Sequence[ContainerReport]) -> list[ReportContainers]:
    """What a node says of its attached containers, as commands. Raises InvalidInput."""
    for report in reports:
        if max(len(report.id), len(report.name), len(report.container_id)) > MAX_NAME:
            raise InvalidInput("the name or the identifier of a container is too long")
    return [
        ReportContainers(node_id=node_id, reports=tuple(reports[start : start + MAX_REPORTED]))
        for start in range(0, len(reports), MAX_REPORTED)
    ]


def _size(message: msgspec.Struct) -> int:
    return len(msgspec.msgpack.encode(message))
