"""The rules that every packet meets: who may talk to whom, and what becomes of replies.

They name sets and maps only; :mod:`swarmlet.net.plan` fills those. So they change when the set of
peers does or an option of the host, and not when tasks come and go.
"""

from typing import Final

from swarmlet.model.tunnels import lane_ports
from swarmlet.net.numbers import (
    ACCEPTED,
    DEVICE,
    EMPTY,
    ENCRYPTED,
    ENCRYPTED_DEVICE,
    ENCRYPTED_VNI,
    ENTRY,
    LANE_DEVICES,
    PUBLISHED,
    REDIRECTED,
    VNI,
)
from swarmlet.net.ruleset import Chain

_PROTOCOLS: Final = "meta l4proto { tcp, udp, sctp }"

#: VXLAN of ours: its network identifier is 64 + 32 bits behind the start of the UDP header. Other
#: overlays of this host may use the same port.
_OURS: Final = f"@th,96,24 {VNI}"
_ENCRYPTED_OURS: Final = f"@th,96,24 {ENCRYPTED_VNI}"

#: The devices that lead to other nodes' tasks: with encrypted networks, and without.
_PLAIN: Final = f'"{DEVICE}"'
_BOTH: Final = f'{{ "{DEVICE}", "{ENCRYPTED_DEVICE}" }}'
_LANES: Final = "{ " + ", ".join(f'"{name}"' for name in LANE_DEVICES) + " }"
_ENTERED: Final = f"ct mark and {ENTRY:#x} != 0"
_TO_ENTRY: Final = f"meta mark set ct mark and {ENTRY:#x}"
_TO_ENCRYPTED: Final = f"meta mark set meta mark or {ENCRYPTED:#x}"
_NO_ENTRY: Final = f"meta mark set meta mark and {0xFFFF_FFFF ^ (ENTRY | ENCRYPTED):#x}"
_QUESTIONS: Final = "meta l4proto { tcp, udp } th dport 53"

_DEAD: Final = "ip daddr @overlay ip daddr != @live"

#: In this direction only: the refusal itself passes the same hooks.
_NO_BACKEND: Final = f"ct direction original ct mark and {EMPTY:#x} != 0 goto refuse"

#: A refusal that the asker notices at once.
REFUSE: Final = Chain(("meta l4proto tcp reject with tcp reset", "reject"))

#: What we let through is let through by the engine's rules too: they accept connections so marked.
#: Not the packets: the device for peers looks up the way for every marked one anew.
LET: Final = Chain((f"ct mark set ct mark or {ACCEPTED:#x}", "accept"))

#: Chains for packets by the link they come in by.
FROM_PEER: Final = "from_peer"
FROM_PLAIN: Final = "from_plain"
FROM_TUNNEL: Final = "from_tunnel"
FROM_TASK: Final = "from_task"

#: Connections to an address of this host.
_PUBLISHED: Final = Chain(
    (
        f"{_PROTOCOLS} ip daddr . meta l4proto . th dport vmap @pub_at",
        f"{_PROTOCOLS} meta l4proto . th dport vmap @pub",
    )
)


def ip_chains(
    data_port: int,
    control_port: int,
    *,
    vtep: str,
    underlay: str,
    bridge_nf: bool,
    encrypted_vtep: str = "",
) -> dict[str, Chain]:
    """The chains of table ``ip swarmlet`` that are the same whatever runs.

    ``vtep`` is this node's address inside the overlay, ``encrypted_vtep`` that in the overlay of
    encrypted networks, "" while there are none.
    """
    ports = ", ".join(map(str, (data_port, *lane_ports(data_port))))
    own = (f"tcp dport {control_port} return", f"udp dport {{ {ports} }} return", _NAMES)
    encrypted = bool(encrypted_vtep)
    chains = {
        "refuse": REFUSE,
        "let": LET,
        "published": _PUBLISHED,
        "tunnel": _tunnel(underlay),
        FROM_PEER: _FROM_PEERS,
        FROM_TASK: _FROM_TASKS,
        "raw": _raw(data_port, encrypted=encrypted),
        "raw_out": _raw_out(data_port, encrypted=encrypted),
        "entry": _entry(encrypted=encrypted),
        "entry_local": _entry_local(encrypted_vtep),
        "leave": _leave(encrypted=encrypted),
        "nat_in": _nat("prerouting", "dstnat - 5", own),
        "nat_local": _nat("output", "-105", own),
        "known": _KNOWN,
        "forward": _forward(data_port, encrypted=encrypted),
        "input": _INPUT,
        "output": _OUTPUT,
        "nat_out": _nat_out(vtep, encrypted_vtep),
    }
    if encrypted:
        chains[FROM_PLAIN] = _FROM_PLAIN
        chains[FROM_TUNNEL] = _from_tunnel(data_port)
        chains["sealed"] = _sealed(data_port)
    if bridge_nf:
        chains["redirected"] = _REDIRECTED
    return chains


#: A frame of VLAN 0 has a priority only: the kernel takes what it carries as if there were no tag.
#: Rules do not see what that is.
_TAGGED: Final = "ether type { 8021q, 8021ad }"

#: From a container that is known: with what its engine gave it, and nothing else.
_OWNED: Final = Chain(
    (
        f"{_TAGGED} drop",
        "iifname . ether saddr != @macs drop",
        "ether type ip iifname . ip saddr != @pins drop",
        "ether type arp iifname . arp saddr ether != @macs drop",
        "ether type arp iifname . arp saddr ip != @pins drop",
    )
)

#: From one that is not known yet (or from a bridge of others): nothing that is a known one's.
_STRANGE: Final = Chain(
    (
        f"ether daddr @gateways {_TAGGED} drop",
        "ether saddr @taken drop",
        "ether type ip ip saddr @overlay ip saddr != @unclaimed drop",
        "ether type arp arp saddr ether @taken drop",
        "ether type arp arp saddr ip @overlay arp saddr ip != @unclaimed drop",
    )
)


def bridge_chains() -> dict[str, Chain]:
    """The chains of table ``bridge swarmlet``: nothing passes from port to port of a bridge.

    All goes up to the IP layer, where rules are: the bridge answers ARP for every neighbour.
    """
    return {
        # Before connection tracking of bridge-nf (-200 in its own way), and before the bridge
        # learns who is where: a forged packet is no flow, and draws nobody else's packets.
        "ports": Chain(
            ("iifname @owned goto owned", "goto strange"),
            "type filter hook prerouting priority -300",
        ),
        "owned": _OWNED,
        "strange": _STRANGE,
        "across": Chain(
            (
                f"meta mark and {REDIRECTED:#x} != 0 accept",
                "arp saddr ip @overlay drop",
                "arp daddr ip @overlay drop",
                "ip saddr @overlay drop",
                "ip daddr @overlay drop",
            ),
            "type filter hook forward priority -10",
        ),
    }


def _devices(*, encrypted: bool) -> str:
    return _BOTH if encrypted else _PLAIN


def _raw(data_port: int, *, encrypted: bool) -> Chain:
    """Before connection tracking: what cannot be true is dropped."""
    outer = f"udp dport {data_port} {_ENCRYPTED_OURS} fib daddr type local"
    return Chain(
        (
            *((f"{outer} iifname != {_LANES} drop",) if encrypted else ()),
            f"udp dport {data_port} {_OURS} fib daddr type local goto tunnel",
            "iifname vmap @doors",
            'ip saddr @overlay iifname != "lo" drop',
        ),
        "type filter hook prerouting priority raw - 5",
    )


def _raw_out(data_port: int, *, encrypted: bool) -> Chain:
    """What goes out to peers has no connection: each direction's source ports are its own."""
    ours = (_OURS, _ENCRYPTED_OURS) if encrypted else (_OURS,)
    return Chain(
        tuple(f"udp dport {data_port} {one} notrack" for one in ours),
        "type filter hook output priority raw - 5",
    )


def _tunnel(underlay: str) -> Chain:
    """VXLAN to this host: not from strangers, nor from a task or a container of this host."""
    elsewhere = f'iifname != "{underlay}" ' if underlay else ""
    return Chain(
        (
            "ip saddr != @peers drop",
            "iifname @bridges drop",
            # A plain container may forge a peer's address, but does not come in where that is.
            f"{elsewhere}fib saddr . iif oif missing drop",
            "notrack",
        )
    )


#: route_localnet opens the host's own 127.0.0.0/8 to these links.
_NO_LOOPBACK: Final = "ip daddr 127.0.0.0/8 drop"

_FROM_PEERS: Final = Chain(
    (
        _NO_LOOPBACK,
        # One client may come in by two nodes with the same port, to the same backend: their
        # connections are told apart by the zone.
        "ct original zone set ether saddr map @zones accept",
        "drop",
    )
)

#: An encrypted network's packet that comes in plainly is nobody's.
_FROM_PLAIN: Final = Chain(
    ("ip saddr @encrypted drop", "ip daddr @encrypted drop", f"goto {FROM_PEER}")
)


def _from_tunnel(data_port: int) -> Chain:
    """VXLAN, and nothing else: tunnels are no way past a firewall of the underlay."""
    ours = f"udp dport {data_port} {_ENCRYPTED_OURS} fib daddr type local"
    return Chain((f"{ours} notrack accept", "drop"))


#: A task sends from its own addresses only, whichever of its links the packet takes.
_FROM_TASKS: Final = Chain((_NO_LOOPBACK, "iifname . ip saddr != @sources drop"))


def _entry(*, encrypted: bool) -> Chain:
    """Which node a client came in by, and back to that node with the replies."""
    devices = _devices(encrypted=encrypted)
    reply = f"{_ENTERED} ct direction reply iifname != {devices}"
    return Chain(
        (
            # Tasks too: this node may take no part in their network, and know no way back to them.
            f"ct state new iifname {devices} ct mark set ether saddr map @entries",
            f"{reply} {_TO_ENTRY}",
            *((f"{reply} ip saddr @encrypted {_TO_ENCRYPTED}",) if encrypted else ()),
        ),
        "type filter hook prerouting priority mangle - 5",
    )


def _entry_local(encrypted_vtep: str) -> Chain:
    """This node's own answers, too: a refusal in the name of a task that is dead."""
    reply = f"{_ENTERED} ct direction reply"
    sealed = (
        f"{reply} ip saddr @encrypted {_TO_ENCRYPTED}",
        f"{reply} ip saddr {encrypted_vtep} {_TO_ENCRYPTED}",
    )
    return Chain(
        (
            f"{reply} {_TO_ENTRY}",
            *(sealed if encrypted_vtep else ()),
        ),
        "type route hook output priority mangle - 5",
    )


def _leave(*, encrypted: bool) -> Chain:
    """The way is chosen. The outer packet inherits the mark, and would be sent round with it."""
    devices = _devices(encrypted=encrypted)
    return Chain(
        (f"meta mark and {ENTRY:#x} != 0 oifname {devices} {_NO_ENTRY}",),
        "type filter hook postrouting priority mangle - 5",
    )


#: Questions to the node's resolver, on the gateway addresses of its networks.
_NAMES: Final = f"ip daddr @overlay {_QUESTIONS} return"


def _nat(hook: str, priority: str, own: tuple[str, ...]) -> Chain:
    """Virtual addresses and published ports, before the engine's own rules (priority -100).

    Not what the cluster itself lives by (``own``): whoever published that would cut it off, and
    with it every way to take that back.
    """
    return Chain(
        ("ip daddr vmap @vips", *own, "fib daddr type local jump published"),
        f"type nat hook {hook} priority {priority}",
    )


#: With bridge-nf-call-iptables a redirected packet may go on inside the bridge: let it.
_REDIRECTED: Final = Chain(
    (f"ct status dnat iifname @bridges meta mark set meta mark or {REDIRECTED:#x}",),
    "type filter hook prerouting priority dstnat + 5",
)


#: Most packets: of connections that were let through. The cheapest questions come first.
_KNOWN: Final = Chain(
    (
        # Back to the node that a client came in by, which knows that client; this one may not.
        f"{_ENTERED} ct direction reply accept",
        f"ct mark and {ACCEPTED:#x} != 0 ip daddr @live accept",
        # Somebody took the mark away.
        "ip daddr @live goto let",
        # What is connected to a task that went is reset.
        "ip daddr @overlay goto refuse",
        f"ct mark and {ACCEPTED:#x} == 0 ip saddr @live goto let",
    )
)


def _forward(data_port: int, *, encrypted: bool) -> Chain:
    """Who may talk to whom."""
    return Chain(
        (
            # Only the host itself sends into tunnels: what others put there would seem to be its.
            *((f"oifname {_LANES} drop",) if encrypted else ()),
            # Through this node's own masquerading a container would look like this node to a peer.
            f"udp dport {data_port} {_OURS} ip daddr @peers drop",
            "ct state established,related goto known",
            "ip saddr != @overlay ip daddr != @overlay return",
            # Dead tasks, and virtual addresses without a backend.
            f"{_DEAD} goto refuse",
            "ip saddr . ip daddr @pairs goto let",
            # The peer looked at it as we do. It may be of another network, to a published port.
            f"iifname {_devices(encrypted=encrypted)} goto let",
            "ip saddr @internal reject with icmp admin-prohibited",
            f"ct mark and {PUBLISHED:#x} != 0 goto let",
            # To a port that the engine published for what is plugged in here (mode=host, -p).
            "ip daddr @overlay ct status dnat ct original ip daddr != @overlay goto let",
            "ip daddr @overlay ip saddr @overlay reject with icmp admin-prohibited",
            "ip daddr @overlay drop",
        ),
        "type filter hook forward priority filter - 5",
    )


#: To this host: ports without a backend; and of internal networks names only.
_INPUT: Final = Chain(
    (
        _NO_BACKEND,
        # Their gateways answer names; the rest of this host is outside, its own resolvers too.
        f"ct state new ip saddr @internal ip daddr @overlay {_QUESTIONS} accept",
        'ct state new ip saddr @internal iifname != "lo" goto refuse',
    ),
    "type filter hook input priority filter - 5",
)

#: From this host's own processes.
_OUTPUT: Final = Chain(
    (
        _NO_BACKEND,
        # What was redirected to a virtual address still seems to leave by "lo".
        f"{_DEAD} fib daddr type != local goto refuse",
    ),
    "type filter hook output priority filter - 5",
)


def _nat_out(vtep: str, encrypted_vtep: str) -> Chain:
    """Sources: a client's own address stays, but where its replies would not come back this way."""
    devices = _devices(encrypted=bool(encrypted_vtep))
    return Chain(
        (
            # Redirected: where to, so that it is known whose flows must end when it leaves.
            "meta l4proto udp ip daddr @overlay ct status dnat add @datagrams { ip daddr }",
            # A task that reaches itself.
            "ip saddr . ip daddr @selves masquerade",
            *(_nat_out_encrypted(vtep, encrypted_vtep) if encrypted_vtep else ()),
            # Processes of this host, and of the other nodes: their replies go back through here.
            f"ip daddr @overlay ct status dnat fib saddr type local snat to {vtep}",
            f"ip daddr @overlay ip saddr @peers snat to {vtep}",
            "ip saddr @overlay ip daddr @overlay return",
            f"ip saddr @overlay oifname != {devices} masquerade",
        ),
        "type nat hook postrouting priority srcnat - 5",
    )


def _nat_out_encrypted(vtep: str, encrypted_vtep: str) -> tuple[str, ...]:
    return (
        f"ip daddr @encrypted ct status dnat fib saddr type local snat to {encrypted_vtep}",
        f"ip daddr @encrypted ip saddr @peers snat to {encrypted_vtep}",
        # To a published port of a network that is not encrypted: as this node, like any way out.
        f"ip saddr @encrypted oifname {_PLAIN} snat to {vtep}",
    )


def _sealed(data_port: int) -> Chain:
    """Behind all that changes addresses: what of encrypted networks would leave plainly is dropped.

    Whatever happens to devices and routes: a tunnel's address may be routed to the underlay when
    the tunnel goes.
    """
    outer = f"udp dport {data_port} {_ENCRYPTED_OURS}"
    return Chain(
        (
            f"{outer} fib saddr type local oifname != {_LANES} drop",
            "ip saddr @encrypted oifname != @inside drop",
            "ip daddr @encrypted oifname != @inside drop",
        ),
        "type filter hook postrouting priority 300",
    )
