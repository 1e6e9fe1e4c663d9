"""Pieces of a stack's services: nodes of the tree in, parts of ``ServiceSpec`` out. Pure."""

import shlex
from typing import Any

from swarmlet.stack import quantities, values
from swarmlet.stack.load import Node

Json = Any


def sound(fields: dict[str, Node]) -> dict[str, Node]:
    """Fields in which nothing wrong was found."""
    return {key: node for key, node in fields.items() if not node.bad}


def dropped(fields: dict[str, Json]) -> dict[str, Json]:
    """Without what is not set: None, and empty lists and mappings."""
    return {
        key: value for key, value in fields.items() if value is not None and value not in ([], {})
    }


def split(text: str) -> list[str]:
    """Words of a command, as a shell cuts them."""
    try:
        return shlex.split(text)
    except ValueError as exc:
        raise ValueError("a quote is not closed in this command") from exc


def ports_of(node: Node) -> list[Json]:
    """The ports of one item of ``ports:``, in its long or its short form."""
    fields = sound(node.fields)
    if node.fields and "target" not in fields:
        return []
    if fields:
        return values.ports_of_fields({k: v.text for k, v in fields.items()})
    return values.short_port(node.text)


def mount_of(node: Node) -> Json:
    """The mount of one item of ``volumes:``, in its long or its short form."""
    if not node.fields:
        return values.short_mount(node.text)
    fields = sound(node.fields)
    given = {k: v.text.lower() if k == "read_only" else v.text for k, v in fields.items()}
    flat = {k: v for k, v in given.items() if k not in ("bind", "volume", "tmpfs")}
    for section, key, option in (
        ("bind", "propagation", "bind-propagation"),
        ("volume", "nocopy", "volume-nocopy"),
        ("volume", "subpath", "volume-subpath"),
        ("tmpfs", "size", "tmpfs-size"),
    ):
        inner = sound(fields[section].fields) if section in fields else {}
        if key in inner:
            flat[option] = inner[key].text
    if flat.get("type", "volume") == "bind" and flat.get("source", "/").startswith((".", "~")):
        raise ValueError("the source is relative: the nodes cannot know to what")
    return values.mount_of_fields(flat)


def tmpfs(text: str) -> Json:
    """The mount of one item of ``tmpfs:``."""
    target, _, options = text.partition(":")
    fields = {"type": "tmpfs", "target": target}
    for option in filter(None, options.split(",")):
        key, _, value = option.partition("=")
        if key == "size":
            fields["tmpfs-size"] = value
        elif key == "mode":
            fields["tmpfs-mode"] = value
        else:
            raise ValueError(f"a tmpfs has no option {quantities.quoted(option)}")
    return values.mount_of_fields(fields)
