#!/usr/bin/env python3
"""Measure replicated writes and failover: three processes, mutual TLS, fsync, encryption at rest.

``python scripts/bench_raft.py [--json] [--seconds S] [--trials N]``. Loopback only.
"""

import argparse
import json
import os
import platform
import queue
import random
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio
import trustme

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from swarmlet.consensus.port import NotLeader, OutcomeUnknown
from swarmlet.consensus.syncobj import SyncObjConsensus
from swarmlet.security.sealed import load_or_create_key

IDS = ("n0", "n1", "n2")
WRITE_BYTES = 200


class Store:
    """A state machine that costs next to nothing."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}

    def apply(self, index: int, command: bytes) -> bytes:
        self.values[command[:4]] = command
        return b"ok"

    def snapshot(self) -> Callable[[], bytes]:
        frozen = list(self.values.values())
        return lambda: b"".join(frozen)

    def load(self, state: bytes) -> None:
        del state


# -- one member


def contexts(directory: Path, me: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    made = []
    for side in (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT):
        context = ssl.SSLContext(side)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(directory / f"{me}.pem")
        context.load_verify_locations(directory / "ca.pem")
        context.verify_mode = ssl.CERT_REQUIRED
        made.append(context)
    return made[0], made[1]


def say(event: str, **values: Any) -> None:
    print(json.dumps({"event": event, "at": time.time(), **values}), flush=True)


async def member(me: str, directory: Path, port: int, mode: str, seconds: float) -> None:
    server, client = contexts(directory, me)
    ports = {i: port + n for n, i in enumerate(IDS)}

    async def dial(peer: str) -> trio.abc.Stream:
        raw = await trio.open_tcp_stream("127.0.0.1", ports[peer])
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stream = trio.SSLStream(raw, client, server_hostname=peer, https_compatible=True)
        await stream.do_handshake()
        return stream

    node = SyncObjConsensus(
        me,
        bootstrap=IDS,
        directory=directory / me,
        key=load_or_create_key(directory / f"{me}.key"),
        state_machine=Store(),
        dial=dial,
        rng=random.SystemRandom(),
    )

    async def accept(raw: trio.SocketStream) -> None:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stream = trio.SSLStream(raw, server, server_side=True, https_compatible=True)
        try:
            await stream.do_handshake()
        except (OSError, trio.BrokenResourceError):
            return
        subject = dict(field[0] for field in stream.getpeercert()["subject"])
        await node.serve_peer(subject["commonName"], stream)

    async with trio.open_nursery() as nursery:
        await nursery.start(node.run)
        serve = trio.serve_tcp
        nursery.start_soon(lambda: serve(accept, ports[me], host="127.0.0.1"))
        await (fail_over(node) if mode == "failover" else load(node, seconds))


async def wait_leading(node: SyncObjConsensus) -> None:
    async for view in node.watch_leadership():
        if view.is_leader:
            return


async def fail_over(node: SyncObjConsensus) -> None:
    """Whenever this member leads: one write, said aloud, then a trickle."""
    while True:
        await wait_leading(node)
        try:
            await node.propose(bytes(WRITE_BYTES))
            say("commit")
            while True:
                await trio.sleep(0.02)
                await node.propose(bytes(WRITE_BYTES))
        except (NotLeader, OutcomeUnknown):
            continue


async def load(node: SyncObjConsensus, seconds: float) -> None:
    await wait_leading(node)
    await trio.sleep(0.5)
    results = {"latency_1_writer": await writers(node, 1, 1.0)}
    for count in (16, 256):
        rounds = [await writers(node, count, seconds) for _ in range(3)]
        rounds.sort(key=lambda r: r["writes_per_s"])
        middle = rounds[1]
        middle["range"] = [rounds[0]["writes_per_s"], rounds[2]["writes_per_s"]]
        results[f"writers_{count}"] = middle
    began = time.perf_counter()
    for _ in range(200):
        await node.read_index()
    results["read_index_ms"] = {"mean": round((time.perf_counter() - began) * 5, 2)}
    say("done", results=results)
    await trio.sleep_forever()


async def writers(node: SyncObjConsensus, count: int, seconds: float) -> dict[str, Any]:
    took: list[float] = []
    before, cpu = node.statistics(), time.process_time()
    began = time.perf_counter()

    async def write() -> None:
        data = random.randbytes(WRITE_BYTES)
        while time.perf_counter() < began + seconds:
            start = time.perf_counter()
            await node.propose(data)
            took.append((time.perf_counter() - start) * 1e3)

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(write)
    elapsed = time.perf_counter() - began
    after = node.statistics()
    syncs = max(1, after.syncs - before.syncs)
    took.sort()
    return {
        "writes_per_s": round(len(took) / elapsed),
        "p50_ms": round(took[len(took) // 2], 1),
        "p99_ms": round(took[len(took) * 99 // 100], 1),
        "writes_per_sync": round(len(took) / syncs, 1),
        "sync_ms": round((after.sync_seconds - before.sync_seconds) / syncs * 1e3, 2),
        "leader_cpu": round((time.process_time() - cpu) / elapsed, 2),
    }


# -- the whole


class Cluster:
    """Three processes and what they say."""

    def __init__(self, directory: Path, mode: str, seconds: float = 0.0) -> None:
        self.directory, self.mode, self.seconds = directory, mode, seconds
        self.said: queue.Queue[tuple[str, dict[str, Any]]] = queue.Queue()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1] % 20_000 + 40_000
        make_certificates(directory)
        self.processes = {i: self.spawn(i) for i in IDS}

    def spawn(self, i: str) -> subprocess.Popen[str]:
        arguments = [i, str(self.directory), str(self.port), self.mode, str(self.seconds)]
        process = subprocess.Popen(
            [sys.executable, __file__, "--member", *arguments],
            stdout=subprocess.PIPE,
            text=True,
        )
        threading.Thread(target=self._listen, args=(i, process), daemon=True).start()
        return process

    def _listen(self, i: str, process: subprocess.Popen[str]) -> None:
        for line in process.stdout or ():
            self.said.put((i, json.loads(line)))

    def wait(self, event: str, *, since: float = 0.0, other_than: str = "") -> tuple[str, Any]:
        while True:
            i, said = self.said.get(timeout=120)
            if said["event"] == event and said["at"] > since and i != other_than:
                return i, said

    def close(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()


def make_certificates(directory: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(directory / "ca.pem"))
    for i in IDS:
        issued = authority.issue_cert(i, "127.0.0.1", common_name=i)
        issued.private_key_and_cert_chain_pem.write_to_path(str(directory / f"{i}.pem"))


def measure_load(seconds: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as directory:
        cluster = Cluster(Path(directory), "load", seconds)
        try:
            results: dict[str, Any] = cluster.wait("done")[1]["results"]
            return results
        finally:
            cluster.close()


def measure_failover(trials: int) -> dict[str, Any]:
    """Kill the leader, wait for the first commit of another one, start the dead one again."""
    took = []
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as directory:
        cluster = Cluster(Path(directory), "failover")
        try:
            leader, _ = cluster.wait("commit")
            for _ in range(trials):
                time.sleep(2.0)
                while not cluster.said.empty():
                    leader = cluster.said.get()[0]
                killed = time.time()
                cluster.processes[leader].send_signal(signal.SIGKILL)
                cluster.processes[leader].wait()
                dead = leader
                leader, said = cluster.wait("commit", since=killed, other_than=dead)
                took.append(said["at"] - killed)
                cluster.processes[dead] = cluster.spawn(dead)
        finally:
            cluster.close()
    return {
        "trials": trials,
        "median_s": round(statistics.median(took), 2),
        "best_s": round(min(took), 2),
        "worst_s": round(max(took), 2),
    }


def machine() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if "model name" in line), "?")
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--only", choices=("writes", "failover"))
    arguments = parser.parse_args()
    results: dict[str, Any] = {"machine": machine()}
    if arguments.only != "failover":
        results["writes"] = measure_load(arguments.seconds)
    if arguments.only != "writes":
        results["failover"] = measure_failover(arguments.trials)
    if arguments.json:
        print(json.dumps(results, indent=1))
        return
    print("machine  ", results["machine"])
    for name, row in results.get("writes", {}).items():
        print(f"{name:18}", "  ".join(f"{key} {value}" for key, value in row.items()))
    for key, value in results.get("failover", {}).items():
        print(f"failover {key:9} {value}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--member"]:
        name, where, base, kind, length = sys.argv[2:]
        trio.run(member, name, Path(where), int(base), kind, float(length))
    else:
        main()
