"""Encrypted networks as the stock client makes them, on real engines; and what the wire shows."""

import contextlib
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from typing import Final, Self

import pytest

from tests.e2e.cluster import Cluster, diagnosed, eventually
from tests.e2e.conftest import MakePlayground
from tests.e2e.test_overlay import SERVER, answer_of, run_in

pytestmark = [
    pytest.mark.netns,
    pytest.mark.docker,
    pytest.mark.skipif(
        shutil.which("wg") is None or shutil.which("wireguard-go") is None,
        reason="needs Debian's wireguard-tools and wireguard-go",
    ),
]

ETH_P_ALL: Final = 3


@pytest.fixture(scope="module")
def cluster(make_shared_playground: MakePlayground) -> Iterator[Cluster]:
    """A manager and a worker."""
    playground = make_shared_playground(managers=1, workers=1)
    with diagnosed(playground):
        yield Cluster(playground)


class Wire:
    """Whether texts pass between hosts, on the cable of one."""

    def __init__(self, cluster: Cluster, host: str, *texts: bytes) -> None:
        cable = cluster.playground.site.spot(host).cable
        self._hosts = {socket.inet_aton(cluster.address(name)) for name in cluster.hosts}
        self._texts = texts
        self.seen: set[bytes] = set()
        self._open = True
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self._socket.bind((cable, ETH_P_ALL))
        self._socket.settimeout(0.1)
        self._thread = threading.Thread(target=self._listen)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._open = False
        self._thread.join()
        self._socket.close()

    def _listen(self) -> None:
        while self._open:
            with contextlib.suppress(TimeoutError):
                frame = self._socket.recv(65536)
                if {frame[26:30], frame[30:34]} <= self._hosts:
                    self.seen |= {text for text in self._texts if text in frame}


def links(cluster: Cluster, host: str) -> str:
    netns = cluster.playground.site.spot(host).netns
    return subprocess.run(
        ["ip", "-n", netns, "-o", "link"], capture_output=True, text=True, check=True
    ).stdout


def ask_all(cluster: Cluster, service: str, text: str) -> bool:
    """Have each task ask its service until all have answered; whether they have."""
    found = cluster.containers(service)
    wanted = {c["Id"][:12] for c in found}
    for at in range(len(found)):
        url = f"http://{service}/cgi-bin/who?{text}"
        answers = {
            run_in(cluster, service, "timeout", "5", "wget", "-q", "-O", "-", url, at=at)
            .strip()
            .rpartition(" ")[2]
            for _ in range(8)
        }
        if not wanted <= answers:
            return False
    return True


def test_an_encrypted_network_works_and_shows_nothing(cluster: Cluster) -> None:
    """Beside a plain one, which is what the wire would show; published ports, restart, removal."""
    for network, words in (("hidden", ("--opt", "encrypted", "--attachable")), ("plain", ())):
        cluster.docker("m1", "network", "create", "-d", "overlay", *words, network)
    assert "encrypted" in cluster.docker("m1", "network", "inspect", "hidden").stdout
    for service, network, port in (("safe", "hidden", 18090), ("open", "plain", 18091)):
        cluster.create(
            *(service, "--network", network, "--replicas", "2", "--replicas-max-per-node", "1"),
            *("-p", f"{port}:80"),
            command=SERVER,
        )
    for service in ("safe", "open"):
        cluster.wait_running(service, 2)
    with Wire(cluster, "w1", b"needle-safe", b"needle-open") as wire:
        for service in ("safe", "open"):
            ask = partial(ask_all, cluster, service, f"needle-{service}")
            eventually(ask, "all tasks answer")
        eventually(lambda: b"needle-open" in wire.seen, "the plain network is seen")
        for host in cluster.hosts:
            names = {(answer_of(cluster.address(host), 18090) or ("", ""))[1] for _ in range(16)}
            assert names == {c["Id"][:12] for c in cluster.containers("safe")}
        assert wire.seen == {b"needle-open"}
    assert "swlw0" in links(cluster, "m1")
    plan = cluster.swarmlet("w1", "network", "plan").stdout
    assert "swlw0: wireguard" in plan
    doctor = cluster.swarmlet("m1", "network", "doctor")
    assert doctor.returncode == 0, doctor.stdout

    cluster.bounce_daemon("w1", kill=True)
    cluster.wait_state("w1", "ready")
    assert ask_all(cluster, "safe", "again")

    cluster.remove("safe")
    eventually(lambda: "swlw0" not in links(cluster, "m1"), "what is not needed goes")
    eventually(lambda: "swlw0" not in links(cluster, "w1"), "what is not needed goes")
    cluster.docker("m1", "network", "rm", "hidden")
