"""Hosts, containers and clients as network namespaces on one LAN, all in this process's name.

Sockets are made in a namespace by a thread that enters it, and used from anywhere.
"""

import contextlib
import ctypes
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
from msgspec.structs import replace
from swarmlet.model.forwarding import (
    Attachment,
    NetworkRecord,
    PeerRecord,
    PublishedPort,
    Reach,
    ServiceRecord,
    Tables,
    TaskRecord,
)
from swarmlet.model.tunnels import TunnelKeys
from swarmlet.net.facts import Owner
from swarmlet.net.numbers import bridge_name

from tests.netns.driven import PATIENCE, Driven

T = TypeVar("T")

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNET = 0x40000000


def require() -> None:
    """Skip where no namespaces can be made."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    for tool in ("ip", "nft", "iptables", "nsenter"):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}")


def sh(*words: str, stdin: str = "", check: bool = True) -> str:
    done = subprocess.run(words, input=stdin, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(words)}: {done.stderr}")
    return done.stdout


def eventually(claim: Callable[[], bool], patience: float = PATIENCE) -> None:
    deadline = time.monotonic() + patience
    while not claim():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.05)


class Namespace:
    """A network namespace."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = f"/var/run/netns/{name}"
        sh("ip", "netns", "add", name)
        self._file = Path(self.path).open()  # noqa: SIM115  # closed by delete
        #: For processes that do not see what was mounted after them.
        self.elsewhere = f"/proc/{os.getpid()}/fd/{self._file.fileno()}"
        self.ip("link set lo up")

    def ip(self, *lines: str) -> None:
        sh("ip", "-n", self.name, "-batch", "-", stdin="\n".join(lines) + "\n")

    def run(self, *words: str, stdin: str = "", check: bool = True) -> str:
        return sh("nsenter", f"--net={self.path}", *words, stdin=stdin, check=check)

    def inside(self, act: Callable[[], T]) -> T:
        """Do something in this namespace."""
        results: list[T] = []
        errors: list[Exception] = []

        def enter() -> None:
            fd = os.open(self.path, os.O_RDONLY)
            try:
                assert LIBC.setns(fd, CLONE_NEWNET) == 0
                results.append(act())
            except Exception as exc:  # noqa: BLE001  # raised again by the caller's thread
                errors.append(exc)
            finally:
                os.close(fd)

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return results[0]

    def socket(
        self, kind: socket.SocketKind = socket.SOCK_STREAM, protocol: int = 0
    ) -> socket.socket:
        made = self.inside(lambda: socket.socket(socket.AF_INET, kind, protocol))
        made.settimeout(3)
        return made

    def hardware(self, device: str) -> str:
        """Its address."""
        shown = msgspec.json.decode(self.run("ip", "-j", "link", "show", device))
        return str(shown[0]["address"])

    def sysctl(self, key: str, value: str = "") -> str:
        path = Path("/proc/sys") / key
        return self.inside(
            lambda: path.read_text().strip() if not value else str(path.write_text(value))
        )

    def delete(self) -> None:
        self._file.close()
        sh("ip", "netns", "del", self.name, check=False)


class Server:
    """Answers by TCP and UDP with its name and who asked: ``web1 10.0.0.9``."""

    def __init__(self, place: Namespace, name: str, port: int) -> None:
        self.name = name.encode()
        #: Addresses of those who asked, by TCP or UDP.
        self.askers: list[str] = []
        self._open: list[socket.socket] = []
        tcp = place.socket()
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        udp = place.socket(socket.SOCK_DGRAM)
        for sock in (tcp, udp):
            sock.bind(("0.0.0.0", port))
            sock.settimeout(None)
            self._open.append(sock)
        tcp.listen(64)
        threading.Thread(target=self._tcp, args=(tcp,), daemon=True).start()
        threading.Thread(target=self._udp, args=(udp,), daemon=True).start()

    def _answer(self, address: str) -> bytes:
        return self.name + b" " + address.encode()

    def _tcp(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, (address, _) = sock.accept()
                self._open.append(connection)
                self.askers.append(address)
                threading.Thread(
                    target=self._serve, args=(connection, address), daemon=True
                ).start()

    def _serve(self, connection: socket.socket, address: str) -> None:
        with contextlib.suppress(OSError):
            while connection.recv(1024):
                connection.sendall(self._answer(address))

    def _udp(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                _, peer = sock.recvfrom(65536)
                if peer is None:  # shut down
                    return
                address, port = peer
                self.askers.append(address)
                sock.sendto(self._answer(address), (address, port))

    def close(self) -> None:
        for sock in self._open:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()


def connect(
    place: Namespace,
    to: tuple[str, int],
    source: tuple[str, int] | None = None,
    *,
    patience: float = 3,
) -> socket.socket:
    sock = place.socket()
    sock.settimeout(patience)
    if source:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(source)
    try:
        sock.connect(to)
    except BaseException:
        sock.close()
        raise
    return sock


def tcp(place: Namespace, address: str, port: int) -> str:
    """Who answers a new connection, and what client it saw."""
    with connect(place, (address, port)) as sock:
        return exchange(sock)


def udp(place: Namespace, address: str, port: int) -> str:
    with place.socket(socket.SOCK_DGRAM) as sock:
        sock.connect((address, port))
        return exchange(sock)


def exchange(sock: socket.socket) -> str:
    sock.sendall(b"x")
    return sock.recv(1024).decode()


class Container:
    """A task's place: a namespace, plugged into the bridges of its networks."""

    def __init__(self, lan: "Lan", host: "Host", task: TaskRecord) -> None:
        self.task = task
        self.host = host
        self.space = lan.namespace()
        self.ports: list[str] = []
        #: What it was given, by bridge.
        self.places: dict[str, Owner] = {}
        for index, place in enumerate(task.attachments):
            network = lan.tables.networks[place.network_id]
            host.need(network)
            port = f"v{lan.pid}{next(lan.numbers)}"[:15]
            self.ports.append(port)
            host.space.ip(
                f"link add {port} type veth peer name eth{index} netns {self.space.name}",
                f"link set {port} master {bridge_name(network.id)} up",
            )
            mac = f"02:42:{bytes(map(int, place.address.split('.'))).hex(':')}"
            self.places[bridge_name(network.id)] = Owner(place.address, mac)
            length = network.subnet.partition("/")[2]
            self.space.ip(
                f"link set eth{index} address {mac}",
                f"addr add {place.address}/{length} dev eth{index}",
                f"link set eth{index} up",
            )
        first = lan.tables.networks[task.attachments[0].network_id]
        self.space.ip(f"route add default via {first.gateway}")
        self.server = Server(self.space, task.name, 80)

    def as_guest(self) -> dict[str, Any]:
        """What its engine would say of it."""
        return {"path": self.space.elsewhere, "places": self.places}

    def delete(self) -> None:
        self.server.close()
        self.space.delete()


class Host(Driven):
    """A node: its namespace, with rules like an engine's, and its forwarder."""

    def __init__(self, lan: "Lan", number: int) -> None:
        self.number = number
        self.address = f"10.88.0.{number}"
        self.space = lan.plug(self.address)
        super().__init__(self.space.path)
        self.bridges: set[str] = set()
        self.space.run(
            "iptables-restore",
            "-n",
            stdin="*filter\n:FORWARD DROP\n:DOCKER-USER -\n-A FORWARD -j DOCKER-USER\n"
            "-A DOCKER-USER -j RETURN\nCOMMIT\n",
        )
        self.space.sysctl("net/ipv4/conf/all/rp_filter", "1")
        self.start()

    def give(self, tables: Tables) -> None:
        self.order("tables", msgspec.to_builtins(replace(tables, me=self.number)))

    def identify(self, guests: list["Container"]) -> None:
        """Say who they are until it is known of each of their ports, as the agent does."""

        def known() -> bool:
            self.order("identify", [one.as_guest() for one in guests])
            return bool(self.order("owned") == sum(len(one.ports) for one in guests))

        eventually(known)

    def need(self, network: NetworkRecord) -> None:
        """Make a network's bridge, as the engine does for the agent."""
        if network.id in self.bridges:
            return
        bridge = self.order("bridge", network)
        name, length = bridge["name"], bridge["subnet"].partition("/")[2]
        self.space.ip(
            f"link add {name} mtu {bridge['mtu']} type bridge",
            f"addr add {bridge['gateway']}/{length} dev {name}",
            f"link set {name} up",
        )
        # Chosen, so that it does not become that of the first port.
        self.space.ip(f"link set {name} address {self.space.hardware(name)}")
        self.space.run(
            "iptables-restore",
            "-n",
            stdin=f"*filter\n-A FORWARD -o {name} -m conntrack --ctstate RELATED,ESTABLISHED "
            f"-j ACCEPT\n-A FORWARD -i {name} ! -o {name} -j ACCEPT\nCOMMIT\n",
        )
        self.order("adopt", network)
        self.bridges.add(network.id)


class Lan:
    """A switch, some hosts, and a client outside of the cluster; records, and what they name."""

    def __init__(self, hosts: int = 3) -> None:
        self.pid = os.getpid()
        self.numbers = iter(range(10_000))
        self.spaces: list[Namespace] = []
        self.tables = Tables()
        self.containers: dict[str, Container] = {}
        self.hosts: dict[int, Host] = {}
        try:
            self.switch = self.namespace()
            self.switch.ip("link add lan type bridge", "link set lan up")
            self.client = self.plug("10.88.0.100")
            self.hosts = {n: Host(self, n) for n in range(1, hosts + 1)}
        except BaseException:
            self.delete()
            raise
        self.tables = replace(
            self.tables,
            peers={f"n{n}": self.peer(n) for n in self.hosts},
        )

    def namespace(self) -> Namespace:
        space = Namespace(f"swl{self.pid}-{next(self.numbers)}")
        self.spaces.append(space)
        return space

    def plug(self, address: str) -> Namespace:
        """A machine on the LAN."""
        space, port = self.namespace(), f"p{next(self.numbers)}"
        self.switch.ip(
            f"link add {port} type veth peer name eth0 netns {space.name}",
            f"link set {port} master lan up",
        )
        space.ip(f"addr add {address}/24 dev eth0", "link set eth0 up")
        return space

    def network(
        self, name: str, third: int, *, internal: bool = False, encrypted: bool = False
    ) -> None:
        record = NetworkRecord(
            id=name,
            name=name,
            subnet=f"10.10.{third}.0/24",
            gateway=f"10.10.{third}.1",
            internal=internal,
            encrypted=encrypted,
        )
        self.tables.networks[name] = record

    def service(
        self,
        name: str,
        *networks: Attachment,
        ports: tuple[PublishedPort, ...] = (),
        sticky: bool = False,
        publish_address: str = "",
    ) -> None:
        self.tables.services[name] = ServiceRecord(
            id=name,
            name=name,
            attachments=networks,
            ports=ports,
            sticky=sticky,
            publish_address=publish_address,
        )

    def task(self, name: str, node: int, *places: Attachment, weight: int = 1) -> TaskRecord:
        """A task of the service that its name begins with; not serving yet."""
        record = TaskRecord(
            id=name,
            service_id=name.rstrip("0123456789"),
            name=name,
            node=node,
            attachments=places,
            serving=True,
            weight=weight,
        )
        self.tables.tasks[name] = record
        return record

    def change(self, name: str, **fields: Any) -> None:
        self.tables.tasks[name] = replace(self.tables.tasks[name], **fields)
        self.give()

    def peer(self, number: int, reach: Reach = Reach.READY) -> PeerRecord:
        return PeerRecord(id=f"n{number}", number=number, addr=f"10.88.0.{number}", reach=reach)

    def give(self) -> None:
        """Give all hosts the records, and start what is not there yet."""
        for host in self.hosts.values():
            host.give(self.tables)
        for key, task in self.tables.tasks.items():
            if key not in self.containers:
                self.containers[key] = Container(self, self.hosts[task.node], task)

    def exchange_keys(self) -> None:
        """Tell all hosts the keys of all."""
        for number, host in self.hosts.items():
            keys = msgspec.convert(host.order("keys"), TunnelKeys | None)
            self.tables.peers[f"n{number}"] = replace(self.tables.peers[f"n{number}"], tunnel=keys)
        self.give()

    def serve(self, place: Namespace, name: str, port: int) -> Server:
        return Server(place, name, port)

    def settle(self) -> None:
        """Wait until every host knows whose each port of its bridges is."""
        for host in self.hosts.values():
            guests = [one for one in self.containers.values() if one.host is host]
            host.identify(guests)

    def delete(self) -> None:
        for container in self.containers.values():
            container.delete()
        for host in self.hosts.values():
            host.delete()
        for space in self.spaces:
            space.delete()


def lan_of(hosts: int = 3) -> Iterator[Lan]:
    require()
    lan = Lan(hosts)
    try:
        yield lan
    finally:
        lan.delete()
