"""From what nodes found to what is wrong and what to do about it: pure."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

Json = Any

OK: Final = "ok"
PROBLEM: Final = "problem"
REPAIRED: Final = "repaired"

#: Seconds by which clocks may differ: certificates and logs stand that, and time servers do better.
CLOCK: Final = 1.0

FORWARDING: Final = "forwarding"
NAMES: Final = "names"
FIREWALL: Final = "firewall"
ENGINE: Final = "engine"
CLOCKS: Final = "clock"
CONTROL: Final = "control port"
VXLAN: Final = "vxlan"
ENCRYPTED: Final = "encrypted networks"

_LOG: Final = "journalctl -u swarmletd on {} says why"
_FIX: Final = "swarmlet network doctor --fix"


class Finding(NamedTuple):
    """A check of a node or of a pair: ``detail`` is what was found, ``fix`` the way out."""

    where: str
    check: str
    result: str = OK
    detail: str = ""
    fix: str = ""


class Node(NamedTuple):
    """A node of the cluster. ``addr`` is its address; ``up``: managers do not call it down.

    One that was not ``asked`` is judged only by what others say of it.
    """

    id: str
    name: str
    addr: str = ""
    up: bool = True
    asked: bool = True


class Silent(NamedTuple):
    """Why a node could not be asked, and the way out."""

    message: str
    fix: str


#: Who looked, at whom, what it found in all, and of the other.
View = tuple[Node, Node, Json, Json]


def judge(
    nodes: Sequence[Node],
    reports: Mapping[str, Json],
    silent: Mapping[str, Silent],
    *,
    fixed: bool = False,
) -> list[Finding]:
    """Everything that was checked, nodes first. ``fixed``: a repair was asked for already."""
    ordered = sorted(nodes, key=lambda n: (n.name, n.id))
    found: list[Finding] = []
    for node in filter(lambda n: n.asked, ordered):
        report = reports.get(node.id)
        if not node.up:
            fix = f"start swarmletd on it, or forget it: swarmlet node rm {node.name}"
            found.append(Finding(node.name, CONTROL, PROBLEM, "the node is down", fix))
        elif report is None:
            why = silent.get(node.id, Silent("it was not asked", ""))
            found.append(Finding(node.name, CONTROL, PROBLEM, why.message, why.fix))
        else:
            found += _of_node(node, report, fixed=fixed)
    if len(reports) > 1:
        offsets = {n: float(reports[n.id]["ClockOffset"]) for n in ordered if n.id in reports}
        found += _clocks(offsets)
    for index, one in enumerate(ordered):
        for other in ordered[index + 1 :]:
            if one.up and other.up:
                found += _of_pair(one, other, reports)
    return found


def count(findings: Sequence[Finding]) -> str:
    """How many problems there are, in words."""
    number = sum(1 for one in findings if one.result == PROBLEM)
    return f"{number} problem{'' if number == 1 else 's'}"


def _of_node(node: Node, report: Json, *, fixed: bool) -> Iterator[Finding]:
    log = _LOG.format(node.name)
    for text in report["Repaired"]:
        yield Finding(node.name, FORWARDING, REPAIRED, str(text))
    fix = log if fixed else _FIX
    for text in report["Differences"]:
        yield Finding(node.name, FORWARDING, PROBLEM, str(text), fix)
    for text in report["Unmade"]:
        way = "remove the one that has these addresses, or give the cluster's network others"
        detail = str(text)
        yield Finding(
            node.name, FORWARDING, PROBLEM, detail, f"on {node.name}, docker network ls: {way}"
        )
    if more := int(report["MoreDifferences"]):
        yield Finding(node.name, FORWARDING, PROBLEM, f"{more} more differences", fix)
    for text in filter(None, [report["Failure"], *report["Problems"]]):
        yield Finding(node.name, FORWARDING, PROBLEM, str(text), log)
    if not (report["Failure"] or report["Differences"] or report["Repaired"]):
        yield Finding(node.name, FORWARDING, detail="the kernel is as planned")
    for one in report["Refusals"]:
        what, opener = _opened(one["Traffic"], str(one["Chain"]), report)
        detail = f"{one['Chain']} refuses {what}"
        yield Finding(node.name, FIREWALL, PROBLEM, detail, opener)
    if ails := str(report["Engine"]):
        # It knows no other way to make them.
        way = f"systemctl restart docker on {node.name}; with live-restore its containers go on"
        yield Finding(node.name, ENGINE, PROBLEM, ails, way)
    if report["Resolver"]:
        yield Finding(node.name, NAMES, PROBLEM, str(report["Resolver"]), fix)
    else:
        yield Finding(node.name, NAMES)


#: What passes by devices of ours: in words, and the devices.
_DEVICES: Final = {
    "tasks": ("packets between tasks of different nodes", "swl0", "sl-*"),
    "encrypted": ("packets of encrypted networks", "swl1", "swlw0", "swlw1", "sl-*"),
}


def _opened(traffic: str, chain: str, report: Json) -> tuple[str, str]:
    """What is refused, in words, and what opens it."""
    if traffic in _DEVICES:
        what, *devices = _DEVICES[traffic]
        way = f"what comes in by {', '.join(devices)}"
        interfaces = (f"--add-interface={device.replace('*', '+')}" for device in devices)
        firewalld = f"--zone=trusted {' '.join(interfaces)}"
    else:
        ports = {
            "vxlan": [f"{report['DataPathPort']}/udp"],
            "control": [f"{report['ControlPort']}/tcp"],
            "wireguard": [f"{port}/udp" for port in report["EncryptedPorts"]],
        }[traffic]
        named = " and ".join(ports)
        what, way = f"{named} of other nodes", f"{named} from other nodes"
        firewalld = " ".join(f"--add-port={port}" for port in ports)
    if "firewalld" in chain:
        return what, f"sudo firewall-cmd --permanent {firewalld} && sudo firewall-cmd --reload"
    return what, f"let it accept {way}: what another chain accepts is not enough"


def _suspects(node: Node, report: Json, opened: str) -> str:
    """Who may refuse packets on a node, and what opens it."""
    if not report or not report["Suspects"]:
        return ""
    names = ", ".join(report["Suspects"])
    opens = {
        "ufw": f" (sudo ufw allow {opened})",
        "firewalld": f" (sudo firewall-cmd --add-port={opened})",
    }
    return f"; on {node.name} look at {names}{opens.get(names, '')}"


def _clocks(offsets: Mapping[Node, float]) -> Iterator[Finding]:
    """Compare each clock with the middle one: whose own is wrong must not blame all others.

    Where no single one is to blame, the two that differ most are named.
    """
    ordered = sorted(offsets, key=lambda n: offsets[n])
    first, middle, last = ordered[0], ordered[len(ordered) // 2], ordered[-1]
    off = {node: offsets[node] - offsets[middle] for node in offsets}
    wrong = {n for n in offsets if abs(off[n]) > CLOCK} if len(offsets) > 2 else set[Node]()
    if not wrong and (spread := offsets[last] - offsets[first]) > CLOCK:
        yield Finding(
            f"{first.name} <-> {last.name}",
            CLOCKS,
            PROBLEM,
            f"{last.name} is {spread:.1f} s ahead of {first.name}",
            "sudo timedatectl set-ntp true on both",
        )
        return
    for node in offsets:
        if node not in wrong:
            yield Finding(node.name, CLOCKS)
            continue
        way = "ahead of" if off[node] > 0 else "behind"
        yield Finding(
            node.name,
            CLOCKS,
            PROBLEM,
            f"it is {abs(off[node]):.1f} s {way} the others",
            f"sudo timedatectl set-ntp true on {node.name}",
        )


def _of_pair(one: Node, other: Node, reports: Mapping[str, Json]) -> Iterator[Finding]:
    """What two nodes say of each other; nothing when neither could be asked."""
    views = [
        (a, b, report, peer)
        for a, b in ((one, other), (other, one))
        for report in (reports.get(a.id),)
        for peer in (_peer(report, b),)
        if report is not None and peer is not None
    ]
    where = f"{one.name} <-> {other.name}"
    tried = [(a, b, p) for a, b, _, p in views if p["Control"] != "untried"]
    if tried:
        yield _control(where, tried)
    overlay = [view for view in views if view[3]["Overlay"] != "untried"]
    if overlay:
        yield _vxlan(where, overlay)
    sealed = [view for view in views if view[3]["Encrypted"] != "untried"]
    if sealed:
        yield _encrypted(where, sealed)


def _peer(report: Json, node: Node) -> Json:
    return next((p for p in report["Peers"] if p["NodeID"] == node.id), None) if report else None


def _control(where: str, tried: Sequence[tuple[Node, Node, Json]]) -> Finding:
    lost = [(a, b, p) for a, b, p in tried if p["Control"] != "well"]
    if not lost:
        return Finding(where, CONTROL)
    detail = "; ".join(f"{a.name} does not reach {b.name} at {p['Addr']}" for a, b, p in lost)
    ports = sorted({str(p["Addr"]).rpartition(":")[2] for _, _, p in lost})
    fix = f"let tcp {', '.join(ports)} pass {_between(lost[0][0], lost[0][1])}"
    return Finding(where, CONTROL, PROBLEM, detail, fix)


def _encrypted(where: str, views: Sequence[View]) -> Finding:
    bad = [view for view in views if view[3]["Encrypted"] != "well"]
    if not bad:
        return Finding(where, ENCRYPTED, detail="full packets pass")
    a, b, report, peer = bad[0]
    if peer["Encrypted"] == "small":
        detail = "full packets do not pass, small ones do"
        fix = f"make the MTU of their interfaces what the path {_between(a, b)} carries"
    else:
        detail = f"{a.name} gets no packet back"
        ports = " and ".join(map(str, report["EncryptedPorts"]))
        fix = f"let udp {ports} pass both ways {_between(a, b)}"
    return Finding(where, ENCRYPTED, PROBLEM, detail, fix)


def _vxlan(where: str, views: Sequence[View]) -> Finding:
    """Each question is answered: so it went both ways. If it was only heard, it went one way."""
    bad = [view for view in views if view[3]["Overlay"] != "well"]
    if not bad:
        return Finding(where, VXLAN, detail=f"{min(int(v[2]['MTU']) for v in views)} bytes pass")
    strangers = [(a, b) for a, b, _, peer in bad if peer["Overlay"] == "unknown"]
    if strangers:
        a, b = strangers[0]
        return Finding(
            *(where, VXLAN, PROBLEM, f"{a.name} has not been told of {b.name} yet"),
            f"if that lasts, {_LOG.format(a.name)}",
        )
    lost = [view for view in bad if view[3]["Overlay"] == "none"]
    return _lost(where, views, lost) if lost else _too_big(where, views, bad)


def _lost(where: str, views: Sequence[View], lost: Sequence[View]) -> Finding:
    one, other, report, _ = lost[0]
    port = report["DataPathPort"]
    if way := _one_way(views, arrives={"well", "small"}):
        sender, receiver = way
        detail = f"no packet passes from {sender.name} to {receiver.name}, the other way they do"
        between = f"from {sender.addr or sender.name} to {receiver.addr or receiver.name}"
        views = [view for view in views if view[0] == receiver]
    else:
        silent = len(views) > 1 and all(peer["Heard"] == "none" for *_, peer in views)
        detail = "no packet passes either way" if silent else "no packet comes back"
        between = f"both ways {_between(one, other)}"
    fix = f"let udp {port} pass {between}: in both hosts' firewalls, and in what lies between"
    fix += "".join(_suspects(node, found, f"{port}/udp") for node, _, found, _ in views)
    return Finding(where, VXLAN, PROBLEM, detail, fix)


def _too_big(where: str, views: Sequence[View], bad: Sequence[View]) -> Finding:
    one, other, _, _ = bad[0]
    size = max(int(view[2]["MTU"]) for view in bad)
    way = _one_way(views, arrives={"well"})
    whose = f" from {way[0].name} to {way[1].name}" if way else ""
    return Finding(
        *(where, VXLAN, PROBLEM, f"packets of {size} bytes do not pass{whose}, small ones do"),
        f"make the MTU of their interfaces what the path {_between(one, other)} carries",
    )


def _one_way(views: Sequence[View], *, arrives: Collection[str]) -> tuple[Node, Node] | None:
    """From whom to whom nothing arrives, if it does the other way: each listens while all ask."""
    heard = [(b, a) for a, b, _, peer in views if peer["Heard"] in arrives]
    deaf = [(b, a) for a, b, _, peer in views if peer["Heard"] not in {*arrives, "untried"}]
    return deaf[0] if len(heard) == len(deaf) == 1 else None


def _between(one: Node, other: Node) -> str:
    return f"between {one.addr or one.name} and {other.addr or other.name}"
