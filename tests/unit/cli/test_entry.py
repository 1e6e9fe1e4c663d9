"""The entry: ^C at any time ends a command without a traceback, and costs the start-up nothing."""

import signal
import subprocess
import sys

import pytest

#: Runs the entry and sends itself ^C when a module begins to load, as a user in a hurry would.
INTERRUPTED_AT = """
import os, signal, sys

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.argv = ["swarmlet", "--version"]
sys.meta_path.insert(0, Interrupt())
from swarmlet.__main__ import main
main()
"""


@pytest.mark.parametrize("module", ["swarmlet.cli.main", "click", "http.client"])
def test_an_interrupt_while_modules_load_ends_it_silently(module: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_AT.format(module=module)],
        capture_output=True,
        check=False,
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (130, b"", b"")


def test_a_process_that_was_told_to_ignore_interrupts_goes_on_doing_so() -> None:
    """``nohup`` and a shell's ``&`` say so."""
    ran = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_AT.format(module="swarmlet.cli.main")],
        capture_output=True,
        check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    assert ran.returncode == 0
    assert ran.stdout.startswith(b"swarmlet ")


def test_an_interrupt_at_the_end_is_too_late() -> None:
    """The command is done and its output written: its status counts."""
    code = "import atexit, os; atexit.register(os.kill, os.getpid(), 2);" + INTERRUPTED_AT
    ran = subprocess.run(
        [sys.executable, "-c", code.format(module="")], capture_output=True, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, b"")
