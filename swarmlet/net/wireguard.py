"""WireGuard interfaces of this host: by the kernel where it has them, else by ``wireguard-go``.

``wg`` (Debian's wireguard-tools) speaks to both. A private key goes to it by its standard input,
never by a command line. ``wireguard-go`` makes a process of its own, nobody's child: it lives on
when the daemon ends, and ends with its interface.
"""

import os
import shutil
import signal
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any, Final

import structlog
import trio

from swarmlet.errors import ForwardingFailed, TunnelFailed
from swarmlet.net.commands import Commands
from swarmlet.net.links import Tunnel, TunnelChange, TunnelPeer

log = structlog.get_logger()

#: An interface that is made only to see whether the kernel can.
_PROBE: Final = "swlwtry"

_TUN: Final = Path("/dev/net/tun")
_PROGRAM: Final = "wireguard-go"

#: Seconds: it answers in milliseconds. One that hangs is replaced.
ANSWERS_WITHIN: Final = 5.0

#: Seconds for ``wireguard-go`` to end when its interface is gone.
_ENDS_WITHIN: Final = 1.0

#: Peers of one command, which may be as long as 128 KiB for each word and 2 MiB in all.
_AT_ONCE: Final = 500


class WireGuard:
    """Looks at tunnels, makes and changes them."""

    def __init__(self, commands: Commands) -> None:
        self._commands = commands
        self._in_kernel: bool | None = None

    async def unable(self) -> str:
        """Why this host can have no tunnels, and what to do about it; or nothing."""
        if shutil.which("wg") is None:
            return "there is no wg here; apt-get install wireguard-tools"
        if await self._kernel_can():
            return ""
        if shutil.which(_PROGRAM) is None:
            return (
                "this kernel has no WireGuard, and there is no wireguard-go; "
                "apt-get install wireguard-go"
            )
        if not _TUN.exists():
            return f"wireguard-go needs {_TUN}; modprobe tun"
        return ""

    async def look(self, devices: Iterable[Mapping[str, Any]]) -> dict[str, Tunnel]:
        """The tunnels that these links (of ``ip -j link``) are; what hangs has no key."""
        return {d["ifname"]: await self._look(d) for d in devices}

    async def handshakes(self, name: str) -> dict[str, int]:
        """When each peer's last handshake was, by its key, in seconds since the epoch."""
        lines = await self._dump(name)
        return {peer[0]: int(peer[4]) for peer in lines[1:] if int(peer[4])}

    async def change(self, change: TunnelChange, private: str) -> None:
        """Make or change an interface. Raises TunnelFailed."""
        wanted, name = change.wanted, change.name
        assert wanted is not None
        if change.anew:
            if change.exists:
                await self.remove(name)
            await self._make(name)
            await self._wg(
                *("set", name, "private-key", "/dev/stdin", "listen-port", str(wanted.port)),
                stdin=private,
            )
            log.info("tunnel-made", device=name, by="kernel" if self._in_kernel else _PROGRAM)
        words = [["peer", key, "remove"] for key in change.gone]
        words += [_peer_words(key, peer) for key, peer in change.peers.items()]
        queue = iter(words)
        while some := list(islice(queue, _AT_ONCE)):
            await self._wg("set", name, *(word for several in some for word in several))
        await self._ip("link", "set", name, "mtu", str(wanted.mtu), "up")

    async def remove(self, name: str) -> None:
        """Remove an interface, and end what holds it."""
        with _holder(name) as holder:
            await self._ip("link", "del", name, may_fail=True)
            if holder is not None:
                await _end(holder)

    async def _kernel_can(self) -> bool:
        if self._in_kernel is None:
            words = ("link", "add", _PROBE, "type", "wireguard")
            self._in_kernel = await self._ip(*words, may_fail=True)
            if self._in_kernel:
                await self._ip("link", "del", _PROBE)
        return self._in_kernel

    async def _make(self, name: str) -> None:
        if why := await self.unable():
            raise TunnelFailed(name, why)
        if await self._kernel_can():
            await self._ip("link", "add", name, "type", "wireguard")
            return
        with _holder(name) as holder:  # of an interface that is gone: it would refuse another
            if holder is not None:
                await _end(holder)
        # Silent: with another LOG_LEVEL of ours it would hold our pipes for as long as it lives.
        words = ("env", "LOG_LEVEL=silent", _PROGRAM, name)
        try:
            output = await self._commands.run(*words, patience=ANSWERS_WITHIN)
        except ForwardingFailed as exc:
            raise TunnelFailed(name, exc.message) from exc
        if output.status:
            raise TunnelFailed(name, output.stderr.decode(errors="replace"))

    async def _look(self, device: Mapping[str, Any]) -> Tunnel:
        name, up = device["ifname"], "UP" in device.get("flags", ())
        try:
            own, *peers = await self._dump(name)
            return Tunnel(
                key=own[1],
                port=int(own[2]),
                mtu=device.get("mtu", 0),
                up=up,
                peers=dict(map(_peer, peers)),
            )
        except (TunnelFailed, ValueError, IndexError) as exc:
            log.warning("tunnel-broken", device=name, reason=str(exc))
            return Tunnel(key="", port=0, mtu=0, up=up)

    async def _dump(self, name: str) -> list[list[str]]:
        text = await self._wg("show", name, "dump")
        return [line.split("\t") for line in text.splitlines()]

    async def _wg(self, *words: str, stdin: str = "") -> str:
        what = " ".join(("wg", *words[:2]))
        try:
            output = await self._commands.run("wg", *words, stdin=stdin, patience=ANSWERS_WITHIN)
        except ForwardingFailed as exc:
            raise TunnelFailed(what, exc.message) from exc
        if output.status:
            raise TunnelFailed(what, output.stderr.decode(errors="replace"))
        return output.stdout.decode(errors="replace")

    async def _ip(self, *words: str, may_fail: bool = False) -> bool:
        """Whether it did; raises TunnelFailed if it must."""
        output = await self._commands.run("ip", *words)
        if output.status and not may_fail:
            raise TunnelFailed("ip " + " ".join(words), output.stderr.decode(errors="replace"))
        return output.status == 0


def _peer_words(key: str, peer: TunnelPeer) -> list[str]:
    return [
        *("peer", key, "endpoint", peer.endpoint, "allowed-ips", f"{peer.address}/32"),
        *("persistent-keepalive", str(peer.keepalive)),
    ]


def _peer(fields: list[str]) -> tuple[str, TunnelPeer]:
    key, _, endpoint, addresses, _, _, _, keepalive = fields
    return key, TunnelPeer(
        endpoint=endpoint,
        address=addresses.removesuffix("/32"),
        keepalive=int(keepalive) if keepalive.isdigit() else 0,
    )


@contextmanager
def _holder(name: str) -> Iterator[int | None]:
    """The process that serves an interface, as a file descriptor; None where the kernel does.

    Not by its socket: who listens there is the process that it was before it went its own way.
    """
    here = Path("/proc/self/ns/net").readlink()
    pidfd: int | None = None
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (place / "cmdline").read_bytes().split(b"\0")
            serves = Path(os.fsdecode(words[0])).name == _PROGRAM and name.encode() in words[1:]
            if serves and (place / "ns/net").readlink() == here:
                pidfd = os.pidfd_open(int(place.name))
                break
    try:
        yield pidfd
    finally:
        if pidfd is not None:
            os.close(pidfd)


async def _end(holder: int) -> None:
    """Wait until it has ended with its interface; end it if it does not."""
    with trio.move_on_after(_ENDS_WITHIN):
        await trio.lowlevel.wait_readable(holder)
        return
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(holder, signal.SIGKILL)
    with trio.move_on_after(_ENDS_WITHIN):
        await trio.lowlevel.wait_readable(holder)
