"""Where every ``swarmlet`` begins: nobody's ^C ends in a traceback, however early it comes.

Loading takes most of a short command's time, and :func:`swarmlet.cli.main.run` can only catch what
comes after it. So this module is all that is loaded before there is a handler.
"""

import os
import signal
import sys
from types import FrameType

#: 128 and the signal's number, as shells have it.
INTERRUPTED = 130


def main() -> None:
    """Console entry point. Ends the process with the exit status of the command."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # nohup, or a shell's &
        _load_and_run()
        return
    signal.signal(signal.SIGINT, _leave)
    try:
        _load_and_run()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is done; the rest is the interpreter's


def _load_and_run() -> None:
    from swarmlet.cli.main import main as run  # noqa: PLC0415 - the handler comes first

    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


def _leave(_signal: int, _frame: FrameType | None) -> None:
    """Nothing was begun yet that would have to be ended."""
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    main()
