"""A client that writes services and keeps account of what was acknowledged."""

import random
import threading
from collections.abc import Callable
from functools import partial
from typing import Final, Self

from swarmlet.client import Client, DaemonUnreachable, Json, RemoteError

from tests.e2e.cluster import FOREVER, IMAGE, Cluster

#: Replicas of a service that is not there.
ABSENT: Final = -1

#: Names of the services that a writer makes begin with this.
PREFIX: Final = "written-"


class Writer:
    """One client that writes one thing after the other, and notes what may be the case.

    For each name it keeps the numbers of replicas that the service may have: one after an answer,
    more while the outcome of writes is not known. ``most`` services, with fewer than ``replicas``
    each, in ``network`` if it is given; ``pause`` seconds between two writes.
    """

    def __init__(
        self,
        cluster: Cluster,
        seed: int,
        *,
        most: int = 40,
        replicas: int = 5,
        network: str = "",
        pause: float = 0.05,
    ) -> None:
        self.may_be: dict[str, set[int]] = {}
        self.acknowledged = 0
        self._most = most
        self._replicas = replicas
        self._network = network
        self._pause = pause
        self._rng = random.Random(seed)
        self._clients = [Client(cluster.client(m).path, timeout=6) for m in cluster.managers]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._number = 0

    def __enter__(self) -> Self:
        self._stop.clear()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def wrong(self, services: list[Json]) -> dict[str, tuple[int, set[int]]]:
        """Names of services that are not as acknowledged: what they have, and what they may."""
        found = {
            name: replicas_of(s) for s in services if (name := s["Spec"]["Name"]).startswith(PREFIX)
        }
        return {
            name: (found.get(name, ABSENT), self.may_be.get(name, {ABSENT}))
            for name in self.may_be.keys() | found.keys()
            if found.get(name, ABSENT) not in self.may_be.get(name, {ABSENT})
        }

    def _run(self) -> None:
        while not self._stop.wait(self._pause):
            self._number += 1
            client = self._rng.choice(self._clients)
            known = sorted(self.may_be)
            replicas = self._rng.randrange(self._replicas)
            if len(known) < 4 or (len(known) < self._most and self._rng.random() < 0.15):
                name = f"{PREFIX}{self._number}"
                self._write(name, replicas, partial(self._create, client))
            elif self._rng.random() < 0.7:
                self._write(self._rng.choice(known), replicas, partial(self._scale, client))
            else:
                self._write(self._rng.choice(known), ABSENT, partial(_remove, client))

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

    def _create(self, client: Client, name: str, replicas: int) -> bool:
        client.post("/services/create", self._spec(name, replicas))
        return True

    def _scale(self, client: Client, name: str, replicas: int) -> bool:
        """Whether a write was tried: nothing is written when its first half, a read, fails."""
        try:
            found = client.get(f"/services/{name}")
        except (RemoteError, DaemonUnreachable):
            return False
        version = {"version": str(found["Version"]["Index"])}
        client.post(f"/services/{found['ID']}/update", self._spec(name, replicas), version)
        return True

    def _spec(self, name: str, replicas: int) -> Json:
        return {
            "Name": name,
            "TaskTemplate": {
                "ContainerSpec": {"Image": IMAGE, "Args": list(FOREVER)},
                "RestartPolicy": {"Delay": 100_000_000},
                "Networks": [{"Target": self._network}] if self._network else [],
            },
            "Mode": {"Replicated": {"Replicas": replicas}},
        }


def _remove(client: Client, name: str, _replicas: int) -> bool:
    client.call("DELETE", f"/services/{name}")
    return True


def replicas_of(service: Json) -> int:
    return int(service["Spec"]["Mode"]["Replicated"]["Replicas"])
