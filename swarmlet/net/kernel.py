"""Links, routes and settings of this host: look at them, and change them.

By the programs ip, bridge and iptables (one ``-batch`` each), and by files below /proc/sys.
"""

import contextlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import trio
from msgspec.structs import replace

from swarmlet.errors import ForwardingFailed
from swarmlet.model.forwarding import Tables
from swarmlet.net.commands import Commands
from swarmlet.net.facts import DEFAULT_MTU, HostFacts, Port
from swarmlet.net.links import Changes, Links, Vxlan
from swarmlet.net.namespaces import UNKNOWN
from swarmlet.net.numbers import (
    ACCEPT_CHAINS,
    ACCEPTED,
    BRIDGE_PREFIX,
    ENGINE_CHAIN,
    LANE_DEVICES,
    OUR_DEVICES,
    PROTOCOL,
)
from swarmlet.net.routing import host_sysctls
from swarmlet.net.watch import Indexes
from swarmlet.net.wireguard import WireGuard

_SYSCTLS: Final = Path("/proc/sys")
_BRIDGE_NF: Final = "net/bridge/bridge-nf-call-iptables"
_FORWARD: Final = "net/ipv4/ip_forward"

#: The settings of the host as they were before us, in the directory that the caller gives.
REMEMBERED: Final = "host-settings.json"

_ACCEPT: Final = f"-m connmark --mark {ACCEPTED:#x}/{ACCEPTED:#x} -j ACCEPT"

#: What one ``ip -batch`` asks for. Without filters that can fail: each line must give one answer.
_QUESTIONS: Final = (
    f"address show\nroute show table all proto {PROTOCOL}\nrule show\nneigh show nud permanent\n"
)


class Look(msgspec.Struct, frozen=True):
    """The host as it is: what a plan depends on, and what a plan asks for."""

    facts: HostFacts
    links: Links
    #: Our bridges that exist.
    bridges: frozenset[str]
    indexes: Indexes


#: How ip says that what it shall change is not there (ESRCH, ENOENT, ENODEV, and its own words).
_ABSENCE: Final = (
    "No such process",
    "No such file or directory",
    "No such device",
    "FIB table does not exist",
    "Cannot find device",
)


class Kernel:
    """The links of this host. ``directory`` keeps what must be put back one day."""

    def __init__(self, commands: Commands, directory: Path) -> None:
        self._commands = commands
        self.wireguard = WireGuard(commands)
        self._remembered = directory / REMEMBERED

    async def look(self, tables: Tables, sysctls: "dict[str, str] | None" = None) -> Look:
        """Read everything that plans are about; of the settings those in ``sysctls``."""
        answers = await self._commands.must("ip", "-j", "-d", "-batch", "-", stdin=_QUESTIONS)
        fdb = await self._commands.must("bridge", "-j", "fdb", "show")
        accept, chain = await self._iptables()
        try:
            documents = _documents(answers + fdb)
            devices = documents[0]
            tunnels = await self.wireguard.look(
                d for d in devices if d.get("ifname") in LANE_DEVICES
            )
            look = _look(tables, documents, accept, chain, sysctls or {})
            return replace(look, links=replace(look.links, tunnels=tunnels))
        except (ValueError, KeyError, TypeError) as exc:
            raise ForwardingFailed("ip", f"it says what we do not understand: {exc!r}") from exc

    async def ports(self) -> dict[str, Port]:
        """The ports of our bridges as they are now."""
        answer = await self._commands.must("ip", "-j", "-d", "link", "show")
        try:
            return _ports(json.loads(answer))
        except (ValueError, KeyError, TypeError) as exc:
            raise ForwardingFailed("ip", f"it says what we do not understand: {exc!r}") from exc

    async def seat(self, ports: Mapping[str, Port]) -> None:
        """Send to the owners of these ports what is theirs, whatever was believed before.

        It stays so as long as nobody else may speak in their names.
        """
        owners = [(name, port.bridge, port.owner) for name, port in ports.items() if port.owner]
        failures = [
            *await self._batch(
                "ip",
                [
                    f"neigh replace {o.address} lladdr {o.mac} dev {b} nud stale"
                    for _, b, o in owners
                ],
            ),
            *await self._batch(
                # For good: what is for somebody whom the bridge forgot goes to all ports.
                "bridge",
                [f"fdb replace {o.mac} dev {n} master static" for n, _, o in owners],
            ),
        ]
        _raise(_besides_absence(failures))

    async def make_tunnels(self, changes: Changes, private: Mapping[str, str]) -> None:
        """Do what comes first of all. ``private`` keys are by public ones. Raises TunnelFailed."""
        for change in changes.tunnels:
            key = change.wanted.key if change.wanted else ""
            await self.wireguard.change(change, private.get(key, ""))

    async def apply(self, changes: Changes) -> None:
        """Do what comes before the rules. All of it is tried, whatever of it fails."""
        failures = [
            *await self._batch("ip", changes.ip),
            *await self._batch("bridge", changes.bridge),
            *self.write(changes.sysctls),
        ]
        for chain in changes.accept:
            failures += await self._accept(f"-I {chain} {_ACCEPT}")
        _raise(failures)

    async def finish(self, changes: Changes) -> None:
        """Do what comes after the rules: nothing leads to it any more."""
        failures = _besides_absence(await self._batch("ip", changes.removals))
        for change in changes.gone_tunnels:
            await self.wireguard.remove(change.name)
        for chain in changes.no_accept:
            failures += await self._accept(f"-D {chain} {_ACCEPT}")
        _raise(failures)

    def settings(self, keys: Iterable[str]) -> dict[str, str]:
        """These settings as they are now; devices that are not there have none."""
        return _settings(keys)

    def write(self, sysctls: dict[str, str]) -> list[str]:
        """Change settings, remembering those of the whole host; return what failed.

        Devices that are not there (yet) have none.
        """
        self._remember([key for key in sysctls if key in host_sysctls()])
        failures: list[str] = []
        for key, value in sysctls.items():
            try:
                (_SYSCTLS / key).write_text(value)
            except FileNotFoundError:
                continue
            except OSError as exc:
                failures.append(f"{key}: {exc.strerror}")
        return failures

    async def restore(self) -> None:
        """Put the host's settings back as they were before us.

        Forwarding too: an engine that runs sets it itself, unless it was told to leave it alone.
        """
        await trio.lowlevel.checkpoint()
        failures: list[str] = []
        # Forwarding first: with it the kernel changes the settings that go along with it.
        for key, value in sorted(self._memory().items(), key=lambda item: item[0] != _FORWARD):
            if _settings({key: ""}).get(key) == value:
                continue
            try:
                (_SYSCTLS / key).write_text(value)
            except FileNotFoundError:
                continue
            except OSError as exc:
                failures.append(f"{key}: {exc.strerror}")
        _raise(failures)
        self._remembered.unlink(missing_ok=True)

    async def _iptables(self) -> tuple[frozenset[str], str]:
        """The chains that hold our rule, and the one that should."""
        holding: set[str] = set()
        chain = ""
        for name in reversed(ACCEPT_CHAINS):
            try:
                output = await self._commands.run("iptables", "-w", "-S", name)
            except ForwardingFailed:
                return frozenset(), ""  # no iptables here, so no rules of it either
            text = output.stdout.decode(errors="replace")
            if f"-A {name} {_ACCEPT}" in text:
                holding.add(name)
            if output.status == 0 and (name == ENGINE_CHAIN or f"-P {name} DROP" in text):
                chain = name
        return frozenset(holding), chain

    async def _accept(self, words: str) -> list[str]:
        output = await self._commands.run("iptables", "-w", *words.split())
        return [f"iptables {words}: {output.stderr.decode()}"] if output.status else []

    async def _batch(self, program: str, lines: list[str]) -> list[str]:
        if not lines:
            return []
        # -force: go on after a line that fails; what is right need not wait for what is not.
        words = (program, "-force", "-batch", "-")
        output = await self._commands.run(*words, stdin="\n".join(lines) + "\n")
        return [f"{program}: {output.stderr.decode(errors='replace')}"] if output.status else []

    def _remember(self, keys: list[str]) -> None:
        memory = self._memory()
        if _FORWARD in keys and _FORWARD not in memory:
            keys = [*keys, *_along()]
        new = _settings(dict.fromkeys(keys, ""))
        if new.keys() <= memory.keys():
            return
        self._remembered.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._remembered.with_suffix(".new")
        fresh.write_text(json.dumps(new | memory))
        fresh.replace(self._remembered)

    def _memory(self) -> dict[str, str]:
        try:
            return msgspec.json.decode(self._remembered.read_bytes(), type=dict[str, str])
        except (FileNotFoundError, msgspec.MsgspecError):
            return {}


def _besides_absence(failures: list[str]) -> list[str]:
    """What failed for another reason than that it is not there: somebody else removed it."""
    return [
        text
        for text in failures
        if not all(
            line.startswith("Command failed") or _is_absence(line) for line in text.splitlines()
        )
    ]


def _is_absence(line: str) -> bool:
    return any(word in line for word in _ABSENCE)


def _along() -> list[str]:
    """The settings that the kernel changes when forwarding is switched (inet_forward_change)."""
    conf = _SYSCTLS / "net/ipv4/conf"
    return [
        "net/ipv4/conf/all/accept_redirects",
        *(f"net/ipv4/conf/{device.name}/forwarding" for device in sorted(conf.iterdir())),
    ]


def _raise(failures: list[str]) -> None:
    if failures:
        raise ForwardingFailed("forwarding", "; ".join(failures))


def _look(
    tables: Tables,
    documents: list[list[dict[str, Any]]],
    accept: frozenset[str],
    chain: str,
    sysctls: dict[str, str],
) -> Look:
    devices, routes, rules, neighbours, fdb = documents
    ours = {d["ifname"]: d for d in devices if d.get("ifname") in OUR_DEVICES}
    return Look(
        _facts(tables, devices, accept_chain=chain),
        Links(
            devices={
                name: _vxlan(device) for name, device in ours.items() if name not in LANE_DEVICES
            },
            addresses=frozenset(
                f"{address['local']}/{address['prefixlen']} dev {name}"
                for name, device in ours.items()
                for address in _addresses(device)
            ),
            fdb={
                f"{entry['mac']} dev {entry['ifname']}": entry["dst"]
                for entry in fdb
                if entry.get("ifname") in ours and "dst" in entry
            },
            neighbours={
                f"{entry['dst']} dev {entry['dev']}": entry.get("lladdr", "")
                for entry in neighbours
                if entry.get("dev") in ours and ":" not in entry["dst"]
            },
            rules=dict(map(_rule, filter(_is_ours, rules))),
            routes=dict(map(_route, routes)),
            sysctls=_settings(sysctls),
            accept=accept,
            hairpin=frozenset(
                d["ifname"]
                for d in devices
                if d.get("linkinfo", {}).get("info_slave_data", {}).get("hairpin")
                and d.get("master", "").startswith(BRIDGE_PREFIX)
            ),
        ),
        _bridges(devices),
        Indexes(
            frozenset(d["ifindex"] for d in ours.values()),
            frozenset(d["ifindex"] for d in devices if d["ifname"] in _bridges(devices)),
            bearer["ifindex"] if (bearer := _bearer(tables, devices)) else 0,
        ),
    )


def _documents(answers: bytes) -> list[list[dict[str, Any]]]:
    """The answers to our questions: several JSON texts, one after the other."""
    text, decoder, found, at = answers.decode(errors="replace"), json.JSONDecoder(), [], 0
    while at < len(text):
        document, at = decoder.raw_decode(text, at)
        found.append(document)
        while at < len(text) and text[at].isspace():
            at += 1
    return found


def _facts(tables: Tables, devices: list[dict[str, Any]], *, accept_chain: str) -> HostFacts:
    bearer, ours = _bearer(tables, devices), _bridges(devices)
    # Loopback may hold a node's address; that says nothing of where packets go.
    underlay = bearer if bearer and bearer["ifname"] != "lo" else None
    return HostFacts(
        has_address=bearer is not None,
        underlay=underlay["ifname"] if underlay and '"' not in underlay["ifname"] else "",
        underlay_mtu=min(underlay["mtu"], 9000) if underlay else DEFAULT_MTU,
        bridge_nf=_settings({_BRIDGE_NF: ""}).get(_BRIDGE_NF) == "1",
        accept_chain=accept_chain,
        ports=_ports(devices),
        gateways=frozenset(d["address"] for d in devices if d["ifname"] in ours),
    )


def _bearer(tables: Tables, devices: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The device that bears the address by which peers know this node."""
    own = next((p.addr for p in tables.peers.values() if p.number == tables.me), "")
    return next((d for d in devices if any(a["local"] == own for a in _addresses(d))), None)


def _ports(devices: list[dict[str, Any]]) -> dict[str, Port]:
    ours = _bridges(devices)
    return {
        d["ifname"]: Port(d["master"], d["ifindex"], d.get("link_netnsid", UNKNOWN))
        for d in devices
        if d.get("master") in ours
    }


def _bridges(devices: list[dict[str, Any]]) -> frozenset[str]:
    return frozenset(
        d["ifname"]
        for d in devices
        if d.get("ifname", "").startswith(BRIDGE_PREFIX)
        and d.get("linkinfo", {}).get("info_kind") == "bridge"
    )


def _addresses(device: dict[str, Any]) -> list[dict[str, Any]]:
    return [a for a in device.get("addr_info", []) if a.get("family") == "inet"]


def _vxlan(device: dict[str, Any]) -> Vxlan:
    data = device.get("linkinfo", {}).get("info_data", {})
    return Vxlan(
        vni=data.get("id", 0),
        port=data.get("port", 0),
        local=data.get("local", ""),
        mac=device.get("address", ""),
        mtu=device.get("mtu", 0),
        up="UP" in device.get("flags", ()),
    )


def _is_ours(rule: dict[str, Any]) -> bool:
    return rule.get("protocol") == str(PROTOCOL)


def _rule(rule: dict[str, Any]) -> tuple[str, str]:
    if "nop" in rule:
        return str(rule["priority"]), "nop"
    to = f"goto {rule['goto']}" if "goto" in rule else f"lookup {rule.get('table', '')}"
    to = rule.get("action", to)
    return f"{rule['priority']} fwmark {rule.get('fwmark', 0)}/{rule.get('fwmask', 0)}", to


def _route(route: dict[str, Any]) -> tuple[str, str]:
    dst, table = route["dst"], route.get("table", "main")
    key = dst if dst == "default" or "/" in dst else f"{dst}/32"
    if table != "main":
        key += f" table {table}"
    if route.get("type", "unicast") != "unicast":
        return f"{route['type']} {key}", ""
    words = [f"via {route['gateway']}"] if "gateway" in route else []
    words.append(f"dev {route.get('dev', '')}")
    words += ["onlink"] if "onlink" in route.get("flags", ()) else []
    words += [f"src {route['prefsrc']}"] if "prefsrc" in route else []
    return key, " ".join(words)


def _settings(keys: Iterable[str]) -> dict[str, str]:
    """Those that exist, of these."""
    found: dict[str, str] = {}
    for key in keys:
        with contextlib.suppress(OSError):
            found[key] = (_SYSCTLS / key).read_text().strip()
    return found
