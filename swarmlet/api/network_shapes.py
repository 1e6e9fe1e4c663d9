"""Overlay networks in the Engine API's form: the cluster's, and the copies that an engine has."""

from typing import Any, Final

from swarmlet.api.shapes import ipam_config, rfc3339
from swarmlet.engine.networks import NETWORK_LABEL
from swarmlet.model.objects import AttachedContainer, Network, Service, Task
from swarmlet.state.store import View

Json = dict[str, Any]

#: An agent makes an overlay known to its engine as a bridge with this label.
COPY_LABEL: Final = NETWORK_LABEL

_OVERLAY: Final = {"Scope": "swarm", "Driver": "overlay"}


def network(of: Network) -> Json:
    """A network of the cluster."""
    spec = of.spec
    return {
        "Name": spec.name,
        "Id": of.id,
        "Created": rfc3339(of.created_at),
        **_OVERLAY,
        "EnableIPv6": False,
        "IPAM": {"Driver": "default", "Options": None, "Config": [ipam_config(of)]},
        "Internal": spec.internal,
        "Attachable": spec.attachable,
        "Ingress": spec.ingress,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": None,
        "Options": spec.options,
        "Labels": spec.labels,
    }


def is_copy(shape: Json) -> bool:
    """Whether a network of an engine stands for one of the cluster."""
    return bool(original(shape))


def original(shape: Json) -> str:
    """The identifier of the network that a copy stands for."""
    return str((shape.get("Labels") or {}).get(COPY_LABEL, ""))


def of_copy(shape: Json) -> Json:
    """A copy as the network that it stands for: all that a worker knows of it."""
    labels = {k: v for k, v in (shape.get("Labels") or {}).items() if k != COPY_LABEL}
    return {**shape, "Id": original(shape), **_OVERLAY, "Options": {}, "Labels": labels}


def is_used(of: Network, view: View) -> bool:
    """Whether a service, a task or a container is in a network."""
    return any(view.services_in(of.id)) or bool(view.address_owners(of.id))


def peers(of: Network, view: View) -> Json:
    """The nodes that take part in a network: those with a task or a container in it."""
    ids = {task.node_id for task in _tasks(of, view) if not task.status.state.ended}
    ids |= {container.node_id for container in _containers(of, view)}
    found = sorted((n for i in ids if (n := view.node(i))), key=lambda n: n.id)
    shaped = [{"Name": f"{n.hostname}-{n.id[:12]}", "IP": n.status.addr} for n in found]
    return {"Peers": shaped} if shaped else {}


def services(of: Network, view: View) -> Json:
    """What ``verbose`` adds: the services of a network, with their addresses and tasks.

    Plain containers are those of a service without a name, as in Docker.
    """
    found = sorted(view.services_in(of.id), key=lambda s: s.spec.name)
    plain = sorted(_containers(of, view), key=lambda c: (c.name, c.id))
    shaped = {s.spec.name: _service(of, s, view) for s in found}
    if plain:
        tasks = [shape for c in plain for shape in _places(of, c, view)]
        shaped[""] = {"VIP": "<nil>", "Ports": [], "LocalLBIndex": 0, "Tasks": tasks}
    return {"Services": shaped}


def _service(of: Network, service: Service, view: View) -> Json:
    tasks = sorted(view.tasks_of_service(service.id), key=lambda t: (t.slot, t.id))
    ports = (p for p in service.ports if p.publish_mode != "host")
    return {
        "VIP": next((a.address for a in service.attachments if a.network_id == of.id), ""),
        "Ports": [f"Target: {p.target_port}, Publish: {p.published_port}" for p in ports],
        "LocalLBIndex": 0,
        "Tasks": [shape for task in tasks for shape in _task(of, task, view)],
    }


def _task(of: Network, task: Task, view: View) -> list[Json]:
    return [] if task.status.state.ended else _places(of, task, view)


def _places(of: Network, one: Task | AttachedContainer, view: View) -> list[Json]:
    node = view.node(one.node_id)
    info = {"Host IP": node.status.addr} if node else {}
    return [
        {"Name": one.name, "EndpointID": "", "EndpointIP": a.address, "Info": info}
        for a in one.attachments
        if a.network_id == of.id and a.address
    ]


def _containers(of: Network, view: View) -> list[AttachedContainer]:
    owners = view.address_owners(of.id).values()
    return [one for owner in owners if (one := view.container(owner)) is not None]


def _tasks(of: Network, view: View) -> list[Task]:
    owners = view.address_owners(of.id).values()
    return [task for owner in owners if (task := view.task(owner)) is not None]
