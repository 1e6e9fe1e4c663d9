"""The same command lines on a real terminal (pty): width, colour, redrawing, questions."""

import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from tests.fakes import swarm
from tests.fakes.api_server import FakeApi


def _on_terminal(
    socket: Path,
    *args: str,
    columns: int = 60,
    answer: bytes = b"",
    interrupt: bytes = b"",
    **env: str,
) -> tuple[int, str]:
    """Run a command line in a child whose three streams are a terminal.

    It is interrupted (^C) when it prints ``interrupt``.
    """
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    clean = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS", "LINES")}
    child = subprocess.Popen(
        [sys.executable, "-m", "swarmlet", "-H", f"unix://{socket}", *args],
        stdin=slave, stdout=slave, stderr=slave, close_fds=True,
        env=clean | {"TERM": "xterm", "PYTHONUTF8": "1"} | env,
    )  # fmt: skip
    os.close(slave)
    if answer:
        os.write(master, answer)
    said = b""
    while True:
        try:
            chunk = os.read(master, 65536)
        except OSError:  # the child closed its side
            break
        if not chunk:
            break
        said += chunk
        if interrupt and interrupt in said:
            child.send_signal(signal.SIGINT)
            interrupt = b""
    os.close(master)
    return child.wait(timeout=30), said.decode(errors="replace")


@pytest.fixture
def socket(api: FakeApi, tmp_path: Path) -> Path:
    api.on("GET /services", [swarm.service("web", image="registry.example.com/a/long/name:1.2.3")])
    return tmp_path / "api.sock"


def test_a_list_fits_the_terminal(socket: Path) -> None:
    status, said = _on_terminal(socket, "service", "ls", columns=60)
    assert status == 0
    lines = said.replace("\r", "").splitlines()
    assert all(len(line) <= 60 for line in lines)
    assert "web" in lines[1]
    assert "…" in lines[1]


def test_no_trunc_cuts_nothing(socket: Path) -> None:
    said = _on_terminal(socket, "service", "ls", "--no-trunc", columns=60)[1]
    assert "registry.example.com/a/long/name:1.2.3" in said


def test_states_are_coloured_on_a_terminal_and_not_with_no_color(socket: Path) -> None:
    assert "\x1b[32m" in _on_terminal(socket, "node", "ls", columns=120)[1]
    assert "\x1b[" not in _on_terminal(socket, "node", "ls", columns=120, NO_COLOR="1")[1]


def test_an_error_is_red_on_a_terminal(tmp_path: Path) -> None:
    status, said = _on_terminal(tmp_path / "none", "node", "ls")
    assert status == 6
    assert "\x1b[31m" in said


def test_a_question_is_asked_and_no_means_no(socket: Path, api: FakeApi) -> None:
    web = swarm.service("shop_web", Labels={"com.docker.stack.namespace": "shop"})
    api.on("GET /services", [web])
    api.on(f"DELETE /services/{web['ID']}", None)
    status, said = _on_terminal(socket, "stack", "rm", "shop", answer=b"n\n")
    assert status == 7
    assert "Go on? [y/N]" in said
    status, said = _on_terminal(socket, "stack", "rm", "shop", answer=b"y\n")
    assert status == 0
    assert len(api.sent(f"DELETE /services/{web['ID']}")) == 1


def test_the_wait_draws_bars(socket: Path, api: FakeApi) -> None:
    web = swarm.service("web", UpdateConfig={"Monitor": 300_000_000})
    api.on("POST /services/create", (201, {"ID": web["ID"]}))
    api.on(f"GET /services/{web['ID']}", web)
    api.on("GET /tasks", [swarm.task(web, 1)])
    status, said = _on_terminal(socket, "service", "create", "nginx", columns=80, NO_COLOR="1")
    assert status == 0
    assert "████████████████████ 1/1" in said
    assert "^C leaves it running" in said


def test_ctrl_c_restores_the_terminal_and_tells_how_to_follow(socket: Path, api: FakeApi) -> None:
    web = swarm.service("web")
    api.on("POST /services/create", (201, {"ID": web["ID"]}))
    api.on(f"GET /services/{web['ID']}", web)
    status, said = _on_terminal(
        *(socket, "service", "create", "--name", "web", "nginx"), columns=100, interrupt=b"0/1"
    )
    assert status == 130
    assert "it goes on without you; see it with: swarmlet service ps web" in said
    assert said.rindex("\x1b[?25h") > said.rindex("\x1b[?25l"), "the cursor is shown again"
    assert "Traceback" not in said
