"""Strategies: any command, on few ids, so that commands meet."""

from typing import TypeVar

import msgspec
from hypothesis import strategies as st
from swarmlet.clock import SECOND, Instant
from swarmlet.model.forwarding import Attachment
from swarmlet.model.objects import (
    AttachedContainer,
    Cluster,
    JoinTokens,
    NodeState,
    NodeStatus,
    RootCa,
    TaskState,
    TaskStatus,
    UpdateState,
    UpdateStatus,
)
from swarmlet.model.specs import (
    Availability,
    ClusterSpec,
    OrchestrationConfig,
    Placement,
    PortConfig,
    RestartPolicy,
    Role,
    UpdateConfig,
)
from swarmlet.state.commands import (
    AnyCommand,
    AttachContainer,
    ChangeNodes,
    ChangeTasks,
    ContainerReport,
    CreateTasks,
    DeleteConfig,
    DeleteNetwork,
    DeleteNode,
    DeleteSecret,
    DeleteService,
    DeleteTasks,
    DetachContainers,
    NewTask,
    NodeChange,
    PutCluster,
    PutConfig,
    PutNetwork,
    PutNode,
    PutSecret,
    PutService,
    ReportContainers,
    ReportTasks,
    SetUpdateStatus,
    TaskChange,
    TaskReport,
)
from swarmlet.state.store import Store

from tests.fakes.world import START, a_config, a_network, a_node, a_secret, a_service

_T = TypeVar("_T")

#: In a command's ``expect``: whatever the version is when it is applied (see :func:`resolved`).
CURRENT = -1

node_ids = st.sampled_from(["n0", "n1", "n2"])
service_ids = st.sampled_from(["s0", "s1", "s2"])
task_ids = st.sampled_from([f"t{i}" for i in range(8)])
expects = st.sampled_from([CURRENT, CURRENT, CURRENT, 0, 1, 5])
instants = st.integers(0, 300).map(lambda seconds: Instant(START + seconds * SECOND))
states = st.sampled_from(TaskState)
desired = st.sampled_from([None, *(s for s in TaskState if s >= TaskState.READY)])
statuses = st.builds(
    TaskStatus, state=states, at=instants, message=st.sampled_from(["", "m"]), err=st.just("")
)
labels = st.dictionaries(st.sampled_from(["zone", "disk"]), st.sampled_from(["a", "b"]))

placements = st.builds(
    Placement,
    constraints=st.sampled_from(
        [(), ("node.labels.zone == a",), ("node.role != manager", "node.labels.disk == b")]
    ),
    max_replicas=st.sampled_from([0, 0, 1, 2]),
)
restarts = st.builds(
    RestartPolicy,
    condition=st.sampled_from(["", "any", "on-failure", "none"]),
    delay=st.sampled_from([None, 0, 5 * SECOND]),
    max_attempts=st.sampled_from([None, 1, 3]),
    window=st.sampled_from([None, 60 * SECOND]),
)
_HOST_PORT = PortConfig(target_port=80, published_port=8080, publish_mode="host", protocol="tcp")
host_ports = st.sampled_from([(), (_HOST_PORT,)])
ports = st.sampled_from(
    [
        (),
        (),
        (_HOST_PORT,),
        (PortConfig(target_port=80, published_port=8080),),
        (PortConfig(target_port=80), PortConfig(target_port=81, protocol="udp")),
    ]
)
#: Networks so small that they are full now and then.
networks = st.sampled_from(
    [
        a_network("a", subnet="10.9.0.0/29", attachable=True),
        a_network("b", subnet="10.9.1.0/24", ip_range="10.9.1.64/30", attachable=True),
        a_network("c", subnet="10.9.0.0/28"),
        a_network("d"),
        a_network("ingress"),
    ]
)
network_names = st.sampled_from(["a", "b", "id-b", "c", "d"])
file_names = st.sampled_from(["a", "b"])
file_data = st.sampled_from([b"one", b"two"])
secrets = st.builds(
    lambda one, labels: msgspec.structs.replace(
        one, spec=msgspec.structs.replace(one.spec, labels=labels)
    ),
    st.builds(a_secret, file_names, data=file_data),
    labels,
)
configs = st.builds(a_config, file_names, data=file_data)
used_files = st.sampled_from([(), (), (), ("a",), ("b", "a")])
nodes = st.builds(
    a_node,
    node_ids,
    state=st.sampled_from(NodeState),
    availability=st.sampled_from(Availability),
    role=st.sampled_from(Role),
    labels=labels,
    cpus=st.sampled_from([1, 2, 8]),
)
update_configs = st.builds(
    UpdateConfig,
    parallelism=st.sampled_from([0, 1, 2]),
    delay=st.sampled_from([0, 30 * SECOND]),
    failure_action=st.sampled_from(["", "continue", "rollback"]),
    order=st.sampled_from(["", "start-first"]),
)
services = st.builds(
    a_service,
    service_ids,
    replicas=st.sampled_from([None, 0, 1, 2, 3, 5]),
    image=st.sampled_from(["a", "b"]),
    restart=st.none() | restarts,
    placement=st.none() | placements,
    cpus=st.sampled_from([0, 0.5, 2]),
    ports=ports,
    labels=labels,
    networks=st.lists(network_names, max_size=2, unique=True).map(tuple),
    endpoint=st.sampled_from(["", "", "dnsrr"]),
    update=st.none() | update_configs,
    secrets=used_files,
    configs=used_files,
)
update_statuses = st.builds(UpdateStatus, state=st.sampled_from(UpdateState), started_at=instants)
clusters = st.builds(
    Cluster,
    id=st.just("cluster"),
    spec=st.builds(
        ClusterSpec,
        name=st.just("default"),
        orchestration=st.none()
        | st.builds(OrchestrationConfig, task_history_retention_limit=st.sampled_from([0, 1, 5])),
    ),
    root_ca=st.just(RootCa(cert="c", key="k")),
    tokens=st.just(JoinTokens(worker="w", manager="m")),
)
updating = st.builds(
    lambda service, status, image: msgspec.structs.replace(
        service,
        update_status=status,
        previous_spec=image
        and a_service(service.id, replicas=service.spec.replicas, image=image).spec,
    ),
    services,
    st.none() | update_statuses,
    st.sampled_from([None, "a", "c"]),
)
new_tasks = st.builds(
    NewTask,
    id=task_ids,
    slot=st.sampled_from([0, 1, 2, 3]),
    node_id=st.just("") | node_ids,
    desired=st.sampled_from([TaskState.READY, TaskState.RUNNING, TaskState.SHUTDOWN]),
    not_before=st.just(Instant(0)) | instants,
)
task_changes = st.builds(
    TaskChange,
    id=task_ids,
    desired=desired,
    node_id=st.none() | node_ids,
    status=st.none() | statuses,
    late_at=st.none() | instants,
)
node_changes = st.builds(
    NodeChange,
    id=node_ids,
    status=st.none() | st.builds(NodeStatus, state=st.sampled_from(NodeState)),
    role=st.none() | st.sampled_from(Role),
    manager_addr=st.none() | st.just("10.0.0.1:2377"),
)
places = st.builds(
    Attachment,
    network_id=st.sampled_from(["id-a", "id-a", "id-b", "id-c", "id-none"]),
    address=st.sampled_from(["", "", "", "10.9.0.3", "10.9.1.65", "10.9.1.9", "10.9.1.1", "x"]),
    aliases=st.sampled_from([(), ("db",)]),
)
#: Identifiers of their own, and one that a task may have.
container_ids = st.sampled_from(["c0", "c1", "c2", "t0"])
containers = st.builds(
    AttachedContainer,
    id=container_ids,
    node_id=node_ids,
    name=st.sampled_from(["box", "app"]),
    attachments=st.lists(places, min_size=1, max_size=3).map(tuple),
)
container_reports = st.builds(
    ContainerReport,
    id=container_ids,
    container_id=st.just("abc"),
    name=st.sampled_from(["box", "new"]),
    running=st.booleans(),
)


def _some(items: st.SearchStrategy[_T]) -> st.SearchStrategy[tuple[_T, ...]]:
    return st.lists(items, max_size=3).map(tuple)


_put_services = st.builds(PutService, service=updating, expect=expects)
_put_nodes = st.builds(PutNode, node=nodes, expect=expects)
_create_tasks = st.builds(
    CreateTasks,
    service_id=service_ids,
    spec_version=st.sampled_from([CURRENT, CURRENT, 1]),
    tasks=_some(new_tasks),
)
_change_tasks = st.builds(ChangeTasks, changes=_some(task_changes))
_report_tasks = st.builds(
    ReportTasks, node_id=node_ids, reports=_some(st.builds(TaskReport, task_ids, statuses))
)

#: Any command. The ones that build something up come more often.
commands: st.SearchStrategy[AnyCommand] = st.one_of(
    _put_services,
    _put_services,
    _put_nodes,
    _put_nodes,
    _create_tasks,
    _create_tasks,
    _change_tasks,
    _change_tasks,
    _report_tasks,
    st.builds(PutCluster, cluster=clusters, expect=expects),
    st.builds(ChangeNodes, changes=_some(node_changes)),
    st.builds(DeleteNode, id=node_ids, expect=expects),
    st.builds(SetUpdateStatus, id=service_ids, expect=expects, update_status=update_statuses),
    st.builds(DeleteService, id=service_ids),
    st.builds(PutNetwork, network=networks),
    st.builds(PutNetwork, network=networks),
    st.builds(DeleteNetwork, id=networks.map(lambda network: network.id)),
    st.builds(PutSecret, secret=secrets, expect=expects),
    st.builds(PutSecret, secret=secrets, expect=expects),
    st.builds(DeleteSecret, id=secrets.map(lambda secret: secret.id)),
    st.builds(PutConfig, config=configs, expect=expects),
    st.builds(DeleteConfig, id=configs.map(lambda config: config.id)),
    st.builds(DeleteTasks, ids=_some(task_ids)),
    st.builds(AttachContainer, container=containers),
    st.builds(AttachContainer, container=containers),
    st.builds(
        DetachContainers,
        node_id=node_ids,
        ids=_some(container_ids),
        network_id=st.sampled_from(["", "id-a", "id-b"]),
    ),
    st.builds(ReportContainers, node_id=node_ids, reports=_some(container_reports)),
)

#: A log: each entry is a time and some commands.
logs = st.lists(
    st.tuples(instants, st.lists(commands, min_size=1, max_size=4).map(tuple)), max_size=12
)


def resolved(store: Store, command: AnyCommand) -> AnyCommand:
    """The command with the version that its object has now, where it says CURRENT."""
    changes: dict[str, object] = {}
    if getattr(command, "expect", None) == CURRENT:
        changes["expect"] = _version(store, command)
    if isinstance(command, CreateTasks) and command.spec_version == CURRENT:
        service = store.service(command.service_id)
        changes["spec_version"] = service.spec_version if service else 0
    return msgspec.structs.replace(command, **changes)


def _version(store: Store, command: AnyCommand) -> int:
    match command:
        case PutCluster():
            found: object = store.cluster
        case PutNode():
            found = store.node(command.node.id)
        case PutService():
            found = store.service(command.service.id)
        case PutSecret():
            found = store.secrets.get(command.secret.id)
        case PutConfig():
            found = store.configs.get(command.config.id)
        case DeleteNode():
            found = store.node(command.id)
        case SetUpdateStatus():
            found = store.service(command.id)
        case _:
            found = None
    return getattr(found, "version", 0)
