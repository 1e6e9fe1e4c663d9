"""What a newcomer can provoke: each failure is a few lines, a way out and its own exit status."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
from click.testing import CliRunner
from swarmlet.cli.app import wants_color
from swarmlet.cli.main import run
from swarmlet.client import Client, SocketDenied

from tests.fakes import swarm
from tests.fakes.api_server import FakeApi
from tests.unit.cli.conftest import Cli

REFUSALS = [
    (404, "service nope not found", "not-found", 3),
    (409, "name conflicts with an existing object: service web already exists", "conflict", 4),
    (403, "no", "not-allowed", 7),
    (400, "invalid cpu value", "invalid", 8),
    (501, "later", "not-supported", 16),
    (503, "gone", "unavailable", 6),
    (500, "boom", "failed", 1),
]


def _run(*args: str) -> tuple[int, str, str]:
    with CliRunner().isolation() as (out, err, _):
        status = run(args)
        return status, out.getvalue().decode(), err.getvalue().decode()


def test_no_daemon_is_told_with_the_socket_the_cause_and_the_fix(tmp_path: Path) -> None:
    """The four lines are exactly these."""
    path = tmp_path / "none.sock"
    status, out, err = _run("-H", f"unix://{path}", "node", "ls")
    assert (status, out) == (6, "")
    assert err.splitlines() == [
        f"error: cannot reach the swarmlet daemon on {path}",
        "  why:  there is no such socket: the daemon is not running, or it listens elsewhere",
        "  fix:  start it (systemctl start swarmletd), or name its socket with -H unix://PATH",
        "  code: daemon-unreachable   exit status 6",
    ]


def test_a_dead_socket_is_told_apart_from_a_missing_one(tmp_path: Path) -> None:
    path = tmp_path / "dead.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    status, _, err = _run("-H", f"unix://{path}", "service", "ls")
    assert status == 6
    assert "has stopped" in err


def test_a_file_in_place_of_the_socket_is_an_error_of_four_lines(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("")
    status, _, err = _run("-H", f"unix://{path}", "service", "ls")
    assert status == 6
    assert len(err.splitlines()) == 4


def test_permission_denied_is_exit_status_7(monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("swarmlet.client._UnixConnection.connect", denied)
    status, _, err = _run("service", "ls")
    assert status == 7
    assert "run it with sudo" in err
    with pytest.raises(SocketDenied):
        Client().get("/info")


def test_something_that_does_not_speak_http_is_told(tmp_path: Path) -> None:
    path = tmp_path / "odd.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen(1)
        code = (
            "import sys; from swarmlet.cli.main import main; main(sys.argv[1:])",
            *("-H", f"unix://{path}", "service", "ls"),
        )
        with subprocess.Popen([sys.executable, "-c", *code], stderr=subprocess.PIPE) as child:
            peer, _ = server.accept()
            peer.recv(4096)
            peer.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
            peer.close()
            _, err = child.communicate(timeout=30)
    assert child.returncode == 6
    assert b"does not speak HTTP" in err


@pytest.mark.parametrize(("status", "message", "code", "exit_status"), REFUSALS)
def test_refusals_keep_their_words_and_get_their_exit_status(
    api: FakeApi, cli: Cli, status: int, message: str, code: str, exit_status: int
) -> None:
    api.refuse("GET /services/web", status, message)
    result = cli("service", "inspect", "web")
    assert result.status == exit_status
    assert result.err.startswith(f"error: {message}\n")
    assert f"code: {code}   exit status {exit_status}" in result.err


def test_the_daemons_code_and_advice_win(api: FakeApi, cli: Cli) -> None:
    """No quorum is exit 5, with what the daemon says is missing."""
    api.refuse(
        "DELETE /services/web", 503, "the swarm has no leader", code="no-quorum", advice="start it"
    )
    result = cli("service", "rm", "web")
    assert result.status == 5
    assert "fix:  start it" in result.err


def test_dockers_words_become_ours(api: FakeApi, cli: Cli) -> None:
    api.refuse(
        "GET /services",
        503,
        'rpc error: code = Unavailable desc = Use "docker swarm init" first',
    )
    assert cli("service", "ls").err.startswith('error: Use "swarmlet init" first\n')


def test_text_from_elsewhere_cannot_steer_the_terminal(api: FakeApi, cli: Cli) -> None:
    api.refuse("GET /services", 500, "\x1b[2Jboom\x07")
    assert "\x1b" not in cli("service", "ls").err


def test_a_stale_answer_warns_once_and_succeeds(api: FakeApi, cli: Cli) -> None:
    api.headers["Swarmlet-Stale"] = "1 of 3 managers answers"
    result = cli("node", "ls")
    assert result.status == 0
    assert result.err == ("warning: no quorum: what you see may be old: 1 of 3 managers answers\n")


@pytest.mark.parametrize(
    ("args", "status", "words"),
    [
        (["frobnicate"], 2, "no command swarmlet frobnicate"),
        (["service", "lss"], 2, "did you mean ls"),
        (["service", "ls", "--nope"], 2, "no such option"),
        (["service", "create"], 2, "missing argument"),
        (["service", "ls", "-f", "colour=red"], 2, "the keys are id, label, mode, name"),
        (["service", "ls", "-f", "name"], 2, "KEY=VALUE"),
        (["service", "ls", "-H", "x"], 2, "goes before the command"),
        (["-H", "tcp://1.2.3.4:5", "service", "ls"], 2, "unix socket only"),
        (["-H", "swarm.sock", "service", "ls"], 2, "absolute"),
        (["service", "update", "web"], 2, "nothing to change"),
        (["update"], 2, "nothing to change"),
        (["update", "--cert-expiry", "soon"], 2, "a length of time"),
        (["service", "scale", "web"], 2, "SERVICE=REPLICAS"),
        (["service", "create", "--limit-memory", "lots", "x"], 2, "a size such as 64M"),
        (["service", "create", "--replicas", "two", "x"], 2, "a whole number"),
        (["service", "create", "--mode", "global", "--replicas", "2", "x"], 2, "is global"),
        (["service", "create", "--constraint", "disk", "x"], 2, "KEY==VALUE"),
        (["service", "create", "--mount", "type=bind,target=/x", "x"], 2, "needs a source"),
        (["service", "create", "--restart-condition", "never", "x"], 2, "none, on-failure, any"),
        (["service", "create", "--no-healthcheck", "--health-cmd", "x", "y"], 2, "exclude"),
        (["join", "--token", "secret", "10.0.0.1"], 2, "not a join token"),
        (["stack", "deploy", "shop"], 2, "missing option"),
        (["stack", "deploy", "-c", "/nonexistent.yml", "shop"], 8, "No such file"),
        (["stack", "deploy", "-c", "-", "a b"], 2, "the name of the stack"),
        (["network", "connect", "ov", "c"], 16, "not supported"),
        (["secret", "create", "x", "-"], 16, "not supported"),
        (["service", "logs", "-f", "web"], 16, "shows them, from all nodes"),
        (["swarm", "ca", "--rotate"], 16, "not supported"),
        (["run", "--rm", "-it", "busybox"], 16, "single containers"),
        (["ps", "-a"], 16, "task ls"),
        (["service", "ls", "--format", "{{range .}}"], 2, "--format does not understand"),
    ],
)
def test_mistakes_of_typing_end_with_a_way_out(
    cli: Cli, api: FakeApi, args: list[str], status: int, words: str
) -> None:
    api.on("GET /services", [swarm.service("web")])
    result = cli(*args)
    assert result.status == status, result.err
    assert words in result.err
    assert "Traceback" not in result.err
    assert f"exit status {status}" in result.err
    assert not [r for r in api.requests if r.method != "GET"], "nothing may be changed"


def test_a_defect_goes_to_a_file_and_tokens_do_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("swarmlet.client.Client.call", lambda *_, **__: 1 / 0)
    status, _, err = _run("join", "--token", "SWMTKN-1-aaa-secret", "10.0.0.1:2377")
    assert status == 1
    assert "Traceback" not in err
    [log] = tmp_path.iterdir()
    assert str(log) in err
    assert "ZeroDivisionError" in log.read_text()
    assert "secret" not in log.read_text()


def test_ctrl_c_is_exit_status_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("swarmlet.client.Client.call", interrupt)
    assert _run("service", "ls")[0] == 130


def test_debug_shows_the_chain_of_causes(tmp_path: Path) -> None:
    _, _, err = _run("--debug", "-H", f"unix://{tmp_path}/none", "service", "ls")
    assert "caused by: FileNotFoundError" in err


def test_a_closed_pipe_is_no_failure() -> None:
    """``swarmlet --help | head -1`` ends quietly."""
    command = [sys.executable, "-m", "swarmlet", "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.close()
        assert child.stderr.read() == b""


@pytest.mark.parametrize("name", ["NO_COLOR", "TERM"])
def test_colour_is_off_when_the_user_says_so(name: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TERM", "xterm")
        patch.delenv("NO_COLOR", raising=False)
        assert wants_color("auto", terminal=True)
        patch.setenv(name, "dumb")
        assert not wants_color("auto", terminal=True)
        assert wants_color("always", terminal=False)


@pytest.mark.parametrize(
    "args", [("--version",), ("version",), ("completion", "bash"), ("--help",)]
)
def test_output_that_cannot_be_written_is_no_defect_of_ours(
    tmp_path: Path, args: tuple[str, ...]
) -> None:
    """A full disk under ``> file``: one plain error, and no crash log on what may be that disk."""
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run(
            [sys.executable, "-m", "swarmlet", "-H", f"unix://{tmp_path}/none", *args],
            stdout=full,
            stderr=subprocess.PIPE,
            env=os.environ | {"TMPDIR": str(tmp_path)},
            text=True,
            check=False,
        )
    assert ran.returncode == 1
    assert ran.stderr.splitlines() == [
        "error: the output cannot be written: No space left on device",
        "  why:  the command itself may have been carried out",
        "  fix:  make room where its output goes, and look before you repeat it",
        "  code: failed   exit status 1",
    ]
    assert list(tmp_path.iterdir()) == []


def test_a_crash_that_cannot_be_logged_is_told_all_the_same(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def boom(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("swarmlet.client.Client.get", boom)
    monkeypatch.setattr("tempfile.NamedTemporaryFile", mock.Mock(side_effect=OSError(28, "full")))
    result = cli("service", "ls")
    assert result.status == 1
    assert "swarmlet itself failed: ZeroDivisionError" in result.err
    assert "--debug" in result.err
