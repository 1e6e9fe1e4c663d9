"""What a zero value in a spec means (swarmkit's api/defaults, Engine API v1.41)."""

from typing import Final

import msgspec

from swarmlet.clock import SECOND, Nanos
from swarmlet.model.forwarding import DEFAULT_DRAIN, DRAIN_LABEL, MAX_DRAIN
from swarmlet.model.specs import (
    ClusterSpec,
    ContainerSpec,
    EndpointSpec,
    PortConfig,
    Replicated,
    RestartPolicy,
    ServiceMode,
    ServiceSpec,
    TaskSpec,
    UpdateConfig,
)

STOP_GRACE: Final = Nanos(10 * SECOND)
HISTORY_LIMIT: Final = 5
HEARTBEAT: Final = Nanos(1 * SECOND)
CERT_EXPIRY: Final = Nanos(90 * 24 * 3600 * SECOND)
RESTART_DELAY: Final = Nanos(5 * SECOND)
MONITOR: Final = Nanos(5 * SECOND)

#: How long a task that an update waits for may stay in one state before it counts as failed: long
#: enough for a large image on a slow line. The time that its health check and the end of its
#: predecessor may take comes on top (see :func:`come_up_limit`).
COME_UP: Final = Nanos(10 * 60 * SECOND)
#: And then so much more: after a time without a quorum, news of it may be on the way.
LAST_GRACE: Final = Nanos(30 * SECOND)
#: Docker's health check, where the spec leaves it open.
HEALTH_RETRIES: Final = 3
HEALTH_PERIOD: Final = Nanos(30 * SECOND)

#: Silence after which a node is suspect (one heartbeat lost, the next one late) and down
#: (docs/adr/0008). Labels of the cluster change them, in seconds.
SUSPECT_AFTER: Final = Nanos(17 * SECOND // 10)
DOWN_AFTER: Final = Nanos(33 * SECOND // 10)
#: Heartbeats that a setting must leave: one may be late by half.
LEAST_SILENCE: Final = 1.5

#: Above this many nodes the heartbeat stretches in proportion: 1,000 nodes beat every 5 s.
NODES_PER_HEARTBEAT: Final = 200

SUSPECT_LABEL: Final = "swarmlet.failure.suspect-after"
DOWN_LABEL: Final = "swarmlet.failure.down-after"


class Restart(msgspec.Struct, frozen=True):
    """A restart policy with nothing left open. ``attempts`` and ``window`` of 0 mean no limit."""

    condition: str
    delay: Nanos
    attempts: int
    window: Nanos


def restart_policy(spec: TaskSpec) -> Restart:
    """Any end, after 5 s, without limit, unless the spec says otherwise."""
    policy = spec.restart_policy or RestartPolicy()
    return Restart(
        condition=policy.condition or "any",
        delay=Nanos(RESTART_DELAY if policy.delay is None else policy.delay),
        attempts=policy.max_attempts or 0,
        window=Nanos(policy.window or 0),
    )


class Terms(msgspec.Struct, frozen=True):
    """How tasks are replaced, with nothing left open. ``parallelism`` 0 is all at once."""

    parallelism: int
    delay: Nanos
    monitor: Nanos
    failure_action: str
    max_failure_ratio: float
    start_first: bool


def update_terms(config: UpdateConfig | None) -> Terms:
    """One task at a time, stop-first, watched for 5 s, paused by a failure; see UpdateConfig."""
    given = UpdateConfig(parallelism=1) if config is None else config
    return Terms(
        parallelism=given.parallelism,
        delay=Nanos(given.delay),
        monitor=Nanos(given.monitor or MONITOR),
        failure_action=given.failure_action or "pause",
        max_failure_ratio=given.max_failure_ratio,
        start_first=given.order == "start-first",
    )


def drain(container: ContainerSpec) -> Nanos:
    """How long the clients of a task that is to stop are waited for."""
    text = container.labels.get(DRAIN_LABEL, "")
    seconds = int(text) if text.isascii() and text.isdigit() else DEFAULT_DRAIN
    return Nanos(min(seconds, MAX_DRAIN) * SECOND)


def come_up_limit(template: TaskSpec) -> Nanos:
    """How long a task may be on its way to RUNNING without any news of it."""
    container = template.container
    limit = COME_UP + drain(container) + stop_grace(container)
    health = container.healthcheck
    if health is not None and health.test[:1] != ("NONE",):
        once = (health.interval or HEALTH_PERIOD) + (health.timeout or HEALTH_PERIOD)
        limit += health.start_period + (health.retries or HEALTH_RETRIES) * once
    return Nanos(limit)


def stop_grace(container: ContainerSpec) -> Nanos:
    """How long a container may take from its stop signal to its end."""
    given = container.stop_grace_period
    return STOP_GRACE if given is None else Nanos(given)


def history_limit(cluster: ClusterSpec) -> int:
    """How many ended tasks of a slot are kept."""
    config = cluster.orchestration
    given = None if config is None else config.task_history_retention_limit
    return HISTORY_LIMIT if given is None else given


def heartbeat(cluster: ClusterSpec, nodes: int = 0) -> Nanos:
    """Time between two heartbeats of an agent; stretched in large clusters.

    Beats must not drown the leader.
    """
    given = cluster.dispatcher and cluster.dispatcher.heartbeat_period
    return Nanos(int((given or HEARTBEAT) * max(1.0, nodes / NODES_PER_HEARTBEAT)))


def cert_expiry(cluster: ClusterSpec) -> Nanos:
    """Life of a node certificate."""
    given = cluster.ca_config and cluster.ca_config.node_cert_expiry
    return Nanos(given) if given else CERT_EXPIRY


def failure_times(cluster: ClusterSpec, nodes: int = 0) -> tuple[Nanos, Nanos]:
    """Silence after which a node is (suspect, down). Never less than the heartbeat allows.

    One beat may be late without suspicion, so the periods scale with the heartbeat.
    """
    beat = heartbeat(cluster, nodes)
    scale = beat / HEARTBEAT
    suspect = _seconds(cluster.labels.get(SUSPECT_LABEL), default=Nanos(int(SUSPECT_AFTER * scale)))
    down = _seconds(cluster.labels.get(DOWN_LABEL), default=Nanos(int(DOWN_AFTER * scale)))
    suspect = Nanos(max(suspect, int(LEAST_SILENCE * beat)))
    return suspect, max(suspect, down)


def _seconds(text: str | None, *, default: Nanos) -> Nanos:
    if text is None:
        return default
    return Nanos(int(float(text) * SECOND))  # validated when the label was set


def normalized(spec: ServiceSpec) -> ServiceSpec:
    """Fill what every reader needs to see: replica count, and protocol and mode of each port."""
    mode = spec.mode
    if not (mode.global_ or mode.replicated_job or mode.global_job):
        mode = ServiceMode(replicated=Replicated(replicas=spec.replicas))
    endpoint = spec.endpoint_spec
    if endpoint is not None:
        endpoint = EndpointSpec(
            mode=endpoint.mode or "vip", ports=tuple(_full_port(port) for port in endpoint.ports)
        )
    return msgspec.structs.replace(spec, mode=mode, endpoint_spec=endpoint)


def _full_port(port: PortConfig) -> PortConfig:
    return msgspec.structs.replace(
        port, protocol=port.protocol or "tcp", publish_mode=port.publish_mode or "ingress"
    )
