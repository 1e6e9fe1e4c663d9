"""What a user asks for: specs of services, nodes and the cluster, as the Engine API spells them.

Every struct holds what the user said and no more: the default of each field is the API's zero
value ("" / 0 / None / empty), so that a spec goes out as it came in. What a zero value *means* is
in :mod:`swarmlet.model.defaults`. Lengths of time are nanoseconds, memory is bytes, CPU is
billionths of a core (``NanoCPUs``). Source: Engine API v1.41 to v1.47, ``ServiceSpec`` and below.
"""

import enum
from typing import Literal

import msgspec

from swarmlet.model.naming import docker_name


class Spec(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename=docker_name, gc=False
):
    """Base of all specs: immutable, spelled as Docker spells it, zero values left out."""


def _shown() -> dict[str, str]:
    """Empty labels that stay visible: the API shows ``Labels: {}`` on objects, not inside them."""
    return {}


Labels = dict[str, str]


# --- container ----------------------------------------------------------------------------------


class HealthConfig(Spec, frozen=True):
    """How a container is probed. ``test[0]`` is NONE, CMD or CMD-SHELL; empty: the image."""

    test: tuple[str, ...] = ()
    interval: int = 0
    timeout: int = 0
    retries: int = 0
    start_period: int = 0
    start_interval: int = 0


class BindOptions(Spec, frozen=True):
    """Options of a bind mount."""

    propagation: Literal["", "private", "rprivate", "shared", "rshared", "slave", "rslave"] = ""
    non_recursive: bool = False
    create_mountpoint: bool = False
    read_only_non_recursive: bool = False
    read_only_force_recursive: bool = False


class Driver(Spec, frozen=True):
    """A named driver and its options (volumes, logging)."""

    name: str = ""
    options: dict[str, str] = msgspec.field(default_factory=dict)


class VolumeOptions(Spec, frozen=True):
    """Options of a volume mount."""

    no_copy: bool = False
    labels: Labels = msgspec.field(default_factory=dict)
    driver_config: Driver | None = None
    subpath: str = ""


class TmpfsOptions(Spec, frozen=True):
    """Options of a tmpfs mount. ``mode`` is an integer of permission bits."""

    size_bytes: int = 0
    mode: int = 0
    options: tuple[tuple[str, ...], ...] = ()


class Mount(Spec, frozen=True):
    """One mount of a container."""

    type: Literal["", "bind", "volume", "tmpfs", "npipe", "cluster", "image"] = ""
    source: str = ""
    target: str = ""
    read_only: bool = False
    consistency: str = ""
    bind_options: BindOptions | None = None
    volume_options: VolumeOptions | None = None
    tmpfs_options: TmpfsOptions | None = None


class Ulimit(Spec, frozen=True):
    """One resource limit of setrlimit(2)."""

    name: str = ""
    soft: int = 0
    hard: int = 0


class DnsConfig(Spec, frozen=True):
    """Resolver settings of a container."""

    nameservers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


class FileTarget(Spec, frozen=True):
    """Where a secret or config appears in a container. ``mode`` is permission bits."""

    name: str = ""
    uid: str = ""
    gid: str = ""
    mode: int = 0


class SecretReference(Spec, frozen=True):
    """A secret that a container asks for."""

    file: FileTarget | None = None
    secret_id: str = ""
    secret_name: str = ""


class ConfigReference(Spec, frozen=True):
    """A config that a container asks for."""

    file: FileTarget | None = None
    runtime: dict[str, str] | None = None
    config_id: str = ""
    config_name: str = ""


class SecretSpec(Spec, frozen=True):
    """What a user says of a secret, but for its data."""

    name: str = ""
    labels: Labels = msgspec.field(default_factory=_shown)
    driver: Driver | None = None
    templating: Driver | None = None


class ConfigSpec(Spec, frozen=True):
    """What a user says of a config, but for its data."""

    name: str = ""
    labels: Labels = msgspec.field(default_factory=_shown)
    templating: Driver | None = None


class CredentialSpec(Spec, frozen=True):
    """Windows credentials (refused)."""

    config: str = ""
    file: str = ""
    registry: str = ""


class SelinuxContext(Spec, frozen=True):
    """SELinux labels of a container."""

    disable: bool = False
    user: str = ""
    role: str = ""
    type: str = ""
    level: str = ""


class Seccomp(Spec, frozen=True):
    """Seccomp profile of a container; ``profile`` is base64."""

    mode: str = ""
    profile: str = ""


class AppArmor(Spec, frozen=True):
    """AppArmor mode of a container."""

    mode: str = ""


class Privileges(Spec, frozen=True):
    """Security options of a container."""

    credential_spec: CredentialSpec | None = None
    selinux_context: SelinuxContext | None = msgspec.field(default=None, name="SELinuxContext")
    seccomp: Seccomp | None = None
    app_armor: AppArmor | None = None
    no_new_privileges: bool = False


class ContainerSpec(Spec, frozen=True):
    """What runs in a task. ``command`` replaces the entry point, ``args`` the command."""

    image: str = ""
    labels: Labels = msgspec.field(default_factory=dict)
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    hostname: str = ""
    env: tuple[str, ...] = ()
    dir: str = ""
    user: str = ""
    groups: tuple[str, ...] = ()
    privileges: Privileges | None = None
    tty: bool = False
    open_stdin: bool = False
    read_only: bool = False
    mounts: tuple[Mount, ...] = ()
    stop_signal: str = ""
    stop_grace_period: int | None = None
    healthcheck: HealthConfig | None = None
    hosts: tuple[str, ...] = ()
    dns_config: DnsConfig | None = None
    secrets: tuple[SecretReference, ...] = ()
    configs: tuple[ConfigReference, ...] = ()
    isolation: str = ""
    init: bool | None = None
    sysctls: dict[str, str] = msgspec.field(default_factory=dict)
    capability_add: tuple[str, ...] = ()
    capability_drop: tuple[str, ...] = ()
    ulimits: tuple[Ulimit, ...] = ()
    oom_score_adj: int = 0


# --- task template ------------------------------------------------------------------------------


class NamedResource(Spec, frozen=True):
    """One nameable generic resource, such as one GPU."""

    kind: str = ""
    value: str = ""


class DiscreteResource(Spec, frozen=True):
    """A countable generic resource."""

    kind: str = ""
    value: int = 0


class GenericResource(Spec, frozen=True):
    """A generic resource: named or counted."""

    named_resource_spec: NamedResource | None = None
    discrete_resource_spec: DiscreteResource | None = None


class Resources(Spec, frozen=True):
    """Amounts of a node's resources; 0 means none asked for, or no limit."""

    nano_cpus: int = 0
    memory_bytes: int = 0
    pids: int = 0
    generic_resources: tuple[GenericResource, ...] = ()


class ResourceRequirements(Spec, frozen=True):
    """Limits bound the container (engine); reservations are the scheduler's business only."""

    limits: Resources | None = None
    reservations: Resources | None = None


class RestartPolicy(Spec, frozen=True):
    """When a task that ended is replaced. See :mod:`swarmlet.control.restart`."""

    condition: Literal["", "none", "on-failure", "any"] = ""
    delay: int | None = None
    max_attempts: int | None = None
    window: int | None = None


class SpreadOver(Spec, frozen=True):
    """Spread over the values of one label: ``node.labels.zone`` or ``engine.labels.x``."""

    spread_descriptor: str = ""


class PlacementPreference(Spec, frozen=True):
    """One level of the spread tree."""

    spread: SpreadOver | None = None


class Platform(Spec, frozen=True):
    """An operating system on an architecture; "" matches any."""

    architecture: str = ""
    os: str = ""


class Placement(Spec, frozen=True):
    """Where tasks may run, and where they should."""

    constraints: tuple[str, ...] = ()
    preferences: tuple[PlacementPreference, ...] = ()
    max_replicas: int = 0
    platforms: tuple[Platform, ...] = ()


class NetworkAttachment(Spec, frozen=True):
    """A network that the tasks join."""

    target: str = ""
    aliases: tuple[str, ...] = ()
    driver_opts: dict[str, str] = msgspec.field(default_factory=dict)


class TaskSpec(Spec, frozen=True):
    """The template of a service's tasks: when it changes, tasks are replaced."""

    container_spec: ContainerSpec | None = None
    plugin_spec: dict[str, object] | None = None
    network_attachment_spec: dict[str, object] | None = None
    resources: ResourceRequirements | None = None
    restart_policy: RestartPolicy | None = None
    placement: Placement | None = None
    networks: tuple[NetworkAttachment, ...] = ()
    log_driver: Driver | None = None
    force_update: int = 0
    runtime: str = ""

    @property
    def container(self) -> ContainerSpec:
        """The container spec, or an empty one."""
        return self.container_spec or ContainerSpec()

    @property
    def reservations(self) -> Resources:
        """What one task needs of its node."""
        return (self.resources and self.resources.reservations) or Resources()

    @property
    def limits(self) -> Resources:
        """What one task may use at most."""
        return (self.resources and self.resources.limits) or Resources()

    @property
    def where(self) -> Placement:
        """The placement, or an empty one."""
        return self.placement or Placement()


# --- service ------------------------------------------------------------------------------------


class Replicated(Spec, frozen=True):
    """So many tasks, anywhere. None means one."""

    replicas: int | None = None


class Global(Spec, frozen=True):
    """One task on each node that fits."""


class ReplicatedJob(Spec, frozen=True):
    """So many tasks that run to completion."""

    max_concurrent: int | None = None
    total_completions: int | None = None


class GlobalJob(Spec, frozen=True):
    """One task to completion on each node that fits."""


class ServiceMode(Spec, frozen=True):
    """Exactly one of its fields is set; none set means one replica."""

    replicated: Replicated | None = None
    global_: Global | None = None
    replicated_job: ReplicatedJob | None = None
    global_job: GlobalJob | None = None


class UpdateConfig(Spec, frozen=True):
    """How tasks are replaced when the template changes."""

    parallelism: int = 0
    delay: int = 0
    failure_action: Literal["", "continue", "pause", "rollback"] = ""
    monitor: int = 0
    max_failure_ratio: float = 0.0
    order: Literal["", "stop-first", "start-first"] = ""


class PortConfig(Spec, frozen=True):
    """A published port. In mode ``host`` it is bound on the nodes that run a task only."""

    name: str = ""
    protocol: Literal["", "tcp", "udp", "sctp"] = ""
    target_port: int = 0
    published_port: int = 0
    publish_mode: Literal["", "ingress", "host"] = ""


class EndpointSpec(Spec, frozen=True):
    """How clients reach a service."""

    mode: Literal["", "vip", "dnsrr"] = ""
    ports: tuple[PortConfig, ...] = ()


class ServiceSpec(Spec, frozen=True):
    """A service as a user asks for it."""

    name: str = ""
    labels: Labels = msgspec.field(default_factory=_shown)
    task_template: TaskSpec = msgspec.field(default_factory=TaskSpec)
    mode: ServiceMode = msgspec.field(default_factory=ServiceMode)
    update_config: UpdateConfig | None = None
    rollback_config: UpdateConfig | None = None
    networks: tuple[NetworkAttachment, ...] = ()
    endpoint_spec: EndpointSpec | None = None

    @property
    def is_global(self) -> bool:
        """Whether it wants one task on each node."""
        return self.mode.global_ is not None

    @property
    def replicas(self) -> int:
        """How many tasks a replicated service wants; 0 for other modes."""
        if self.is_global or self.mode.replicated_job or self.mode.global_job:
            return 0
        replicated = self.mode.replicated
        wanted = None if replicated is None else replicated.replicas
        return 1 if wanted is None else wanted

    @property
    def ports(self) -> tuple[PortConfig, ...]:
        """Its published ports."""
        return self.endpoint_spec.ports if self.endpoint_spec else ()


# --- node and cluster ---------------------------------------------------------------------------


class Role(enum.StrEnum):
    """What a node may be asked to do."""

    WORKER = "worker"
    MANAGER = "manager"


class Availability(enum.StrEnum):
    """What a node's operator allows: tasks, no new tasks, no tasks."""

    ACTIVE = "active"
    PAUSE = "pause"
    DRAIN = "drain"


class NodeSpec(Spec, frozen=True, kw_only=True):
    """What an operator asks of a node. Role and availability are always given (no zero value)."""

    name: str = ""
    labels: Labels = msgspec.field(default_factory=_shown)
    role: Role
    availability: Availability


class OrchestrationConfig(Spec, frozen=True):
    """How many ended tasks are kept for each slot."""

    task_history_retention_limit: int | None = None


class RaftConfig(Spec, frozen=True):
    """Kept for clients; swarmlet sizes its own log (entries and ticks as etcd counts them)."""

    snapshot_interval: int = 0
    keep_old_snapshots: int | None = None
    log_entries_for_slow_followers: int = 0
    election_tick: int = 0
    heartbeat_tick: int = 0


class DispatcherConfig(Spec, frozen=True):
    """How often agents say that they live."""

    heartbeat_period: int = 0


class CaConfig(Spec, frozen=True):
    """The certificate authority: life of node certificates."""

    node_cert_expiry: int = 0
    external_cas: tuple[dict[str, object], ...] = msgspec.field(default=(), name="ExternalCAs")
    signing_ca_cert: str = msgspec.field(default="", name="SigningCACert")
    signing_ca_key: str = msgspec.field(default="", name="SigningCAKey")
    force_rotate: int = 0


class EncryptionConfig(Spec, frozen=True):
    """Whether managers need a key from an operator to start."""

    auto_lock_managers: bool = False


class TaskDefaults(Spec, frozen=True):
    """What tasks get unless their service says otherwise."""

    log_driver: Driver | None = None


class ClusterSpec(Spec, frozen=True):
    """Cluster settings. Those of swarmlet are labels ``swarmlet.…`` (docs: failure detection)."""

    name: str = ""
    labels: Labels = msgspec.field(default_factory=_shown)
    orchestration: OrchestrationConfig | None = None
    raft: RaftConfig | None = None
    dispatcher: DispatcherConfig | None = None
    ca_config: CaConfig | None = None
    encryption_config: EncryptionConfig | None = None
    task_defaults: TaskDefaults | None = None
