"""A registry on the bridge of a playground: Debian's docker-registry, in a process of our own."""

import base64
import json
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.e2e.cluster import IMAGE, Cluster, eventually

PROGRAM: Final = "docker-registry"
USER: Final = "reader"
PASSWORD: Final = "pass:word"  # a colon, for readers who split too often


class Registry:
    """A registry that runs at an address the hosts' engines trust without TLS."""

    def __init__(self, address: str) -> None:
        self.address = address

    def push(self, cluster: Cluster, name: str, word: str) -> str:
        """Push busybox with ``word`` in the file /word under a name; returns the digest.

        No engine keeps it: whoever runs it must pull it.
        """
        image = f"{self.address}/{name}"
        cluster.engine("m1", "run", "--name=draft", IMAGE, "sh", "-c", f"echo {word} >/word")
        cluster.engine("m1", "commit", "draft", image)
        cluster.engine("m1", "rm", "draft")
        said = cluster.engine("m1", "push", image).stdout
        cluster.engine("m1", "rmi", image)
        found = re.search(r"digest: (sha256:[0-9a-f]{64})", said)
        assert found, said
        return found[1]

    def login(self, folder: Path) -> Path:
        """Write docker's config file with our user's login there; returns the folder."""
        auth = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        folder.mkdir(exist_ok=True)
        config = {"auths": {self.address: {"auth": auth}}}
        (folder / "config.json").write_text(json.dumps(config))
        return folder


@contextmanager
def running(host: str, folder: Path, *, login: bool = False) -> Iterator[Registry]:
    """Run a registry while the context lasts; with ``login`` it knows our user only."""
    with socket.socket() as probe:  # the usual port may be that of a registry of the machine
        probe.bind((host, 0))
        port = probe.getsockname()[1]
    config = {
        "version": 0.1,
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(folder / f"data-{port}")}},
        "http": {"addr": f"{host}:{port}", "secret": "of a test"},
    }
    if login:
        users = folder / f"users-{port}"
        users.write_text(_program("htpasswd", "apache2-utils", "-nbB", USER, PASSWORD))
        config["auth"] = {"htpasswd": {"realm": "lab", "path": str(users)}}
    file = folder / f"registry-{port}.yml"
    file.write_text(json.dumps(config))  # JSON is YAML
    _need(PROGRAM, PROGRAM)
    with (folder / f"registry-{port}.log").open("wb") as log:
        process = subprocess.Popen([PROGRAM, "serve", str(file)], stdout=log, stderr=log)
    try:
        eventually(lambda: _listens(host, port), f"the registry listens on {host}:{port}")
        yield Registry(f"{host}:{port}")
    finally:
        process.terminate()
        process.wait(timeout=10)


def _program(name: str, package: str, *words: str) -> str:
    _need(name, package)
    return subprocess.run([name, *words], check=True, capture_output=True, text=True).stdout


def _need(name: str, package: str) -> None:
    if shutil.which(name) is None:
        pytest.skip(f"needs {name}: apt-get install {package}")


def _listens(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((host, port)) == 0
