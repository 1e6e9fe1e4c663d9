"""A forwarder in a network namespace, as the test's servant."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec

ROOT = Path(__file__).parents[2]

#: A host's own place for wireguard-go's sockets: all hosts have devices of the same name.
OWN_SOCKETS = 'mkdir -p /run/wireguard && mount --bind "$1" /run/wireguard && shift && exec "$@"'
PATIENCE = 20.0


class Driven:
    """A process of :mod:`tests.netns.driver` in the namespace at ``path``."""

    def __init__(self, path: str, *options: str) -> None:
        self.path = path
        self.options = options
        self.directory = Path(tempfile.mkdtemp(prefix="swl-netns-"))
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        sockets = self.directory / "wireguard"
        sockets.mkdir(exist_ok=True)
        words = ["unshare", "--mount", "sh", "-c", OWN_SOCKETS, "sh", str(sockets)]
        words += [sys.executable, "-m", "tests.netns.driver", str(self.directory), *self.options]
        with (self.directory / "log").open("a") as log:
            self.process = subprocess.Popen(
                ["nsenter", f"--net={self.path}", *words],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=ROOT,
            )

    def order(self, name: str, value: Any = None) -> Any:
        assert self.process
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(msgspec.json.encode({name: value}).decode() + "\n")
        self.process.stdin.flush()
        answer = msgspec.json.decode(self.process.stdout.readline())
        assert "error" not in answer, (answer, self.log())
        return answer["result"]

    def log(self) -> str:
        return (self.directory / "log").read_text()

    def kill(self) -> None:
        if self.process is None:
            return
        assert self.process.stdin
        assert self.process.stdout
        self.process.kill()
        self.process.wait(PATIENCE)
        self.process.stdin.close()
        self.process.stdout.close()
        self.process = None

    def delete(self) -> None:
        self.kill()
        shutil.rmtree(self.directory)
