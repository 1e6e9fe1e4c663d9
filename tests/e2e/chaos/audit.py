"""What must hold of a cluster that was left alone for a moment, whatever happened before."""

import json
from collections import Counter
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Final

from swarmlet.client import Client, Json
from swarmlet.engine.networks import NETWORK_LABEL

from tests.e2e.cluster import PATIENCE, Cluster, eventually

#: Seconds for everything to be as it shall be once all is healed.
CONVERGENCE: Final = 2 * PATIENCE

#: Seconds for updates to end: three tasks one by one, each of which may drain for 15 s, stop for
#: 10, start, become healthy and be watched for 5, on a machine that is busy.
UPDATES: Final = 4 * PATIENCE

#: Programs of a host, and how many of each there are.
PROGRAMS: Final = ("dockerd", "daemon", "swarmlet.net.resolver")


def settled(cluster: Cluster) -> bool:
    """Whether each slot has one task and one container, and there is nothing else."""
    services = {s["ID"]: s for s in cluster.client("m2").get("/services")}
    nodes = cluster.client("m2").get("/nodes")
    tasks = cluster.client("m2").get("/tasks")
    wanted = [t for t in tasks if t["DesiredState"] in {"running", "ready"}]
    slots = Counter((t["ServiceID"], t.get("Slot") or t["NodeID"]) for t in wanted)
    assert max(slots.values(), default=0) <= 1, slots
    counts = Counter(t["ServiceID"] for t in wanted)
    for id_, service in services.items():
        mode = service["Spec"]["Mode"]
        asked = mode["Replicated"]["Replicas"] if "Replicated" in mode else len(nodes)
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


def updated(cluster: Cluster) -> bool:
    """Whether no update is under way."""
    busy = {
        s["Spec"]["Name"]: state
        for s in cluster.client("m2").get("/services")
        if (state := s.get("UpdateStatus", {}).get("State", "")) in {"updating", "rollback_started"}
    }
    assert not busy, busy
    return True


def agree(cluster: Cluster, path: str) -> bool:
    """Whether the managers answer alike."""
    answers = [
        sorted(json.dumps(one, sort_keys=True) for one in objects(cluster, host, path))
        for host in cluster.managers
    ]
    return all(answer == answers[0] for answer in answers)


def objects(cluster: Cluster, host: str, path: str) -> list[Json]:
    """What a manager says there is; of networks those that are not its engine's own."""
    found = cluster.client(host).get(path)
    return [one for one in found if one.get("Scope", "swarm") == "swarm"]


def addressed(cluster: Cluster) -> bool:
    """Whether containers have the addresses of their tasks, and no two have one."""
    tasks = {t["ID"]: t for t in cluster.client("m2").get("/tasks")}
    given = Counter(
        address
        for task in tasks.values()
        if task["Status"]["State"] not in {"complete", "failed", "shutdown", "rejected", "orphaned"}
        for place in task.get("NetworksAttachments") or ()
        for address in place["Addresses"]
    )
    assert max(given.values(), default=0) <= 1, [a for a, n in given.items() if n > 1]
    for found in cluster.containers():
        task = tasks[found["Names"][0].rsplit(".", 1)[1]]
        networks = found["NetworkSettings"]["Networks"].values()
        have = {n["IPAddress"] for n in networks if n["IPAddress"]}
        places = task.get("NetworksAttachments") or ()
        want = {a.partition("/")[0] for place in places for a in place["Addresses"]}
        assert have == want or not want, f"{found['Names'][0]} has {have}, its task {want}"
    return True


def swept(cluster: Cluster) -> bool:
    """Whether hosts have the networks and programs of what there is, and no others."""
    networks = {n["Id"] for n in objects(cluster, "m2", "/networks")}
    for host in cluster.hosts:
        engine = Client(cluster.playground.site.spot(host).engine_socket)
        ours = [n for n in engine.get("/networks") if NETWORK_LABEL in (n["Labels"] or {})]
        left = {n["Name"] for n in ours if n["Labels"][NETWORK_LABEL] not in networks}
        assert not left, f"{host} has networks that were removed: {left}"
        listed = json.loads(cluster.playground.run(host, "ip", "-j", "link", "show").stdout)
        bridges = {link["ifname"] for link in listed if link["ifname"].startswith("sl-")}
        known = {n["Options"]["com.docker.network.bridge.name"] for n in ours}
        assert bridges == known, f"{host} has bridges {bridges}, its engine {known}"
        for program in PROGRAMS:
            pids = cluster.processes(host, program)
            assert len(pids) == 1, f"{host}: {program} runs as {pids}"
    return True


def well(cluster: Cluster, host: str) -> bool:
    """Whether the doctor of a node has nothing to say."""
    done = cluster.swarmlet(host, "network", "doctor", check=False)
    assert done.returncode == 0, f"{host}:\n{done.stdout}"
    return True


def audit(cluster: Cluster, story: str) -> None:
    """Wait until all of it holds."""
    eventually(partial(updated, cluster), "updates end", within=UPDATES, seen=lambda: story)
    claims = {
        "every slot runs once": partial(settled, cluster),
        "addresses are those of the records": partial(addressed, cluster),
        "nothing is left of what was removed": partial(swept, cluster),
    }
    claims |= {f"{h} is as planned": partial(well, cluster, h) for h in cluster.hosts}
    paths = ("/services", "/tasks", "/nodes", "/networks")
    claims |= {f"managers agree on {p}": partial(agree, cluster, p) for p in paths}
    for what, claim in claims.items():
        eventually(claim, what, within=CONVERGENCE, seen=lambda: story)


def fatal(cluster: Cluster) -> list[str]:
    """Lines of daemons' logs that tell of an end that nobody asked for, or of a bug.

    What a kernel refused is none: it is tried again, and a doctor says if that was in vain.
    """
    return [
        f"{host}: {line}"
        for host in cluster.hosts
        for line in cluster.log(host).splitlines()
        if (line.startswith("Traceback") or "[error" in line or "[critical" in line)
        and "forwarding-failed" not in line
    ]


def state(cluster: Cluster, host: str) -> str:
    """What a host holds, for people: when an audit failed."""
    told = [
        cluster.swarmlet(host, "network", "plan", check=False),
        cluster.swarmlet(host, "network", "doctor", check=False),
        cluster.engine(host, "ps", "-a", "--no-trunc", check=False),
        cluster.playground.run(host, "nft", "list", "ruleset", check=False),
        cluster.playground.run(host, "ip", "route", "show", "table", "all", check=False),
        cluster.playground.run(host, "cat", "/proc/net/nf_conntrack", check=False),
    ]
    return "\n\n".join(done.stdout + done.stderr for done in told)


def footprints(cluster: Cluster) -> dict[str, tuple[float, int]]:
    """Resident memory (MB) and open files of each daemon and resolver."""
    return {
        f"{host} {program}": _footprint(pid)
        for host in cluster.hosts
        for program in PROGRAMS[1:]
        for pid in cluster.processes(host, program)
    }


def _footprint(pid: int) -> tuple[float, int]:
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    resident = next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))
    return resident / 1024, _count(Path(f"/proc/{pid}/fd").iterdir())


def _count(items: Iterable[object]) -> int:
    return sum(1 for _ in items)
