"""A kernel that obeys the commands of :mod:`swarmlet.net.links`, as far as they go."""

from msgspec.structs import replace
from swarmlet.net.links import Changes, Links, Vxlan
from swarmlet.net.numbers import DEVICE


class Model:
    """Links that are changed by one command after the other."""

    def __init__(self, links: Links) -> None:
        self.device = links.device
        self.addresses, self.hairpin = set(links.addresses), set(links.hairpin)
        self.routes, self.rules = dict(links.routes), dict(links.rules)
        self.neighbours, self.fdb = dict(links.neighbours), dict(links.fdb)
        self.sysctls = dict(links.sysctls)

    def link(self, verb: str, *words: str) -> None:
        match (verb, *words):
            case ("add", _, "address", mac, "mtu", mtu, "type", "vxlan", *rest):
                assert self.device is None, "two devices"
                options = dict(zip(rest[::2], rest[1::2], strict=False))
                local = rest[rest.index("local") + 1] if "local" in rest else ""
                vni, port = int(options["id"]), int(options["dstport"])
                self.device = Vxlan(vni, port, local, mac, int(mtu), up=False)
            case ("set", _, "up"):
                assert self.device
                self.device = replace(self.device, up=True)
            case ("set", _, "mtu", mtu, "up"):
                assert self.device
                self.device = replace(self.device, mtu=int(mtu), up=True)
            case ("set", port_, "type", "bridge_slave", "hairpin", "on"):
                self.hairpin.add(port_)
            case ("del", _):
                self.device = None
                self.addresses, self.neighbours, self.fdb, self.routes = set(), {}, {}, {}
                self.sysctls = {k: v for k, v in self.sysctls.items() if f"/{DEVICE}/" not in k}
            case _:
                raise AssertionError(words)

    def address(self, verb: str, address: str, *_: str) -> None:
        act = self.addresses.add if verb == "replace" else self.addresses.remove
        act(address.removesuffix("/32"))

    def neigh(self, verb: str, address: str, *words: str) -> None:
        if verb == "del":
            del self.neighbours[address]
        else:
            self.neighbours[address] = words[words.index("lladdr") + 1]

    def route(self, verb: str, *words: str) -> None:
        assert words[-2] == "proto"
        split = 3 if words[0] == "default" else 1
        key, to = " ".join(words[:split]), " ".join(words[split:-2])
        if verb == "del":
            del self.routes[key]
        else:
            self.routes[key] = to

    def rule(self, verb: str, _: str, pref: str, *words: str) -> None:
        if verb == "del":
            del self.rules[int(pref)]
            return
        body = words[:-2]
        assert int(pref) not in self.rules, "a rule twice"
        assert "goto" not in body or int(body[-1]) in self.rules, "a rule to nowhere"
        self.rules[int(pref)] = " ".join(body)

    def bridge(self, verb: str, mac: str, *words: str) -> None:
        if verb == "del":
            del self.fdb[mac]
        else:
            self.fdb[mac] = words[words.index("dst") + 1]


def obey(links: Links, changes: Changes) -> Links:
    """What is there after these."""
    model = Model(links)
    for lines in (changes.ip, changes.bridge, changes.removals):
        for line in lines:
            noun, verb, *words = line.split()
            getattr(model, "bridge" if noun == "fdb" else noun)(verb, *words)
    return Links(
        device=model.device,
        addresses=frozenset(model.addresses),
        fdb=model.fdb,
        neighbours=model.neighbours,
        rules=model.rules,
        routes=model.routes,
        sysctls=model.sysctls | changes.sysctls,
        accept=(links.accept | set(changes.accept)) - set(changes.no_accept),
        hairpin=frozenset(model.hairpin),
    )
