"""What a node needs to know of the cluster to forward packets and to answer names.

Records, one for each object, keyed by its identifier: managers send a node those that concern it,
and then only those that change. What a node does with them is :mod:`swarmlet.net.plan`.
"""

import enum
from typing import Final

import msgspec

from swarmlet.model.networks import DEFAULT_CONTROL_PORT, DEFAULT_DATA_PORT
from swarmlet.model.tunnels import TunnelKeys

#: Service labels of swarmlet's own.
STICKY_LABEL: Final = "swarmlet.lb.sticky"
PUBLISH_ADDRESS_LABEL: Final = "swarmlet.publish.address"

#: Container label of a template: the share of new connections that each of its tasks gets.
WEIGHT_LABEL: Final = "swarmlet.lb.weight"
MAX_WEIGHT: Final = 1000

#: Container label of a template: seconds that a task which is to stop waits for clients that still
#: use connections of before, when others can serve them.
DRAIN_LABEL: Final = "swarmlet.lb.drain"
DEFAULT_DRAIN: Final = 15
MAX_DRAIN: Final = 3600


class Record(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """Base of all records."""

    id: str


class Reach(enum.StrEnum):
    """What managers think of a node: new connections avoid a suspect, those to a lost one end."""

    READY = "ready"
    SUSPECT = "suspect"
    LOST = "lost"


class PeerRecord(Record, frozen=True, kw_only=True, gc=False):
    """A node of the cluster: ``number`` (1 to 4095) is its own for life, ``addr`` an IP address.

    ``tunnel`` are its keys for encrypted networks.
    """

    number: int
    addr: str
    reach: Reach = Reach.READY
    hostname: str = ""
    tunnel: TunnelKeys | None = None


class NetworkRecord(Record, frozen=True, kw_only=True, gc=False):
    """An overlay network."""

    name: str
    subnet: str
    gateway: str
    internal: bool = False
    encrypted: bool = False
    attachable: bool = False


class Attachment(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A place in a network: of a task, or, as its virtual address, of a service.

    ``address`` is "" until it is given. ``aliases`` are further names in that network.
    """

    network_id: str
    address: str = ""
    aliases: tuple[str, ...] = ()


class PublishedPort(msgspec.Struct, frozen=True, gc=False):
    """``published`` on every node leads to ``target`` of the tasks. Protocol tcp, udp or sctp."""

    protocol: str
    published: int
    target: int


class ServiceRecord(Record, frozen=True, kw_only=True, gc=False):
    """A service. ``attachments`` are its networks: with a virtual address, or "" for dnsrr.

    ``publish_address`` limits published ports to one address of a host; "" means all.
    """

    name: str
    attachments: tuple[Attachment, ...] = ()
    ports: tuple[PublishedPort, ...] = ()
    sticky: bool = False
    publish_address: str = ""


class TaskRecord(Record, frozen=True, kw_only=True, gc=False):
    """A task that has addresses and has not ended; or a plain container, which is of no service.

    ``node`` is the number of its node. ``serving``: it runs, is healthy and shall go on; of a plain
    container, whose engine's identifier is told as well: it runs.
    """

    service_id: str
    name: str
    slot: int = 0
    node: int
    hostname: str = ""
    attachments: tuple[Attachment, ...] = ()
    serving: bool = False
    weight: int = 1
    container_id: str = ""

    @property
    def is_plain(self) -> bool:
        """Whether it is a plain container."""
        return not self.service_id


class Tables(msgspec.Struct, frozen=True, kw_only=True):
    """All records that a node knows, by identifier. ``me`` is its own number, 0 if not known.

    ``control_port`` is where its daemon listens: no service may take that from it. ``halted`` are
    tasks of its own that have no process; it knows that first, and nobody else need say so.
    """

    me: int = 0
    data_port: int = DEFAULT_DATA_PORT
    control_port: int = DEFAULT_CONTROL_PORT
    peers: dict[str, PeerRecord] = msgspec.field(default_factory=dict[str, PeerRecord])
    networks: dict[str, NetworkRecord] = msgspec.field(default_factory=dict[str, NetworkRecord])
    services: dict[str, ServiceRecord] = msgspec.field(default_factory=dict[str, ServiceRecord])
    tasks: dict[str, TaskRecord] = msgspec.field(default_factory=dict[str, TaskRecord])
    halted: frozenset[str] = frozenset()
