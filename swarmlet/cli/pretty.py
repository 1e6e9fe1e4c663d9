"""``service inspect --pretty``: a service for people."""

from typing import Any

from swarmlet.cli import services
from swarmlet.cli.problems import plain
from swarmlet.stack import quantities

Json = Any


def facts(service: Json) -> list[str]:
    """What a service is, a line each; what is not set is left out."""
    spec = service["Spec"]
    template = spec.get("TaskTemplate") or {}
    container = template.get("ContainerSpec") or {}
    placement = template.get("Placement") or {}
    status = service.get("UpdateStatus") or {}
    spread = [(p.get("Spread") or {}).get("SpreadDescriptor", "") for p in
              placement.get("Preferences") or ()]  # fmt: skip
    values = {
        "ID": service["ID"],
        "Name": spec["Name"],
        "Labels": _pairs(spec.get("Labels")),
        "Mode": services.mode(spec),
        "Replicas": ((spec.get("Mode") or {}).get("Replicated") or {}).get("Replicas", ""),
        "Update": f"{status.get('State', '')} {status.get('Message', '')}".strip(),
        "Image": container.get("Image", ""),
        "Entrypoint": " ".join(container.get("Command") or ()),
        "Command": " ".join(container.get("Args") or ()),
        "Env": " ".join(container.get("Env") or ()),
        "User": container.get("User", ""),
        "Directory": container.get("Dir", ""),
        "Mounts": "; ".join(_mount(m) for m in container.get("Mounts") or ()),
        "Constraints": ", ".join(placement.get("Constraints") or ()),
        "Spread over": ", ".join(spread),
        "Max per node": placement.get("MaxReplicas") or "",
        "Limits": _amounts((template.get("Resources") or {}).get("Limits")),
        "Reserved": _amounts((template.get("Resources") or {}).get("Reservations")),
        "Restart": _restart(template.get("RestartPolicy") or {}),
        "Ports": services.ports(service),
    }
    return [plain(f"{name + ':':<14}{value}") for name, value in values.items() if str(value) != ""]


def _pairs(labels: Json) -> str:
    return ", ".join(f"{key}={value}" for key, value in sorted((labels or {}).items()))


def _mount(mount: Json) -> str:
    mode = " read-only" if mount.get("ReadOnly") else ""
    return f"{mount.get('Type')} {mount.get('Source', '')}->{mount.get('Target')}{mode}"


def _amounts(found: Json) -> str:
    found = found or {}
    parts = []
    if found.get("NanoCPUs"):
        parts.append(f"{found['NanoCPUs'] / quantities.NANOS:g} CPUs")
    if found.get("MemoryBytes"):
        parts.append(quantities.short_size(found["MemoryBytes"]))
    if found.get("Pids"):
        parts.append(f"{found['Pids']} processes")
    return ", ".join(parts)


def _restart(policy: Json) -> str:
    if not policy:
        return ""
    parts = [policy.get("Condition") or "any"]
    if policy.get("Delay") is not None:
        parts.append(f"after {quantities.short_duration(policy['Delay'])}")
    if policy.get("MaxAttempts"):
        parts.append(f"{policy['MaxAttempts']} attempts")
    return ", ".join(parts)
