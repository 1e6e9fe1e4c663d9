"""What a monkey asks of managers: updates, scales, drains, networks, roles, members."""

import random
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final

from swarmlet.client import Client, DaemonUnreachable, Json, RemoteError

from tests.e2e.chaos.monkey import Broken, Fault, Refused, asked
from tests.e2e.cluster import FOREVER, IMAGE, Cluster

#: Seconds for an answer.
ANSWER: Final = 6.0

#: Services whose tasks may be replaced at any time; how many the replicated of them may have.
UPDATED: Final = ("web", "sticky", "echo", "names")
SCALED: Final = UPDATED[:-1]
REPLICAS: Final = (2, 5)

#: Guests are a service and a network of its own, that come and go.
GUESTS: Final = 4


def update(cluster: Cluster, host: str, rng: random.Random) -> Broken:
    """Replace the tasks of a service by such with another weight, in either order."""
    name, order = rng.choice(UPDATED), rng.choice(("start-first", "stop-first"))
    weight, turn = rng.randrange(1, 4), rng.randrange(1_000_000)

    def edit(spec: Json) -> None:
        container = spec["TaskTemplate"]["ContainerSpec"]
        container["Labels"] = {"swarmlet.lb.weight": str(weight)}
        container["Env"] = [f"TURN={turn}"]
        order_of = {"Order": order, "Parallelism": rng.choice((1, 2))}
        spec["UpdateConfig"] = (spec.get("UpdateConfig") or {}) | order_of

    _change(_client(cluster, host), f"/services/{name}", edit)
    return Broken(f"{name}, {order}, weight {weight}")


def scale(cluster: Cluster, host: str, rng: random.Random) -> Broken:
    """Give a service another number of replicas."""
    name, replicas = rng.choice(SCALED), rng.randint(*REPLICAS)

    def edit(spec: Json) -> None:
        spec["Mode"]["Replicated"]["Replicas"] = replicas

    _change(_client(cluster, host), f"/services/{name}", edit)
    return Broken(f"{name} to {replicas}")


def drain(cluster: Cluster, host: str, rng: random.Random) -> Broken:
    """Move all tasks away from a node."""
    via = rng.choice(cluster.managers)

    def be(availability: str) -> None:
        _change_node(_client(cluster, via), host, {"Availability": availability})

    return _wished(partial(be, "drain"), partial(be, "active"))


def demote(cluster: Cluster, host: str, rng: random.Random) -> Broken:
    """Make a manager a worker, or a worker a manager."""
    via = rng.choice(cluster.managers)

    def be(role: str) -> None:
        _change_node(_client(cluster, via), host, {"Role": role})

    was, other = ("manager", "worker") if host in cluster.managers else ("worker", "manager")
    return _wished(partial(be, other), partial(be, was))


def leave(cluster: Cluster, host: str, rng: random.Random) -> Broken:
    """Have a worker leave; it joins anew, and what it was is forgotten."""
    if host in cluster.managers:
        raise Refused("only workers leave")
    via = rng.choice(cluster.managers)
    token: list[str] = []
    asked(lambda: token.append(_client(cluster, via).get("/swarm")["JoinTokens"]["Worker"]))
    client = cluster.client(host)
    node = str(client.get("/info")["Swarm"]["NodeID"])
    said = ""
    try:
        client.post("/swarm/leave", query={"force": "1"})
    except (RemoteError, DaemonUnreachable) as exc:
        said = f"perhaps not: {exc.message}"
    else:
        _left_nothing(cluster, host)

    def join() -> None:
        if client.get("/info")["Swarm"]["LocalNodeState"] != "active":
            body = {"AdvertiseAddr": cluster.address(host), "JoinToken": token[0]}
            remotes = [f"{cluster.address(m)}:2377" for m in cluster.managers]
            client.post("/swarm/join", {**body, "RemoteAddrs": remotes})
        at = _client(cluster, via)
        known = {one["ID"] for one in at.get("/nodes")}
        if node in known and client.get("/info")["Swarm"]["NodeID"] != node:
            at.delete(f"/nodes/{node}", {"force": "1"})

    return Broken(said, partial(asked, join), asks=True)


def _left_nothing(cluster: Cluster, host: str) -> None:
    """Who leaves takes its device, rules and routes along."""
    for words in (("ip", "link", "show", "swl0"), ("nft", "list", "table", "ip", "swarmlet")):
        done = cluster.playground.run(host, *words, check=False)
        assert done.returncode != 0, f"{host} left and still has {done.stdout}"
    left = cluster.playground.run(host, "ip", "route", "show", "proto", "94").stdout
    assert not left, f"{host} left and still has {left}"
    assert not cluster.processes(host, "swarmlet.net.resolver"), f"{host} left, its resolver stays"


def guest(cluster: Cluster, host: str, rng: random.Random) -> Broken:
    """Make a network and a service in it, or remove what was made before; not waiting for it."""
    client = _client(cluster, host)
    number = rng.randrange(GUESTS)
    name = f"guest-{number}"

    def change() -> str:
        if any(s["Spec"]["Name"] == name for s in client.get("/services")):
            client.delete(f"/services/{name}")
            return f"service {name} goes"
        if any(n["Name"] == name for n in client.get("/networks")):
            client.delete(f"/networks/{name}")
            return f"network {name} goes"
        body = {"Name": name, "Driver": "overlay", "Internal": rng.random() < 0.5}
        client.post("/networks/create", body)
        client.post("/services/create", _guest(name, 9100 + number))
        return f"network and service {name} come"

    said: list[str] = []
    asked(lambda: said.append(change()))
    return Broken(said[0])


def _guest(name: str, port: int) -> Json:
    return {
        "Name": name,
        "TaskTemplate": {
            "ContainerSpec": {"Image": IMAGE, "Args": list(FOREVER)},
            "RestartPolicy": {"Delay": 100_000_000},
            "Networks": [{"Target": name}],
        },
        "Mode": {"Replicated": {"Replicas": 2}},
        "EndpointSpec": {"Ports": [{"TargetPort": 80, "PublishedPort": port, "Protocol": "tcp"}]},
    }


def _wished(act: Callable[[], None], undo: Callable[[], None]) -> Broken:
    """What managers did not say that they did, they may have done."""
    said = ""
    try:
        act()
    except Refused as exc:
        said = f"perhaps not: {exc}"
    return Broken(said, undo, asks=True)


def _client(cluster: Cluster, *first: str) -> Client:
    """Of a manager that answers: one of the ``first``, or any."""
    for host in dict.fromkeys([*first, *cluster.managers]):
        client = cluster.client(host, timeout=ANSWER)
        with suppress(RemoteError, DaemonUnreachable):
            client.get("/swarm")
            return client
    raise Refused("no manager answers")


def _change_node(client: Client, host: str, change: Json) -> None:
    """Change what is wished of the node that a host is now."""
    found: list[Json] = []
    asked(lambda: found.extend(client.get("/nodes")))
    nodes = [n for n in found if n["Description"].get("Hostname") == host]
    if not nodes:
        raise Refused(f"no node is known as {host}")
    node = min(nodes, key=lambda n: n["Status"]["State"] == "down")
    _change(client, f"/nodes/{node['ID']}", lambda spec: spec.update(change))


def _change(client: Client, path: str, edit: Callable[[Json], None]) -> None:
    def change() -> None:
        found = client.get(path)
        edit(found["Spec"])
        kind = path.split("/")[1]
        version = {"version": str(found["Version"]["Index"])}
        client.post(f"/{kind}/{found['ID']}/update", found["Spec"], version)

    asked(change)


WISHES: Final[dict[str, Fault]] = {
    "update": update,
    "scale": scale,
    "drain": drain,
    "demote": demote,
    "leave": leave,
    "guest": guest,
}
