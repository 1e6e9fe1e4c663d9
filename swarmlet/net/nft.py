"""nftables: text in, one transaction a call.

By libnftables in a worker thread, which is ten times faster for small changes than a process;
by ``nft -f -`` where the library is missing.
"""

import ctypes
import functools
from typing import Final, Protocol

import trio

from swarmlet.errors import ForwardingFailed
from swarmlet.net.commands import Commands

LIBRARY: Final = "libnftables.so.1"

#: nft_ctx_output_set_flags(3).
_OUTPUT_JSON: Final = 1 << 4

_MISSING: Final = "No such file or directory"


class Nft(Protocol):
    """What talks to nftables."""

    async def run(self, script: str) -> None:
        """Do all of ``script``, or nothing of it and raise :class:`ForwardingFailed`."""
        ...

    async def listing(self, what: str) -> bytes | None:
        """List ``what`` ("table ip swarmlet") as JSON; None if there is none."""
        ...


def open_nft(commands: Commands) -> Nft:
    """Whichever is here."""
    try:
        return LibNft(commands)
    except OSError:
        return NftProgram(commands)


class LibNft:
    """libnftables. Raises OSError where there is none."""

    def __init__(self, commands: Commands) -> None:
        self._commands = commands
        self._lib = _library()
        self._context: ctypes.c_void_p | None = None

    async def run(self, script: str) -> None:
        """Do all of ``script``, or nothing of it."""
        await trio.to_thread.run_sync(self._run, script, limiter=self._commands.limiter)

    async def listing(self, what: str) -> bytes | None:
        """List something as JSON; None if there is none."""
        command = f"list {what}"
        run = functools.partial(self._run, command, flags=_OUTPUT_JSON)
        try:
            return await trio.to_thread.run_sync(run, limiter=self._commands.limiter)
        except ForwardingFailed as exc:
            if _MISSING in exc.message:
                return None
            raise

    def _run(self, script: str, flags: int = 0) -> bytes:
        self._commands.note_thread()
        lib = self._lib
        if self._context is None:
            # Made here: it opens a socket, in the network namespace of the thread.
            self._context = ctypes.c_void_p(lib.nft_ctx_new(0))
            lib.nft_ctx_buffer_output(self._context)
            lib.nft_ctx_buffer_error(self._context)
        context = self._context
        lib.nft_ctx_output_set_flags(context, flags)
        status = lib.nft_run_cmd_from_buffer(context, script.encode())
        # Reading also empties them.
        output: bytes = lib.nft_ctx_get_output_buffer(context) or b""
        error: bytes = lib.nft_ctx_get_error_buffer(context) or b""
        if status:
            raise ForwardingFailed("nft", error.decode(errors="replace"))
        return output


@functools.cache
def _library() -> ctypes.CDLL:
    lib = ctypes.CDLL(LIBRARY)
    lib.nft_ctx_new.restype = ctypes.c_void_p
    lib.nft_ctx_get_output_buffer.restype = ctypes.c_char_p
    lib.nft_ctx_get_error_buffer.restype = ctypes.c_char_p
    return lib


class NftProgram:
    """The program ``nft``."""

    def __init__(self, commands: Commands) -> None:
        self._commands = commands

    async def run(self, script: str) -> None:
        """Do all of ``script``, or nothing of it."""
        await self._commands.must("nft", "-f", "-", stdin=script)

    async def listing(self, what: str) -> bytes | None:
        """List something as JSON; None if there is none."""
        output = await self._commands.run("nft", "-j", "list", *what.split())
        if output.status == 0:
            return output.stdout
        error = output.stderr.decode(errors="replace")
        if _MISSING in error:
            return None
        raise ForwardingFailed("nft", error)
