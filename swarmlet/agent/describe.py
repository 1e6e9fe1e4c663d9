"""What a node says of itself: its engine's view of the machine, under the machine's own name."""

import socket
from typing import Any, Final

from swarmlet.agent.subnets import own_subnets
from swarmlet.engine.client import Engine
from swarmlet.model.objects import NodeDescription, Plugin
from swarmlet.model.specs import Platform, Resources

#: Go's names of architectures, to the kernel's, which Docker shows for nodes.
_ARCHITECTURES: Final = {"amd64": "x86_64", "arm64": "aarch64", "386": "i686"}

#: Kinds of plugins in ``/info``, as nodes show them.
_PLUGIN_KINDS: Final = ("Volume", "Network", "Authorization", "Log")


async def describe(engine: Engine) -> NodeDescription:
    """Ask the engine. The hostname is the machine's, not the engine's stale idea of it."""
    return description(await engine.info(), socket.gethostname(), own_subnets())


def description(
    info: dict[str, Any], hostname: str, subnets: tuple[str, ...] = ()
) -> NodeDescription:
    """Read the answer to ``GET /info``."""
    architecture = str(info.get("Architecture", ""))
    return NodeDescription(
        hostname=hostname,
        platform=Platform(
            architecture=_ARCHITECTURES.get(architecture, architecture),
            os=info.get("OSType", ""),
        ),
        resources=Resources(
            nano_cpus=info.get("NCPU", 0) * 1_000_000_000,
            memory_bytes=info.get("MemTotal", 0),
        ),
        subnets=subnets,
        engine_version=info.get("ServerVersion", ""),
        engine_labels=_labels(info.get("Labels") or []),
        plugins=tuple(
            Plugin(type=kind, name=name)
            for kind in _PLUGIN_KINDS
            for name in sorted((info.get("Plugins") or {}).get(kind) or [])
        ),
    )


def _labels(lines: list[str]) -> dict[str, str]:
    return {key: value for key, _, value in (line.partition("=") for line in lines)}
