"""``/swarmlet/services/ID/connections``: how many clients each task of a service has."""

from collections import defaultdict
from typing import Final

import structlog
import trio

from swarmlet.api.backend import Backend
from swarmlet.api.calls import Answer, Call
from swarmlet.api.freshness import fresh_view
from swarmlet.clock import Seconds
from swarmlet.errors import SwarmletError
from swarmlet.state.lookup import find_service

log = structlog.get_logger(__name__)

#: Seconds for each node to answer: counting takes milliseconds.
ANSWERED_WITHIN: Final = Seconds(3.0)


async def of_service(call: Call) -> Answer:
    """``GET /swarmlet/services/{id}/connections``: ask its nodes, and name the silent ones."""
    view = await fresh_view(call)
    service = find_service(view, call.params["id"])
    tasks: defaultdict[str, list[str]] = defaultdict(list)
    for task in view.tasks_of_service(service.id):
        if task.node_id and not task.status.state.ended:
            tasks[task.node_id].append(task.id)
    counted: dict[str, int] = {}
    silent: list[str] = []
    async with trio.open_nursery() as nursery:
        for node_id, theirs in tasks.items():
            nursery.start_soon(_ask, call.backend, node_id, theirs, counted, silent)
    return Answer({"Connections": counted, "Silent": sorted(silent)})


async def _ask(
    backend: Backend, node_id: str, tasks: list[str], counted: dict[str, int], silent: list[str]
) -> None:
    try:
        with trio.fail_after(ANSWERED_WITHIN):
            counted |= await backend.connections(node_id, tasks)
    except (SwarmletError, trio.TooSlowError) as exc:
        log.info("connections-not-known", node=node_id, reason=str(exc))
        silent.append(node_id)
