"""Form a cluster out of running daemons, through the API that every client uses."""

import time
from collections.abc import Sequence
from typing import Final

from swarmlet.client import Client, DaemonUnreachable, Json, RemoteError
from swarmlet.errors import FailedPrecondition
from swarmlet.playground.layout import Site
from swarmlet.playground.records import HostRecord

LISTEN: Final = "0.0.0.0:2377"

#: Seconds for all nodes to be ready once they joined; a node needs one heartbeat.
READY_WITHIN: Final = 60.0


def form(site: Site, hosts: Sequence[HostRecord]) -> None:
    """Make the first host a cluster of one and join the others, managers first.

    Managers join one at a time, as Raft changes its membership one member at a time.
    """
    first, *others = hosts
    seed = Client(site.spot(first.name).socket)
    seed.post("/swarm/init", {"ListenAddr": LISTEN, "AdvertiseAddr": first.address})
    tokens = seed.get("/swarm")["JoinTokens"]
    for host in others:
        body = {
            "RemoteAddrs": [f"{first.address}:2377"],
            "JoinToken": tokens["Manager" if host.role == "manager" else "Worker"],
            "ListenAddr": LISTEN,
            "AdvertiseAddr": host.address,
        }
        Client(site.spot(host.name).socket).post("/swarm/join", body)
    wait_ready(seed, {host.name for host in hosts})


def wait_ready(client: Client, wanted: set[str]) -> None:
    """Wait until the cluster shows every host as a ready node."""
    deadline = time.monotonic() + READY_WITHIN
    seen: set[str] = set()
    while time.monotonic() < deadline:
        try:
            seen = _ready(client.get("/nodes"))
        except (RemoteError, DaemonUnreachable):
            seen = set()
        if wanted <= seen:
            return
        time.sleep(0.05)
    raise FailedPrecondition(
        f"not ready after {READY_WITHIN:g} s: {', '.join(sorted(wanted - seen))}",
        advice="read the daemon's log: its path is in swarmlet playground status --format json",
    )


def _ready(nodes: Json) -> set[str]:
    """Return the hostnames of the nodes that are ready, and of managers that are reachable."""
    found: set[str] = set()
    for node in nodes:
        manager = node.get("ManagerStatus")
        if node["Status"]["State"] == "ready" and (
            node["Spec"]["Role"] != "manager"
            or (manager and manager.get("Reachability") == "reachable")
        ):
            found.add(node["Description"]["Hostname"])
    return found


__all__ = ["READY_WITHIN", "form", "wait_ready"]
