"""Hosts whose links carry packets of different sizes: large transfers pass all the same."""

import contextlib
import hashlib
import socket
import threading
from collections.abc import Iterator

import pytest
from swarmlet.model.forwarding import Attachment, PublishedPort

from tests.netns.rig import Lan, Namespace, connect, eventually, lan_of

pytestmark = [pytest.mark.netns, pytest.mark.slow]

PORT = 81

# linux/in.h
IP_MTU_DISCOVER, IP_PMTUDISC_DO, IP_MTU = 10, 2, 14
BYTES = bytes(range(256)) * 8192  # two megabytes: more than all buffers on the way


class Mirror:
    """Takes all that a client sends, and sends it back after that."""

    def __init__(self, place: Namespace) -> None:
        self._socket = place.socket()
        self._socket.settimeout(None)
        self._socket.bind(("0.0.0.0", PORT))
        self._socket.listen(8)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        try:
            while True:
                connection, _ = self._socket.accept()
                with connection:
                    connection.sendall(_all_of(connection))
        except OSError:
            return

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def _all_of(sock: socket.socket) -> bytes:
    parts: list[bytes] = []
    while part := sock.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)


def mirrored(place: Namespace, address: str, port: int) -> bool:
    """Whether all bytes go there and come back."""
    with connect(place, (address, port), patience=20) as sock:
        sock.sendall(BYTES)
        sock.shutdown(socket.SHUT_WR)
        return hashlib.sha256(_all_of(sock)).digest() == hashlib.sha256(BYTES).digest()


@pytest.fixture(params=[(1400, 9000), (9000, 1400), (1400, 1500)], ids=str)
def lan(request: pytest.FixtureRequest) -> Iterator[Lan]:
    for lan in lan_of(2):
        for number, mtu in zip((1, 2), request.param, strict=True):
            lan.hosts[number].space.run("ip", "link", "set", "eth0", "mtu", str(mtu))
            for name in ports_to(lan, number):
                lan.switch.ip(f"link set {name} mtu {mtu}")
        lan.network("red", 9)
        lan.service(
            "web", Attachment("red", "10.10.9.200"), ports=(PublishedPort("tcp", 8080, PORT),)
        )
        lan.task("web1", 1, Attachment("red", "10.10.9.11"))
        lan.task("asker2", 2, Attachment("red", "10.10.9.12"))
        lan.task("asker1", 1, Attachment("red", "10.10.9.13"))
        lan.give()
        lan.settle()
        yield lan


def ports_to(lan: Lan, number: int) -> list[str]:
    """The switch's end of a host's cable."""
    peer = lan.hosts[number].space.run("ip", "-o", "link", "show", "eth0")
    index = peer.partition("@if")[2].partition(":")[0]
    found = lan.switch.run("ip", "-o", "link").splitlines()
    return [line.split()[1].partition("@")[0] for line in found if line.startswith(f"{index}:")]


def test_large_transfers_pass_between_links_of_different_sizes(lan: Lan) -> None:
    """Between tasks, by virtual address and by published port, whichever side has the small one."""
    mirror = Mirror(lan.containers["web1"].space)
    far, near = lan.containers["asker2"].space, lan.containers["asker1"].space
    assert mirrored(far, "10.10.9.11", PORT)
    assert mirrored(near, "10.10.9.11", PORT)
    for entry in ("10.88.0.1", "10.88.0.2"):
        assert mirrored(lan.client, entry, 8080)
    assert mirrored(lan.hosts[2].space, "127.0.0.1", 8080)
    mirror.close()


def test_a_task_learns_how_much_fits(lan: Lan) -> None:
    """When it asks that its packets be not cut, and its own link carries more than the network."""
    links = {n: lan.hosts[n].space.run("ip", "-o", "link", "show", "swl0") for n in (1, 2)}
    fits = {n: int(link.partition(" mtu ")[2].split()[0]) for n, link in links.items()}
    small, other = sorted(fits, key=lambda n: fits[n])
    target = lan.tables.tasks["web1" if other == 1 else "asker2"].attachments[0].address
    with lan.containers[f"asker{small}"].space.socket(socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
        sock.connect((target, 80))

        def learnt() -> bool:
            with contextlib.suppress(OSError):
                sock.send(bytes(fits[small]))
            return sock.getsockopt(socket.IPPROTO_IP, IP_MTU) == fits[small]

        eventually(learnt)
