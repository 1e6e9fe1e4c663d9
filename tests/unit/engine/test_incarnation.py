"""Naming a life of the engine, from a /proc that containers have a say in."""

import os
from pathlib import Path

import pytest
from swarmlet.engine import incarnation

#: What SO_PEERCRED says when systemd holds the engine's socket.
SYSTEMD = incarnation.UCRED.pack(1, 0, 0)


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    boot = tmp_path / "sys/kernel/random"
    boot.mkdir(parents=True)
    (boot / "boot_id").write_text("b00t\n")
    monkeypatch.setattr(incarnation, "_PROC", tmp_path)
    return tmp_path


def add(proc: Path, pid: int, comm: bytes, *, start: int) -> None:
    """A process; ``start`` is the 22nd field of its stat."""
    (proc / str(pid)).mkdir()
    (proc / str(pid) / "comm").write_bytes(comm + b"\n")
    fields = b" ".join([b"S", *[b"0"] * 18, b"%d" % start, b"0"])
    (proc / str(pid) / "stat").write_bytes(b"%d (%s) %s\n" % (pid, comm, fields))


def test_the_engine_behind_systemd_is_found_by_name(proc: Path) -> None:
    add(proc, 1, b"systemd", start=1)
    add(proc, 70, b"dockerd", start=500)
    life = incarnation.read(SYSTEMD)
    assert life.name == "b00t,70@500"
    assert life.started_at > 0


def test_any_process_may_have_any_name(proc: Path) -> None:
    """prctl(PR_SET_NAME) takes bytes, and every container's processes are seen here."""
    add(proc, 60, b"\xff\xfe", start=400)
    add(proc, 61, b") \n(\xc3", start=401)
    add(proc, 70, b"dockerd", start=500)
    assert incarnation.read(SYSTEMD).name == "b00t,70@500"


def test_the_peers_own_name_may_be_anything(proc: Path) -> None:
    """Its process number is what counts."""
    add(proc, 70, b"\xff) 1 2", start=500)
    assert incarnation.read(incarnation.UCRED.pack(70, 0, 0)).name == "b00t,70@500"


def test_a_process_that_is_gone_has_no_start(proc: Path) -> None:
    life = incarnation.read(incarnation.UCRED.pack(os.getpid(), 0, 0))
    assert (life.name, life.started_at) == ("b00t", 0)
