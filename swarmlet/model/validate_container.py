"""Is a container's spec sound? See :mod:`swarmlet.model.validate`."""

import base64
import json
import re
from collections.abc import Iterable, Sequence
from typing import Final

from swarmlet.model.expansion import template_problems
from swarmlet.model.problems import (
    INT64_MAX,
    NOT_YET,
    Problem,
    Problems,
    api_name,
    label_problems,
    only_if,
    whole,
)
from swarmlet.model.specs import (
    AppArmor,
    ContainerSpec,
    HealthConfig,
    Mount,
    Privileges,
    ResourceRequirements,
    Resources,
    Seccomp,
)
from swarmlet.model.templates import is_template
from swarmlet.model.validate_references import file_problems

#: The engine refuses containers below this (daemon/container_linux.go, linuxMinMemory: 6 MiB; the
#: scheduler's own bound, which clients match, is 4 MiB).
_MEMORY_MIN: Final = 4 * 1024 * 1024

#: A hundredth of a hundredth of a core: the kernel's smallest quota (1 ms of 100 ms) is more.
_CPU_MIN: Final = 1_000_000

_HEALTH_MIN: Final = 1_000_000  # the engine's minimumDuration: 1 ms

_IMAGE: Final = re.compile(
    r"(?:(?P<domain>[a-zA-Z0-9.-]+(?::[0-9]+)?|\[[0-9a-fA-F:]+\](?::[0-9]+)?)/)?"
    r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@[A-Za-z][A-Za-z0-9+._-]*:[0-9a-fA-F]{32,})?"
)

_SIGNAL: Final = re.compile(r"[0-9]{1,2}|(SIG)?[A-Z][A-Z0-9]*([+-][0-9]{1,2})?", re.IGNORECASE)

_IMAGE_ID: Final = re.compile(r"sha256:[0-9a-f]{64}|[0-9a-f]{64}")


def container_problems(at: str, container: ContainerSpec) -> Problems:
    """Everything that is wrong with a container's spec."""
    yield from _image(at, container.image)
    yield from label_problems(f"{at}.Labels", container.labels)
    yield from _unsupported(at, container)
    yield from _mounts(f"{at}.Mounts", container.mounts)
    yield from file_problems(at, container)
    yield from _health(f"{at}.Healthcheck", container.healthcheck)
    yield from whole(at, container, "stop_grace_period")
    yield from _settings(at, container)
    yield from _security(f"{at}.Privileges", container.privileges)


def _image(at: str, image: str) -> Problems:
    if not image:
        yield Problem(f"{at}.Image", "image reference must be provided")
    elif not (_IMAGE.fullmatch(image) or _IMAGE_ID.fullmatch(image)) or len(image) > 4096:
        yield Problem(f"{at}.Image", f'"{image[:200]}" is not a valid repository/tag')


def _unsupported(at: str, container: ContainerSpec) -> Problems:
    yield from only_if(
        container.isolation not in {"", "default"}, f"{at}.Isolation", f"isolation is {NOT_YET}"
    )
    yield from template_problems(at, container)
    privileges = container.privileges
    yield from only_if(
        privileges is not None and privileges.credential_spec is not None,
        f"{at}.Privileges.CredentialSpec",
        f"credential specs are {NOT_YET}",
    )


def _settings(at: str, container: ContainerSpec) -> Problems:
    for i, entry in enumerate(container.env):
        name = entry.partition("=")[0]
        yield from only_if(not name or "\0" in entry, f"{at}.Env[{i}]", "a variable needs a name")
    for i, line in enumerate(container.hosts):
        names = len(line.replace(":", " ", 1).split()) > 1
        yield from only_if(not names, f"{at}.Hosts[{i}]", f'"{line}": ADDRESS NAME... is needed')
    yield from only_if(
        bool(container.stop_signal) and not _SIGNAL.fullmatch(container.stop_signal),
        f"{at}.StopSignal",
        f'invalid signal: "{container.stop_signal[:40]}"',
    )
    for i, ulimit in enumerate(container.ulimits):
        bad = not ulimit.name or (ulimit.hard != -1 and ulimit.soft > ulimit.hard)
        yield from only_if(bad, f"{at}.Ulimits[{i}]", "needs a name, and soft <= hard")
    yield from only_if(
        not is_template(container.hostname)
        and (len(container.hostname) > 63 or " " in container.hostname),
        f"{at}.Hostname",
        f'"{container.hostname[:80]}" is not a host name',
    )
    yield from only_if(
        bool(container.dir) and not container.dir.startswith("/"), f"{at}.Dir", "must be absolute"
    )
    yield from only_if(
        not -1000 <= container.oom_score_adj <= 1000,
        f"{at}.OomScoreAdj",
        "must be between -1000 and 1000",
    )


def _security(at: str, given: Privileges | None) -> Problems:
    seccomp = (given and given.seccomp) or Seccomp()
    yield from only_if(
        seccomp.mode not in {"", "default", "unconfined", "custom"},
        f"{at}.Seccomp.Mode",
        f'"{seccomp.mode}": default, unconfined or custom is needed',
    )
    yield from only_if(
        seccomp.mode == "custom" and not _is_profile(seccomp.profile),
        f"{at}.Seccomp.Profile",
        "a custom profile must be JSON in base64",
    )
    yield from only_if(
        seccomp.mode != "custom" and bool(seccomp.profile),
        f"{at}.Seccomp.Profile",
        "a profile needs the mode custom",
    )
    apparmor = (given and given.app_armor) or AppArmor()
    yield from only_if(
        apparmor.mode not in {"", "default", "disabled"},
        f"{at}.AppArmor.Mode",
        f'"{apparmor.mode}": default or disabled is needed',
    )


def _is_profile(text: str) -> bool:
    try:
        return isinstance(json.loads(base64.b64decode(text, validate=True)), dict)
    except (ValueError, RecursionError):
        return False


def _mounts(at: str, mounts: Sequence[Mount]) -> Problems:
    targets: set[str] = set()
    for i, mount in enumerate(mounts):
        yield from _mount(f"{at}[{i}]", mount)
        target = mount.target.rstrip("/")
        yield from only_if(
            bool(target) and target in targets, f"{at}[{i}]", f"Duplicate mount point: {target}"
        )
        targets.add(target)


def _mount(at: str, mount: Mount) -> Problems:
    yield from only_if(
        not mount.target.startswith("/"),
        f"{at}.Target",
        f'invalid mount target, must be an absolute path: "{mount.target}"',
    )
    yield from only_if(
        mount.type in {"npipe", "cluster", "image"}, f"{at}.Type", f"{mount.type} is {NOT_YET}"
    )
    yield from only_if(not mount.type, f"{at}.Type", "is required: bind, volume or tmpfs")
    yield from only_if(
        mount.type == "bind" and not mount.source.startswith("/"),
        f"{at}.Source",
        f'invalid bind mount source, must be an absolute path: "{mount.source}"',
    )
    yield from only_if(
        mount.type == "tmpfs" and bool(mount.source), f"{at}.Source", "a tmpfs has no source"
    )
    if mount.type == "volume" and mount.source and not is_template(mount.source):
        fits = re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+", mount.source)
        yield from only_if(not fits, f"{at}.Source", f'invalid volume name: "{mount.source}"')
    for kind, options in _mount_options(mount):
        yield from only_if(
            options is not None and kind != mount.type, at, f"{kind} options on another kind"
        )
    yield from whole(f"{at}.TmpfsOptions", mount.tmpfs_options, "size_bytes", "mode")


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
        yield from only_if(
            value != 0 and not _HEALTH_MIN <= value <= INT64_MAX,
            f"{at}.{api_name(health, field)}",
            "cannot be less than 1ms",
        )
    yield from only_if(health.retries < 0, f"{at}.Retries", "cannot be negative")
    kind, command = health.test[:1], health.test[1:]
    yield from only_if(
        bool(kind) and kind[0] not in {"NONE", "CMD", "CMD-SHELL"},
        f"{at}.Test",
        f'unknown health check type "{"".join(kind)}": NONE, CMD or CMD-SHELL is needed',
    )
    yield from only_if(
        kind in {("CMD",), ("CMD-SHELL",)} and not command, f"{at}.Test", "a command is needed"
    )


def resource_problems(at: str, needs: ResourceRequirements | None) -> Problems:
    """Everything that is wrong with limits and reservations."""
    if needs is None:
        return
    for name, amounts in (("Limits", needs.limits), ("Reservations", needs.reservations)):
        if amounts is not None:
            yield from _amounts(f"{at}.{name}", amounts)
    limits, reserved = needs.limits or Resources(), needs.reservations or Resources()
    for field in ("nano_cpus", "memory_bytes"):
        most, least = getattr(limits, field), getattr(reserved, field)
        yield from only_if(
            bool(most) and least > most,
            f"{at}.Reservations.{api_name(limits, field)}",
            "is more than the limit: no task could ever be placed within it",
        )


def _amounts(at: str, amounts: Resources) -> Problems:
    cpus, memory = amounts.nano_cpus, amounts.memory_bytes
    yield from only_if(
        cpus != 0 and not _CPU_MIN <= cpus <= INT64_MAX,
        "",
        f"invalid cpu value {cpus / 1e9:g}: Must be at least {_CPU_MIN / 1e9:g}",
    )
    yield from only_if(
        memory != 0 and not _MEMORY_MIN <= memory <= INT64_MAX,
        "",
        f"invalid memory value {memory}: Must be at least 4MiB",
    )
    yield from only_if(not -1 <= amounts.pids <= INT64_MAX, f"{at}.Pids", "cannot be negative")
    yield from only_if(
        bool(amounts.generic_resources),
        f"{at}.GenericResources",
        f"generic resources are {NOT_YET}",
    )
