"""The end of a container's process, as the kernel tells it: no engine need live for that."""

import os
from pathlib import Path

import trio


async def ended(pid: int, container_id: str) -> bool:
    """Wait for the end of a container's process; False at once where it cannot be waited for.

    The number that an engine gives means nothing in another namespace, and may be in use again.
    """
    try:
        process = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        if not _is_of(pid, container_id):
            return False
        await trio.lowlevel.wait_readable(process)
        return True
    finally:
        os.close(process)


def _is_of(pid: int, container_id: str) -> bool:
    """Whether a process is in the container's control group, which is named after it."""
    try:
        return container_id in Path(f"/proc/{pid}/cgroup").read_text()
    except OSError:
        return False
