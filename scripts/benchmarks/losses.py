"""What a loss costs: of the leader, of a worker, of the quorum, of a container.

Clocks start just before the power is cut or the signal is sent, by ``Playground.kill``: nothing
of the host runs on, and its connections are not closed but silent.
"""

import threading
import time

from scripts.benchmarks.figures import Figure, at_most
from scripts.benchmarks.lab import MANAGERS, WORKERS, Lab, say, until

#: Tasks of the service whose worker dies: two a host.
TASKS = 10


def lost_leader(lab: Lab, trials: int) -> list[Figure]:
    """SIGKILL of the leader's host until another manager has accepted a write."""
    took = []
    for trial in range(trials):
        leader = lab.settle()
        killed = time.monotonic()
        lab.playground.kill(leader)
        when, by = lab.first_write([host for host in MANAGERS if host != leader])
        took.append(when - killed)
        say(f"   {trial + 1}: {leader} lost, {by} accepted a write after {took[-1]:.2f} s")
        lab.playground.start(leader)
        lab.clear(by)
    lab.settle()
    target = at_most(1.5, worst=3.0)
    return [Figure("lost leader → write accepted elsewhere", "s", tuple(took), target)]


def lost_worker(lab: Lab, trials: int) -> list[Figure]:
    """SIGKILL of a worker's host until its node is down, and until its tasks run elsewhere."""
    times = [_lose_worker(lab, trial) for trial in range(trials)]
    down, moved = zip(*times, strict=True)
    return [
        Figure("lost worker → Down", "s", down, at_most(4.0)),
        Figure("lost worker → its tasks run elsewhere", "s", moved, at_most(6.0)),
    ]


def _lose_worker(lab: Lab, trial: int) -> tuple[float, float]:
    leader, victim = lab.settle(), WORKERS[trial % len(WORKERS)]
    lost = lab.node_ids(leader)[victim]
    service = lab.create_running(leader, TASKS)
    time.sleep(0.3 * trial)  # heartbeats have a phase: not always the same one
    killed = time.monotonic()
    lab.playground.kill(victim)
    until(lambda: _state(lab, leader, lost) == "down", f"{victim} is down")
    down = time.monotonic() - killed
    lab.wait_running(leader, service, TASKS, lambda task: task["NodeID"] != lost)
    moved = time.monotonic() - killed
    say(f"   {trial + 1}: {victim} down after {down:.2f} s, its tasks moved after {moved:.2f} s")
    lab.playground.start(victim)
    lab.settle()
    lab.remove(leader, service)
    return down, moved


def _state(lab: Lab, host: str, node_id: str) -> str:
    return str(lab.client(host).get(f"/nodes/{node_id}")["Status"]["State"])


def quorum_back(lab: Lab, trials: int) -> list[Figure]:
    """Two of three managers lose power; one of them boots: until a write is accepted.

    Its engine's start is not swarmlet's: clocks start when its daemon is launched, and when it
    answers its first ping. The survivor is the old leader, or not, by turns.
    """
    launched, answered = [], []
    for trial in range(trials):
        leader = lab.settle()
        others = [host for host in MANAGERS if host != leader]
        survivor = leader if trial % 2 == 0 else others.pop(0)
        dead = [host for host in MANAGERS if host != survivor]
        lab.playground.kill(*dead)
        time.sleep(3.0)  # the survivor has given up by now
        instants = _Boot(lab, dead[0])
        boot = threading.Thread(target=lab.playground.start, args=(dead[0],))
        boot.start()
        when, by = lab.first_write([survivor])
        boot.join()
        instants.join()
        launched.append(when - instants.launched)
        answered.append(when - instants.answered)
        was = "leader" if survivor == leader else "follower"
        say(
            f"   {trial + 1}: {dead[0]} back to the old {was}: write {launched[-1]:.2f} s after "
            f"its daemon's launch, {answered[-1]:+.2f} s after its first answer"
        )
        lab.playground.start(*dead[1:])
        lab.settle()
        lab.clear(by)
    return [
        Figure("quorum back: daemon launched → write", "s", tuple(launched)),
        Figure("quorum back: daemon answers → write", "s", tuple(answered), at_most(2.0)),
    ]


class _Boot(threading.Thread):
    """Watches a host boot: when its daemon was launched, and when it answered."""

    def __init__(self, lab: Lab, host: str) -> None:
        super().__init__(daemon=True)
        self._pidfile = lab.playground.site.spot(host).daemon_pidfile
        self._client = lab.client(host)
        self.launched = self.answered = 0.0
        self._pidfile.unlink(missing_ok=True)  # of the daemon that was killed
        self.start()

    def run(self) -> None:
        until(self._pidfile.exists, "the daemon is launched", poll=0.005)
        self.launched = time.monotonic()
        until(lambda: self._client.get("/version"), "the daemon answers", poll=0.01)
        self.answered = time.monotonic()


def container_killed(lab: Lab, trials: int) -> list[Figure]:
    """SIGKILL of a container until its replacement runs, above the delay that was asked for."""
    figures = []
    for delay in (0.0, 1.0):
        took = [_kill_container(lab, delay) for _ in range(trials)]
        name = f"container killed → runs again, delay {delay:g} s" + " (less it)" * (delay > 0)
        figures.append(Figure(name, "s", tuple(took), at_most(0.7)))
    return figures


def _kill_container(lab: Lab, delay: float) -> float:
    leader = lab.leader()
    names = {node: host for host, node in lab.node_ids(leader).items()}
    service = lab.create(leader, 5, delay=delay)
    victim = lab.wait_running(leader, service, 5)[0]
    time.sleep(0.5)
    container = victim["Status"]["ContainerStatus"]["ContainerID"]
    engine = lab.engine(names[victim["NodeID"]])
    killed = time.monotonic()
    engine.post(f"/containers/{container}/kill", query={"signal": "KILL"})
    lab.wait_running(leader, service, 5, lambda task: task["ID"] != victim["ID"])
    took = time.monotonic() - killed - delay
    say(f"   delay {delay:g} s: runs again {took:.2f} s above it")
    lab.remove(leader, service)
    return took
