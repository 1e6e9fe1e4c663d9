"""What the daemon asks of the machine around it, none of which may stop it."""

import resource
import subprocess
from pathlib import Path
from unittest import mock

import pytest
import structlog
from swarmlet import daemon
from swarmlet.config import load


def systemctl(outcome: object) -> bool:
    """What is made of this outcome of systemctl, on a machine that has systemd."""
    with (
        mock.patch.object(Path, "exists", return_value=True),
        mock.patch.object(subprocess, "run", side_effect=[outcome]) as run,
    ):
        stopping = daemon.host_is_stopping()
    assert run.call_args.kwargs["timeout"] < daemon.STOP_TIMEOUT
    return stopping


@pytest.mark.parametrize("state", ["stopping", "running"])
def test_systemd_knows_whether_the_host_stops(state: str) -> None:
    answer = subprocess.CompletedProcess([], returncode=0, stdout=f"{state}\n")
    assert systemctl(answer) is (state == "stopping")


@pytest.mark.parametrize("failure", [OSError(2, "none"), subprocess.TimeoutExpired("systemctl", 1)])
def test_a_systemd_that_does_not_answer_says_nothing_about_the_host(failure: Exception) -> None:
    """At a shutdown its bus may be gone already; the goodbye must be said all the same."""
    assert systemctl(failure) is False


def test_nobody_listening_to_signs_of_life_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    daemon.notify("READY=1")


@pytest.mark.parametrize(
    ("limits", "raised"),
    [
        ((1024, 524_288), (65_536, 524_288)),
        ((1024, 4096), (4096, 4096)),
        ((1024, resource.RLIM_INFINITY), (65_536, resource.RLIM_INFINITY)),
        ((100_000, 524_288), None),
    ],
)
def test_the_daemon_takes_the_descriptors_that_it_may_have(
    limits: tuple[int, int], raised: tuple[int, int] | None
) -> None:
    """The usual soft limit is for programs that use select(2)."""
    with (
        mock.patch.object(resource, "getrlimit", return_value=limits),
        mock.patch.object(resource, "setrlimit") as setrlimit,
    ):
        assert daemon.raise_descriptors() == (raised or limits)[0]
    calls = [mock.call(resource.RLIMIT_NOFILE, raised)] if raised else []
    assert setrlimit.call_args_list == calls


def test_settings_that_are_not_the_default_are_logged_with_their_source(tmp_path: Path) -> None:
    configured = load({"socket": "/s"}, {"SWARMLET_LOG_LEVEL": "info"}, tmp_path / "none")
    with structlog.testing.capture_logs() as logs:
        daemon.log_settings(configured)
    assert [(entry["name"], entry["value"], entry["source"]) for entry in logs] == [
        ("socket", "/s", "flag"),
        ("log_level", "info", "environment"),
    ]
