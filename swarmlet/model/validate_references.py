"""Are a container's secrets and configs sound? Whether they are there, the state machine knows."""

from typing import Final

from swarmlet.model.files import path_of
from swarmlet.model.problems import NOT_YET, Problem, Problems, only_if
from swarmlet.model.specs import ConfigReference, ContainerSpec, FileTarget, SecretReference

#: The last identifier of a user or a group; the next one means nobody (chown(2)).
_ID_MAX: Final = 2**32 - 2

#: A FileMode of Go has 32 bits.
_MODE_MAX: Final = 2**32 - 1


def file_problems(at: str, container: ContainerSpec) -> Problems:
    """Everything that is wrong with a container's secrets and configs."""
    for i, secret in enumerate(container.secrets):
        yield from _secret(f"{at}.Secrets[{i}]", secret)
    for i, config in enumerate(container.configs):
        yield from _config(f"{at}.Configs[{i}]", config)
    secrets = [(one.secret_name, one.file) for one in container.secrets]
    configs = [(one.config_name, one.file) for one in container.configs]
    conflicts = [*_conflicts("secret", secrets), *_conflicts("config", configs)]
    yield from conflicts
    if not conflicts:
        yield from _collisions(at, container)


def _secret(at: str, reference: SecretReference) -> Problems:
    if not (reference.secret_id and reference.secret_name):
        yield Problem("", "malformed secret reference")
    elif reference.file is None:
        yield Problem("", "malformed secret reference, no target provided")
    else:
        yield from _target("secret", f"{at}.File", reference.file)


def _config(at: str, reference: ConfigReference) -> Problems:
    if not (reference.config_id and reference.config_name):
        yield Problem("", "malformed config reference")
    elif reference.runtime is not None:
        yield Problem(f"{at}.Runtime", f"configs as credential specs are {NOT_YET}")
    elif reference.file is None:
        yield Problem("", "malformed config reference, no target provided")
    else:
        yield from _target("config", f"{at}.File", reference.file)


def _target(kind: str, at: str, file: FileTarget) -> Problems:
    yield from only_if(
        not file.name, "", f"malformed file {kind} reference, invalid target file name provided"
    )
    yield from only_if(
        "\0" in file.name or file.name.endswith(("/", "/.", "/..")) or file.name in {".", ".."},
        f"{at}.Name",
        f'"{file.name[:200]}" is not the name of a file',
    )
    for field, text in (("UID", file.uid), ("GID", file.gid)):
        sound = not text or (text.isascii() and text.isdigit() and int(text[:20]) <= _ID_MAX)
        yield from only_if(not sound, f"{at}.{field}", f'"{text[:40]}": a number is needed')
    yield from only_if(not 0 <= file.mode <= _MODE_MAX, f"{at}.Mode", f"cannot be {file.mode}")


def _conflicts(kind: str, references: list[tuple[str, FileTarget | None]]) -> Problems:
    owners: dict[str, str] = {}
    for name, file in references:
        target = file.name if file else ""
        if target and target in owners:
            yield Problem(
                "",
                f"{kind} references '{owners[target]}' and '{name}' have a conflicting target: "
                f"'{target}'",
            )
        owners[target] = name


def _collisions(at: str, container: ContainerSpec) -> Problems:
    """Two things in one place: the engine would refuse them, or hide one."""
    taken = {mount.target.rstrip("/") for mount in container.mounts}
    references: list[SecretReference | ConfigReference] = [*container.secrets, *container.configs]
    for one in references:
        path = path_of(one)
        kind = "Secrets" if isinstance(one, SecretReference) else "Configs"
        yield from only_if(path in taken, f"{at}.{kind}", f"Duplicate mount point: {path}")
        taken.add(path)
