"""Are a secret and a config sound? All problems at once, in Docker's words where it has any."""

import re
from itertools import chain
from typing import Final

from swarmlet.model.problems import NOT_YET, Problem, Problems, label_problems, only_if
from swarmlet.model.specs import ConfigSpec, Driver, SecretSpec
from swarmlet.model.templates import LOOKUPS, BadTemplate, Template

#: Bytes of data that are too many (swarmkit's MaxSecretSize and MaxConfigSize).
SECRET_BYTES: Final = 500 * 1024
CONFIG_BYTES: Final = 1000 * 1024

#: The only language of templates.
TEMPLATES: Final = "golang"

_NAME: Final = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9_.-]{0,62}[a-zA-Z0-9])?")


def secret_problems(spec: SecretSpec, data: bytes) -> list[Problem]:
    """Everything that is wrong with a secret."""
    return list(
        chain(
            _name(spec.name),
            label_problems("Labels", spec.labels),
            only_if(spec.driver is not None, "Driver", f"secret drivers are {NOT_YET}"),
            _templating(spec.templating, data),
            _size("secret", data, SECRET_BYTES),
        )
    )


def config_problems(spec: ConfigSpec, data: bytes) -> list[Problem]:
    """Everything that is wrong with a config."""
    return list(
        chain(
            _name(spec.name),
            label_problems("Labels", spec.labels),
            _templating(spec.templating, data),
            _size("config", data, CONFIG_BYTES),
        )
    )


def _name(name: str) -> Problems:
    if not name:
        yield Problem("", "name must be provided")
    elif not _NAME.fullmatch(name):
        yield Problem(
            "",
            "invalid name, only 64 [a-zA-Z0-9-_.] characters allowed, and the start and end "
            "character must be [a-zA-Z0-9]",
        )


def _templating(driver: Driver | None, data: bytes) -> Problems:
    if driver is None:
        return
    if driver.name != TEMPLATES:
        text = f'"{driver.name[:40]}": {TEMPLATES} is needed'
        yield Problem("Templating.Name", text)
        return
    try:
        Template(data.decode(), LOOKUPS)
    except UnicodeDecodeError:
        yield Problem("Data", "a template must be UTF-8")
    except BadTemplate as exc:
        yield Problem("Data", str(exc))


def _size(kind: str, data: bytes, limit: int) -> Problems:
    yield from only_if(
        not 0 < len(data) < limit,
        "",
        f"{kind} data must be larger than 0 and less than {limit} bytes",
    )
