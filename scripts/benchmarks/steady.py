"""What runs all the time: memory and processor of idle daemons, reads, and the cores alone."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from scripts.benchmarks.figures import Figure, at_least, at_most
from scripts.benchmarks.lab import MANAGERS, WORKERS, Lab, say

TASKS = 100
IDLE_SECONDS = 20.0
SERVICES = 50
READS = 300

_SCRIPTS = Path(__file__).resolve().parent.parent


def idle(lab: Lab, trials: int) -> list[Figure]:
    """Resident memory and processor time of daemons while 100 tasks run and nothing happens."""
    leader = lab.settle()
    service = lab.create_running(leader, TASKS)
    time.sleep(8.0)
    figures = []
    for host, kind in ((leader, "leader"), (WORKERS[0], "worker")):
        pid = lab.playground.host(host).daemon_pid
        memory, load = [], []
        for _ in range(trials):
            before = _cpu_seconds(pid)
            time.sleep(IDLE_SECONDS)
            load.append(100 * (_cpu_seconds(pid) - before) / IDLE_SECONDS)
            memory.append(_resident_mb(pid))
            say(f"   {kind}: {memory[-1]:.1f} MB, {load[-1]:.2f} % of a core")
        figures += [
            Figure(f"idle {kind}, {TASKS} tasks: resident", "MB", tuple(memory), at_most(80)),
            Figure(f"idle {kind}, {TASKS} tasks: processor", "%", tuple(load), at_most(1)),
        ]
    lab.remove(leader, service)
    return figures


def _cpu_seconds(pid: int | None) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident_mb(pid: int | None) -> float:
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


def reads(lab: Lab, trials: int) -> list[Figure]:
    """List 50 services, a connection a call, on the leader and on a follower."""
    leader = lab.settle()
    for _ in range(SERVICES):
        lab.create(leader, 0)
    follower = next(host for host in MANAGERS if host != leader)
    figures = []
    for host, kind in ((leader, "leader"), (follower, "follower")):
        client = lab.client(host)
        took = []
        for _ in range(READS * trials):
            called = time.perf_counter()
            client.get("/services")
            took.append((time.perf_counter() - called) * 1e3)
        name = f"list of {SERVICES} services, {kind}"
        figures.append(Figure(name, "ms", tuple(took), at_most(3.0)))
    lab.clear(leader)
    return figures


def raft(trials: int) -> list[Figure]:
    """Replicated writes a second of the core: three processes, TLS, fsync."""
    rounds = [_run("bench_raft.py", "--only", "writes")["writes"] for _ in range(trials)]
    figures = []
    for writers, target in ((256, 4_000), (16, 1_000)):
        rates: list[float] = []
        for measured in rounds:
            row = measured[f"writers_{writers}"]
            rates += [row["range"][0], row["writes_per_s"], row["range"][1]]
        name = f"replicated writes, {writers} writers"
        figures.append(Figure(name, "/s", tuple(rates), at_least(target)))
    return figures


def scheduler(trials: int) -> list[Figure]:
    """Decisions a second of the scheduler, in memory."""
    return [
        Figure(
            f"scheduler, {row['nodes']} nodes x {row['tasks']} tasks, {row['template']}",
            "/s",
            (row["worst"], row["median"], row["best"]),
            at_least(20_000),
        )
        for row in _run("bench_scheduler.py", "--repeat", str(trials))
    ]


def _run(script: str, *options: str) -> Any:
    command = [sys.executable, str(_SCRIPTS / script), "--json", *options]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout)
