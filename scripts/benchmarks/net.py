"""Networks: requests a second through the mesh, to Docker's own published port and to HAProxy.

Everything is compared within one run: rounds of all kinds follow each other, and each figure is a
ratio to the same round's base. The load generator runs in a container of host w2's engine, or on
this machine for published ports; one server each, so that the path is measured and not the load.
"""

import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from scripts.benchmarks import image
from scripts.benchmarks.figures import Figure, at_least, at_most
from scripts.benchmarks.lab import IMAGE, WORKERS, Lab, at_once, say, until

#: Seconds of load in each round, and connections at the same time.
SECONDS: Final = 4
CONNECTIONS: Final = 16

REPLICAS: Final = 10
NEAR, FAR = WORKERS
PLAIN_PORT: Final = 18_080
MESH_PORT: Final = 18_081
PROXY_PORTS: Final = {"local": 18_082, "remote": 18_083}

_SERVE: Final = ("/usr/sbin/nginx", "-c", "/etc/nginx.conf")

Json = Any


def traffic(lab: Lab, trials: int) -> list[Figure]:
    """Requests a second: ingress to a published port, VIP to a direct address, HAProxy beside."""
    leader = lab.settle()
    with tempfile.TemporaryDirectory(prefix="swarmlet-bench-") as folder:
        archive = Path(folder, "image.tar")
        image.build(archive)
        lab.playground.load_image(archive, WORKERS)
        lab.client(leader).post("/networks/create", {"Name": "bench", "Driver": "overlay"})
        service = lab.client(leader).post("/services/create", _server(NEAR))["ID"]
        client = lab.client(leader).post("/services/create", _client(NEAR))["ID"]
        task = lab.wait_running(leader, service, 1)[0]
        lab.wait_running(leader, client, 1)
        backend = _address(task)
        vip = _vip(lab.client(leader).get(f"/services/{service}"))
        with _plain(lab, NEAR), _proxies(lab, Path(folder), backend):
            figures = _rounds(lab, trials, backend=backend, vip=vip, client=client)
    lab.remove(leader, service, client)
    until(lambda: lab.client(leader).delete("/networks/bench") is None, "the network is removed")
    return figures


def _rounds(lab: Lab, trials: int, *, backend: str, vip: str, client: str) -> list[Figure]:
    near, far = (_host_address(lab, host) for host in (NEAR, FAR))
    inside = _container(lab, NEAR, client)
    ways: dict[str, Callable[[], float]] = {
        "docker": lambda: _here(f"http://{near}:{PLAIN_PORT}/"),
        "ingress local": lambda: _here(f"http://{near}:{MESH_PORT}/"),
        "ingress remote": lambda: _here(f"http://{far}:{MESH_PORT}/"),
        "haproxy local": lambda: _here(f"http://{near}:{PROXY_PORTS['local']}/"),
        "haproxy remote": lambda: _here(f"http://{far}:{PROXY_PORTS['remote']}/"),
        "direct": lambda: _inside(lab, NEAR, inside, f"http://{backend}:80/"),
        "vip": lambda: _inside(lab, NEAR, inside, f"http://{vip}:80/"),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(trials):
        for name, measure in ways.items():
            rates[name].append(measure())
        row = ", ".join(f"{name} {found[-1]:,.0f}" for name, found in rates.items())
        say(f"   round {number + 1}: requests/s {row}")

    def ratio(of: str, to: str, target: float | None = None) -> Figure:
        values = tuple(a / b for a, b in zip(rates[of], rates[to], strict=True))
        bound = at_least(target) if target is not None else None
        return Figure(f"{of} : {to}, requests/s", "x", values, bound)

    return [
        Figure("docker's published port", "/s", tuple(rates["docker"])),
        ratio("ingress local", "docker", 1.0),
        ratio("ingress remote", "docker", 0.6),
        ratio("ingress local", "haproxy local", 1.0),
        ratio("ingress remote", "haproxy remote", 1.0),
        Figure("direct, same node, overlay", "/s", tuple(rates["direct"])),
        ratio("vip", "direct", 0.95),
    ]


def services(lab: Lab, trials: int) -> list[Figure]:
    """Ten replicas on an overlay, to ten containers straight on the engines' bridges; removal."""
    leader = lab.settle()
    lab.client(leader).post("/networks/create", {"Name": "bench", "Driver": "overlay"})
    created, raw, removed = [], [], []
    for _ in range(trials):
        body = _spec(
            lab.name(), {"Image": IMAGE, "Command": ["sleep", "100000"]}, replicas=REPLICAS
        )
        body["TaskTemplate"]["ContainerSpec"]["StopSignal"] = "SIGKILL"
        began = time.monotonic()
        service = lab.client(leader).post("/services/create", body)["ID"]
        lab.wait_count(leader, service, REPLICAS)
        created.append(time.monotonic() - began)
        began = time.monotonic()
        lab.remove(leader, service)
        removed.append(time.monotonic() - began)
        raw.append(_by_hand(lab))
        say(f"   overlay {created[-1]:.2f} s, by hand {raw[-1]:.2f} s, rm {removed[-1]:.2f} s")
    until(lambda: lab.client(leader).delete("/networks/bench") is None, "the network is removed")
    ratios = tuple(a / b for a, b in zip(created, raw, strict=True))
    return [
        Figure(f"{REPLICAS} replicas on an overlay: create → all run", "s", tuple(created)),
        Figure(f"{REPLICAS} containers by hand on bridges", "s", tuple(raw)),
        Figure(f"{REPLICAS} replicas on an overlay: ratio", "x", ratios, at_most(1.15)),
        Figure(f"service rm of {REPLICAS} replicas", "s", tuple(removed), at_most(2.0)),
    ]


def _by_hand(lab: Lab) -> float:
    """Start so many containers, spread over the hosts, all at once."""
    hosts = [host.name for host in lab.playground.status()]
    body = {"Image": IMAGE, "Cmd": ["sleep", "100000"]}
    made: list[tuple[str, str]] = []

    def run(number: int) -> None:
        host = hosts[number % len(hosts)]
        engine = lab.engine(host)
        container = engine.post("/containers/create", body)["Id"]
        engine.post(f"/containers/{container}/start")
        made.append((host, container))

    began = time.monotonic()
    at_once(run, REPLICAS)
    took = time.monotonic() - began
    for host, container in made:
        lab.engine(host).delete(f"/containers/{container}", {"force": "1"})
    return took


# --- what is measured against each other ----------------------------------------------------------


def _spec(name: str, container: Json, *, replicas: int = 1, host: str = "") -> Json:
    template: Json = {"ContainerSpec": container, "Networks": [{"Target": "bench"}]}
    if host:
        template["Placement"] = {"Constraints": [f"node.hostname=={host}"]}
    return {
        "Name": name,
        "TaskTemplate": template,
        "Mode": {"Replicated": {"Replicas": replicas}},
    }


def _server(host: str) -> Json:
    port = {"TargetPort": 80, "PublishedPort": MESH_PORT}
    spec = _spec("bench-server", {"Image": image.NAME, "Command": list(_SERVE)}, host=host)
    return {**spec, "EndpointSpec": {"Ports": [port]}}


def _client(host: str) -> Json:
    idle = ["/bin/busybox", "sleep", "100000"]
    return _spec("bench-client", {"Image": image.NAME, "Command": idle}, host=host)


@contextmanager
def _plain(lab: Lab, host: str) -> Iterator[None]:
    """A container with a published port of the engine's own."""
    engine = lab.engine(host)
    body = {
        "Image": image.NAME,
        "Cmd": list(_SERVE),
        "ExposedPorts": {"80/tcp": {}},
        "HostConfig": {"PortBindings": {"80/tcp": [{"HostPort": str(PLAIN_PORT)}]}},
    }
    container = engine.post("/containers/create", body)["Id"]
    engine.post(f"/containers/{container}/start")
    try:
        yield
    finally:
        engine.delete(f"/containers/{container}", {"force": "1"})


@contextmanager
def _proxies(lab: Lab, folder: Path, backend: str) -> Iterator[None]:
    """HAProxy as a mesh in user space: beside the backend, and on another host."""
    processes = []
    try:
        for where, host in (("local", NEAR), ("remote", FAR)):
            config = folder / f"haproxy-{where}.cfg"
            config.write_text(
                "global\n  nbthread 1\n"
                "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 60s\n"
                "  timeout server 60s\n"
                f"listen bench\n  bind :{PROXY_PORTS[where]}\n  server one {backend}:80\n"
            )
            argv, environ = lab.playground.command_on(
                host, ["/usr/sbin/haproxy", "-db", "-f", str(config)]
            )
            processes.append(subprocess.Popen(argv, env=environ, stdout=subprocess.DEVNULL))
        yield
    finally:
        for process in processes:
            process.terminate()
            process.wait(timeout=10)


# --- load -----------------------------------------------------------------------------------------


def _here(url: str) -> float:
    return _rate(_wrk(url))


def _inside(lab: Lab, host: str, container: str, url: str) -> float:
    socket = lab.playground.site.spot(host).engine_socket
    return _rate(["docker", "-H", f"unix://{socket}", "exec", container, *_wrk(url)])


def _wrk(url: str) -> list[str]:
    return ["/usr/bin/wrk", "-t1", f"-c{CONNECTIONS}", f"-d{SECONDS}s", url]


def _rate(argv: list[str]) -> float:
    done = subprocess.run(
        argv, check=True, capture_output=True, text=True, timeout=SECONDS + 60
    ).stdout
    found = re.search(r"Requests/sec:\s+([\d.]+)", done)
    return float(found[1]) if found else 0.0


# --- places ---------------------------------------------------------------------------------------


def _host_address(lab: Lab, host: str) -> str:
    return str(lab.playground.host(host).address)


def _address(task: Json) -> str:
    return str(task["NetworksAttachments"][0]["Addresses"][0]).partition("/")[0]


def _vip(service: Json) -> str:
    return str(service["Endpoint"]["VirtualIPs"][0]["Addr"]).partition("/")[0]


def _container(lab: Lab, host: str, service: str) -> str:
    found = lab.engine(host).get("/containers/json")
    label = "com.docker.swarm.service.id"
    return next(str(c["Id"]) for c in found if c["Labels"].get(label) == service)
