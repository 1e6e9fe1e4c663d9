"""The stock client on a pseudo terminal."""

import os
import pty
import subprocess

from tests.e2e.cluster import Cluster


def exit_status_of_a_shell(cluster: Cluster, host: str, container: str) -> int:
    """Have a shell in a container find out that it has a terminal, and exit with status 5."""
    near, far = pty.openpty()
    socket = cluster.client(host).path
    argv = ["docker", "-H", f"unix://{socket}", "exec", "-it", container, "sh"]
    with subprocess.Popen(argv, stdin=far, stdout=far, stderr=far, close_fds=True) as process:
        os.close(far)
        os.write(near, b"test -t 0 && echo is-a-$((40+2))-terminal; exit 5\n")
        seen = b""
        while b"is-a-42-terminal" not in seen:
            seen += os.read(near, 1024)
        status = process.wait(timeout=30)
    os.close(near)
    return status
