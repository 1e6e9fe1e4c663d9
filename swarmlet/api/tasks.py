"""``/tasks``."""

from swarmlet.api import filters, shapes
from swarmlet.api.calls import Answer, Call
from swarmlet.api.freshness import fresh_view
from swarmlet.errors import NotFound
from swarmlet.state.lookup import find_node, find_service, find_task
from swarmlet.state.store import View


async def listing(call: Call) -> Answer:
    """``GET /tasks``."""
    wanted = dict(filters.parse(call.query.get("filters", ""), filters.TASK_FILTERS))
    view = await fresh_view(call)
    if "service" in wanted:
        wanted["service"] = tuple(_service_id(view, name) for name in wanted["service"])
    if "node" in wanted:
        wanted["node"] = tuple(find_node(view, name).id for name in wanted["node"])
    found = filters.tasks(view, wanted)
    return Answer([shapes.task(task, view) for task in sorted(found, key=lambda t: t.id)])


def _service_id(view: View, name: str) -> str:
    """The service's identifier; one that was removed is still known by its tasks."""
    try:
        return find_service(view, name).id
    except NotFound:
        if any(True for _ in view.tasks_of_service(name)):
            return name
        raise


async def inspect(call: Call) -> Answer:
    """``GET /tasks/{id}``."""
    view = await fresh_view(call)
    return Answer(shapes.task(find_task(view, call.params["id"]), view))
