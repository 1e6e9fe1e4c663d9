"""Model objects as the Engine API's JSON. What Go's encoder leaves out when empty is left out."""

import base64
import datetime as dt
import functools
from typing import Any, Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from msgspec.structs import replace

from swarmlet.api.backend import LocalState, ManagerHealth
from swarmlet.clock import SECOND, Instant
from swarmlet.model import defaults
from swarmlet.model.forwarding import Attachment
from swarmlet.model.objects import (
    Cluster,
    Config,
    Network,
    Node,
    NodeDescription,
    Secret,
    Service,
    Stored,
    Task,
    TaskState,
    TaskStatus,
    UpdateStatus,
)
from swarmlet.model.specs import (
    ClusterSpec,
    EndpointSpec,
    PortConfig,
    Role,
    ServiceSpec,
    Spec,
    TaskSpec,
    UpdateConfig,
)
from swarmlet.state.store import View

Json = dict[str, Any]

#: What swarmkit's Raft is set to by default; shown because clients print it.
_RAFT: Final = {
    "SnapshotInterval": 10_000,
    "KeepOldSnapshots": 0,
    "LogEntriesForSlowFollowers": 500,
    "ElectionTick": 10,
    "HeartbeatTick": 1,
}


def rfc3339(at: Instant) -> str:
    """Go's RFC3339Nano: no trailing zeros; its zero time for 0."""
    if not at:
        return "0001-01-01T00:00:00Z"
    seconds, nanos = divmod(at, SECOND)
    stamp = dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%dT%H:%M:%S")
    fraction = f".{nanos:09}".rstrip("0") if nanos else ""
    return f"{stamp}{fraction}Z"


def _spec(spec: Spec) -> Json:
    built: Json = msgspec.to_builtins(spec)
    return built


def _head(stored: Stored) -> Json:
    return {
        "ID": stored.id,
        "Version": {"Index": stored.version},
        "CreatedAt": rfc3339(stored.created_at),
        "UpdatedAt": rfc3339(stored.updated_at),
    }


# --- TLS ----------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=8)  # the root and, while it is rotated, its successor
def _tls_info(cert: str) -> Json:
    try:
        parsed = x509.load_pem_x509_certificate(cert.encode())
    except ValueError:
        return {"TrustRoot": cert}
    key = parsed.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return {
        "TrustRoot": cert,
        "CertIssuerSubject": base64.b64encode(parsed.subject.public_bytes()).decode(),
        "CertIssuerPublicKey": base64.b64encode(key).decode(),
    }


# --- node ---------------------------------------------------------------------------------------


def node(of: Node, cluster: Cluster | None, health: dict[str, ManagerHealth]) -> Json:
    """A node."""
    status = {"State": of.status.state.value}
    status |= {"Message": of.status.message} if of.status.message else {}
    status |= {"Addr": of.status.addr} if of.status.addr else {}
    shaped = {
        **_head(of),
        "Spec": _spec(of.spec),
        "Description": _description(of.description, cluster),
        "Status": status,
    }
    if of.role is Role.MANAGER:
        shaped["ManagerStatus"] = _manager_status(of, health.get(of.id))
    return shaped


def _description(of: NodeDescription | None, cluster: Cluster | None) -> Json:
    if of is None:
        return {"Platform": {}, "Resources": {}, "Engine": {}, "TLSInfo": {}}
    engine: Json = {"EngineVersion": of.engine_version}
    engine |= {"Labels": of.engine_labels} if of.engine_labels else {}
    engine |= {"Plugins": [{"Type": p.type, "Name": p.name} for p in of.plugins]}
    return {
        "Hostname": of.hostname,
        "Platform": _spec(of.platform),
        "Resources": _spec(of.resources),
        "Engine": engine,
        "TLSInfo": _tls_info(cluster.root_ca.cert) if cluster else {},
    }


def _manager_status(of: Node, health: ManagerHealth | None) -> Json:
    reachability = "unknown"
    if health is not None:
        reachability = "reachable" if health.reachable else "unreachable"
    leader = {"Leader": True} if health is not None and health.leader else {}
    return {**leader, "Reachability": reachability, "Addr": of.manager_addr}


# --- service ------------------------------------------------------------------------------------


def service(of: Service, view: View, *, with_defaults: bool = False) -> Json:
    """A service; ``with_defaults`` fills what its spec leaves open (``insertDefaults``)."""
    shaped = {**_head(of), "Spec": service_spec(of.spec, with_defaults=with_defaults)}
    if of.previous_spec is not None:
        shaped["PreviousSpec"] = service_spec(of.previous_spec, with_defaults=with_defaults)
    shaped["Endpoint"] = _endpoint(of, view)
    if of.update_status is not None:
        shaped["UpdateStatus"] = _update_status(of.update_status)
    return shaped


def service_spec(of: ServiceSpec, *, with_defaults: bool = False) -> Json:
    """A service's spec."""
    shaped = _spec(of)
    shaped["TaskTemplate"] = {**_task_spec(of.task_template), "Runtime": "container"}
    for key in ("UpdateConfig", "RollbackConfig"):
        if key in shaped:
            shaped[key] = {"Parallelism": 0, "MaxFailureRatio": 0, **shaped[key]}
    if with_defaults:
        _fill(shaped, of)
    return shaped


def _task_spec(of: TaskSpec) -> Json:
    shaped = {"ForceUpdate": 0, **_spec(of)}
    container = shaped.get("ContainerSpec")
    if container is not None:
        container.setdefault("Isolation", "default")
        if "Privileges" in container:  # pointers that Go shows
            nothing = {"CredentialSpec": None, "SELinuxContext": None}
            container["Privileges"] = nothing | container["Privileges"]
        for one in (*container.get("Secrets", ()), *container.get("Configs", ())):
            if "File" in one:  # which Go shows whole
                one["File"] = {"Name": "", "UID": "", "GID": "", "Mode": 0, **one["File"]}
    return shaped


def _fill(shaped: Json, of: ServiceSpec) -> None:
    """Write out what the absent parts of a spec mean."""
    template = shaped["TaskTemplate"]
    container = template.setdefault("ContainerSpec", {})
    container["StopGracePeriod"] = defaults.stop_grace(of.task_template.container)
    container.setdefault("DNSConfig", {})
    template.setdefault("Resources", {"Limits": {}, "Reservations": {}})
    restart = defaults.restart_policy(of.task_template)
    policy = {
        "Condition": restart.condition,
        "Delay": restart.delay,
        "MaxAttempts": restart.attempts,
    }
    template["RestartPolicy"] = policy | ({"Window": restart.window} if restart.window else {})
    for key, given in (("UpdateConfig", of.update_config), ("RollbackConfig", of.rollback_config)):
        shaped[key] = _full_update(given)
    shaped["EndpointSpec"] = {"Mode": "vip", **shaped.get("EndpointSpec", {})}


def _full_update(given: UpdateConfig | None) -> Json:
    config = given or UpdateConfig(parallelism=1)
    delay = {"Delay": config.delay} if config.delay else {}
    return {
        "Parallelism": config.parallelism,
        **delay,
        "FailureAction": config.failure_action or "pause",
        "Monitor": config.monitor or defaults.MONITOR,
        "MaxFailureRatio": config.max_failure_ratio,
        "Order": config.order or "stop-first",
    }


def _endpoint(of: Service, view: View) -> Json:
    """What was asked for, and what was given: published ports, and an address in each network."""
    if of.spec.endpoint_spec is None and not of.attachments:
        return {"Spec": {}}
    spec = of.spec.endpoint_spec or EndpointSpec()
    asked, given = ([_spec(p) for p in ports] for ports in (spec.ports, of.ports or spec.ports))
    addresses = [
        {"NetworkID": a.network_id, "Addr": _with_length(a, view)}
        for a in of.attachments
        if a.address
    ]
    return {
        "Spec": {"Mode": spec.mode or "vip", **({"Ports": asked} if asked else {})},
        **({"Ports": given} if given else {}),
        **({"VirtualIPs": addresses} if addresses else {}),
    }


def _with_length(of: Attachment, view: View) -> str:
    """``10.0.1.2/24``: an address with the length of its subnet."""
    network = view.network(of.network_id)
    return f"{of.address}/{network.subnet.rpartition('/')[2]}" if network else of.address


def _update_status(of: UpdateStatus) -> Json:
    shaped = {"State": of.state.value, "StartedAt": rfc3339(of.started_at)}
    shaped |= {"CompletedAt": rfc3339(of.completed_at)} if of.completed_at else {}
    return {**shaped, "Message": of.message}


def service_status(of: Service, view: View) -> Json:
    """How many tasks a service has and wants (``status=true``)."""
    tasks = list(view.tasks_of_service(of.id))
    running = sum(
        t.status.state is TaskState.RUNNING and t.desired is TaskState.RUNNING for t in tasks
    )
    wanted = of.spec.replicas
    if of.spec.is_global:
        wanted = sum(t.desired is TaskState.RUNNING and not _on_lost(t, view) for t in tasks)
    completed = sum(t.status.state is TaskState.COMPLETE for t in tasks)
    return {"RunningTasks": running, "DesiredTasks": wanted, "CompletedTasks": completed}


def _on_lost(task: Task, view: View) -> bool:
    return bool(task.node_id) and view.node(task.node_id) is None


# --- task ---------------------------------------------------------------------------------------


def task(of: Task, view: View) -> Json:
    """A task."""
    shaped = {
        **_head(of),
        "Labels": {},
        "Spec": _task_spec(of.spec),
        "ServiceID": of.service_id,
        **({"Slot": of.slot} if of.slot else {}),
        **({"NodeID": of.node_id} if of.node_id else {}),
        "Status": _task_status(of.status, of.ports),
        "DesiredState": of.desired.word,
    }
    attachments = [_attachment(a, view) for a in of.attachments if a.address]
    return shaped | ({"NetworksAttachments": attachments} if attachments else {})


def _attachment(of: Attachment, view: View) -> Json:
    network = view.network(of.network_id)
    shaped = {"ID": of.network_id} if network is None else _swarm_network(network)
    return {"Network": shaped, "Addresses": [_with_length(of, view)]}


def _swarm_network(of: Network) -> Json:
    """A network as tasks show it: swarmkit's object, not the Engine API's."""
    spec = of.spec
    addresses = {"Driver": {"Name": "default"}, "Configs": [ipam_config(of)]}
    flags = {"Internal": spec.internal, "Attachable": spec.attachable, "Ingress": spec.ingress}
    options = {"Options": spec.options} if spec.options else {}
    return {
        **_head(of),
        "Spec": {
            "Name": spec.name,
            "Labels": spec.labels,
            "DriverConfiguration": {"Name": "overlay", **options},
            **{name: True for name, holds in flags.items() if holds},
            "IPAMOptions": addresses,
            "Scope": "swarm",
        },
        "DriverState": {"Name": "overlay", "Options": spec.options},
        "IPAMOptions": addresses,
    }


def ipam_config(of: Network) -> Json:
    """The addresses of a network."""
    asked = of.spec.addresses
    return {
        "Subnet": of.subnet,
        **({"IPRange": asked.ip_range} if asked.ip_range else {}),
        "Gateway": of.gateway,
        **({"AuxiliaryAddresses": a} if (a := asked.auxiliary_addresses) else {}),
    }


def _task_status(of: TaskStatus, ports: tuple[PortConfig, ...]) -> Json:
    shaped: Json = {"Timestamp": rfc3339(of.at), "State": of.state.word}
    shaped |= {"Message": of.message} if of.message else {}
    shaped |= {"Err": of.err} if of.err else {}
    if of.container is not None:
        shaped["ContainerStatus"] = {
            "ContainerID": of.container.container_id,
            "PID": of.container.pid,
            "ExitCode": of.container.exit_code or 0,
        }
    bound = [_spec(p) for p in ports if p.publish_mode == "host"]
    running = of.state is TaskState.RUNNING
    return {**shaped, "PortStatus": {"Ports": bound} if bound and running else {}}


# --- secret, config -----------------------------------------------------------------------------


def file(of: Secret | Config) -> Json:
    """A secret, without its data, or a config, with it."""
    spec = _spec(of.spec)
    if isinstance(of, Config):
        spec["Data"] = base64.b64encode(of.data).decode()
    return {**_head(of), "Spec": spec}


# --- swarm --------------------------------------------------------------------------------------


def cluster_spec(of: ClusterSpec) -> Json:
    """The cluster's spec: every section is always there."""
    given = _spec(of)
    return {
        "Name": of.name or "default",
        "Labels": of.labels,
        "Orchestration": {"TaskHistoryRetentionLimit": defaults.history_limit(of)},
        "Raft": {**_RAFT, **given.get("Raft", {})},
        "Dispatcher": {"HeartbeatPeriod": defaults.heartbeat(of)},
        "CAConfig": {"NodeCertExpiry": defaults.cert_expiry(of)},
        "TaskDefaults": given.get("TaskDefaults", {}),
        "EncryptionConfig": {"AutoLockManagers": False},
    }


def cluster(of: Cluster) -> Json:
    """The cluster, without its secrets (``/info``)."""
    return {
        **_head(of),
        "Spec": cluster_spec(of.spec),
        "TLSInfo": _tls_info(of.root_ca.cert),
        "RootRotationInProgress": False,
        "DefaultAddrPool": of.address_pools or None,
        "SubnetSize": of.subnet_size,
        "DataPathPort": of.data_port,
    }


def swarm(of: Cluster) -> Json:
    """The cluster with its join tokens (``GET /swarm``)."""
    tokens = {"Worker": of.tokens.worker, "Manager": of.tokens.manager}
    return {**cluster(of), "JoinTokens": tokens}


def swarm_info(local: LocalState, view: View | None) -> Json:
    """The ``Swarm`` section of ``/info``; ``view`` is None on a node that is no manager."""
    managers = [{"NodeID": node_id, "Addr": addr} for node_id, addr in local.managers]
    shaped: Json = {
        "NodeID": local.node_id,
        "NodeAddr": local.node_addr,
        "LocalNodeState": local.state,
        "ControlAvailable": view is not None,
        "Error": local.error,
        "RemoteManagers": managers or None,
    }
    if view is not None:
        every = list(view.nodes())
        shaped["Nodes"] = len(every)
        shaped["Managers"] = sum(n.role is Role.MANAGER for n in every)
        if view.cluster is not None:
            shaped["Cluster"] = cluster(view.cluster)
    return shaped


def accepted(spec: ServiceSpec) -> ServiceSpec:
    """A spec as it is stored: the words that clients add to every update mean what "" means.

    The stock client sends back what it read, ``Isolation`` and ``Runtime`` included; stored as
    different from their absence they would restart every task.
    """
    template = spec.task_template
    container = template.container
    template = replace(
        template,
        container_spec=replace(
            container, isolation="" if container.isolation == "default" else container.isolation
        ),
        runtime="" if template.runtime == "container" else template.runtime,
        placement=template.where,
    )
    return defaults.normalized(replace(spec, task_template=template))
