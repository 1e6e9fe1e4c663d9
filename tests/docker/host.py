"""A real dockerd in a network namespace of its own, that tests may kill and boot again."""

import contextlib
import io
import os
import shutil
import signal
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

APPLETS = (
    "sh ls cat echo sleep httpd wget nc hostname id mount true false env kill tail head dd grep"
)

START_PATIENCE = 60.0


def require() -> None:
    """Skip where no engine can be started."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    for tool in ("dockerd", "docker", "unshare", "ip"):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}")


class EngineHost:
    """One engine below ``directory`` (short: unix socket paths are bounded)."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.socket = directory / "docker.sock"
        self.process: subprocess.Popen[bytes] | None = None
        self.log = directory / "log"
        (directory / "resolv.conf").write_text("nameserver 127.0.0.1\n")

    def boot(self) -> None:
        """Start the engine as after a boot: what a host keeps in /run is gone."""
        shutil.rmtree(self.directory / "exec", ignore_errors=True)
        (self.directory / "pid").unlink(missing_ok=True)
        self.start()

    def start(self) -> None:
        d = self.directory
        script = (
            f"ip link set lo up; mount --bind {d}/resolv.conf /etc/resolv.conf; "
            f"exec dockerd --data-root {d}/data --exec-root {d}/exec -H unix://{self.socket} "
            f"-p {d}/pid --label rack=r1"
        )
        self.socket.unlink(missing_ok=True)
        # A containerd that nobody reaped looks alive to the next dockerd, which then waits for it.
        (d / "exec/containerd/containerd.pid").unlink(missing_ok=True)
        (d / "pid").unlink(missing_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                ["unshare", "--net", "--mount", "--uts", "sh", "-c", script],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_PATIENCE
        while self.docker("version", check=False).returncode != 0:
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise AssertionError(self.log.read_text()[-3000:])
            time.sleep(0.05)

    def docker(
        self, *args: str, stdin: bytes = b"", check: bool = True
    ) -> "subprocess.CompletedProcess[bytes]":
        return subprocess.run(
            ["docker", "-H", f"unix://{self.socket}", *args],
            input=stdin,
            capture_output=True,
            check=check,
        )

    def import_image(self, name: str, *changes: str) -> None:
        options = [word for change in changes for word in ("--change", change)]
        self.docker("import", *options, "-", name, stdin=busybox())

    def stop(self) -> None:
        """End the engine in order: it stops its containers first."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(START_PATIENCE)

    def kill_engine(self) -> None:
        """SIGKILL dockerd alone."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(START_PATIENCE)

    def kill(self) -> None:
        """SIGKILL everything, as a power cut does."""
        while pids := self.pids():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if self.process is not None:
                self.process.wait(START_PATIENCE)
            time.sleep(0.02)

    def pids(self) -> set[int]:
        """This engine's processes: those that name its directory, and what descends from them."""
        children: dict[int, set[int]] = {}
        found: list[int] = []
        mark = f"{self.directory}/".encode()
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes()
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                if state == "Z":
                    continue
                children.setdefault(int(parent), set()).add(int(entry.name))
                name = (entry / "comm").read_text()
                if mark in words and name.startswith(("dockerd", "containerd")):
                    found.append(int(entry.name))
        seen: set[int] = set()
        while found:
            pid = found.pop()
            if pid not in seen:
                seen.add(pid)
                found += children.get(pid, ())
        return seen - {os.getpid()}

    def destroy(self) -> None:
        self.kill()
        for line in reversed(Path("/proc/mounts").read_text().splitlines()):
            target = line.split()[1]
            if target.startswith(f"{self.directory}/"):
                subprocess.run(["umount", "-l", target], check=False)
        shutil.rmtree(self.directory, ignore_errors=True)


def busybox() -> bytes:
    """A root file system with busybox, as a tar."""
    path = shutil.which("busybox")
    if path is None:
        pytest.skip("needs busybox (static)")
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for folder in ("bin", "etc", "tmp", "www", "data"):
            info = tarfile.TarInfo(folder)
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(info)
        tar.add(path, "bin/busybox")
        for applet in APPLETS.split():
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
        seed = tarfile.TarInfo("data/seed")
        seed.size = 4
        tar.addfile(seed, io.BytesIO(b"seed"))
    return raw.getvalue()
