"""Is a spec sound? All problems at once, each with the path of its field.

Where clients or scripts match Docker's words, these are Docker's. A field that swarmlet cannot
honour yet is a problem too, or a warning when the service is useful without it: nothing that a user
sets is dropped in silence.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Final

import msgspec

from swarmlet.clock import SECOND
from swarmlet.errors import InvalidInput
from swarmlet.model import defaults
from swarmlet.model.ids import is_service_name
from swarmlet.model.specs import (
    ClusterSpec,
    ContainerSpec,
    EndpointSpec,
    HealthConfig,
    Labels,
    Mount,
    NodeSpec,
    Placement,
    PortConfig,
    ResourceRequirements,
    Resources,
    RestartPolicy,
    ServiceMode,
    ServiceSpec,
    TaskSpec,
    UpdateConfig,
)


class Problem(msgspec.Struct, frozen=True):
    """What is wrong with one field. ``path`` is spelled as in the API."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


def refuse(problems: Sequence[Problem]) -> None:
    """Raise InvalidInput with all problems in one message, if there are any."""
    if problems:
        raise InvalidInput("; ".join(str(problem) for problem in problems))


Problems = Iterator[Problem]

#: The engine refuses containers below this (daemon/container_linux.go, linuxMinMemory: 6 MiB; the
#: scheduler's own bound, which clients match, is 4 MiB).
_MEMORY_MIN: Final = 4 * 1024 * 1024

#: A hundredth of a hundredth of a core: the kernel's smallest quota (1 ms of 100 ms) is more.
_CPU_MIN: Final = 1_000_000

#: Replicas of one service: ten times what a large cluster runs; a typing error asks for more.
_REPLICAS_MAX: Final = 100_000

_HEALTH_MIN: Final = 1_000_000  # the engine's minimumDuration: 1 ms

_INT64_MAX: Final = 2**63 - 1

_NOT_YET: Final = "not supported yet by swarmlet"


def service_problems(spec: ServiceSpec) -> list[Problem]:
    """Everything that is wrong with a service's spec."""
    return list(
        chain(
            _name(spec.name),
            _labels("Labels", spec.labels),
            _mode(spec.mode),
            _template(spec.task_template),
            _endpoint(spec),
            _update("UpdateConfig", spec.update_config),
            _update("RollbackConfig", spec.rollback_config),
            _only_if(bool(spec.networks), "Networks", f"overlay networks are {_NOT_YET}"),
        )
    )


def service_change_problems(old: ServiceSpec, new: ServiceSpec) -> list[Problem]:
    """What an update may not change."""
    return list(
        chain(
            _only_if(old.name != new.name, "", "renaming services is not supported"),
            _only_if(old.is_global != new.is_global, "", "service mode change is not allowed"),
        )
    )


def _only_if(wrong: bool, path: str, message: str) -> Problems:  # noqa: FBT001 - reads as a sentence
    if wrong:
        yield Problem(path, message)


def _name(name: str) -> Problems:
    if not name:
        yield Problem("Name", "name must be provided (name must be valid as a DNS name component)")
    elif not is_service_name(name):
        yield Problem("", "name must be valid as a DNS name component")


def _labels(path: str, labels: Labels) -> Problems:
    yield from _only_if(any(not key.strip() for key in labels), path, "a label needs a name")


def _mode(mode: ServiceMode) -> Problems:
    for field in ("replicated_job", "global_job"):
        if getattr(mode, field) is not None:
            yield Problem(f"Mode.{_api(mode, field)}", f"jobs are {_NOT_YET}")
    if mode.replicated is not None and mode.global_ is not None:
        yield Problem("Mode", "only one of Replicated and Global can be given")
    replicas = mode.replicated.replicas if mode.replicated else None
    if replicas is not None and not 0 <= replicas <= _REPLICAS_MAX:
        yield Problem("Mode.Replicated.Replicas", f"must be between 0 and {_REPLICAS_MAX}")


def _api(struct: msgspec.Struct, field: str) -> str:
    names = zip(struct.__struct_fields__, struct.__struct_encode_fields__, strict=True)
    return dict(names)[field]


# --- task template ------------------------------------------------------------------------------


def _template(task: TaskSpec) -> Problems:
    at = "TaskTemplate"
    yield from _only_if(
        task.plugin_spec is not None or task.runtime == "plugin",
        f"{at}.PluginSpec",
        f"plugins are {_NOT_YET}",
    )
    yield from _only_if(
        task.network_attachment_spec is not None or task.runtime == "attachment",
        f"{at}.NetworkAttachmentSpec",
        f"network attachments are {_NOT_YET}",
    )
    yield from _only_if(
        task.runtime not in {"", "container", "plugin", "attachment"},
        f"{at}.Runtime",
        f'unknown runtime "{task.runtime}"',
    )
    yield from _only_if(bool(task.networks), f"{at}.Networks", f"overlay networks are {_NOT_YET}")
    if task.container_spec is None:
        yield Problem(f"{at}.ContainerSpec", "is required")
    else:
        yield from _container(f"{at}.ContainerSpec", task.container_spec)
    yield from _resources(f"{at}.Resources", task.resources)
    yield from _restart(f"{at}.RestartPolicy", task.restart_policy)
    yield from _placement(f"{at}.Placement", task.where)
    yield from _whole(at, task, "force_update")


def _whole(path: str, struct: msgspec.Struct | None, *fields: str) -> Problems:
    """Numbers that must be whole, not negative and fit 63 bits."""
    for field in fields:
        value = getattr(struct, field, None)
        if struct is not None and value is not None and not 0 <= value <= _INT64_MAX:
            yield Problem(f"{path}.{_api(struct, field)}", f"cannot be {value}")


_IMAGE: Final = re.compile(
    r"(?:(?P<domain>[a-zA-Z0-9.-]+(?::[0-9]+)?|\[[0-9a-fA-F:]+\](?::[0-9]+)?)/)?"
    r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@[A-Za-z][A-Za-z0-9+._-]*:[0-9a-fA-F]{32,})?"
)

_IMAGE_ID: Final = re.compile(r"sha256:[0-9a-f]{64}|[0-9a-f]{64}")


def _container(at: str, container: ContainerSpec) -> Problems:
    yield from _image(at, container.image)
    yield from _labels(f"{at}.Labels", container.labels)
    yield from _unsupported(at, container)
    yield from _mounts(f"{at}.Mounts", container.mounts)
    yield from _health(f"{at}.Healthcheck", container.healthcheck)
    yield from _whole(at, container, "stop_grace_period")
    yield from _settings(at, container)


def _image(at: str, image: str) -> Problems:
    if not image:
        yield Problem(f"{at}.Image", "image reference must be provided")
    elif not (_IMAGE.fullmatch(image) or _IMAGE_ID.fullmatch(image)) or len(image) > 4096:
        yield Problem(f"{at}.Image", f'"{image[:200]}" is not a valid repository/tag')


def _unsupported(at: str, container: ContainerSpec) -> Problems:
    yield from _only_if(bool(container.secrets), f"{at}.Secrets", f"secrets are {_NOT_YET}")
    yield from _only_if(bool(container.configs), f"{at}.Configs", f"configs are {_NOT_YET}")
    yield from _only_if(
        container.isolation not in {"", "default"}, f"{at}.Isolation", f"isolation is {_NOT_YET}"
    )
    privileges = container.privileges
    yield from _only_if(
        privileges is not None and privileges.credential_spec is not None,
        f"{at}.Privileges.CredentialSpec",
        f"credential specs are {_NOT_YET}",
    )


def _settings(at: str, container: ContainerSpec) -> Problems:
    for i, entry in enumerate(container.env):
        name = entry.partition("=")[0]
        yield from _only_if(not name or "\0" in entry, f"{at}.Env[{i}]", "a variable needs a name")
    for i, ulimit in enumerate(container.ulimits):
        bad = not ulimit.name or (ulimit.hard != -1 and ulimit.soft > ulimit.hard)
        yield from _only_if(bad, f"{at}.Ulimits[{i}]", "needs a name, and soft <= hard")
    yield from _only_if(
        len(container.hostname) > 63 or " " in container.hostname,
        f"{at}.Hostname",
        f'"{container.hostname[:80]}" is not a host name',
    )
    yield from _only_if(
        bool(container.dir) and not container.dir.startswith("/"), f"{at}.Dir", "must be absolute"
    )
    yield from _only_if(
        not -1000 <= container.oom_score_adj <= 1000,
        f"{at}.OomScoreAdj",
        "must be between -1000 and 1000",
    )


def _mounts(at: str, mounts: Sequence[Mount]) -> Problems:
    targets: set[str] = set()
    for i, mount in enumerate(mounts):
        yield from _mount(f"{at}[{i}]", mount)
        target = mount.target.rstrip("/")
        yield from _only_if(
            bool(target) and target in targets, f"{at}[{i}]", f"Duplicate mount point: {target}"
        )
        targets.add(target)


def _mount(at: str, mount: Mount) -> Problems:
    yield from _only_if(
        not mount.target.startswith("/"),
        f"{at}.Target",
        f'invalid mount target, must be an absolute path: "{mount.target}"',
    )
    yield from _only_if(
        mount.type in {"npipe", "cluster", "image"}, f"{at}.Type", f"{mount.type} is {_NOT_YET}"
    )
    yield from _only_if(not mount.type, f"{at}.Type", "is required: bind, volume or tmpfs")
    yield from _only_if(
        mount.type == "bind" and not mount.source.startswith("/"),
        f"{at}.Source",
        f'invalid bind mount source, must be an absolute path: "{mount.source}"',
    )
    yield from _only_if(
        mount.type == "tmpfs" and bool(mount.source), f"{at}.Source", "a tmpfs has no source"
    )
    if mount.type == "volume" and mount.source:
        fits = re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+", mount.source)
        yield from _only_if(not fits, f"{at}.Source", f'invalid volume name: "{mount.source}"')
    for kind, options in _mount_options(mount):
        yield from _only_if(
            options is not None and kind != mount.type, at, f"{kind} options on another kind"
        )
    yield from _whole(f"{at}.TmpfsOptions", mount.tmpfs_options, "size_bytes", "mode")


def _mount_options(mount: Mount) -> Iterable[tuple[str, object]]:
    return (
        ("bind", mount.bind_options),
        ("volume", mount.volume_options),
        ("tmpfs", mount.tmpfs_options),
    )


def _health(at: str, health: HealthConfig | None) -> Problems:
    if health is None:
        return
    for field in ("interval", "timeout", "start_period", "start_interval"):
        value = getattr(health, field)
        yield from _only_if(
            value != 0 and not _HEALTH_MIN <= value <= _INT64_MAX,
            f"{at}.{_api(health, field)}",
            "cannot be less than 1ms",
        )
    yield from _only_if(health.retries < 0, f"{at}.Retries", "cannot be negative")
    kind, command = health.test[:1], health.test[1:]
    yield from _only_if(
        bool(kind) and kind[0] not in {"NONE", "CMD", "CMD-SHELL"},
        f"{at}.Test",
        f'unknown health check type "{"".join(kind)}": NONE, CMD or CMD-SHELL is needed',
    )
    yield from _only_if(
        kind in {("CMD",), ("CMD-SHELL",)} and not command, f"{at}.Test", "a command is needed"
    )


def _resources(at: str, needs: ResourceRequirements | None) -> Problems:
    if needs is None:
        return
    for name, amounts in (("Limits", needs.limits), ("Reservations", needs.reservations)):
        if amounts is not None:
            yield from _amounts(f"{at}.{name}", amounts)
    limits, reserved = needs.limits or Resources(), needs.reservations or Resources()
    for field in ("nano_cpus", "memory_bytes"):
        most, least = getattr(limits, field), getattr(reserved, field)
        yield from _only_if(
            bool(most) and least > most,
            f"{at}.Reservations.{_api(limits, field)}",
            "is more than the limit: no task could ever be placed within it",
        )


def _amounts(at: str, amounts: Resources) -> Problems:
    cpus, memory = amounts.nano_cpus, amounts.memory_bytes
    yield from _only_if(
        cpus != 0 and not _CPU_MIN <= cpus <= _INT64_MAX,
        "",
        f"invalid cpu value {cpus / 1e9:g}: Must be at least {_CPU_MIN / 1e9:g}",
    )
    yield from _only_if(
        memory != 0 and not _MEMORY_MIN <= memory <= _INT64_MAX,
        "",
        f"invalid memory value {memory}: Must be at least 4MiB",
    )
    yield from _only_if(not -1 <= amounts.pids <= _INT64_MAX, f"{at}.Pids", "cannot be negative")
    yield from _only_if(
        bool(amounts.generic_resources),
        f"{at}.GenericResources",
        f"generic resources are {_NOT_YET}",
    )


def _restart(at: str, policy: RestartPolicy | None) -> Problems:
    yield from _whole(at, policy, "delay", "max_attempts", "window")


# --- placement ----------------------------------------------------------------------------------

_CONSTRAINT: Final = re.compile(r"\s*(?P<key>\S+?)\s*(?P<op>==|!=)\s*(?P<value>\S.*?)\s*")

_CONSTRAINT_KEYS: Final = frozenset(
    {
        "node.id",
        "node.hostname",
        "node.ip",
        "node.role",
        "node.platform.os",
        "node.platform.arch",
    }
)

_LABEL_PREFIXES: Final = ("node.labels.", "engine.labels.")

#: swarmkit's constraint values: letters, digits and the signs of names, images and addresses.
_VALUE: Final = re.compile(r"[a-zA-Z0-9:\-_\s.*()?+\[\]\\^$|/@,]+")


def _placement(at: str, placement: Placement) -> Problems:
    for i, text in enumerate(placement.constraints):
        reason = constraint_problem(text)
        yield from _only_if(bool(reason), f"{at}.Constraints[{i}]", reason)
    for i, preference in enumerate(placement.preferences):
        over = preference.spread.spread_descriptor if preference.spread else ""
        yield from _only_if(
            not over.startswith(_LABEL_PREFIXES),
            f"{at}.Preferences[{i}].Spread.SpreadDescriptor",
            f'"{over}": node.labels.NAME or engine.labels.NAME is needed',
        )
    yield from _whole(at, placement, "max_replicas")


def constraint_problem(text: str) -> str:
    """What is wrong with a placement constraint, "" if nothing."""
    match = _CONSTRAINT.fullmatch(text)
    if match is None:
        return f'constraint expected one operator from ==, !=: "{text}"'
    key, value = match["key"].lower(), match["value"]
    labelled = any(key.startswith(p) and len(key) > len(p) for p in _LABEL_PREFIXES)
    if key not in _CONSTRAINT_KEYS and not labelled:
        return f'unknown constraint key "{match["key"]}"'
    if not _VALUE.fullmatch(value) or "==" in value or "!=" in value:
        return f'value "{value}" is invalid'
    if key == "node.role" and value.lower() not in {"worker", "manager"}:
        return f'"{value}" is no role: worker or manager is needed'
    return ""


# --- ports, update, warnings --------------------------------------------------------------------


def _endpoint(spec: ServiceSpec) -> Problems:
    endpoint = spec.endpoint_spec
    if endpoint is None:
        return
    taken: set[tuple[str, int]] = set()
    for i, port in enumerate(endpoint.ports):
        at = f"EndpointSpec.Ports[{i}]"
        yield from _port(at, port, endpoint)
        key = (port.protocol or "tcp", port.published_port)
        yield from _only_if(
            port.published_port != 0 and key in taken,
            at,
            f"duplicate published port {port.published_port}/{key[0]}",
        )
        taken.add(key)


def _port(at: str, port: PortConfig, endpoint: EndpointSpec) -> Problems:
    yield from _only_if(
        not 1 <= port.target_port <= 65_535,
        f"{at}.TargetPort",
        f"invalid port {port.target_port}: must be between 1 and 65535",
    )
    yield from _only_if(
        not 0 <= port.published_port <= 65_535,
        f"{at}.PublishedPort",
        f"invalid port {port.published_port}: must be between 0 and 65535",
    )
    if port.publish_mode == "host":
        return
    if endpoint.mode == "dnsrr":
        yield Problem(
            "", "EndpointSpec: port published with ingress mode can't be used with dnsrr mode"
        )
    yield Problem(
        f"{at}.PublishMode", f"ingress ports are {_NOT_YET}: use mode=host in the port's setting"
    )


def _update(at: str, config: UpdateConfig | None) -> Problems:
    yield from _whole(at, config, "parallelism", "delay", "monitor")
    if config is not None and not 0 <= config.max_failure_ratio <= 1:
        yield Problem(f"{at}.MaxFailureRatio", "update max failure ratio must be between 0 and 1")


def service_warnings(spec: ServiceSpec) -> list[str]:
    """Settings that are kept, and have no effect yet."""
    found = chain(
        _update_warnings("UpdateConfig", spec.update_config),
        _update_warnings("RollbackConfig", spec.rollback_config),
    )
    return list(found)


#: What updates do today, whatever is asked: one task after another, the old one first.
_EFFECTIVE: Final = {
    "parallelism": (1,),
    "delay": (0,),
    "failure_action": ("", "pause"),
    "max_failure_ratio": (0,),
    "order": ("", "stop-first"),
}


def _update_warnings(at: str, config: UpdateConfig | None) -> Iterator[str]:
    if config is None:
        return
    for field, effective in _EFFECTIVE.items():
        value = getattr(config, field)
        if value not in effective:
            yield (
                f"{at}.{_api(config, field)}: {value} has no effect yet in swarmlet; "
                "tasks are replaced one at a time, stop first"
            )


# --- node and cluster ---------------------------------------------------------------------------


def node_problems(spec: NodeSpec) -> list[Problem]:
    """Everything that is wrong with a node's spec."""
    return list(_labels("Labels", spec.labels))


#: swarmkit's bound: a certificate must live long enough to be renewed in its second half.
_CERT_MIN: Final = 3600 * SECOND

#: A heartbeat lost is noticed after this; agents beat up to ten times faster.
_HEARTBEAT_MIN: Final = SECOND // 10


def cluster_problems(spec: ClusterSpec) -> list[Problem]:
    """Everything that is wrong with the cluster's spec."""
    return list(chain(_labels("Labels", spec.labels), _times(spec), _authority(spec)))


def _times(spec: ClusterSpec) -> Problems:
    period = spec.dispatcher.heartbeat_period if spec.dispatcher else 0
    yield from _only_if(
        period != 0 and not _HEARTBEAT_MIN <= period <= _INT64_MAX,
        "Dispatcher.HeartbeatPeriod",
        "heartbeat period must be at least 100ms",
    )
    for label in (defaults.SUSPECT_LABEL, defaults.DOWN_LABEL):
        text = spec.labels.get(label)
        yield from _only_if(
            text is not None and not re.fullmatch(r"\d{1,6}(\.\d{1,9})?", text),
            f"Labels.{label}",
            f'"{text}" is not a number of seconds',
        )
    yield from _whole("Orchestration", spec.orchestration, "task_history_retention_limit")
    yield from _whole(
        "Raft",
        spec.raft,
        "snapshot_interval",
        "keep_old_snapshots",
        "log_entries_for_slow_followers",
    )


def _authority(spec: ClusterSpec) -> Problems:
    ca = spec.ca_config
    if ca is not None:
        yield from _only_if(
            ca.node_cert_expiry != 0 and not _CERT_MIN <= ca.node_cert_expiry <= _INT64_MAX,
            "CAConfig.NodeCertExpiry",
            "minimum certificate expiry time is 1h0m0s",
        )
        yield from _only_if(
            bool(ca.external_cas), "CAConfig.ExternalCAs", f"external CAs are {_NOT_YET}"
        )
        rotates = ca.signing_ca_cert or ca.signing_ca_key or ca.force_rotate
        yield from _only_if(bool(rotates), "CAConfig", f"rotation of the root CA is {_NOT_YET}")
    locks = spec.encryption_config
    yield from _only_if(
        locks is not None and locks.auto_lock_managers,
        "EncryptionConfig.AutoLockManagers",
        f"autolock is {_NOT_YET}",
    )
