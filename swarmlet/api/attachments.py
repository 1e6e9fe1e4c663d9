"""The networks that a service's spec names, by identifier, as Docker stores them.

Clients send names and identifiers mixed; stored as they came, the same service sent again under the
other spelling would have all its tasks replaced.
"""

from typing import Final

from msgspec.structs import replace

from swarmlet.api import network_shapes, wording
from swarmlet.api.calls import Call
from swarmlet.api.engine_networks import EngineNetworks
from swarmlet.api.freshness import fresh_view
from swarmlet.errors import EngineUnavailable, NotAllowed, NotFound, NotSupported
from swarmlet.model.problems import NOT_YET
from swarmlet.model.specs import NetworkAttachment, ServiceSpec
from swarmlet.state.lookup import find_network

#: Networks of every engine, which stock Swarm lets services join.
_NODE_LOCAL: Final = ("host", "none", "bridge")

Attachments = tuple[NetworkAttachment, ...]


async def with_network_ids(call: Call, spec: ServiceSpec) -> ServiceSpec:
    """The spec with its networks named by identifier. Raises NotFound, NotAllowed."""
    template = spec.task_template
    if not (template.networks or spec.networks):
        return spec
    ids = {a.target: await _id_of(call, a.target) for a in (*template.networks, *spec.networks)}

    def named(attachments: Attachments) -> Attachments:
        return tuple(replace(a, target=ids[a.target]) for a in attachments)

    return replace(
        spec,
        task_template=replace(template, networks=named(template.networks)),
        networks=named(spec.networks),
    )


async def _id_of(call: Call, wanted: str) -> str:
    view = await fresh_view(call)
    found = find_network(view, wanted)
    if found is not None:
        return found.id
    if wanted in _NODE_LOCAL:
        raise NotSupported(f"services in the engine's own network {wanted} are {NOT_YET}")
    try:
        theirs = await EngineNetworks(call).named(wanted)
    except EngineUnavailable:
        theirs = None
    if theirs is not None and not network_shapes.is_copy(theirs):
        raise NotAllowed(wording.NOT_FOR_SERVICES.format(name=theirs["Name"]))
    raise NotFound(
        f"network {wanted} not found",
        advice=f"swarmlet network create {wanted} makes it; network ls shows what there is",
    )
