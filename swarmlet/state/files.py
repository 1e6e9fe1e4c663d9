"""Who uses which secrets and configs."""

from collections.abc import Callable, Iterable
from typing import Final

from swarmlet.errors import InvalidInput
from swarmlet.model.objects import Config, Secret, Service
from swarmlet.model.specs import ServiceSpec
from swarmlet.state.commands import Refusal
from swarmlet.state.store import View
from swarmlet.state.tables import Lookup

#: A reference: an identifier, and the name that it stands for.
Reference = tuple[str, str]


def _secrets(spec: ServiceSpec) -> list[Reference]:
    return [(one.secret_id, one.secret_name) for one in spec.task_template.container.secrets]


def _configs(spec: ServiceSpec) -> list[Reference]:
    return [(one.config_id, one.config_name) for one in spec.task_template.container.configs]


#: What a spec refers to, by kind.
_REFERENCES: Final[dict[str, Callable[[ServiceSpec], list[Reference]]]] = {
    "secret": _secrets,
    "config": _configs,
}


def users(view: View, kind: str, ident: str) -> list[str]:
    """Names of the services that a secret or a config cannot be taken from."""
    named = _REFERENCES[kind]
    return sorted(
        service.spec.name
        for service in view.services()
        if any(ident == used for used, _ in named(service.spec))
    )


def missing(view: View, new: Service, old: Service | None) -> Refusal | None:
    """Why a service cannot be written: it names what is not there.

    What it or its previous spec had before is no news: a rollback must not be refused, for whatever
    it misses its tasks say.
    """
    before = [] if old is None else [old.spec, *filter(None, [old.previous_spec])]
    tables: dict[str, Lookup[Secret] | Lookup[Config]] = {
        "secret": view.secrets,
        "config": view.configs,
    }
    for kind, named in _REFERENCES.items():
        had = {reference for spec in before for reference in named(spec)}
        lost = [
            name
            for ident, name in named(new.spec)
            if (ident, name) not in had and not _is_there(tables[kind], ident, name)
        ]
        if lost:
            return Refusal(InvalidInput.code, _not_found(kind, lost))
    return None


def _is_there(table: Lookup[Secret] | Lookup[Config], ident: str, name: str) -> bool:
    found = table.get(ident)
    return found is not None and found.spec.name == name


def _not_found(kind: str, names: Iterable[str]) -> str:
    found = list(names)
    kinds = kind if len(found) == 1 else f"{kind}s"
    return f"rpc error: code = InvalidArgument desc = {kinds} not found: {', '.join(found)}"
