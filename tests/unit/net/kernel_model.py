"""A kernel that obeys the commands of :mod:`swarmlet.net.links`, as far as they go."""

from msgspec.structs import replace
from swarmlet.net.links import Changes, Links, TunnelChange, Vxlan, without


class Model:
    """Links that are changed by one command after the other."""

    def __init__(self, links: Links) -> None:
        self.devices, self.tunnels = dict(links.devices), dict(links.tunnels)
        self.addresses, self.hairpin = set(links.addresses), set(links.hairpin)
        self.routes, self.rules = dict(links.routes), dict(links.rules)
        self.neighbours, self.fdb = dict(links.neighbours), dict(links.fdb)
        self.sysctls = dict(links.sysctls)

    def links(self) -> Links:
        return Links(
            devices=self.devices,
            tunnels=self.tunnels,
            addresses=frozenset(self.addresses),
            fdb=self.fdb,
            neighbours=self.neighbours,
            rules=self.rules,
            routes=self.routes,
            sysctls=self.sysctls,
            hairpin=frozenset(self.hairpin),
        )

    def lose(self, device: str) -> None:
        left = without(self.links(), device)
        self.addresses, self.fdb = set(left.addresses), left.fdb
        self.neighbours, self.routes, self.sysctls = left.neighbours, left.routes, left.sysctls

    def link(self, verb: str, *words: str) -> None:
        match (verb, *words):
            case ("add", name, "address", mac, "mtu", mtu, "type", "vxlan", *rest):
                assert name not in self.devices, "two devices"
                options = dict(zip(rest[::2], rest[1::2], strict=False))
                local = rest[rest.index("local") + 1] if "local" in rest else ""
                vni, port = int(options["id"]), int(options["dstport"])
                self.devices[name] = Vxlan(vni, port, local, mac, int(mtu), up=False)
            case ("set", name, "up"):
                self.devices[name] = replace(self.devices[name], up=True)
            case ("set", name, "mtu", mtu, "up"):
                self.devices[name] = replace(self.devices[name], mtu=int(mtu), up=True)
            case ("set", port_, "type", "bridge_slave", "hairpin", "on"):
                self.hairpin.add(port_)
            case ("del", name):
                del self.devices[name]
                self.lose(name)
            case _:
                raise AssertionError(words)

    def tunnel(self, change: TunnelChange) -> None:
        if change.wanted is None:
            del self.tunnels[change.name]
            self.lose(change.name)
            return
        assert change.exists == (change.name in self.tunnels)
        if change.anew:
            self.lose(change.name)
            self.tunnels[change.name] = replace(change.wanted, peers={})
        peers = dict(self.tunnels[change.name].peers)
        for key in change.gone:
            del peers[key]
        now = replace(self.tunnels[change.name], mtu=change.wanted.mtu, up=True)
        self.tunnels[change.name] = replace(now, peers=peers | change.peers)

    def address(self, verb: str, *words: str) -> None:
        act = self.addresses.add if verb == "replace" else self.addresses.remove
        act(" ".join(words))

    def neigh(self, verb: str, address: str, *words: str) -> None:
        key = f"{address} dev {words[words.index('dev') + 1]}"
        if verb == "del":
            del self.neighbours[key]
        else:
            self.neighbours[key] = words[words.index("lladdr") + 1]

    def route(self, verb: str, *words: str) -> None:
        assert words[-2] == "proto"
        split = 3 if words[0] == "default" else 2 if words[0] == "unreachable" else 1
        key, to = " ".join(words[:split]), " ".join(words[split:-2])
        device = to.partition("dev ")[2].partition(" ")[0]
        assert not device or device in self.devices or device in self.tunnels, "a route to nowhere"
        if verb == "del":
            del self.routes[key]
        else:
            self.routes[key] = to

    def rule(self, verb: str, _: str, pref: str, *words: str) -> None:
        assert words[-2:] == ("protocol", "94"), "somebody else's rule"
        body = words[:-2]
        selector = 2 if body[0] == "fwmark" else 0
        key, to = " ".join([pref, *body[:selector]]), " ".join(body[selector:])
        if verb == "del":
            assert self.rules.pop(key) == to
            return
        assert key not in self.rules, "a rule twice"
        assert "goto" not in to or to.split()[1] in self.rules, "a rule to nowhere"
        self.rules[key] = to

    def bridge(self, verb: str, mac: str, *words: str) -> None:
        key = f"{mac} dev {words[words.index('dev') + 1]}"
        if verb == "del":
            del self.fdb[key]
        else:
            self.fdb[key] = words[words.index("dst") + 1]


def obey(links: Links, changes: Changes) -> Links:
    """What is there after these."""
    model = Model(links)
    for tunnel in changes.tunnels:
        model.tunnel(tunnel)
    for lines in (changes.ip, changes.bridge, changes.removals):
        for line in lines:
            noun, verb, *words = line.split()
            getattr(model, "bridge" if noun == "fdb" else noun)(verb, *words)
    for tunnel in changes.gone_tunnels:
        model.tunnel(tunnel)
    return replace(
        model.links(),
        sysctls=model.sysctls | changes.sysctls,
        accept=(links.accept | set(changes.accept)) - set(changes.no_accept),
    )
