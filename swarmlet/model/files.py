"""Secrets and configs as files in a container: which, where, whose."""

import posixpath
from collections.abc import Iterator
from typing import Final

import msgspec

from swarmlet.model.specs import ConfigReference, ContainerSpec, FileTarget, SecretReference

#: Where a target that is not absolute is meant from.
SECRETS_AT: Final = "/run/secrets"
CONFIGS_AT: Final = "/"

#: Bits of a mode that count; Go's others (setuid and the like) have other places in a number.
PERMISSIONS: Final = 0o777


class File(msgspec.Struct, frozen=True, kw_only=True):
    """A file that a container is promised. ``path`` is absolute; ``mode`` is permission bits."""

    kind: str
    ident: str
    name: str
    path: str
    uid: int
    gid: int
    mode: int

    @property
    def key(self) -> str:
        """A name that two files share if nothing but their places tells them apart."""
        return f"{self.ident}.{self.uid}.{self.gid}.{self.mode:o}"


def files_of(container: ContainerSpec) -> list[File]:
    """The files of a sound container spec (:mod:`swarmlet.model.validate_container`)."""
    return [
        _file(kind, ident, name, reference.file, path_of(reference))
        for kind, ident, name, reference in _references(container)
        if reference.file is not None
    ]


def payloads_of(container: ContainerSpec) -> frozenset[str]:
    """Identifiers of the secrets and configs that a container needs."""
    return frozenset(ident for _, ident, _, one in _references(container) if one.file is not None)


def path_of(reference: SecretReference | ConfigReference) -> str:
    """Where a reference's file is in the container."""
    name = reference.file.name if reference.file else ""
    start = SECRETS_AT if isinstance(reference, SecretReference) else CONFIGS_AT
    return posixpath.normpath(posixpath.join(start, name))


def _references(
    container: ContainerSpec,
) -> Iterator[tuple[str, str, str, SecretReference | ConfigReference]]:
    for secret in container.secrets:
        yield "secret", secret.secret_id, secret.secret_name, secret
    for config in container.configs:
        yield "config", config.config_id, config.config_name, config


def _file(kind: str, ident: str, name: str, target: FileTarget, path: str) -> File:
    return File(
        kind=kind,
        ident=ident,
        name=name,
        path=path,
        uid=int(target.uid or 0),
        gid=int(target.gid or 0),
        mode=target.mode & PERMISSIONS,
    )
