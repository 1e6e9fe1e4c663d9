"""An assignment as the engine's container-create body; a container as the engine shows it. Pure."""

import base64
import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from swarmlet.clock import Instant, Nanos, Seconds
from swarmlet.engine.networks import Endpoint
from swarmlet.model.defaults import HEALTH_PERIOD, HEALTH_RETRIES, stop_grace
from swarmlet.model.objects import ContainerStatus
from swarmlet.model.specs import (
    ContainerSpec,
    HealthConfig,
    Mount,
    PortConfig,
    Privileges,
    TaskSpec,
)
from swarmlet.rpc.messages import Assignment

Json = dict[str, Any]

#: Marks what swarmlet made; its value is the task. Docker's own labels of a swarm task are there
#: too, for clients, but containers of a real Swarm carry them as well: those are never touched.
TASK_LABEL: Final = "swarmlet.task"

_NAMED: Final = "com.docker.swarm."

#: What carries out a line of shell, unless the image names another.
_SHELL: Final = ("/bin/sh", "-c")


def stop_seconds(spec: TaskSpec) -> Seconds:
    """How long its container may take to stop."""
    return Seconds(stop_grace(spec.container) / 1e9)


# --- create -------------------------------------------------------------------------------------


def create_body(
    task: Assignment,
    endpoints: Sequence[Endpoint] = (),
    files: Sequence[tuple[str, str]] = (),
) -> Json:
    """Body of ``POST /containers/create`` for a task; its name is ``task.name``.

    Zero values are left out, so that the image's and the engine's own defaults count. The container
    gets the first of its networks here: engines before API 1.44 take one only. ``files`` are paths
    on this host, and in the container, where nobody can write to them.
    """
    spec = task.spec.container
    body: Json = {
        "Image": spec.image,
        "Labels": labels(task),
        "Hostname": spec.hostname,
        "Env": list(spec.env),
        "WorkingDir": spec.dir,
        "User": spec.user,
        "Tty": spec.tty,
        "OpenStdin": spec.open_stdin,
        "StopSignal": spec.stop_signal,
        "StopTimeout": int(-(-stop_seconds(task.spec) // 1)),
        "HostConfig": _host_config(task, spec, files),
    }
    if spec.command:  # Docker's rule: the command replaces the entry point, and drops its Cmd
        body |= {"Entrypoint": list(spec.command), "Cmd": list(spec.args)}
    elif spec.args:
        body["Cmd"] = list(spec.args)
    if spec.healthcheck is not None:
        body["Healthcheck"] = _health(spec.healthcheck)
    if ports := _host_ports(task.ports):
        body["ExposedPorts"] = {_port_key(port): {} for port in ports}
    if endpoints:
        first = endpoints[0]
        # Names are the cluster's to answer: the node's resolver listens at the gateway's address,
        # and asks the task's own servers for the rest.
        body["HostConfig"] |= {"NetworkMode": first.network, "Dns": [first.gateway]}
        if (dns := spec.dns_config) and any(o.startswith("ndots:") for o in dns.options):
            # With this option an engine passes no name without a dot on to us: so they get one.
            domains = (endpoint.name for endpoint in endpoints)
            body["HostConfig"]["DnsSearch"] = [*dict.fromkeys((*domains, *dns.search))]
        place = {"IPAMConfig": {"IPv4Address": first.address}}
        body["NetworkingConfig"] = {"EndpointsConfig": {first.network: place}}
    return _present(body)


def networks_of(inspected: Json) -> set[str]:
    """Identifiers of the engine's networks that a container has a place in."""
    places = (inspected.get("NetworkSettings") or {}).get("Networks") or {}
    return {str(place.get("NetworkID") or "") for place in places.values()}


def labels(task: Assignment) -> dict[str, str]:
    """The user's labels, then those that say whose container it is; the latter win."""
    return {
        **task.spec.container.labels,
        f"{_NAMED}task": "",
        f"{_NAMED}task.id": task.task_id,
        f"{_NAMED}task.name": task.name,
        f"{_NAMED}node.id": task.node_id,
        f"{_NAMED}service.id": task.service_id,
        f"{_NAMED}service.name": task.service_name,
        TASK_LABEL: task.task_id,
    }


def _host_config(task: Assignment, spec: ContainerSpec, files: Sequence[tuple[str, str]]) -> Json:
    limits = task.spec.limits
    dns = spec.dns_config
    config: Json = {
        "RestartPolicy": {"Name": "no"},  # a task that ended stays ended: managers decide
        "NanoCpus": limits.nano_cpus,
        "Memory": limits.memory_bytes,
        "PidsLimit": limits.pids,
        "GroupAdd": list(spec.groups),
        "Mounts": [
            *(_mount(mount) for mount in spec.mounts if mount.type != "tmpfs"),
            *(
                {"Type": "bind", "Source": source, "Target": target, "ReadOnly": True}
                for source, target in files
            ),
        ],
        "Tmpfs": {m.target: _tmpfs_options(m) for m in spec.mounts if m.type == "tmpfs"},
        "ReadonlyRootfs": spec.read_only,
        "Init": spec.init,
        "Sysctls": dict(spec.sysctls),
        "CapAdd": list(spec.capability_add),
        "CapDrop": list(spec.capability_drop),
        "Ulimits": [{"Name": u.name, "Soft": u.soft, "Hard": u.hard} for u in spec.ulimits],
        "OomScoreAdj": spec.oom_score_adj,
        "ExtraHosts": _extra_hosts(spec.hosts),
        "SecurityOpt": _security(spec.privileges),
        "Isolation": spec.isolation,
    }
    if (mode := _network_mode(task.spec)) is not None:
        config["NetworkMode"] = mode
    if dns is not None:
        config |= {
            "Dns": list(dns.nameservers),
            "DnsSearch": list(dns.search),
            "DnsOptions": list(dns.options),
        }
    if (log := task.spec.log_driver) is not None:
        config["LogConfig"] = {"Type": log.name, "Config": dict(log.options)}
    if ports := _host_ports(task.ports):
        config["PortBindings"] = _bindings(ports)
    return {
        key: value
        for key, value in config.items()
        if value not in (0, "", None, [], {}) or (value is False and key == "Init")
    }


def _network_mode(spec: TaskSpec) -> str | None:
    """The engine's predefined networks are modes of a container; others are not its business."""
    modes = [n.target for n in spec.networks if n.target in ("host", "none", "bridge")]
    return modes[0] if modes else None


def _present(body: Json) -> Json:
    """Drop zero values, but two that mean something.

    An empty Cmd keeps the image's Cmd from following a new entry point; no grace is a grace.
    """
    meant = ("Cmd", "StopTimeout")
    return {k: v for k, v in body.items() if v not in (0, "", None, [], {}) or k in meant}


def _health(health: HealthConfig) -> Json:
    body: Json = {
        "Test": list(health.test),
        "Interval": health.interval,
        "Timeout": health.timeout,
        "Retries": health.retries,
        "StartPeriod": health.start_period,
        "StartInterval": health.start_interval,
    }
    return _present(body)


def _mount(mount: Mount) -> Json:
    body: Json = {
        "Type": mount.type or "volume",
        "Source": mount.source,
        "Target": mount.target,
        "ReadOnly": mount.read_only,
        "Consistency": mount.consistency,
    }
    if (bind := mount.bind_options) is not None:
        body["BindOptions"] = _present(
            {
                "Propagation": bind.propagation,
                "NonRecursive": bind.non_recursive,
                "CreateMountpoint": bind.create_mountpoint,
                "ReadOnlyNonRecursive": bind.read_only_non_recursive,
                "ReadOnlyForceRecursive": bind.read_only_force_recursive,
            }
        )
    if (volume := mount.volume_options) is not None:
        driver = volume.driver_config
        body["VolumeOptions"] = _present(
            {
                "NoCopy": volume.no_copy,
                "Labels": dict(volume.labels),
                "DriverConfig": driver and {"Name": driver.name, "Options": dict(driver.options)},
                "Subpath": volume.subpath,
            }
        )
    return _present(body)


def _tmpfs_options(mount: Mount) -> str:
    """Options of mount(8): all that a tmpfs needs goes through ``HostConfig.Tmpfs``.

    ``Mounts`` of API 1.41 cannot express options beyond size and mode.
    """
    given = mount.tmpfs_options
    words = ["ro"] if mount.read_only else []
    if given is not None:
        words += [f"size={given.size_bytes}"] if given.size_bytes else []
        words += [f"mode={given.mode:o}"] if given.mode else []
        words += ["=".join(option) for option in given.options]
    return ",".join(words)


def _extra_hosts(lines: tuple[str, ...]) -> list[str]:
    """A service's hosts are lines of hosts(5), ``IP name [alias...]``; a container's ``name:IP``.

    ``name:IP`` is what some clients send to services too; it passes as it is.
    """
    hosts = []
    for line in lines:
        address, *names = line.split()
        hosts += [f"{name}:{address}" for name in names] or [address]
    return hosts


def _security(privileges: Privileges | None) -> list[str]:
    if privileges is None:
        return []
    options = ["no-new-privileges:true"] if privileges.no_new_privileges else []
    if (seccomp := privileges.seccomp) is not None:
        if seccomp.mode == "unconfined":
            options.append("seccomp=unconfined")
        elif seccomp.mode == "custom":
            profile = base64.b64decode(seccomp.profile).decode()
            options.append(f"seccomp={profile}")
    if privileges.app_armor is not None and privileges.app_armor.mode == "disabled":
        options.append("apparmor=unconfined")
    if (selinux := privileges.selinux_context) is not None:
        options += ["label=disable"] if selinux.disable else []
        parts = ("user", "role", "type", "level")
        options += [f"label={p}:{v}" for p in parts if (v := getattr(selinux, p))]
    return options


def _host_ports(ports: tuple[PortConfig, ...]) -> list[PortConfig]:
    return [port for port in ports if port.publish_mode == "host" and port.target_port]


def _port_key(port: PortConfig) -> str:
    return f"{port.target_port}/{port.protocol or 'tcp'}"


def _bindings(ports: list[PortConfig]) -> dict[str, list[Json]]:
    """One target may have several published ports. Port 0 lets the engine choose."""
    bound: dict[str, list[Json]] = {}
    for port in ports:
        host = str(port.published_port) if port.published_port else ""
        bound.setdefault(_port_key(port), []).append({"HostPort": host})
    return bound


# --- inspect ------------------------------------------------------------------------------------


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """A health check as its engine carries it out, defaults filled in."""

    command: tuple[str, ...]
    interval: Nanos
    timeout: Nanos
    retries: int
    start_period: Nanos


class Container(msgspec.Struct, frozen=True, kw_only=True):
    """A task's container, as its engine last showed it.

    ``health`` is "" without a health check, else starting, healthy or unhealthy; it stays after the
    end; ``checked_at`` is when the last check was begun, 0 before the first. ``finished_at`` is 0
    for one that never ended. ``error`` says why it could not be started.
    """

    id: str
    task_id: str
    state: str
    pid: int = 0
    exit_code: int = 0
    oom_killed: bool = False
    error: str = ""
    health: str = ""
    check: Check | None = None
    checked_at: Instant = Instant(0)
    started_at: Instant = Instant(0)
    finished_at: Instant = Instant(0)
    memory_limit: int = 0

    @property
    def running(self) -> bool:
        """Whether it has a process."""
        return self.state in ("running", "paused", "restarting")

    @property
    def created(self) -> bool:
        """Whether it was never started (or could not be)."""
        return self.state == "created"

    @property
    def status(self) -> ContainerStatus:
        """The part that managers are told."""
        return ContainerStatus(
            container_id=self.id,
            pid=self.pid,
            exit_code=None if self.running or self.created else self.exit_code,
            oom_killed=self.oom_killed,
        )


def container(inspected: Json) -> Container:
    """Read the answer to ``GET /containers/ID/json``."""
    state = inspected.get("State") or {}
    config = inspected.get("Config") or {}
    shown = state.get("Health") or {}
    health, checks = shown.get("Status", ""), shown.get("Log") or []
    return Container(
        id=inspected["Id"],
        task_id=(config.get("Labels") or {}).get(TASK_LABEL, ""),
        state=state.get("Status", ""),
        pid=state.get("Pid", 0),
        exit_code=state.get("ExitCode", 0),
        oom_killed=state.get("OOMKilled", False),
        error=state.get("Error", ""),
        health="" if health == "none" else health,
        check=_check(config),
        checked_at=instant(checks[-1].get("Start", "")) if checks else Instant(0),
        started_at=instant(state.get("StartedAt", "")),
        finished_at=instant(state.get("FinishedAt", "")),
        memory_limit=(inspected.get("HostConfig") or {}).get("Memory", 0),
    )


def _check(config: Json) -> Check | None:
    """The health check of a container, out of its ``Config`` (moby, daemon/health.go)."""
    shown = config.get("Healthcheck") or {}
    match shown.get("Test") or []:
        case ["CMD", *words]:
            command = words
        case ["CMD-SHELL", line]:
            command = [*(config.get("Shell") or _SHELL), line]
        case _:
            return None
    return Check(
        command=tuple(command),
        interval=Nanos(shown.get("Interval") or HEALTH_PERIOD),
        timeout=Nanos(shown.get("Timeout") or HEALTH_PERIOD),
        retries=shown.get("Retries") or HEALTH_RETRIES,
        start_period=Nanos(shown.get("StartPeriod") or 0),
    )


def instant(text: str) -> Instant:
    """Read the engine's RFC 3339 time with up to nine decimals; its year 1 means never."""
    if not text or text.startswith("0001-"):
        return Instant(0)
    seconds, _, rest = text.removesuffix("Z").partition(".")
    digits = rest[:9].rstrip("+-:") if rest.isdigit() else "".join(_leading_digits(rest))
    zone = dt.UTC
    whole = dt.datetime.fromisoformat(seconds[:19]).replace(tzinfo=zone)
    offset = _offset(text)
    nanos = int(digits.ljust(9, "0")) if digits else 0
    return Instant((int(whole.timestamp()) - offset) * 1_000_000_000 + nanos)


def _leading_digits(text: str) -> str:
    return text[: next((i for i, c in enumerate(text) if not c.isdigit()), len(text))]


def _offset(text: str) -> int:
    """Seconds east of Greenwich, from the end of an RFC 3339 time."""
    if text.endswith("Z"):
        return 0
    sign: Callable[[int], int] = (lambda n: -n) if text[-6:-5] == "-" else (lambda n: n)
    hours, _, minutes = text[-5:].partition(":")
    return sign(int(hours) * 3600 + int(minutes) * 60)


def task_of(listed: Mapping[str, Any]) -> str:
    """The task of one entry of ``GET /containers/json``, "" when it is not swarmlet's."""
    return str((listed.get("Labels") or {}).get(TASK_LABEL, ""))


def stranger(listed: Mapping[str, Any]) -> tuple[str, str, str]:
    """``(service id, service name, slot or node)`` of a listed container, from its labels."""
    marks = listed.get("Labels") or {}
    service = marks.get(f"{_NAMED}service.name", "")
    rest = marks.get(f"{_NAMED}task.name", "").removeprefix(f"{service}.")
    return marks.get(f"{_NAMED}service.id", ""), service, rest.partition(".")[0]
