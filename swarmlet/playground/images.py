"""An image without a registry: the machine's static busybox, as ``docker save`` would write it.

Written by hand rather than imported, so that every engine gives it the same id and digest.
"""

import hashlib
import io
import json
import struct
import subprocess
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

BUSYBOX: Final = Path("/bin/busybox")
TAGS: Final = ("busybox:lab", "busybox:latest")

_FILES: Final = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/nsswitch.conf": "hosts: files dns\n",
}
_FOLDERS: Final = {"bin": 0o755, "etc": 0o755, "root": 0o700, "tmp": 0o1777, "var": 0o755}
_FOLDERS_BELOW: Final = {"var/www": 0o755, "usr": 0o755, "usr/bin": 0o755, "run": 0o755}


def build_busybox(target: Path) -> bool:
    """Write the archive, unless it is there; False when this machine has no static busybox."""
    if not BUSYBOX.exists() or not _is_static(BUSYBOX):
        return False
    if not target.exists():
        applets = subprocess.run(
            [BUSYBOX, "--list"], check=True, capture_output=True, text=True
        ).stdout.split()
        draft = target.with_suffix(".new")
        draft.write_bytes(archive(_layer(BUSYBOX.read_bytes(), applets), TAGS))
        draft.replace(target)
    return True


def archive(layer: bytes, tags: Iterable[str]) -> bytes:
    """Return a ``docker save`` archive with one layer. Equal input gives equal bytes."""
    config = {
        "architecture": _architecture(),
        "os": "linux",
        "created": "2024-01-01T00:00:00Z",
        "config": {"Cmd": ["sh"], "Env": ["PATH=/bin:/usr/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{_sha256(layer)}"]},
        "history": [{"created": "2024-01-01T00:00:00Z", "created_by": "swarmlet playground"}],
    }
    body = json.dumps(config, sort_keys=True).encode()
    name = f"{_sha256(body)}.json"
    manifest = [{"Config": name, "RepoTags": list(tags), "Layers": ["layer.tar"]}]
    return _tar({name: body, "layer.tar": layer, "manifest.json": json.dumps(manifest).encode()})


def _layer(busybox: bytes, applets: Iterable[str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, mode in (_FOLDERS | _FOLDERS_BELOW).items():
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, mode
            tar.addfile(folder)
        _add(tar, "bin/busybox", busybox, mode=0o755)
        for applet in sorted(set(applets) - {"busybox"}):
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname, link.mode = tarfile.SYMTYPE, "busybox", 0o777
            tar.addfile(link)
        for name, text in _FILES.items():
            _add(tar, name, text.encode(), mode=0o644)
    return buffer.getvalue()


def _tar(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            _add(tar, name, data, mode=0o644)
    return buffer.getvalue()


def _add(tar: tarfile.TarFile, name: str, data: bytes, *, mode: int) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), mode
    tar.addfile(info, io.BytesIO(data))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _is_static(program: Path) -> bool:
    """Say whether a 64-bit ELF file asks for no dynamic loader (segment type PT_INTERP = 3)."""
    data = program.read_bytes()
    (first,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    kinds = [struct.unpack_from("<I", data, first + i * size)[0] for i in range(count)]
    return 3 not in kinds


def _architecture() -> str:
    import platform  # noqa: PLC0415 - slow to import, needed once

    machine = platform.machine()
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


__all__ = ["BUSYBOX", "TAGS", "archive", "build_busybox"]
