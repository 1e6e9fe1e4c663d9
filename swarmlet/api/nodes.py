"""``/nodes``."""

import msgspec

from swarmlet.api import filters, shapes
from swarmlet.api.calls import Answer, Call
from swarmlet.api.freshness import fresh_view
from swarmlet.errors import InvalidInput, OutOfSequence
from swarmlet.model.objects import Node
from swarmlet.model.specs import Availability, Labels, NodeSpec, Role
from swarmlet.model.validate import node_problems, refuse
from swarmlet.state.lookup import find_node


class NodeUpdate(msgspec.Struct, frozen=True, rename="pascal"):
    """A NodeSpec as clients send it: role and availability are words, perhaps wrong ones."""

    name: str = ""
    labels: Labels = {}
    role: str = ""
    availability: str = ""


def _shape(call: Call, node: Node) -> dict[str, object]:
    return shapes.node(node, call.backend.view().cluster, call.backend.manager_health())


async def listing(call: Call) -> Answer:
    """``GET /nodes``."""
    wanted = filters.parse(call.query.get("filters", ""), filters.NODE_FILTERS)
    found = filters.nodes(await fresh_view(call), wanted)
    return Answer([_shape(call, node) for node in sorted(found, key=lambda n: n.id)])


async def inspect(call: Call) -> Answer:
    """``GET /nodes/{id}``."""
    return Answer(_shape(call, find_node(await fresh_view(call), call.params["id"])))


async def update(call: Call) -> Answer:
    """``POST /nodes/{id}/update``."""
    call.backend.view()  # a node that is no manager says so before anything else
    version = call.object_version()
    spec = _spec_of(await call.body(NodeUpdate))
    refuse(node_problems(spec))
    node = find_node(await fresh_view(call), call.params["id"])
    if node.version != version:
        raise OutOfSequence(f"node {node.id}")
    if spec != node.spec:
        await call.backend.update_node(node.id, version, spec)
    return Answer()


def _spec_of(given: NodeUpdate) -> NodeSpec:
    try:
        role = Role(given.role.lower())
    except ValueError:
        raise InvalidInput(f'invalid Role: "{given.role}"') from None
    try:
        availability = Availability(given.availability.lower())
    except ValueError:
        raise InvalidInput(f'invalid Availability: "{given.availability}"') from None
    return NodeSpec(name=given.name, labels=given.labels, role=role, availability=availability)


async def remove(call: Call) -> Answer:
    """``DELETE /nodes/{id}``."""
    node = find_node(await fresh_view(call), call.params["id"])
    await call.backend.remove_node(node.id, force=call.flag("force"))
    return Answer()
