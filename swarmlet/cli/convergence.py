"""Whether a service runs as asked: judged from what the API says, without any I/O.

The counting is Docker's (``_up-to-date`` tasks, one a slot). What Docker leaves out is added: a
slot whose task ended and is not replaced, and the reason why a task is not running.
"""

import datetime as dt
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from swarmlet.cli import ago
from swarmlet.cli.tasks import error_of

Json = Any

ORDER: Final = (
    *("new", "allocated", "pending", "assigned", "accepted", "preparing", "ready", "starting"),
    *("running", "complete", "shutdown", "failed", "rejected", "remove", "orphaned"),
)
ENDED: Final = frozenset(ORDER[ORDER.index("complete") :])
#: A task that ended is given up when nothing replaced it for its restart delay and this long.
PATIENCE: Final = 5.0
RESTART_DELAY: Final = 5_000_000_000
NANOS: Final = 1e9
#: How the message of a rollback begins that nobody asked for.
ROLLED_BACK: Final = "update rolled back"


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a task is not running: who, where, in what words, and how often already."""

    task: str
    node: str
    words: str
    times: int = 1

    def __str__(self) -> str:
        """One line for a user."""
        where = f" on {self.node}" if self.node else ""
        often = f" ({self.times} times)" if self.times > 1 else ""
        return f"{self.task}{where}: {self.words}{often}"


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a service stands. ``failed`` says why it will never converge, "" while it may.

    ``undone`` says why an update is being rolled back, until that is done.
    """

    name: str
    wanted: int
    running: int
    others: Mapping[str, int] = field(default_factory=dict)
    troubles: Sequence[Trouble] = ()
    failed: str = ""
    updating: bool = False
    undone: str = ""

    @property
    def converged(self) -> bool:
        """Whether all that is wanted runs."""
        return not self.failed and not self.updating and self.running == self.wanted

    @property
    def line(self) -> str:
        """``2/4  1 preparing · 1 starting``: no times in it, so that equal lines mean no change."""
        others = " · ".join(f"{n} {state}" for state, n in self.others.items())
        return f"{self.running}/{self.wanted}  {others or 'running'}".rstrip()


def judge(
    service: Json, tasks: Sequence[Json], nodes: Mapping[str, Json], now: dt.datetime
) -> Standing:
    """Judge a service from its up-to-date tasks. ``nodes`` are the nodes by identifier."""
    name = str(service["Spec"]["Name"])
    mode = service["Spec"].get("Mode") or {}
    slots = _slots(tasks, nodes)
    live = {key: best for key, group in slots.items() if (best := _live(group))}
    ended = {k: _newest(group) for k, group in slots.items() if k not in live}
    given_up = {
        k: t for k, t in ended.items() if t and _given_up(service, t, now) and _wanted_once(t)
    }
    room = max(0, _wanted(mode, live, given_up) - len(live))  # slots that a scale-down left behind
    given_up = dict(list(given_up.items())[:room])
    done = sum(1 for t in given_up.values() if _state(t) == "complete")
    running = sum(1 for t in live.values() if _state(t) == "running") + done
    wanted = _wanted(mode, live, given_up)
    others = Counter(_state(t) for t in live.values() if _state(t) != "running")
    missing = wanted - len(live) - len(given_up)
    if missing > 0:
        others["waiting"] += missing
    broken = [t for t in given_up.values() if _state(t) != "complete"]
    if broken:
        others["failed"] += len(broken)
    failed, updating = _update(service)
    if broken and not failed:
        failed = f"{len(broken)} of {wanted} tasks failed and will not be started again"
    return Standing(
        name=name,
        wanted=wanted,
        running=running,
        others={s: others[s] for s in (*ORDER, "waiting") if others[s]},
        troubles=_troubles(name, slots, live, nodes),
        failed=failed,
        updating=updating,
        undone=_undone(service),
    )


def _slots(tasks: Sequence[Json], nodes: Mapping[str, Json]) -> dict[Json, list[Json]]:
    """Tasks by slot (by node for a global service), without those that say nothing."""
    slots: dict[Json, list[Json]] = {}
    for task in tasks:
        if _state(task) in ("remove", "orphaned"):
            continue
        if _node_down(task, nodes) and _state(task) not in ENDED:
            continue
        key = task.get("Slot") or task.get("NodeID", "")
        slots.setdefault(key, []).append(task)
    return slots


def _node_down(task: Json, nodes: Mapping[str, Json]) -> bool:
    node = nodes.get(task.get("NodeID", ""))
    return node is not None and (node.get("Status") or {}).get("State") == "down"


def _state(task: Json) -> str:
    return str((task.get("Status") or {}).get("State", "new"))


def _rank(state: str) -> int:
    return ORDER.index(state) if state in ORDER else 0


def _live(group: Sequence[Json]) -> Json:
    """The task that fills the slot: wanted, not ended; the least far of them, as Docker has it."""
    alive = [
        t
        for t in group
        if _state(t) not in ENDED and _rank(str(t.get("DesiredState"))) <= _rank("running")
    ]
    return min(alive, key=lambda t: _rank(_state(t)), default=None)


def _newest(group: Sequence[Json]) -> Json:
    return max(group, key=lambda t: str(t.get("CreatedAt", "")), default=None)


def _wanted_once(task: Json) -> bool:
    """Whether it ended by itself; one that was told to stop is no failure."""
    return _state(task) in ("complete", "failed", "rejected")


def _given_up(service: Json, task: Json, now: dt.datetime) -> bool:
    policy = (service["Spec"].get("TaskTemplate") or {}).get("RestartPolicy") or {}
    condition = policy.get("Condition") or "any"
    if condition == "none" or (condition == "on-failure" and _state(task) == "complete"):
        return True
    ended = ago.parse(str((task.get("Status") or {}).get("Timestamp", "")))
    if ended is None:
        return False
    delay = policy.get("Delay")
    patience = (RESTART_DELAY if delay is None else delay) / NANOS + PATIENCE
    return (now - ended).total_seconds() > patience and bool(policy.get("MaxAttempts"))


def _wanted(mode: Json, live: Mapping[Json, Json], given_up: Mapping[Json, Json]) -> int:
    if "Global" in mode and mode["Global"] is not None:
        return len(live) + len(given_up)
    replicas = (mode.get("Replicated") or {}).get("Replicas")
    return 1 if replicas is None else int(replicas)


def _update(service: Json) -> tuple[str, bool]:
    """Whether the update failed (and how), and whether it goes on."""
    status = service.get("UpdateStatus") or {}
    state = status.get("State", "")
    words = status.get("Message", "")
    if state == "paused":
        return f"the update was paused: {words}", False
    if state == "rollback_paused":
        return f"the rollback was paused: {words}", False
    if state == "rollback_completed" and words != "rollback completed":
        return f"the update was rolled back: {words}", False
    return "", state in ("updating", "rollback_started")


def _undone(service: Json) -> str:
    status = service.get("UpdateStatus") or {}
    words = str(status.get("Message", ""))
    going_back = status.get("State") == "rollback_started" and words.startswith(ROLLED_BACK)
    return f"the update was rolled back: {words}" if going_back else ""


def _troubles(
    name: str,
    slots: Mapping[Json, list[Json]],
    live: Mapping[Json, Json],
    nodes: Mapping[str, Json],
) -> list[Trouble]:
    """For each slot that does not run: the latest reason, and how often it happened."""
    found = []
    for key, group in sorted(slots.items(), key=lambda item: str(item[0]).zfill(8)):
        current = live.get(key)
        if current is not None and _state(current) == "running":
            continue
        bad = sorted(
            (t for t in group if _state(t) in ("failed", "rejected")),
            key=lambda t: str(t.get("CreatedAt", "")),
        )
        if current is not None and error_of(current):
            told, times = current, 1
        elif bad:
            told, times = bad[-1], len(bad)
        else:
            continue
        words = error_of(told) or _state(told)
        found.append(Trouble(f"{name}.{key}", _host(told, nodes), words, times))
    return found


def _host(task: Json, nodes: Mapping[str, Json]) -> str:
    node = nodes.get(task.get("NodeID", ""))
    return str(((node or {}).get("Description") or {}).get("Hostname", ""))
