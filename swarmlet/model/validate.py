"""Is a spec sound? All problems at once, each with the path of its field.

Where clients or scripts match Docker's words, these are Docker's. A field that swarmlet cannot
honour yet is a problem too, or a warning when the service is useful without it: nothing that a user
sets is dropped in silence. Placement constraints are checked by the module that evaluates them
(:mod:`swarmlet.control.constraints`).
"""

import re
from collections.abc import Iterator
from itertools import chain
from typing import Final

from swarmlet.clock import SECOND
from swarmlet.model import defaults
from swarmlet.model.ids import is_service_name
from swarmlet.model.problems import (
    INT64_MAX,
    NOT_YET,
    Problem,
    Problems,
    api_name,
    label_problems,
    only_if,
    refuse,
    whole,
)
from swarmlet.model.specs import (
    ClusterSpec,
    NodeSpec,
    Placement,
    RestartPolicy,
    ServiceMode,
    ServiceSpec,
    TaskSpec,
    UpdateConfig,
)
from swarmlet.model.validate_container import container_problems, resource_problems
from swarmlet.model.validate_endpoint import endpoint_problems, endpoint_warnings

__all__ = [
    "Problem",
    "cluster_problems",
    "node_problems",
    "refuse",
    "service_change_problems",
    "service_problems",
    "service_warnings",
]

#: Replicas of one service: ten times what a large cluster runs; a typing error asks for more.
_REPLICAS_MAX: Final = 100_000


def service_problems(spec: ServiceSpec) -> list[Problem]:
    """Everything that is wrong with a service's spec."""
    return list(
        chain(
            _name(spec.name),
            label_problems("Labels", spec.labels),
            _mode(spec.mode),
            _template(spec.task_template),
            endpoint_problems(spec),
            _update("UpdateConfig", spec.update_config),
            _update("RollbackConfig", spec.rollback_config),
        )
    )


def service_change_problems(old: ServiceSpec, new: ServiceSpec) -> list[Problem]:
    """What an update may not change."""
    return list(
        chain(
            only_if(old.name != new.name, "", "renaming services is not supported"),
            only_if(old.is_global != new.is_global, "", "service mode change is not allowed"),
        )
    )


def _name(name: str) -> Problems:
    if not name:
        yield Problem("Name", "name must be provided (name must be valid as a DNS name component)")
    elif not is_service_name(name):
        yield Problem("", "name must be valid as a DNS name component")


def _mode(mode: ServiceMode) -> Problems:
    for field in ("replicated_job", "global_job"):
        if getattr(mode, field) is not None:
            yield Problem(f"Mode.{api_name(mode, field)}", f"jobs are {NOT_YET}")
    if mode.replicated is not None and mode.global_ is not None:
        yield Problem("Mode", "only one of Replicated and Global can be given")
    replicas = mode.replicated.replicas if mode.replicated else None
    if replicas is not None and not 0 <= replicas <= _REPLICAS_MAX:
        yield Problem("Mode.Replicated.Replicas", f"must be between 0 and {_REPLICAS_MAX}")


# --- task template ------------------------------------------------------------------------------


def _template(task: TaskSpec) -> Problems:
    at = "TaskTemplate"
    yield from only_if(
        task.plugin_spec is not None or task.runtime == "plugin",
        f"{at}.PluginSpec",
        f"plugins are {NOT_YET}",
    )
    yield from only_if(
        task.network_attachment_spec is not None or task.runtime == "attachment",
        f"{at}.NetworkAttachmentSpec",
        f"network attachments are {NOT_YET}",
    )
    yield from only_if(
        task.runtime not in {"", "container", "plugin", "attachment"},
        f"{at}.Runtime",
        f'unknown runtime "{task.runtime}"',
    )
    if task.container_spec is None:
        yield Problem(f"{at}.ContainerSpec", "is required")
    else:
        yield from container_problems(f"{at}.ContainerSpec", task.container_spec)
    yield from resource_problems(f"{at}.Resources", task.resources)
    yield from _restart(f"{at}.RestartPolicy", task.restart_policy)
    yield from _placement(f"{at}.Placement", task.where)
    yield from whole(at, task, "force_update")


def _restart(at: str, policy: RestartPolicy | None) -> Problems:
    yield from whole(at, policy, "delay", "max_attempts", "window")


# --- placement ----------------------------------------------------------------------------------

_LABEL_PREFIXES: Final = ("node.labels.", "engine.labels.")


def _placement(at: str, placement: Placement) -> Problems:
    for i, preference in enumerate(placement.preferences):
        over = preference.spread.spread_descriptor if preference.spread else ""
        yield from only_if(
            not over.startswith(_LABEL_PREFIXES),
            f"{at}.Preferences[{i}].Spread.SpreadDescriptor",
            f'"{over}": node.labels.NAME or engine.labels.NAME is needed',
        )
    yield from whole(at, placement, "max_replicas")


# --- update, warnings ---------------------------------------------------------------------------


def _update(at: str, config: UpdateConfig | None) -> Problems:
    yield from whole(at, config, "parallelism", "delay", "monitor")
    if config is not None and not 0 <= config.max_failure_ratio <= 1:
        yield Problem(f"{at}.MaxFailureRatio", "update max failure ratio must be between 0 and 1")


def service_warnings(spec: ServiceSpec) -> list[str]:
    """Settings that are kept, and cannot have the effect they ask for."""
    found = chain(
        _order_warnings("UpdateConfig", spec.update_config, spec),
        _order_warnings("RollbackConfig", spec.rollback_config, spec),
        endpoint_warnings(spec),
    )
    return list(found)


def _order_warnings(at: str, config: UpdateConfig | None, spec: ServiceSpec) -> Iterator[str]:
    """Two tasks on one node cannot bind the same port of it."""
    bound = any(port.publish_mode == "host" and port.published_port for port in spec.ports)
    if config is None or config.order != "start-first" or not bound:
        return
    if spec.is_global:
        yield (
            f"{at}.Order: start-first is not possible where a task binds a port of its node; "
            "the tasks of this global service are replaced stop-first"
        )
    else:
        yield (
            f"{at}.Order: start-first needs a node where the published ports are free; "
            "while there is none, an update waits"
        )


# --- node and cluster ---------------------------------------------------------------------------


def node_problems(spec: NodeSpec) -> list[Problem]:
    """Everything that is wrong with a node's spec."""
    return list(label_problems("Labels", spec.labels))


#: swarmkit's bound: a certificate must live long enough to be renewed in its second half.
_CERT_MIN: Final = 3600 * SECOND

#: A heartbeat lost is noticed after this; agents beat up to ten times faster.
_HEARTBEAT_MIN: Final = SECOND // 10


def cluster_problems(spec: ClusterSpec) -> list[Problem]:
    """Everything that is wrong with the cluster's spec."""
    return list(chain(label_problems("Labels", spec.labels), _times(spec), _authority(spec)))


def _times(spec: ClusterSpec) -> Problems:
    period = spec.dispatcher.heartbeat_period if spec.dispatcher else 0
    yield from only_if(
        period != 0 and not _HEARTBEAT_MIN <= period <= INT64_MAX,
        "Dispatcher.HeartbeatPeriod",
        "heartbeat period must be at least 100ms",
    )
    for label in (defaults.SUSPECT_LABEL, defaults.DOWN_LABEL):
        text = spec.labels.get(label)
        yield from only_if(
            text is not None and not re.fullmatch(r"\d{1,6}(\.\d{1,9})?", text),
            f"Labels.{label}",
            f'"{text}" is not a number of seconds',
        )
    yield from whole("Orchestration", spec.orchestration, "task_history_retention_limit")
    yield from whole(
        "Raft",
        spec.raft,
        "snapshot_interval",
        "keep_old_snapshots",
        "log_entries_for_slow_followers",
    )


def _authority(spec: ClusterSpec) -> Problems:
    ca = spec.ca_config
    if ca is not None:
        yield from only_if(
            ca.node_cert_expiry != 0 and not _CERT_MIN <= ca.node_cert_expiry <= INT64_MAX,
            "CAConfig.NodeCertExpiry",
            "minimum certificate expiry time is 1h0m0s",
        )
        yield from only_if(
            bool(ca.external_cas), "CAConfig.ExternalCAs", f"external CAs are {NOT_YET}"
        )
        rotates = ca.signing_ca_cert or ca.signing_ca_key or ca.force_rotate
        yield from only_if(bool(rotates), "CAConfig", f"rotation of the root CA is {NOT_YET}")
    locks = spec.encryption_config
    yield from only_if(
        locks is not None and locks.auto_lock_managers,
        "EncryptionConfig.AutoLockManagers",
        f"autolock is {NOT_YET}",
    )
