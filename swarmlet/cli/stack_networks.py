"""The networks that belong to a stack: made before its services, removed after them."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from swarmlet.cli.app import App
from swarmlet.cli.problems import Absent
from swarmlet.client import RemoteError, filters, segment

Json = Any
LABEL: Final = "com.docker.stack.namespace"

#: Seconds that the removal of a network may wait for its last tasks to stop.
REMOVING: Final = 120.0

#: What a network cannot change; and what a file that says nothing of it means.
_FIXED: Final[tuple[tuple[str, Json], ...]] = (
    ("Internal", False),
    ("Attachable", False),
    ("Options", {}),
)


class Wanted(Protocol):
    """A network of a stack (:class:`swarmlet.stack.networks.StackNetwork`, not imported here)."""

    @property
    def name(self) -> str:
        """Its name in the cluster."""
        ...

    @property
    def body(self) -> Json | None:
        """How to make it; None for one that must exist already."""
        ...


def of_stack(app: App, name: str) -> list[Json]:
    """The networks of a stack, sorted by name."""
    found = app.client.get("/networks", filters(label=[f"{LABEL}={name}"], scope=["swarm"]))
    return sorted(found or (), key=lambda n: str(n["Name"]))


def make(app: App, name: str, wanted: Sequence[Wanted]) -> dict[str, str]:
    """Make the networks that are missing; identifiers by name. Those of others must exist."""
    ids = {w.name: _external(app, w.name) for w in wanted if w.body is None}
    existing = {n["Name"]: n for n in of_stack(app, name)}
    for one in wanted:
        if one.body is None:
            continue
        found = existing.get(one.name)
        if found is None:
            answer = app.client.post("/networks/create", one.body)
            if answer.get("Warning"):
                app.warn(str(answer["Warning"]))
            app.note(f"network {one.name}  created")
            ids[one.name] = str(answer["Id"])
            continue
        if _differs(one.body, found):
            app.warn(
                f"network {one.name} stays as it is, with other settings than the file's: "
                "networks cannot be changed; remove the stack to make it anew"
            )
        ids[one.name] = str(found["Id"])
    return ids


def _external(app: App, name: str) -> str:
    try:
        return str(app.client.get(f"/networks/{segment(name)}", {"scope": "swarm"})["Id"])
    except RemoteError as error:
        if error.status != 404:
            raise
        raise Absent(
            f"the external network {name} does not exist, nothing was deployed",
            advice=f"swarmlet network create {name} makes it",
        ) from error


def _differs(body: Json, found: Json) -> bool:
    if any(body.get(key, empty) != (found.get(key) or empty) for key, empty in _FIXED):
        return True
    asked = ((body.get("IPAM") or {}).get("Config") or [{}])[0]
    given = ((found.get("IPAM") or {}).get("Config") or [{}])[0]
    return any(given.get(key) != value for key, value in asked.items())


def joined(specs: Sequence[Json], ids: Mapping[str, str]) -> list[Json]:
    """Specs with networks by identifier, as the cluster keeps them."""
    found = copy.deepcopy(list(specs))
    for spec in found:
        for attachment in spec["TaskTemplate"].get("Networks") or ():
            attachment["Target"] = ids.get(attachment["Target"], attachment["Target"])
    return found


def remove(app: App, networks: Sequence[Json]) -> None:
    """Remove networks, all that can be; raises the first refusal."""
    refused: list[RemoteError] = []
    for network in networks:
        try:
            app.client_with(timeout=REMOVING).delete(f"/networks/{segment(network['Id'])}")
        except RemoteError as error:
            if error.status != 404:
                refused.append(error)
        else:
            app.note(f"Removing network {network['Name']}")
    if refused:
        raise refused[0]
