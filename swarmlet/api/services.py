"""``/services``."""

from typing import Final

from msgspec.structs import replace

from swarmlet.api import filters, shapes
from swarmlet.api.attachments import with_network_ids
from swarmlet.api.calls import Answer, Call
from swarmlet.api.freshness import fresh_view
from swarmlet.clock import Instant
from swarmlet.control import constraints
from swarmlet.control.template import Template
from swarmlet.control.updater import in_progress
from swarmlet.errors import FailedPrecondition, InvalidInput, OutOfSequence
from swarmlet.model.objects import Service, UpdateState, UpdateStatus
from swarmlet.model.specs import ServiceSpec
from swarmlet.model.validate import (
    Problem,
    refuse,
    service_change_problems,
    service_problems,
    service_warnings,
)
from swarmlet.state.commands import DeleteService, PutService
from swarmlet.state.lookup import find_service
from swarmlet.state.store import View


async def listing(call: Call) -> Answer:
    """``GET /services``."""
    wanted = filters.parse(call.query.get("filters", ""), filters.SERVICE_FILTERS)
    view = await fresh_view(call)
    found = sorted(filters.services(view, wanted), key=lambda s: s.id)
    shaped = [shapes.service(service, view) for service in found]
    if call.flag("status"):
        for service, shape in zip(found, shaped, strict=True):
            shape["ServiceStatus"] = shapes.service_status(service, view)
    return Answer(shaped)


async def inspect(call: Call) -> Answer:
    """``GET /services/{id}``."""
    view = await fresh_view(call)
    service = find_service(view, call.params["id"])
    return Answer(shapes.service(service, view, with_defaults=call.flag("insertDefaults")))


async def create(call: Call) -> Answer:
    """``POST /services/create``."""
    backend = call.backend
    backend.view()  # a node that is no manager says so before anything else
    spec = await call.body(ServiceSpec)
    refuse(problems(spec))
    spec = await with_network_ids(call, spec)
    service = Service(
        id=backend.new_id(), spec=shapes.accepted(spec), registry_auth=_registry_auth(call)
    )
    await backend.propose(PutService(service=service, expect=0))
    warnings = service_warnings(spec)
    extra = {"Warnings": warnings} if warnings else {}
    return Answer({"ID": service.id, **extra}, 201)


async def update(call: Call) -> Answer:
    """``POST /services/{id}/update``: replaces the whole spec, or goes back to the previous one."""
    call.backend.view()  # a node that is no manager says so before anything else
    version = call.object_version()
    wants_back = _wants_rollback(call)
    given = await call.body(ServiceSpec)
    view = await fresh_view(call)
    service = find_service(view, call.params["id"])
    if service.version != version:
        raise OutOfSequence(f"service {service.spec.name}")
    if wants_back:
        spec, changed = service.spec, rolled_back(service, call.backend.now())
    else:
        refuse(problems(given) + service_change_problems(service.spec, given))
        given = await with_network_ids(call, given)
        view = call.backend.view()
        spec, changed = given, updated(service, shapes.accepted(given), view, call.backend.now())
        changed = replace(changed, registry_auth=_auth_of_update(call, service))
    await call.backend.propose(PutService(service=changed, expect=version))
    return Answer({"Warnings": service_warnings(spec) or None})


def problems(spec: ServiceSpec) -> list[Problem]:
    """Everything that is wrong with a spec, constraints included (the scheduler reads those)."""
    return service_problems(spec) + [
        Problem("TaskTemplate.Placement.Constraints", text)
        for text in constraints.problems(spec.task_template.where.constraints)
    ]


def updated(service: Service, spec: ServiceSpec, view: View, now: Instant) -> Service:
    """The service with a new spec."""
    return replace(
        service,
        spec=spec,
        previous_spec=service.spec,
        update_status=_status_of_update(service, spec, view, now),
        previous_registry_auth=service.registry_auth,
    )


def _status_of_update(
    service: Service, spec: ServiceSpec, view: View, now: Instant
) -> UpdateStatus | None:
    """Clients must see ``updating`` before the update is answered, and no older end of one.

    A change that replaces no task leaves a running update to its end; any change at all goes on
    with one that was paused.
    """
    old = service.spec
    changed = (old.task_template, old.ports) != (spec.task_template, spec.ports)
    template = Template(view, replace(service, spec=spec, spec_version=_NONE))
    wanted = list(view.wanted_tasks(service.id))
    # What ports and addresses the service will have is only known once the change is written.
    moved = (old.networks, old.ports) != (spec.networks, spec.ports)
    outdated = bool(wanted) and (moved or not all(template.fits(task) for task in wanted))
    running = service.update_status if in_progress(service) else None
    if outdated and (changed or running is None):
        return UpdateStatus(
            state=UpdateState.UPDATING, started_at=now, message="update in progress"
        )
    return running


#: A spec version that no task has.
_NONE: Final = -1


def rolled_back(service: Service, now: Instant) -> Service:
    """The service with its previous spec and the current one exchanged."""
    if service.previous_spec is None:
        raise FailedPrecondition(f"service {service.spec.name} does not have a previous spec")
    return replace(
        service,
        spec=service.previous_spec,
        previous_spec=service.spec,
        registry_auth=service.previous_registry_auth,
        previous_registry_auth=service.registry_auth,
        update_status=UpdateStatus(
            state=UpdateState.ROLLBACK_STARTED,
            started_at=now,
            message="manually requested rollback",
        ),
    )


async def remove(call: Call) -> Answer:
    """``DELETE /services/{id}``."""
    service = find_service(await fresh_view(call), call.params["id"])
    await call.backend.propose(DeleteService(id=service.id))
    return Answer()


def _wants_rollback(call: Call) -> bool:
    word = call.query.get("rollback", "")
    if word not in {"", "none", "previous"}:
        raise InvalidInput(f"unrecognized rollback option {word}")
    return word == "previous"


def _registry_auth(call: Call) -> str:
    return call.exchange.request.header(b"x-registry-auth")


def _auth_of_update(call: Call, service: Service) -> str:
    """The credentials for pulls: the client's, or those of the spec that it names."""
    source = call.query.get("registryAuthFrom", "")
    if source not in {"", "spec", "previous-spec"}:
        raise InvalidInput(f"unsupported registryAuthFrom value: {source}")
    given = _registry_auth(call)
    if given:
        return given
    return service.previous_registry_auth if source == "previous-spec" else service.registry_auth
