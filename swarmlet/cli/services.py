"""The table of services, and finding services: for ``service`` and for ``stack``."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from swarmlet.cli.app import App
from swarmlet.cli.table import Column, Row, show
from swarmlet.client import segment

Json = Any

COLUMNS: Final = (
    Column("ID", "ID", 4),
    Column("NAME", "Name", 0),
    Column("MODE", "Mode", 3),
    Column("REPLICAS", "Replicas"),
    Column("IMAGE", "Image", 2),
    Column("PORTS", "Ports", 5),
)
SHORT_ID: Final = 12
FILTERS: Final = ("id", "label", "mode", "name")


def fetch(app: App, query: Mapping[str, str] | None = None) -> list[Json]:
    """Services with their counts, sorted by name as people sort (web2 before web10)."""
    found = app.client.get("/services", {"status": "true", **(query or {})})
    return sorted(found or (), key=lambda s: _natural(str(s["Spec"]["Name"])))


def get(app: App, name: str) -> Json:
    """One service by name, identifier or unique beginning of one."""
    return app.client.get(f"/services/{segment(name)}")


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(p), "") if p.isdigit() else (-1, p) for p in re.split(r"(\d+)", name) if p]


def print_services(
    app: App, found: Sequence[Json], *, style: str, quiet: bool, no_trunc: bool
) -> None:
    """Print services as a list command prints them."""
    cells = [_row(service, no_trunc=no_trunc) for service in found]
    ids = [row["ID"] for row in cells] if quiet or app.quiet else None
    show(app, COLUMNS, cells, style=style, ids=ids, whole=no_trunc)


def _row(service: Json, *, no_trunc: bool) -> Row:
    spec = service["Spec"]
    template = spec.get("TaskTemplate") or {}
    image = str((template.get("ContainerSpec") or {}).get("Image", ""))
    return {
        "ID": service["ID"] if no_trunc else service["ID"][:SHORT_ID],
        "Name": spec["Name"],
        "Mode": mode(spec),
        "Replicas": replicas(service),
        "Image": image if no_trunc else image.partition("@sha256:")[0],
        "Ports": ports(service),
    }


def mode(spec: Json) -> str:
    """Docker's word for the mode of a service."""
    chosen = spec.get("Mode") or {}
    words = {"Global": "global", "ReplicatedJob": "replicated job", "GlobalJob": "global job"}
    return next((word for key, word in words.items() if chosen.get(key) is not None), "replicated")


def replicas(service: Json) -> str:
    """``2/3``, and the limit a node if there is one."""
    status = service.get("ServiceStatus") or {}
    text = f"{status.get('RunningTasks', 0)}/{status.get('DesiredTasks', 0)}"
    placement = (service["Spec"].get("TaskTemplate") or {}).get("Placement") or {}
    limit = placement.get("MaxReplicas")
    return f"{text} (max {limit} per node)" if limit else text


def ports(service: Json) -> str:
    """``*:8080->80/tcp``; for a port that is bound on the tasks' nodes only, ``… host``."""
    endpoint = (service.get("Endpoint") or {}).get("Ports")
    if endpoint is None:
        endpoint = (service["Spec"].get("EndpointSpec") or {}).get("Ports")
    shown = []
    for port in endpoint or ():
        published = port.get("PublishedPort") or ""
        text = f"*:{published}->{port['TargetPort']}/{port.get('Protocol') or 'tcp'}"
        shown.append(f"{text} host" if port.get("PublishMode") == "host" else text)
    return ", ".join(shown)
