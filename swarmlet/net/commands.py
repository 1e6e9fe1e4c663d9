"""Programs that the edges run, and who is us: their changes are not foreign ones."""

import collections
import subprocess
import threading
from typing import Final, NamedTuple

import trio

from swarmlet.errors import ForwardingFailed

#: Seconds: ip and nft answer in milliseconds; one that hangs must not hang us for ever.
PATIENCE: Final = 30.0

#: How many of our processes and threads are remembered: a burst of their events is read at once.
REMEMBERED: Final = 256


class Output(NamedTuple):
    """What a program left."""

    status: int
    stdout: bytes
    stderr: bytes


class Commands:
    """Runs programs, one at a time."""

    def __init__(self) -> None:
        # One at a time, and no more threads than that: what they change is one thing.
        self.limiter = trio.CapacityLimiter(1)
        #: For those that only read the kernel, and long.
        self.reading = trio.CapacityLimiter(1)
        self._ours: collections.deque[int] = collections.deque(maxlen=REMEMBERED)

    def ours(self, pid: int) -> bool:
        """Whether this process or thread is, or was lately, one of ours."""
        return pid in self._ours

    def note_thread(self) -> None:
        """The calling thread is one of ours."""
        ident = threading.get_native_id()
        if ident not in self._ours:
            self._ours.append(ident)

    async def run(self, *words: str, stdin: str = "", patience: float = PATIENCE) -> Output:
        """Run a program to its end; a failure of it is for the caller to judge."""
        return await trio.to_thread.run_sync(
            self._run, words, stdin, patience, limiter=self.limiter
        )

    async def must(self, *words: str, stdin: str = "") -> bytes:
        """Run a program that must succeed, and return what it says."""
        output = await self.run(*words, stdin=stdin)
        if output.status:
            raise ForwardingFailed(" ".join(words), output.stderr.decode(errors="replace"))
        return output.stdout

    def _run(self, words: tuple[str, ...], stdin: str, patience: float) -> Output:
        # In a thread, not with trio's own: those cost several times as much CPU for each program.
        try:
            with subprocess.Popen(  # noqa: S603  # no shell, and the words are ours
                words,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            ) as process:
                self._ours.append(process.pid)
                try:
                    out, err = process.communicate(stdin.encode(), timeout=patience)
                except subprocess.TimeoutExpired as exc:
                    process.kill()
                    raise ForwardingFailed(" ".join(words), "it does not end") from exc
                return Output(process.returncode, out, err)
        except OSError as exc:
            raise ForwardingFailed(" ".join(words), str(exc)) from exc
