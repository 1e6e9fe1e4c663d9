"""What beginning costs: a cluster, a node, a service."""

import time
from typing import Any

import msgspec
from scripts.benchmarks.figures import Figure, at_most
from scripts.benchmarks.lab import HOSTS, MANAGERS, Lab, at_once, say, spec, until
from swarmlet.engine import convert
from swarmlet.model.objects import TaskState
from swarmlet.model.specs import TaskSpec
from swarmlet.rpc.messages import Assignment

LISTEN = "0.0.0.0:2377"


def forming(lab: Lab, trials: int) -> list[Figure]:
    """Init and joins, each from the call until its node is ready; a manager must be reachable."""
    took: dict[str, list[float]] = {"init": [], "manager": [], "worker": []}
    for trial in range(trials):
        if trial > 0:
            for host in reversed(HOSTS):
                lab.client(host).post("/swarm/leave", query={"force": "true"})
            time.sleep(0.5)
        for host in HOSTS:
            kind = "init" if host == HOSTS[0] else "manager" if host in MANAGERS else "worker"
            took[kind].append(_enter(lab, host, kind))
            say(f"   {trial + 1}: {host} ({kind}) ready after {took[kind][-1]:.2f} s")
    return [
        Figure("init → ready", "s", tuple(took["init"]), at_most(0.5)),
        Figure("manager joins → ready, reachable", "s", tuple(took["manager"]), at_most(0.6)),
        Figure("worker joins → ready", "s", tuple(took["worker"]), at_most(0.3)),
    ]


def _enter(lab: Lab, host: str, kind: str) -> float:
    addresses = {known.name: known.address for known in lab.playground.record.hosts}
    seed = lab.client(HOSTS[0])
    body: dict[str, Any] = {"ListenAddr": LISTEN, "AdvertiseAddr": addresses[host]}
    if kind != "init":
        tokens = seed.get("/swarm")["JoinTokens"]
        body["JoinToken"] = tokens[kind.capitalize()]
        body["RemoteAddrs"] = [f"{addresses[HOSTS[0]]}:2377"]
    called = time.monotonic()
    lab.client(host).post("/swarm/init" if kind == "init" else "/swarm/join", body)

    def ready() -> bool:
        for node in seed.get("/nodes"):
            manager = node.get("ManagerStatus") or {}
            if node["Description"]["Hostname"] == host and node["Status"]["State"] == "ready":
                return kind == "worker" or manager.get("Reachability") == "reachable"
        return False

    until(ready, f"{host} is ready")
    return time.monotonic() - called


def replicas(lab: Lab, trials: int) -> list[Figure]:
    """Create a service until all its tasks run, against the same containers made by hand.

    By hand: the same create bodies sent straight to the engines by turns, all at once, from
    the first call until the last start returned. Which of the two comes first changes by turns.
    """
    figures = []
    for count, target in ((1, None), (10, None), (50, at_most(1.1))):
        ours, raw = [], []
        for trial in range(trials):
            lab.settle()
            for measure, took in [(_service, ours), (_by_hand, raw)][:: 1 if trial % 2 else -1]:
                took.append(measure(lab, count))
            say(f"   {trial + 1}: {count} replicas {ours[-1]:.2f} s, by hand {raw[-1]:.2f} s")
        ratios = tuple(a / b for a, b in zip(ours, raw, strict=True))
        noun = "replica" if count == 1 else "replicas"
        figures += [
            Figure(f"{count} {noun}: create → all run", "s", tuple(ours)),
            Figure(f"{count} by hand at the engines", "s", tuple(raw)),
            Figure(f"{count} {noun}: ratio to by hand", "x", ratios, target),
        ]
    return figures


def _service(lab: Lab, count: int) -> float:
    leader = lab.leader()
    called = time.monotonic()
    service = lab.create(leader, count)
    lab.wait_count(leader, service, count)
    took = time.monotonic() - called
    lab.remove(leader, service)
    return took


def _by_hand(lab: Lab, count: int) -> float:
    template = msgspec.convert(spec("raw", count)["TaskTemplate"], TaskSpec)
    made: list[tuple[str, str]] = []

    def make(number: int) -> None:
        task = _assignment(template, number)
        host = HOSTS[number % len(HOSTS)]
        engine, body = lab.engine(host), convert.create_body(task)
        del body["Labels"][convert.TASK_LABEL]  # agents remove strangers that have it
        container = engine.post("/containers/create", body, {"name": task.name})["Id"]
        engine.post(f"/containers/{container}/start")
        made.append((host, container))

    called = time.monotonic()
    at_once(make, count)
    took = time.monotonic() - called
    for host, container in made:
        lab.engine(host).delete(f"/containers/{container}", {"force": "1"})
    return took


def _assignment(template: TaskSpec, number: int) -> Assignment:
    """A task as an agent gets it."""
    return Assignment(
        task_id=f"raw{number}",
        service_id="raw",
        service_name="raw",
        slot=number,
        node_id="raw",
        spec=template,
        desired=TaskState.RUNNING,
        state=TaskState.ASSIGNED,
    )
