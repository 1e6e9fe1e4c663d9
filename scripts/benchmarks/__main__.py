"""Measure swarmlet: a table of figures on stdout, progress on stderr.

Most figures need root: they are measured on a playground of three managers and two workers, each
with its own Docker Engine, which is made for this run and goes away with it.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import msgspec
from scripts.benchmarks import beginnings, losses, net, steady
from scripts.benchmarks.figures import Figure, table
from scripts.benchmarks.lab import Lab, say
from swarmlet.errors import SwarmletError
from swarmlet.playground import preflight

EXAMPLE = """examples:
  sudo scripts/bench --only lost-leader lost-worker
  sudo scripts/bench --trials 3 --json figures.json
  scripts/bench --only raft scheduler                 (these two need no root)
"""


class Bench(msgspec.Struct, frozen=True):
    """A group of figures: how often it is measured, and on what."""

    name: str
    measure: Callable[..., list[Figure]]
    trials: int
    on: Literal["cluster", "hosts", "nothing"] = "cluster"


BENCHES = (
    Bench("raft", steady.raft, 1, "nothing"),
    Bench("scheduler", steady.scheduler, 5, "nothing"),
    Bench("form", beginnings.forming, 5, "hosts"),
    Bench("idle", steady.idle, 1),
    Bench("reads", steady.reads, 1),
    Bench("replicas", beginnings.replicas, 5),
    Bench("net", net.traffic, 5),
    Bench("net-services", net.services, 5),
    Bench("container-killed", losses.container_killed, 5),
    Bench("lost-worker", losses.lost_worker, 6),
    Bench("quorum-back", losses.quorum_back, 6),
    Bench("lost-leader", losses.lost_leader, 20),
)


class Run:
    """Benches one after the other; those on a cluster share it, until one fails on it."""

    def __init__(self, trials: int | None) -> None:
        self._trials = trials
        self.figures: list[Figure] = []
        self.failed: list[str] = []

    def all(self, benches: Sequence[Bench]) -> None:
        """Measure; what fails is told and does not keep the others from being measured."""
        clustered = [bench for bench in benches if bench.on == "cluster"]
        for bench in benches:
            if bench.on == "nothing":
                self._one(bench)
            elif bench.on == "hosts":
                with Lab.up(init=False) as lab:
                    self._one(bench, lab)
        while clustered:
            with Lab.up() as lab:
                while clustered and self._one(clustered.pop(0), lab):
                    pass

    def _one(self, bench: Bench, *lab: Lab) -> bool:
        trials = self._trials or bench.trials
        say(f" · {bench.name}, {trials} times, load {os.getloadavg()[0]:.1f}")
        try:
            self.figures += bench.measure(*lab, trials)
        except (SwarmletError, OSError, subprocess.SubprocessError) as exc:
            say(f" ✗ {bench.name}: {exc}")
            self.failed.append(bench.name)
            return False
        return True


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if "model name" in line), "?")
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 1),
    }


def refuse_without_root(benches: Sequence[Bench]) -> None:
    """End with one error where no playground can run."""
    if all(bench.on == "nothing" for bench in benches):
        return
    try:
        preflight.check()
    except preflight.CannotRunHere as exc:
        say(f"error: {exc.message}\n  fix:  {exc.advice}")
        sys.exit(exc.exit_status)


def end(number: int, frame: FrameType | None) -> None:
    """Leave through every ``with``: the playground is taken down, whatever is signalled then."""
    del frame
    for further in (signal.SIGTERM, signal.SIGINT):
        signal.signal(further, lambda *_: None)
    sys.exit(128 + number)


def main() -> int:
    """Return 1 if something could not be measured; a target that is missed is no failure."""
    names = [bench.name for bench in BENCHES]
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--trials", type=int, help="how often, instead of each one's own number")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all values to FILE")
    options = parser.parse_args()
    benches = [bench for bench in BENCHES if bench.name in (options.only or names)]
    refuse_without_root(benches)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    before = machine()
    run = Run(options.trials)
    with ExitStack() as stack:
        stack.callback(report, run, before, options.json)
        try:
            run.all(benches)
        except SwarmletError as exc:
            say(f"error: {exc.message}\n  fix:  {exc.advice}")
            return exc.exit_status
    return 1 if run.failed else 0


def report(run: Run, before: dict[str, Any], target: Path | None) -> None:
    """Print what was measured so far, also when the run was cut short."""
    now = machine()["load"]
    print("{cpu}, {cores} cores, Linux {kernel}, Python {python}".format(**before))
    print(f"load {before['load']} at the start, {now} at the end\n")
    print(table(run.figures))
    if run.failed:
        print(f"\nnot measured, see above: {', '.join(run.failed)}")
    if target is not None:
        found = {"machine": before | {"load_at_end": now}, "failed": run.failed}
        found["figures"] = [figure.as_json() for figure in run.figures]
        target.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
