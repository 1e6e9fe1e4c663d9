"""``/_ping``, ``/version`` and ``/info``: the engine's answers with swarmlet's part in them.

They answer without an engine too: that is when a user asks.
"""

import platform
from typing import Any, Final

import msgspec

from swarmlet import __version__
from swarmlet.api import shapes
from swarmlet.api.calls import Answer, Call
from swarmlet.api.versions import NEWEST, OLDEST, dotted
from swarmlet.errors import EngineError, EngineUnavailable, Unavailable
from swarmlet.model.specs import Role
from swarmlet.state.store import View

Json = dict[str, Any]

_NEWEST: Final = dotted(NEWEST)
_OLDEST: Final = dotted(OLDEST)


async def ping(call: Call) -> Answer:
    """Say that the daemon lives, and what it speaks. An engine that hangs costs little time."""
    headers = [
        (b"Content-Type", b"text/plain; charset=utf-8"),
        (b"Cache-Control", b"no-cache, no-store, must-revalidate"),
        (b"Pragma", b"no-cache"),
        (b"Swarm", swarm_word(call).encode()),
    ]
    builder = await _builder(call)
    if builder:
        headers.append((b"Builder-Version", builder.encode()))
    body = b"" if call.exchange.request.method == "HEAD" else b"OK"
    return Answer(body, headers=headers)


def swarm_word(call: Call) -> str:
    """The ``Swarm`` header: ``active/manager``, ``inactive`` and so on."""
    local = call.backend.local()
    if local.state != "active":
        return local.state
    return "active/manager" if local.role is Role.MANAGER else "active/worker"


async def _builder(call: Call) -> str:
    try:
        return (await call.engine.versions()).builder
    except (EngineUnavailable, EngineError):
        return ""


async def version(call: Call) -> Answer:
    """The engine's version with ours in it: clients print both."""
    try:
        body = await _engine_json(call, "/version")
    except EngineUnavailable:
        body = _bare_version()
    body["ApiVersion"], body["MinAPIVersion"] = _NEWEST, _OLDEST
    own = {
        "Name": "swarmlet",
        "Version": __version__,
        "Details": {"ApiVersion": _NEWEST, "MinAPIVersion": _OLDEST},
    }
    body["Components"] = [*(body.get("Components") or []), own]
    for component in body["Components"]:
        if component.get("Name") == "Engine" and isinstance(component.get("Details"), dict):
            component["Details"] |= {"ApiVersion": _NEWEST, "MinAPIVersion": _OLDEST}
    return Answer(body)


def _bare_version() -> Json:
    return {
        "Platform": {"Name": "swarmlet (no Docker Engine answers)"},
        "Components": [],
        "Version": __version__,
        "GitCommit": "",
        "GoVersion": "",
        "Os": platform.system().lower(),
        "Arch": platform.machine(),
        "KernelVersion": platform.release(),
        "BuildTime": "",
    }


async def info(call: Call) -> Answer:
    """The engine's information with our ``Swarm`` section."""
    try:
        body = await _engine_json(call, "/info")
    except EngineUnavailable as exc:
        body = _bare_info(exc.message)
    view = manager_view(call)
    body["Swarm"] = shapes.swarm_info(call.backend.local(), view)
    return Answer(body)


def manager_view(call: Call) -> View | None:
    """The replica, None on a node that is no manager."""
    try:
        return call.backend.view()
    except Unavailable:
        return None


def _bare_info(problem: str) -> Json:
    return {
        "ID": "",
        "Name": platform.node(),
        "OSType": platform.system().lower(),
        "Architecture": platform.machine(),
        "KernelVersion": platform.release(),
        "ServerVersion": "",
        "Warnings": [f"WARNING: {problem}"],
    }


async def _engine_json(call: Call, target: str) -> Json:
    answer = await call.engine.get(target)
    return msgspec.json.decode(answer.body, type=Json)
