"""Who answers to which name: an index over a node's records, asked by a task's address. Pure.

What a name means, in each network that the asker is in, its own order of networks first:

``web``, an alias
    The virtual address of the service, also while nothing serves behind it: the data path refuses
    such connections at once, which clients handle better than a name that comes and goes. Without
    a virtual address (dnsrr): its serving tasks. Services that share a name share the answer.
``tasks.web``, ``tasks.ALIAS``
    The serving tasks, on nodes that answer.
a container's name, host name or own alias (of a plain one, also its short identifier)
    That task; it need not serve yet, nor any more, as members of one group (a database's replicas)
    find each other by such names to become healthy, and to hand over when they leave. Of several
    tasks with one host name those that serve are preferred. A service's name wins over them: a host
    name must not mix its task into another service. A plain container has names while it runs.
``NAME.NETWORK``
    The same, in one network (Docker answers these too).

A known name never leaves the node: other types than A are answered empty, and so is a name whose
tasks are all away. Everything else, single labels included, goes to the resolvers outside, as in
Docker: hosts of a site may well have such names. Reverse look-ups are answered ``NAME.NETWORK.``;
other addresses of overlay networks have no name, and nobody outside is asked for one.
"""

import enum
import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, TypeVar

import msgspec

from swarmlet.clock import Rng
from swarmlet.model.forwarding import NetworkRecord, Reach, ServiceRecord, Tables, TaskRecord
from swarmlet.model.networks import INGRESS, NODE_POOL

#: Record types (RFC 1035; RFC 3596).
A: Final = 1
PTR: Final = 12
AAAA: Final = 28
ANY: Final = 255

#: Seconds that clients may keep an answer. Nobody may see a task 5 s after it left: these two, and
#: up to two for a node to learn of it. Not 0: a proxy that asks for every request would, and
#: some caches take 0 as an error.
TASK_TTL: Final = 2

#: A virtual address stays for the life of its service; removed ones are not soon used again.
VIP_TTL: Final = 5

#: Digits of a container's identifier that Docker shows, and takes for a name.
SHORT: Final = 12

_REVERSE: Final = ".in-addr.arpa"

Item = TypeVar("Item")


class Kind(enum.Enum):
    """What an answer is."""

    ADDRESSES = "addresses"
    POINTER = "pointer"
    EMPTY = "empty"  # the name is known and has nothing of that type
    ABSENT = "absent"  # it would be ours, and does not exist
    FOREIGN = "foreign"  # not ours: the resolvers outside know
    CLOSED = "closed"  # not ours, and the asker is in internal networks only: nobody is asked


class Answer(msgspec.Struct, frozen=True, gc=False):
    """What a look-up found. ``name`` is for POINTER, absolute but for the final dot."""

    kind: Kind
    addresses: tuple[str, ...] = ()
    name: str = ""
    ttl: int = 0


_EMPTY: Final = Answer(Kind.EMPTY)
_ABSENT: Final = Answer(Kind.ABSENT)
_FOREIGN: Final = Answer(Kind.FOREIGN)
_CLOSED: Final = Answer(Kind.CLOSED)


class Asker(msgspec.Struct, frozen=True):
    """Who asks: its networks in its order, and the name servers that its service names.

    ``closed``: it has no way out of its networks, so its questions have none either: names would
    carry data out (CVE-2024-29018 in Docker).
    """

    networks: tuple[str, ...]
    nameservers: tuple[str, ...] = ()
    closed: bool = False


class Names:
    """The index. Immutable: new records make a new one."""

    def __init__(
        self, tables: Tables, nameservers: Mapping[str, tuple[str, ...]] | None = None
    ) -> None:
        """Index ``tables``; ``nameservers`` are those of tasks, by identifier."""
        self._nameservers = nameservers or {}
        self._networks = tables.networks
        self._subnets = {n: _Subnet(network.subnet) for n, network in tables.networks.items()}
        self._tasks = {
            place.address: task
            for task in tables.tasks.values()
            for place in task.attachments
            if place.address
        }
        zones = {n: _Zone(r) for n, r in tables.networks.items() if r.name != INGRESS}
        _fill(zones, tables)
        self._zones = {network_id: zone.names() for network_id, zone in zones.items()}
        self._pointers = {network_id: zone.pointers for network_id, zone in zones.items()}

    def asker(self, address: str) -> Asker | None:
        """Who has this address; nobody outside of our networks has.

        An address that is of no known task is in its network and no other: a task whose record is
        on its way, or the node itself.
        """
        task = self._tasks.get(address)
        if task is not None:
            networks = [place.network_id for place in task.attachments]
            return self._asker(networks, self._nameservers.get(task.id, ()))
        number = _number(address)
        networks = [n for n, subnet in self._subnets.items() if number in subnet]
        return self._asker(networks, ()) if networks else None

    def answer(self, asker: Asker, name: str, rtype: int) -> Answer:
        """Look ``name`` up, in any case of letters and without its final dot."""
        name = name.lower()
        entry = self._find(asker, name)
        if entry is not None:
            if rtype in (A, ANY) and entry.addresses:
                return Answer(Kind.ADDRESSES, entry.addresses, ttl=entry.ttl)
            return _EMPTY
        if rtype in (PTR, ANY) and (address := _reversed(name)):
            found = self._pointer(asker, address)
            if found is not None:
                return found
        return _CLOSED if asker.closed else _FOREIGN

    def _asker(self, networks: Iterable[str], nameservers: tuple[str, ...]) -> Asker:
        named = tuple(n for n in networks if n in self._zones)
        return Asker(
            named,
            nameservers,
            # Published ports are a way in, so the ingress network does not count.
            closed=bool(named) and all(self._networks[n].internal for n in named),
        )

    def _find(self, asker: Asker, name: str) -> "_Entry | None":
        """The first network whose entry has addresses, else any entry."""
        known = None
        for label, networks in self._readings(asker, name):
            for network_id in networks:
                entry = self._zones[network_id].get(label)
                if entry is not None:
                    if entry.addresses:
                        return entry
                    known = entry
        return known

    def _readings(self, asker: Asker, name: str) -> Iterator[tuple[str, Sequence[str]]]:
        """``a.b.c`` may be a name, ``a.b`` in network ``c``, or ``a`` in network ``b.c``."""
        yield name, asker.networks
        dot = name.rfind(".")
        while dot > 0:
            suffix = name[dot + 1 :]
            networks = [n for n in asker.networks if self._networks[n].name.lower() == suffix]
            if networks:
                yield name[:dot], networks
            dot = name.rfind(".", 0, dot)

    def _pointer(self, asker: Asker, address: str) -> Answer | None:
        for network_id in asker.networks:
            name = self._pointers[network_id].get(address)
            if name is not None:
                full = f"{name}.{self._networks[network_id].name}"
                return Answer(Kind.POINTER, name=full, ttl=VIP_TTL)
        number = _number(address)
        ours = number in _NODES or any(number in subnet for subnet in self._subnets.values())
        return _ABSENT if ours else None


def pick(items: Sequence[Item], count: int, rng: Rng) -> list[Item]:
    """``count`` of ``items``, or all, in random order: clients take the first that they get.

    Shuffled, not rotated: in a rotation the neighbour of a dead one would get all of its share.
    """
    left = list(items)
    for i in range(min(count, len(left) - 1)):
        j = i + int(rng.random() * (len(left) - i))
        left[i], left[j] = left[j], left[i]
    return left[:count]


# --- building -----------------------------------------------------------------------------------


class _Entry(msgspec.Struct, frozen=True, gc=False):
    addresses: tuple[str, ...]
    ttl: int


class _Zone:
    """The names of one network, while they are collected."""

    def __init__(self, network: NetworkRecord) -> None:
        self.network = network
        self.pointers: dict[str, str] = {}
        self._services: dict[str, list[_Entry]] = {}
        self._tasks: dict[str, list[tuple[str, bool]]] = {}

    def add_service(self, names: Iterable[str], entry: _Entry, tasks: _Entry) -> None:
        """A service answers to ``names``."""
        for name in set(names):
            self._services.setdefault(name, []).append(entry)
            self._services.setdefault(f"tasks.{name}", []).append(tasks)

    def add_task(self, names: Iterable[str], address: str, *, serving: bool) -> None:
        """A task answers to ``names``."""
        for name in set(names) - {""}:
            self._tasks.setdefault(name, []).append((address, serving))

    def names(self) -> dict[str, _Entry]:
        """All names, each once."""
        merged: dict[str, _Entry] = {}
        for name, places in self._tasks.items():
            serving = tuple(address for address, serves in places if serves)
            merged[name] = _Entry(serving or tuple(address for address, _ in places), TASK_TTL)
        for name, entries in self._services.items():
            addresses = dict.fromkeys(a for entry in entries for a in entry.addresses)
            merged[name] = _Entry(tuple(addresses), min(entry.ttl for entry in entries))
        return merged


def _fill(zones: Mapping[str, _Zone], tables: Tables) -> None:
    reach = {peer.number: peer.reach for peer in tables.peers.values()}
    reach[tables.me] = Reach.READY  # whatever others think of this node, its own tasks are near
    serving: dict[tuple[str, str], list[tuple[str, TaskRecord]]] = {}
    for task in tables.tasks.values():
        near = reach.get(task.node, Reach.LOST)  # there is no way to a node that we do not know
        serves = task.serving and near is Reach.READY
        if task.is_plain and not task.serving:
            continue
        for place in task.attachments:
            zone = zones.get(place.network_id)
            if zone is None or not place.address:
                continue
            zone.pointers[place.address] = task.name
            if serves:
                serving.setdefault((task.service_id, zone.network.id), []).append(
                    (place.address, task)
                )
            if near is not Reach.LOST:
                short = task.container_id[:SHORT]
                names = _lower(task.name, task.hostname, short, *place.aliases)
                zone.add_task(names, place.address, serving=serves)
    for service in tables.services.values():
        _fill_service(zones, service, serving)


def _fill_service(
    zones: Mapping[str, _Zone],
    service: ServiceRecord,
    serving: Mapping[tuple[str, str], list[tuple[str, TaskRecord]]],
) -> None:
    for place in service.attachments:
        zone = zones.get(place.network_id)
        if zone is None:
            continue
        backends = serving.get((service.id, zone.network.id), [])
        tasks = _Entry(tuple(address for address, _ in backends), TASK_TTL)
        if place.address:
            zone.pointers[place.address] = service.name
            entry = _Entry((place.address,), VIP_TTL)
        else:  # as behind a virtual address, a weight of nothing gets no new connections
            entry = _Entry(tuple(a for a, task in backends if task.weight > 0), TASK_TTL)
        zone.add_service(_lower(service.name, *place.aliases), entry, tasks)


def _lower(*names: str) -> list[str]:
    return [name.lower() for name in names]


# --- addresses ----------------------------------------------------------------------------------


class _Subnet:
    """A subnet that says quickly whether a number is in it (no number, -1, is in none)."""

    __slots__ = ("_first", "_last")

    def __init__(self, subnet: str) -> None:
        try:
            network = ipaddress.IPv4Network(subnet, strict=False)
        except ValueError:  # not given yet: nothing is in it
            self._first, self._last = 0, -1
        else:
            self._first, self._last = int(network[0]), int(network[-1])

    def __contains__(self, number: int) -> bool:
        return self._first <= number <= self._last


_NODES: Final = _Subnet(NODE_POOL)


def _number(address: str) -> int:
    try:
        return int(ipaddress.IPv4Address(address))
    except ValueError:
        return -1


def _reversed(name: str) -> str:
    """The address that a name below in-addr.arpa means; "" for any other."""
    if not name.endswith(_REVERSE):
        return ""
    address = ".".join(reversed(name.removesuffix(_REVERSE).split(".")))
    return address if _number(address) >= 0 else ""
