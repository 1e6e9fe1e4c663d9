"""Settings of the daemon: one frozen struct; flags win over environment, file and default."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from swarmlet.errors import InvalidInput

#: Where the daemon looks for its settings unless told otherwise.
DEFAULT_FILE: Final = Path("/etc/swarmlet/swarmletd.toml")

ENV_PREFIX: Final = "SWARMLET_"

LOG_FORMATS: Final = ("console", "json")
LOG_LEVELS: Final = ("debug", "info", "warning", "error")

#: Settings that are one of a few words. Flags are checked by click, the other sources here.
_WORDS: Final = {"log_format": LOG_FORMATS, "log_level": LOG_LEVELS}


class DaemonConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How a daemon runs. Paths are absolute.

    ``advertise_addr`` is what ``init`` and ``join`` use when their request names none; "" means the
    address of the default route.
    """

    state_dir: str = "/var/lib/swarmlet"
    socket: str = "/run/swarmlet/swarmlet.sock"
    engine_socket: str = "/var/run/docker.sock"
    advertise_addr: str = ""
    listen_addr: str = ""
    log_format: str = "console"
    log_level: str = "info"


class Configured(msgspec.Struct, frozen=True):
    """Settings, and where each came from: ``flag``, ``environment``, a file's path, ``default``."""

    config: DaemonConfig
    sources: dict[str, str]


def load(flags: Mapping[str, str | None], env: Mapping[str, str], file: Path) -> Configured:
    """Merge all sources.

    Raises InvalidInput for an unknown key or word, or a file that cannot be read.
    """
    known = DaemonConfig.__struct_fields__
    values: dict[str, str] = {}
    sources = dict.fromkeys(known, "default")
    layers = (
        (str(file), _read(file, known)),
        (
            "environment",
            {k: v for k in known if (v := env.get(ENV_PREFIX + k.upper())) is not None},
        ),
        ("flag", {k: v for k, v in flags.items() if v is not None}),
    )
    for source, layer in layers:
        for key, value in layer.items():
            values[key] = value
            sources[key] = source
    for key, words in _WORDS.items():
        if key in values and values[key] not in words:
            listed = f"{', '.join(words[:-1])} and {words[-1]}"
            raise InvalidInput(f"{key} is {values[key]!r}; {listed} are known")
    return Configured(DaemonConfig(**values), sources)


def _read(file: Path, known: tuple[str, ...]) -> dict[str, str]:
    try:
        data = tomllib.loads(file.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        raise InvalidInput(f"{file} cannot be read: {exc}") from exc
    for key, value in data.items():
        if key not in known:
            raise InvalidInput(f"{file}: unknown setting {key!r}; known are {', '.join(known)}")
        if not isinstance(value, str):
            raise InvalidInput(f"{file}: {key} must be a string")
    return data
