"""Random faults under random writes; when all is healed, the cluster is what was acknowledged.

``SWARMLET_CHAOS_SECONDS`` makes it longer, ``SWARMLET_CHAOS_SEED`` repeats the choices of a run but
not their timing. A failure shows the seed and what was done.
"""

import json
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Final, Self

import pytest
from swarmlet.client import Client, DaemonUnreachable, Json, RemoteError
from swarmlet.errors import FailedPrecondition

from tests.e2e.cluster import FOREVER, IMAGE, Cluster, diagnosed, eventually
from tests.e2e.conftest import MakePlayground

pytestmark = [pytest.mark.netns, pytest.mark.docker, pytest.mark.slow]

SECONDS: Final = float(os.environ.get("SWARMLET_CHAOS_SECONDS", "60"))
SEED: Final = int(os.environ.get("SWARMLET_CHAOS_SEED", "0")) or random.randrange(1, 1_000_000)

#: Seconds for everything to be as it shall be once all is healed.
CONVERGENCE: Final = 90.0

FAULTS: Final = ("kill", "kill-daemon", "kill-engine", "cut", "split", "bounce")

#: Replicas of a service that is not there.
ABSENT: Final = -1


@pytest.fixture
def cluster(make_playground: MakePlayground) -> Iterator[Cluster]:
    """Three managers and two workers."""
    playground = make_playground(managers=3, workers=2)
    with diagnosed(playground):
        yield Cluster(playground)


class Writer:
    """One client that writes one thing after the other, and notes what may be the case.

    For each name it keeps the numbers of replicas that the service may have: one after an answer,
    more while the outcome of writes is not known.
    """

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self.may_be: dict[str, set[int]] = {}
        self.acknowledged = 0
        self._rng = random.Random(seed)
        self._clients = [Client(cluster.client(m).path, timeout=6) for m in ("m1", "m2", "m3")]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            client = self._rng.choice(self._clients)
            known = sorted(self.may_be)
            if len(known) < 4 or (len(known) < 40 and self._rng.random() < 0.15):
                self._write(f"s{number}", self._rng.randrange(4), partial(create, client))
            elif self._rng.random() < 0.7:
                name, replicas = self._rng.choice(known), self._rng.randrange(5)
                self._write(name, replicas, partial(scale, client))
            else:
                self._write(self._rng.choice(known), ABSENT, partial(remove, client))
            self._stop.wait(0.05)

    def _write(self, name: str, replicas: int, act: Callable[[str, int], bool]) -> None:
        before = self.may_be.get(name, {ABSENT})
        try:
            tried = act(name, replicas)
        except RemoteError as exc:
            if exc.status < 500:
                return  # refused: nothing changed
            self.may_be[name] = before | {replicas}
        except DaemonUnreachable:
            self.may_be[name] = before | {replicas}
        else:
            if tried:
                self.may_be[name] = {replicas}
                self.acknowledged += 1


def create(client: Client, name: str, replicas: int) -> bool:
    client.post("/services/create", spec(name, replicas))
    return True


def scale(client: Client, name: str, replicas: int) -> bool:
    """Whether a write was tried: nothing is written when its first half, a read, fails."""
    try:
        found = client.get(f"/services/{name}")
    except (RemoteError, DaemonUnreachable):
        return False
    version = {"version": str(found["Version"]["Index"])}
    client.post(f"/services/{found['ID']}/update", spec(name, replicas), version)
    return True


def remove(client: Client, name: str, _replicas: int) -> bool:
    client.call("DELETE", f"/services/{name}")
    return True


def spec(name: str, replicas: int) -> Json:
    return {
        "Name": name,
        "TaskTemplate": {
            "ContainerSpec": {"Image": IMAGE, "Args": list(FOREVER)},
            "RestartPolicy": {"Delay": 100_000_000},
        },
        "Mode": {"Replicated": {"Replicas": replicas}},
    }


class Monkey:
    """Breaks and mends hosts at random."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self._cluster = cluster
        self._playground = cluster.playground
        self._rng = random.Random(seed)
        self.done: list[str] = []

    def act(self) -> None:
        """Do one thing; mending is as likely as breaking."""
        host = self._rng.choice(self._cluster.hosts)
        now = self._playground.host(host)
        if now.state != "running":
            self._do("start", host, lambda: self._playground.start(host))
        elif now.cable == "cut":
            self._do("heal", host, lambda: self._playground.heal(host))
        else:
            kind = self._rng.choice(FAULTS)
            self._do(kind, host, lambda: self._break(kind, host))

    def _break(self, kind: str, host: str) -> None:
        match kind:
            case "kill":
                self._playground.kill(host)
            case "kill-daemon":
                self._playground.stop_daemon(host, kill=True)
            case "kill-engine":
                os.kill(self._playground.host(host).engine_pid or 0, signal.SIGKILL)
            case "cut":
                self._playground.cut(host)
            case "split":
                others = [name for name in self._cluster.hosts if name != host]
                cut = self._rng.randrange(1, len(others))
                self._playground.partition([host, *others[:cut]], others[cut:])
            case _:
                self._playground.heal()
                self._cluster.bounce_daemon(host)

    def _do(self, kind: str, host: str, act: Callable[[], None]) -> None:
        self.done.append(f"{kind} {host}")
        with suppress(FailedPrecondition):  # a host that died between the look and the act
            act()

    def mend_all(self) -> None:
        """Plug in, switch on."""
        self._playground.heal()
        off = [host.name for host in self._playground.status() if host.state != "running"]
        if off:
            self._playground.start(*off)


def test_what_was_acknowledged_survives_random_faults(cluster: Cluster) -> None:
    """In the end: nothing acknowledged is lost, every slot runs once, all managers say the same."""
    monkey = Monkey(cluster, SEED)
    until = time.monotonic() + SECONDS
    with Writer(cluster, SEED) as writer:
        while time.monotonic() < until:
            monkey.act()
            time.sleep(1.5)  # faults that last a while; nothing is concluded from it
        monkey.mend_all()
        cluster.wait_all_ready()
    story = f"SWARMLET_CHAOS_SEED={SEED}: {', '.join(monkey.done)}"
    assert writer.acknowledged, story
    services = eventually(
        lambda: [fresh(cluster, "m1", "/services")], "m1 has caught up", seen=lambda: story
    )[0]
    found = {s["Spec"]["Name"]: replicas_of(s) for s in services}
    wrong = {
        name: (found.get(name, ABSENT), states)
        for name, states in writer.may_be.items()
        if found.get(name, ABSENT) not in states
    }
    assert not wrong, story
    assert found.keys() <= writer.may_be.keys(), story
    eventually(
        lambda: settled(cluster), "all is as it shall be", within=CONVERGENCE, seen=lambda: story
    )
    for path in ("/services", "/tasks", "/nodes"):
        eventually(partial(agree, cluster, path), f"managers agree on {path}", seen=lambda: story)
    for host in cluster.hosts:
        fatal = [line for line in cluster.log(host).splitlines() if is_fatal(line)]
        assert not fatal, f"the daemon of {host} could not go on: {fatal}; {story}"


def fresh(cluster: Cluster, host: str, path: str) -> Json:
    """What a manager answers; one that cannot vouch for its answer has not answered."""
    doubts: list[str] = []
    answer = Client(cluster.client(host).path, on_stale=doubts.append).get(path)
    assert not doubts, doubts
    return answer


def is_fatal(line: str) -> bool:
    """Whether a line of a daemon's log tells of an end that nobody asked for, or of a bug."""
    return line.startswith("Traceback") or "[error" in line or "[critical" in line


def replicas_of(service: Json) -> int:
    return int(service["Spec"]["Mode"]["Replicated"]["Replicas"])


def settled(cluster: Cluster) -> bool:
    """Whether each slot has one task and one container, and there is nothing else."""
    services = {s["ID"]: s for s in cluster.client("m2").get("/services")}
    tasks = cluster.client("m2").get("/tasks")
    wanted = [t for t in tasks if t["DesiredState"] in {"running", "ready"}]
    slots = Counter((t["ServiceID"], t["Slot"]) for t in wanted)
    assert max(slots.values(), default=0) <= 1, slots
    counts = Counter(t["ServiceID"] for t in wanted)
    for id_, service in services.items():
        asked = replicas_of(service)
        assert counts[id_] == asked, (service["Spec"]["Name"], counts[id_], asked)
    assert counts.keys() <= services.keys()
    idle = [t["ID"] for t in wanted if t["Status"]["State"] != "running"]
    assert not idle, f"tasks that do not run: {idle}"
    running = {c["Names"][0].rsplit(".", 1)[1] for c in cluster.containers()}
    assert running == {t["ID"] for t in wanted}, "containers and tasks differ"
    known = {t["ID"] for t in tasks}
    left = {c["Names"][0].rsplit(".", 1)[1] for c in cluster.containers(running=False)}
    assert left <= known, f"containers without a task: {left - known}"
    return True


def agree(cluster: Cluster, path: str) -> bool:
    """Whether the three managers answer alike."""
    answers = [
        sorted(cluster.client(host).get(path), key=lambda item: str(item["ID"]))
        for host in ("m1", "m2", "m3")
    ]
    return len({json.dumps(answer, sort_keys=True) for answer in answers}) == 1
