"""Spelling of field names: Python's here, Docker's on the wire."""

from typing import Final

#: Words that Docker's API spells in its own way.
_WORDS: Final = {
    "ca": "CA",
    "cas": "CAs",
    "cpus": "CPUs",
    "dns": "DNS",
    "gid": "GID",
    "id": "ID",
    "ip": "IP",
    "ips": "IPs",
    "os": "OS",
    "pid": "PID",
    "selinux": "SELinux",
    "tls": "TLS",
    "tty": "TTY",
    "uid": "UID",
    "url": "URL",
}


def docker_name(field: str) -> str:
    """Docker's spelling of a field: ``nano_cpus`` is ``NanoCPUs``, ``service_id`` ``ServiceID``."""
    return "".join(_WORDS.get(word, word.capitalize()) for word in field.strip("_").split("_"))
