"""Values inside service specs as Docker's users write them: ports, mounts and the like.

Text in, pieces of Docker's ``ServiceSpec`` out. Pure; raises ValueError with words for a user.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from swarmlet.stack.quantities import count, quoted, size

Json = Any

_NAME: Final = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9_-]*[a-zA-Z0-9])?", re.ASCII)
NAME_LIMIT: Final = 63

_CONSTRAINT: Final = re.compile(
    r"\s*(?P<key>[A-Za-z0-9_./-]+)\s*(?P<op>==|!=)\s*(?P<value>\S(?:.*\S)?)\s*", re.ASCII
)
_CONSTRAINT_KEYS: Final = (
    *("node.id", "node.hostname", "node.ip", "node.role", "node.platform.os"),
    "node.platform.arch",
)
_CONSTRAINT_PREFIXES: Final = ("node.labels.", "engine.labels.")

_PORT: Final = re.compile(
    r"(?:(?:(?P<ip>\[[0-9a-fA-F:]+\]|[0-9.]+):)?(?P<published>\d+(?:-\d+)?)?:)?"
    r"(?P<target>\d+(?:-\d+)?)(?:/(?P<protocol>\w+))?",
    re.ASCII,
)
_PROTOCOLS: Final = ("tcp", "udp", "sctp")
PORT_RANGE: Final = 1000
_VOLUME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*", re.ASCII)


def service_name(text: str) -> str:
    """A name that can be a part of a DNS name and of a container's name."""
    if len(text) > NAME_LIMIT or not _NAME.fullmatch(text):
        raise ValueError(
            f"a name of letters, digits, - and _ (at most {NAME_LIMIT}) is wanted,"
            f" not {quoted(text)}"
        )
    return text


def name_in_stack(namespace: str, name: str) -> str:
    """``STACK_SERVICE``: what the service is called in the cluster, as one part of a DNS name."""
    whole = f"{namespace}_{service_name(name)}"
    if len(whole) > NAME_LIMIT:
        raise ValueError(
            f"{quoted(whole)} has {len(whole)} characters; at most {NAME_LIMIT} are allowed"
        )
    return whole


def constraint(text: str) -> str:
    """``node.labels.disk==ssd``, as it was written."""
    found = _CONSTRAINT.fullmatch(text)
    if found is None:
        raise ValueError(f"KEY==VALUE or KEY!=VALUE is wanted, not {quoted(text)}")
    key = found["key"].lower()
    if key not in _CONSTRAINT_KEYS and not (
        key.startswith(_CONSTRAINT_PREFIXES) and not key.endswith(".")
    ):
        raise ValueError(
            f"unknown constraint {quoted(found['key'])}; there are {', '.join(_CONSTRAINT_KEYS)},"
            " node.labels.NAME and engine.labels.NAME"
        )
    return text


def capability(text: str) -> str:
    """``CAP_NET_ADMIN`` of ``net_admin``."""
    name = text.strip().upper()
    if not re.fullmatch(r"[A-Z_]+", name):
        raise ValueError(f"a capability such as NET_ADMIN is wanted, not {quoted(text)}")
    return name if name == "ALL" or name.startswith("CAP_") else f"CAP_{name}"


def extra_host(text: str) -> str:
    """The line of ``/etc/hosts`` for ``name:address`` (or ``name=address``)."""
    name, sep, address = text.partition("=") if "=" in text else text.partition(":")
    address = address.strip().strip("[]")
    if not sep or not name.strip() or not address:
        raise ValueError(f"NAME:ADDRESS is wanted, not {quoted(text)}")
    return f"{address} {name.strip()}"


def ulimit(name: str, soft: str, hard: str) -> Json:
    """One limit of setrlimit(2); ``-1`` is no limit."""
    if not name.isalpha():
        raise ValueError(f"the name of a limit such as nofile is wanted, not {quoted(name)}")
    low, high = (-1 if text.strip() == "-1" else count(text) for text in (soft, hard))
    if high != -1 and (low == -1 or low > high):
        raise ValueError(f"the soft limit {low} is above the hard limit {high}")
    return {"Name": name, "Soft": low, "Hard": high}


# --- ports --------------------------------------------------------------------------------------


def short_port(text: str) -> list[Json]:
    """Docker's ``8080:80/tcp``, or ranges of it: always published on every node (ingress)."""
    found = _PORT.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"PUBLISHED:TARGET such as 8080:80 is wanted, not {quoted(text)}")
    if found["ip"]:
        raise ValueError(
            f"a port cannot name an address: {quoted(text)}; the label "
            f"swarmlet.publish.address={found['ip']} limits all ports of its service to one"
        )
    targets = _ports(found["target"])
    published = _ports(found["published"]) if found["published"] else [0] * len(targets)
    if len(targets) != len(published):
        raise ValueError(f"the two ranges in {quoted(text)} are not equally long")
    protocol = _protocol(found["protocol"] or "tcp")
    return [
        {"Protocol": protocol, "TargetPort": t, "PublishedPort": p, "PublishMode": "ingress"}
        for t, p in zip(targets, published, strict=True)
    ]


def port_of_fields(fields: Mapping[str, str]) -> Json:
    """The long form: ``target``, ``published``, ``protocol``, ``mode``, ``name``."""
    known = {"target", "published", "protocol", "mode", "name", "app_protocol"}
    if extra := sorted(set(fields) - known):
        raise ValueError(f"a port has no {extra[0]}; it has {', '.join(sorted(known))}")
    if "target" not in fields:
        raise ValueError("the target port is missing")
    mode = fields.get("mode") or "ingress"
    if mode not in ("host", "ingress"):
        raise ValueError(f"mode host or ingress is wanted, not {quoted(mode)}")
    port: dict[str, Json] = {
        "Protocol": _protocol(fields.get("protocol") or "tcp"),
        "TargetPort": _port(fields["target"]),
        "PublishMode": mode,
    }
    if fields.get("published"):
        port["PublishedPort"] = _port(fields["published"])
    if fields.get("name"):
        port["Name"] = fields["name"]
    return port


def ports_of_fields(fields: Mapping[str, str]) -> list[Json]:
    """The long form, where ``published`` and ``target`` may be equally long ranges."""
    target, published = fields.get("target", ""), fields.get("published", "")
    if "-" not in target + published:
        return [port_of_fields(fields)]
    targets = _ports(target)
    numbers = _ports(published) if published else []
    if numbers and len(numbers) != len(targets):
        raise ValueError(
            f"the ranges {quoted(published)} and {quoted(target)} are not equally long"
        )
    ports = [port_of_fields({**fields, "target": str(t), "published": ""}) for t in targets]
    for port, number in zip(ports, numbers, strict=False):
        port["PublishedPort"] = number
    return ports


def _protocol(text: str) -> str:
    if text.lower() not in _PROTOCOLS:
        raise ValueError(f"tcp, udp or sctp is wanted, not {quoted(text)}")
    return text.lower()


def _port(text: str) -> int:
    number = count(text)
    if not 1 <= number <= 65535:
        raise ValueError(f"a port between 1 and 65535 is wanted, not {text}")
    return number


def _ports(text: str) -> list[int]:
    low, _, high = text.partition("-")
    first, last = _port(low), _port(high or low)
    if last < first or last - first > PORT_RANGE:
        raise ValueError(f"not a range of ports: {quoted(text)}")
    return list(range(first, last + 1))


# --- mounts -------------------------------------------------------------------------------------

_TRUE: Final = ("true", "1", "")
#: Fields of the command line's ``--mount`` and where they go.
_ALIASES: Final = {
    "src": "source",
    "dst": "target",
    "destination": "target",
    "ro": "readonly",
    "read_only": "readonly",
}


def mount_of_fields(given: Mapping[str, str]) -> Json:
    """A mount of ``type``, ``source``, ``target``, ``readonly`` and the options of its type."""
    fields = {_ALIASES.get(key, key): value for key, value in given.items()}
    kind = fields.pop("type", "volume")
    target, source = fields.pop("target", ""), fields.pop("source", "")
    if kind not in ("bind", "volume", "tmpfs"):
        raise ValueError(f"type bind, volume or tmpfs is wanted, not {quoted(kind)}")
    if not target.startswith("/"):
        raise ValueError(f"the target of a mount is an absolute path, not {quoted(target)}")
    mount: dict[str, Json] = {"Type": kind, "Target": target}
    if source:
        mount["Source"] = _source(kind, source)
    elif kind == "bind":
        raise ValueError("a bind mount needs a source")
    if fields.pop("readonly", "false").lower() in _TRUE:
        mount["ReadOnly"] = True
    for key, value in fields.items():
        _mount_option(mount, kind, key, value)
    return mount


def _source(kind: str, source: str) -> str:
    if kind == "bind" and not source.startswith("/"):
        raise ValueError(f"the source of a bind mount is an absolute path, not {quoted(source)}")
    if kind == "volume" and not _VOLUME.fullmatch(source) and "{{" not in source:
        raise ValueError(f"the name of a volume is wanted, not {quoted(source)}")
    if kind == "tmpfs":
        raise ValueError("a tmpfs has no source")
    return source


def _mount_option(mount: dict[str, Json], kind: str, key: str, value: str) -> None:
    options: dict[str, Json] = mount.setdefault(f"{kind.capitalize()}Options", {})
    driver = "DriverConfig"
    name, _, rest = value.partition("=")
    match key if key.startswith(kind) else "":
        case "bind-propagation":
            options["Propagation"] = value
        case "bind-nonrecursive":
            options["NonRecursive"] = value.lower() in _TRUE
        case "volume-nocopy":
            options["NoCopy"] = value.lower() in _TRUE
        case "volume-driver":
            options.setdefault(driver, {})["Name"] = value
        case "volume-subpath":
            options["Subpath"] = value
        case "volume-opt":
            options.setdefault(driver, {}).setdefault("Options", {})[name] = rest
        case "volume-label":
            options.setdefault("Labels", {})[name] = rest
        case "tmpfs-size":
            options["SizeBytes"] = size(value)
        case "tmpfs-mode":
            options["Mode"] = _octal(value)
        case _:
            raise ValueError(f"a {kind} mount has no {quoted(key)}")


def _octal(text: str) -> int:
    if not re.fullmatch(r"[0-7]{1,5}", text):
        raise ValueError(f"permission bits such as 1777 are wanted, not {quoted(text)}")
    return int(text, 8)


def short_mount(text: str) -> Json:
    """Docker's ``[SOURCE:]TARGET[:ro]``: a path is a bind mount, a name a volume."""
    parts = text.split(":")
    if len(parts) > 3 or not all(parts):
        raise ValueError(f"SOURCE:TARGET[:ro] is wanted, not {quoted(text)}")
    if len(parts) == 1:
        return mount_of_fields({"type": "volume", "target": parts[0]})
    source, target, *options = parts
    if source.startswith((".", "~")):
        raise ValueError(
            f"{quoted(source)} is relative: the nodes cannot know to what; write the full path"
        )
    fields = {"type": "bind" if source.startswith("/") else "volume"}
    fields |= {"source": source, "target": target}
    for option in options[0].split(",") if options else ():
        match option:
            case "ro":
                fields["readonly"] = "true"
            case "rw" | "z" | "Z":
                pass
            case "nocopy":
                fields["volume-nocopy"] = "true"
            case _ if option in ("shared", "slave", "private", "rshared", "rslave", "rprivate"):
                fields["bind-propagation"] = option
            case _:
                raise ValueError(f"a mount has no option {quoted(option)}")
    return mount_of_fields(fields)
