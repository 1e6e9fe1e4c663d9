"""The replicated state machine: ``apply`` one batch of commands to the store.

Deterministic and total: no clock, no randomness, no I/O, and no exception for any command that
decodes; what does not fit is refused with a reason, and changes nothing. Every replica that applied
the same log holds the same bytes (tests/property).
"""

from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec
from msgspec.structs import replace

from swarmlet.clock import Instant
from swarmlet.errors import AlreadyExists, InvalidInput, NotFound, OutOfSequence
from swarmlet.model.objects import Config, Secret, Service, Stored, Task, TaskState, TaskStatus
from swarmlet.state import attaching, endpoints, files
from swarmlet.state.commands import (
    AnyCommand,
    AttachContainer,
    Batch,
    ChangeNodes,
    ChangeTasks,
    CreateTasks,
    DeleteConfig,
    DeleteNetwork,
    DeleteNode,
    DeleteSecret,
    DeleteService,
    DeleteTasks,
    DetachContainers,
    NewTask,
    Outcome,
    PutCluster,
    PutConfig,
    PutNetwork,
    PutNode,
    PutSecret,
    PutService,
    Refusal,
    ReportContainers,
    ReportTasks,
    SetUpdateStatus,
    TaskChange,
)
from swarmlet.state.store import Store
from swarmlet.state.tables import Named

_N = TypeVar("_N", Secret, Config)

_STALE: Final = Refusal(OutOfSequence.code, OutOfSequence().message)


def apply(store: Store, batch: Batch, index: int) -> list[Outcome]:
    """Apply the commands of one log entry in order. Returns an outcome for each."""
    store.index, store.at = index, batch.at
    return [_HANDLERS[type(command)](store, command, batch.at) for command in batch.commands]


def _stamped(store: Store, new: msgspec.Struct, old: Stored | None, at: Instant) -> dict[str, Any]:
    """Fields that every write sets."""
    created = at if old is None else old.created_at
    return {"version": store.index, "created_at": created, "updated_at": at}


def _fits(old: Stored | None, expect: int) -> bool:
    return (0 if old is None else old.version) == expect


def _put_cluster(store: Store, command: PutCluster, at: Instant) -> Outcome:
    old = store.cluster
    if not _fits(old, command.expect):
        return _STALE
    store.put_cluster(replace(command.cluster, **_stamped(store, command.cluster, old, at)))
    return None


def _put_node(store: Store, command: PutNode, at: Instant) -> Outcome:
    old = store.node(command.node.id)
    if not _fits(old, command.expect):
        return _STALE
    fields = _stamped(store, command.node, old, at)
    fields["number"] = old.number if old is not None else endpoints.free_number(store)
    store.put_node(replace(command.node, **fields))
    return None


def _change_nodes(store: Store, command: ChangeNodes, at: Instant) -> Outcome:
    for change in command.changes:
        old = store.node(change.id)
        if old is None:
            continue
        fields = {
            name: value
            for name in ("status", "description", "role", "manager_addr")
            if (value := getattr(change, name)) is not None and value != getattr(old, name)
        }
        if fields:  # a version that grows for nothing would fail an operator's update
            store.put_node(replace(old, **fields, version=store.index, updated_at=at))
    return None


def _delete_node(store: Store, command: DeleteNode, at: Instant) -> Outcome:
    old = store.node(command.id)
    if old is None:
        return Refusal(NotFound.code, f"node {command.id} not found")
    if not _fits(old, command.expect):
        return _STALE
    store.delete_node(command.id)
    gone = TaskStatus(state=TaskState.ORPHANED, at=at, message="its node was removed")
    for task in list(store.tasks_on_node(command.id)):
        if not task.status.state.ended:  # what ended before keeps its reason
            _set(store, task, at, status=_forward(task.status, gone))
    for container in list(store.containers_on_node(command.id)):
        store.delete_container(container.id)
    return None


def _put_service(store: Store, command: PutService, at: Instant) -> Outcome:
    new = command.service
    old = store.service(new.id)
    if not _fits(old, command.expect):
        return _STALE
    namesake = store.service_named(new.spec.name)
    if namesake is not None and namesake.id != new.id:
        return Refusal(
            AlreadyExists.code,
            "rpc error: code = AlreadyExists desc = name conflicts with an existing object: "
            f"service {new.spec.name} already exists",
        )
    missing = files.missing(store, new, old)
    if missing is not None:
        return missing
    endpoint = endpoints.give(store, new, old)
    if isinstance(endpoint, Refusal):
        return endpoint
    fields = _stamped(store, new, old, at)
    fields["attachments"], fields["ports"] = endpoint
    fields["spec_version"] = store.index
    if old is not None and not _restarts(old, new) and not _begins(old, new):
        fields["spec_version"] = old.spec_version
    store.put_service(replace(new, **fields))
    return None


def _restarts(old: Service, new: Service) -> bool:
    """Whether a service's tasks must be replaced: template, networks or published ports differ."""
    return (
        old.spec.task_template != new.spec.task_template
        or old.spec.networks != new.spec.networks
        or old.spec.ports != new.spec.ports
    )


def _begins(old: Service, new: Service) -> bool:
    """Whether an update or a rollback begins, if only to go on with one that was paused."""
    before, after = old.update_status, new.update_status
    if after is None or not after.state.in_progress:
        return False
    return before is None or (before.state, before.started_at) != (after.state, after.started_at)


def _set_update_status(store: Store, command: SetUpdateStatus, at: Instant) -> Outcome:
    old = store.service(command.id)
    if old is None or not _fits(old, command.expect):
        return _STALE
    store.put_service(
        replace(old, update_status=command.update_status, version=store.index, updated_at=at)
    )
    return None


def _delete_service(store: Store, command: DeleteService, at: Instant) -> Outcome:
    if store.service(command.id) is None:
        return Refusal(NotFound.code, f"service {command.id} not found")
    store.delete_service(command.id)
    for task in list(store.tasks_of_service(command.id)):
        _set(store, task, at, desired=TaskState.REMOVE)
    return None


def _put_network(store: Store, command: PutNetwork, at: Instant) -> Outcome:
    network = endpoints.settle_network(store, command.network, command.avoid)
    if isinstance(network, Refusal):
        return network
    store.put_network(replace(network, **_stamped(store, network, None, at)))
    return None


def _delete_network(store: Store, command: DeleteNetwork, at: Instant) -> Outcome:
    del at
    refusal = endpoints.network_in_use(store, command.id)
    if refusal is None:
        store.delete_network(command.id)
    return refusal


def _put_secret(store: Store, command: PutSecret, at: Instant) -> Outcome:
    return _put_named(store, "secret", store.secrets, command.secret, command.expect, at)


def _put_config(store: Store, command: PutConfig, at: Instant) -> Outcome:
    return _put_named(store, "config", store.configs, command.config, command.expect, at)


def _put_named(
    store: Store, kind: str, table: Named[_N], new: _N, expect: int, at: Instant
) -> Outcome:
    """Of one that is there only the labels change."""
    old = table.get(new.id)
    if not _fits(old, expect):
        return _STALE
    namesake = table.named(new.spec.name)
    if old is None and namesake is not None:
        return Refusal(
            AlreadyExists.code,
            f"rpc error: code = AlreadyExists desc = {kind} {new.spec.name} already exists",
        )
    if old is not None:
        new = replace(old, spec=replace(old.spec, labels=new.spec.labels))
    table.put(replace(new, **_stamped(store, new, old, at)))
    return None


def _delete_secret(store: Store, command: DeleteSecret, at: Instant) -> Outcome:
    del at
    return _delete_named(store, "secret", store.secrets, command.id)


def _delete_config(store: Store, command: DeleteConfig, at: Instant) -> Outcome:
    del at
    return _delete_named(store, "config", store.configs, command.id)


def _delete_named(store: Store, kind: str, table: Named[_N], ident: str) -> Outcome:
    found = table.get(ident)
    if found is None:
        return Refusal(NotFound.code, f"{kind} {ident} not found")
    users = files.users(store, kind, ident)
    if users:
        services = "service" if len(users) == 1 else "services"
        return Refusal(
            InvalidInput.code,
            f"rpc error: code = InvalidArgument desc = {kind} '{found.spec.name}' is in use by the "
            f"following {services}: {', '.join(users)}",
        )
    table.delete(ident)
    return None


def _create_tasks(store: Store, command: CreateTasks, at: Instant) -> Outcome:
    service = store.service(command.service_id)
    if service is None or service.spec_version != command.spec_version:
        return _STALE
    for new in command.tasks:
        lost = new.node_id and store.node(new.node_id) is None
        if store.task(new.id) is None and not lost:
            store.put_task(_settled(_task_of(store, service, new, at), at))
    return None


def _task_of(store: Store, service: Service, new: NewTask, at: Instant) -> Task:
    return Task(
        id=new.id,
        version=store.index,
        created_at=at,
        updated_at=at,
        service_id=service.id,
        service_name=service.spec.name,
        slot=new.slot,
        node_id=new.node_id,
        spec=service.spec.task_template,
        spec_version=service.spec_version,
        ports=service.ports,
        attachments=endpoints.of_task(service),
        status=TaskStatus(state=TaskState.PENDING, at=at, message="pending task scheduling"),
        desired=new.desired,
        not_before=new.not_before,
    )


def _change_tasks(store: Store, command: ChangeTasks, at: Instant) -> Outcome:
    for change in command.changes:
        task = store.task(change.id)
        if task is not None:
            _set(store, task, at, **_decided(store, task, change))
    return None


def _decided(store: Store, task: Task, change: TaskChange) -> dict[str, Any]:
    """The fields of a decision that still fit the task."""
    fields: dict[str, Any] = {}
    if change.desired is not None and change.desired > task.desired:
        fields["desired"] = change.desired
    if change.node_id is not None and not _may_place(store, task, change.node_id):
        return fields  # the status belongs to the placement, which came too late
    if change.late_at is not None:
        fields["late_at"] = task.late_at or change.late_at
    status = change.status
    if change.node_id is not None:
        attachments = endpoints.address(store, task)
        if isinstance(attachments, TaskStatus):  # it waits, and says for what
            return {**fields, "status": attachments}
        fields |= {"node_id": change.node_id, "attachments": attachments}
    if status is not None and (status.state < TaskState.ASSIGNED or change.node_id or task.node_id):
        fields["status"] = _forward(task.status, status)
    return fields


def _may_place(store: Store, task: Task, node_id: str) -> bool:
    """A task is placed once, while somebody wants it, and on a node that exists."""
    return task.node_id in {"", node_id} and task.wanted and store.node(node_id) is not None


def _report_tasks(store: Store, command: ReportTasks, at: Instant) -> Outcome:
    for report in command.reports:
        task = store.task(report.id)
        if task is None or task.node_id != command.node_id:
            continue
        # A node's clock may run ahead; restart windows count in the managers' time.
        status = _forward(task.status, replace(report.status, at=min(report.status.at, at)))
        in_time = status != task.status and task.late_at > at
        _set(store, task, at, status=status, late_at=Instant(0) if in_time else task.late_at)
    return None


def _delete_tasks(store: Store, command: DeleteTasks, at: Instant) -> Outcome:
    del at
    for task_id in command.ids:
        if store.task(task_id) is not None:
            store.delete_task(task_id)
    return None


def _attach_container(store: Store, command: AttachContainer, at: Instant) -> Outcome:
    new = command.container
    old = store.container(new.id)
    attachments = attaching.attach(store, new, old)
    if isinstance(attachments, Refusal):
        return attachments
    if old is None or attachments != old.attachments:
        fields = _stamped(store, new, old, at)
        store.put_container(replace(old or new, attachments=attachments, **fields))
    return None


def _detach_containers(store: Store, command: DetachContainers, at: Instant) -> Outcome:
    for ident in command.ids:
        old = store.container(ident)
        if old is None or old.node_id != command.node_id:
            continue
        kept = tuple(a for a in old.attachments if command.network_id not in {"", a.network_id})
        if not kept:
            store.delete_container(ident)
        elif kept != old.attachments:
            store.put_container(replace(old, attachments=kept, version=store.index, updated_at=at))
    return None


def _report_containers(store: Store, command: ReportContainers, at: Instant) -> Outcome:
    for report in command.reports:
        old = store.container(report.id)
        if old is None or old.node_id != command.node_id:
            continue
        new = replace(
            old, container_id=report.container_id, name=report.name, running=report.running
        )
        if new != old:
            store.put_container(replace(new, version=store.index, updated_at=at))
    return None


def _forward(old: TaskStatus, new: TaskStatus) -> TaskStatus:
    """The later of two statuses: states only grow; in one state the newer report counts.

    A container that was once reported stays known, so that its logs can be found.
    """
    if new.state < old.state:
        return old
    if new.container is None and old.container is not None:
        return replace(new, container=old.container)
    return new


def _set(store: Store, task: Task, at: Instant, **fields: Any) -> None:  # noqa: ANN401 - struct fields
    """Write a task if anything of it changes."""
    if all(getattr(task, name) == value for name, value in fields.items()):
        return
    store.put_task(_settled(replace(task, **fields, version=store.index, updated_at=at), at))


def _settled(task: Task, at: Instant) -> Task:
    """Close what follows by itself, so that no loop has to.

    Nobody wants a task that has ended; one that no agent has seen ends when nobody wants it.
    """
    if task.status.state.ended:
        ended_at = task.ended_at or at
        return replace(task, desired=max(task.desired, TaskState.SHUTDOWN), ended_at=ended_at)
    if task.desired >= TaskState.SHUTDOWN and task.status.state < TaskState.ASSIGNED:
        never = TaskStatus(state=TaskState.SHUTDOWN, at=at, message="shut down before it started")
        return replace(task, status=never, ended_at=at)
    if task.status.state is TaskState.RUNNING and not task.running_at:
        return replace(task, running_at=at)
    return task


_HANDLERS: Final[dict[type[AnyCommand], Callable[[Store, Any, Instant], Outcome]]] = {
    PutCluster: _put_cluster,
    PutNode: _put_node,
    ChangeNodes: _change_nodes,
    DeleteNode: _delete_node,
    PutService: _put_service,
    SetUpdateStatus: _set_update_status,
    DeleteService: _delete_service,
    PutNetwork: _put_network,
    DeleteNetwork: _delete_network,
    PutSecret: _put_secret,
    DeleteSecret: _delete_secret,
    PutConfig: _put_config,
    DeleteConfig: _delete_config,
    CreateTasks: _create_tasks,
    ChangeTasks: _change_tasks,
    ReportTasks: _report_tasks,
    DeleteTasks: _delete_tasks,
    AttachContainer: _attach_container,
    DetachContainers: _detach_containers,
    ReportContainers: _report_containers,
}
