"""An image of programs of this machine: a web server and a load generator, for measuring networks.

Their files and the libraries that ldd names, on top of the machine's static busybox.
"""

import io
import re
import subprocess
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from swarmlet.errors import FailedPrecondition
from swarmlet.playground import images

NAME: Final = "swarmlet-bench:net"

PROGRAMS: Final = ("nginx", "wrk")

_CONFIG: Final = """
daemon off; worker_processes 1; error_log /dev/null; pid /tmp/nginx.pid;
events { worker_connections 4096; }
http { access_log off; keepalive_requests 1000000;
  client_body_temp_path /tmp/b; proxy_temp_path /tmp/p; fastcgi_temp_path /tmp/f;
  uwsgi_temp_path /tmp/u; scgi_temp_path /tmp/s;
  server { listen 80; location / { return 200 "hello\\n"; } } }
"""


def build(target: Path, programs: Iterable[str] = PROGRAMS) -> None:
    """Write the archive. Raises FailedPrecondition when a program is not installed."""
    files = {Path("/bin/busybox")}
    for program in programs:
        files |= _with_libraries(program)
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        for path in sorted(files):
            tar.add(path.resolve(), arcname=str(path).lstrip("/"))
        link = tarfile.TarInfo("bin/sh")
        link.type, link.linkname, link.mode = tarfile.SYMTYPE, "busybox", 0o777
        tar.addfile(link)
        for folder in ("tmp", "var/log/nginx", "var/lib/nginx"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777
            tar.addfile(entry)
        for name, text in (
            ("etc/nginx.conf", _CONFIG),
            ("etc/passwd", "root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n"),
            ("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
        ):
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
    target.write_bytes(images.archive(layer.getvalue(), [NAME]))


def _with_libraries(program: str) -> set[Path]:
    where = next(
        (p for d in ("/usr/sbin", "/usr/bin", "/sbin", "/bin") if (p := Path(d, program)).exists()),
        None,
    )
    if where is None:
        raise FailedPrecondition(
            f"{program} is not installed, and the measurement of networks needs it",
            advice="apt-get install nginx-light wrk haproxy",
        )
    listed = subprocess.run(["ldd", where], check=True, capture_output=True, text=True).stdout
    return {where, *(Path(found) for found in re.findall(r"(/\S+) \(0x", listed))}
