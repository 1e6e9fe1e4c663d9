"""The networks of a stack: which it makes, which exist before it, and who is in which. Pure."""

from functools import partial
from typing import Any, Final, NamedTuple

from swarmlet.stack import values
from swarmlet.stack.load import Node
from swarmlet.stack.pieces import dropped, sound
from swarmlet.stack.problems import Mark
from swarmlet.stack.reading import NAMESPACE_LABEL, Reading

Json = Any

#: The network of services that name none.
DEFAULT: Final = "default"


class StackNetwork(NamedTuple):
    """A network that a stack's services join: its name in the cluster, and how to make it.

    ``body`` is what ``POST /networks/create`` takes; None for one that must exist already.
    """

    name: str
    body: Json | None


class Networks:
    """Reads the networks of one stack. ``used`` holds those that a service is in."""

    def __init__(self, reading: Reading, namespace: str) -> None:
        self._reading = reading
        self._namespace = namespace
        self._section = reading.section("networks")
        self._declared = self._section.fields
        self._read: dict[str, StackNetwork] = {}
        self.used: dict[str, StackNetwork] = {}

    def attachments(self, service: str, node: Node | None, path: str) -> list[Json]:
        """What a service's template says of its networks; its short name is an alias in each."""
        if node is not None and node.bad:
            return []
        found = []
        for name, mark, aliases in _joined(node) or [(DEFAULT, self._reading.root.mark, [])]:
            if name not in self._declared and name != DEFAULT:
                message = f'the network "{name}" is not declared below networks:'
                self._reading.report(mark, path, message)
                continue
            network = self._network(name)
            self.used[network.name] = network
            found.append({"Target": network.name, "Aliases": [*aliases, service]})
        return found

    def check(self) -> None:
        """Read all that are declared, so that what is wrong with an unused one is found too."""
        for name, node in self._declared.items():
            if not node.bad:
                self._network(name)

    def _network(self, name: str) -> StackNetwork:
        if name not in self._read:
            node = self._declared.get(name)
            self._read[name] = self._of(name, sound(node.fields) if node is not None else {})
        return self._read[name]

    def _of(self, name: str, fields: dict[str, Node]) -> StackNetwork:
        external = fields.get("external")
        if external is not None and external.value is not False:
            other = external.fields.get("name") or fields.get("name")
            return StackNetwork(other.text if other else name, None)
        path = f"networks.{name}"
        given = fields.get("name")
        whole = given.text if given else f"{self._namespace}_{name}"
        mark = given.mark if given else self._section.keys.get(name, self._section.mark)
        self._reading.at(mark, path, partial(values.service_name, whole))
        driver = fields.get("driver")
        if driver is not None and driver.text not in ("overlay", ""):
            message = f"services join overlay networks, not {driver.text} ones"
            self._reading.report(driver.mark, f"{path}.driver", message)
        labels = self._reading.pairs(fields, "labels", f"{path}.labels")
        body = {
            "Name": whole,
            "Driver": "overlay",
            "CheckDuplicate": True,
            "Labels": labels | {NAMESPACE_LABEL: self._namespace},
            "Options": {k: v.text for k, v in _sub(fields, "driver_opts").items()},
            "Internal": _flag(fields, "internal"),
            "Attachable": _flag(fields, "attachable"),
            "IPAM": self._ipam(_sub(fields, "ipam")),
        }
        return StackNetwork(whole, dropped(body))

    def _ipam(self, fields: dict[str, Node]) -> Json:
        config = fields.get("config")
        ranges = []
        for one in config.items if config is not None else ():
            part = sound(one.fields)
            texts = {
                name: part[key].text
                for key, name in (
                    ("subnet", "Subnet"),
                    ("ip_range", "IPRange"),
                    ("gateway", "Gateway"),
                )
                if key in part
            }
            aux = {k: v.text for k, v in _sub(part, "aux_addresses").items()}
            ranges.append(dropped({**texts, "AuxiliaryAddresses": aux}))
        driver = fields["driver"].text if "driver" in fields else None
        return dropped({"Driver": driver, "Config": ranges})


def _joined(node: Node | None) -> list[tuple[str, Mark, list[str]]]:
    """The networks that a service names, in a list or in a mapping, with aliases."""
    if node is None:
        return []
    if not node.fields:
        return [(one.text, one.mark, []) for one in node.items if not one.bad]
    found = []
    for name, one in sound(node.fields).items():
        aliases = sound(one.fields).get("aliases")
        texts = [alias.text for alias in aliases.items] if aliases is not None else []
        found.append((name, node.keys.get(name, one.mark), texts))
    return found


def _sub(fields: dict[str, Node], key: str) -> dict[str, Node]:
    return sound(fields[key].fields) if key in fields else {}


def _flag(fields: dict[str, Node], key: str) -> bool | None:
    return True if key in fields and fields[key].value is True else None
