"""What a stack file stands for: Docker's ``ServiceSpec`` for each service. Pure.

Values that the schema cannot judge (lengths of time, ports, constraints, …) are read here, and
what is wrong with one is reported at its place; the reading goes on, so that all is found at once.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from swarmlet.stack import quantities, values
from swarmlet.stack.load import Node
from swarmlet.stack.networks import Networks, StackNetwork
from swarmlet.stack.pieces import dropped, mount_of, ports_of, sound, split, tmpfs
from swarmlet.stack.reading import IMAGE_LABEL, NAMESPACE_LABEL, Reading

Json = Any
T = TypeVar("T")


class Plan(Reading):
    """Reads one stack. ``problems`` is complete only after :meth:`services`."""

    def __init__(self, root: Node, namespace: str) -> None:
        super().__init__(root)
        self.namespace = namespace
        self.volumes = self.section("volumes").fields
        self._networks = Networks(self, namespace)

    def services(self) -> list[Json]:
        """The specs of all services, in the order of the file; bad ones are left out."""
        found = self.root.fields.get("services")
        specs = []
        for name, node in (found.fields if found else {}).items():
            path = f"services.{name}"
            mark = found.keys[name] if found else node.mark
            self.at(mark, path, partial(values.name_in_stack, self.namespace, name))
            if not node.bad:
                specs.append(_Service(self, node, name, path).spec())
        self._networks.check()
        return specs

    def networks(self) -> list[StackNetwork]:
        """The networks that the services are in; complete only after :meth:`services`."""
        return list(self._networks.used.values())

    def attachments(self, service: str, node: Node | None, path: str) -> list[Json]:
        """The networks of one service."""
        return self._networks.attachments(service, node, path)


class _Service:
    """One service of a stack."""

    def __init__(self, plan: Plan, node: Node, name: str, path: str) -> None:
        self.plan = plan
        self.name = name
        self.path = path
        self.fields = sound(node.fields)
        self.deploy = self._sub(self.fields, "deploy")

    def spec(self) -> Json:
        """Docker's ``ServiceSpec``."""
        image = self._text("image") or ""
        labels = self._pairs(self.deploy, "labels", "deploy.labels")
        spec: dict[str, Json] = {
            "Name": f"{self.plan.namespace}_{self.name}",
            "Labels": labels | {IMAGE_LABEL: image, NAMESPACE_LABEL: self.plan.namespace},
            "TaskTemplate": self._template(image),
            "Mode": self._mode(),
        }
        for key, name in (("update_config", "UpdateConfig"), ("rollback_config", "RollbackConfig")):
            if key in self.deploy:
                spec[name] = self._update(key)
        mode = self.deploy.get("endpoint_mode")
        endpoint = dropped({"Mode": mode.text if mode else None, "Ports": self._ports()})
        if endpoint:
            spec["EndpointSpec"] = endpoint
        return spec

    # -- access ----------------------------------------------------------------------------------

    @staticmethod
    def _sub(fields: dict[str, Node], key: str) -> dict[str, Node]:
        return sound(fields[key].fields) if key in fields else {}

    def _text(self, key: str) -> str | None:
        node = self.fields.get(key)
        return None if node is None or node.empty else node.text

    def _flag(self, key: str) -> bool | None:
        node = self.fields.get(key)
        return None if node is None else bool(node.value)

    def _read(
        self, fields: dict[str, Node], key: str, path: str, parse: Callable[[str], T]
    ) -> T | None:
        node = fields.get(key)
        return None if node is None else self.plan.read(node, f"{self.path}.{path}", parse)

    def _list(self, key: str, parse: Callable[[str], T]) -> list[T]:
        """A list of texts, or a single text."""
        node = self.fields.get(key)
        if node is None:
            return []
        path = f"{self.path}.{key}"
        if not isinstance(node.value, list):
            found = self.plan.read(node, path, parse)
            return [] if found is None else [found]
        read = [self.plan.read(one, f"{path}[{i}]", parse) for i, one in enumerate(node.items)]
        return [one for one in read if one is not None]

    def _pairs(self, fields: dict[str, Node], key: str, path: str) -> dict[str, str]:
        return self.plan.pairs(fields, key, f"{self.path}.{path}")

    # -- parts of the spec -----------------------------------------------------------------------

    def _template(self, image: str) -> Json:
        template = {
            "ContainerSpec": dropped(self._container(image)),
            "Resources": self._resources(),
            "RestartPolicy": self._restart(),
            "Placement": self._placement(),
            "Networks": self.plan.attachments(
                self.name, self.fields.get("networks"), f"{self.path}.networks"
            ),
        }
        return dropped(template)

    def _container(self, image: str) -> Json:
        labels = self._pairs(self.fields, "labels", "labels")
        environment = self._pairs(self.fields, "environment", "environment")
        grace = self._read(
            self.fields, "stop_grace_period", "stop_grace_period", quantities.duration
        )
        return {
            "Image": image,
            "Labels": labels | {NAMESPACE_LABEL: self.plan.namespace},
            "Command": self._words("entrypoint"),
            "Args": self._words("command"),
            "Hostname": self._text("hostname"),
            "Env": [f"{key}={value}" for key, value in sorted(environment.items())],
            "Dir": self._text("working_dir"),
            "User": self._text("user"),
            "TTY": self._flag("tty") or None,
            "OpenStdin": self._flag("stdin_open") or None,
            "ReadOnly": self._flag("read_only") or None,
            "Init": self._flag("init"),
            "StopSignal": self._text("stop_signal"),
            "StopGracePeriod": grace,
            "Healthcheck": self._health(),
            "Mounts": self._mounts(),
            "Hosts": self._hosts(),
            "DNSConfig": dropped(
                {"Nameservers": self._list("dns", str), "Search": self._list("dns_search", str)}
            ),
            "Sysctls": self._pairs(self.fields, "sysctls", "sysctls"),
            "CapabilityAdd": self._list("cap_add", values.capability),
            "CapabilityDrop": self._list("cap_drop", values.capability),
            "Ulimits": self._ulimits(),
        }

    def _words(self, key: str) -> list[str]:
        node = self.fields.get(key)
        if node is None or node.empty:
            return []
        if isinstance(node.value, list):
            return [one.text for one in node.items]
        return self.plan.read(node, f"{self.path}.{key}", split) or []

    def _health(self) -> Json:
        fields = self._sub(self.fields, "healthcheck")
        if "disable" in fields and fields["disable"].value is True:
            return {"Test": ["NONE"]}
        health: dict[str, Json] = {}
        if "test" in fields:
            node = fields["test"]
            if isinstance(node.value, list):
                health["Test"] = [one.text for one in node.items]
                if node.items and node.items[0].text not in ("NONE", "CMD", "CMD-SHELL"):
                    where = f"{self.path}.healthcheck.test[0]"
                    self.plan.report(
                        node.items[0].mark, where, "the first word must be CMD, CMD-SHELL or NONE"
                    )
            else:
                health["Test"] = ["CMD-SHELL", node.text]
        for key, name in (
            ("interval", "Interval"),
            ("timeout", "Timeout"),
            ("start_period", "StartPeriod"),
            ("start_interval", "StartInterval"),
        ):
            health[name] = self._read(fields, key, f"healthcheck.{key}", quantities.duration)
        health["Retries"] = self._read(fields, "retries", "healthcheck.retries", quantities.count)
        return dropped(health)

    def _hosts(self) -> list[str]:
        node = self.fields.get("extra_hosts")
        if node is not None and isinstance(node.value, dict):
            return [f"{address.text} {name}" for name, address in sound(node.value).items()]
        return self._list("extra_hosts", values.extra_host)

    def _ulimits(self) -> list[Json]:
        found = []
        for name, node in self._sub(self.fields, "ulimits").items():
            pair = sound(node.fields)
            if node.fields and len(pair) < 2:
                continue
            soft = pair["soft"].text if pair else node.text
            hard = pair["hard"].text if pair else node.text
            limit = self.plan.at(
                node.mark,
                f"{self.path}.ulimits.{name}",
                partial(values.ulimit, name, soft, hard),
            )
            if limit is not None:
                found.append(limit)
        return found

    def _resources(self) -> Json:
        fields = self._sub(self.deploy, "resources")
        resources: dict[str, Json] = {}
        for key, name in (("limits", "Limits"), ("reservations", "Reservations")):
            part, path = self._sub(fields, key), f"deploy.resources.{key}"
            amounts = {
                "NanoCPUs": self._read(part, "cpus", f"{path}.cpus", quantities.cpus),
                "MemoryBytes": self._read(part, "memory", f"{path}.memory", quantities.size),
                "Pids": self._read(part, "pids", f"{path}.pids", quantities.count),
            }
            resources[name] = dropped(amounts)
        return dropped(resources)

    def _restart(self) -> Json:
        fields = self._sub(self.deploy, "restart_policy")
        path = "deploy.restart_policy"
        return dropped(
            {
                "Condition": fields["condition"].text if "condition" in fields else None,
                "Delay": self._read(fields, "delay", f"{path}.delay", quantities.duration),
                "MaxAttempts": self._read(
                    fields, "max_attempts", f"{path}.max_attempts", quantities.count
                ),
                "Window": self._read(fields, "window", f"{path}.window", quantities.duration),
            }
        )

    def _update(self, key: str) -> Json:
        """How tasks are replaced: one at a time unless it says otherwise, as in Docker."""
        fields, path = self._sub(self.deploy, key), f"deploy.{key}"
        words = {
            name: fields[one].text
            for one, name in (("failure_action", "FailureAction"), ("order", "Order"))
            if one in fields
        }
        given = {
            "Parallelism": self._read(
                fields, "parallelism", f"{path}.parallelism", quantities.count
            ),
            "Delay": self._read(fields, "delay", f"{path}.delay", quantities.duration),
            "Monitor": self._read(fields, "monitor", f"{path}.monitor", quantities.duration),
            "MaxFailureRatio": self._read(
                fields, "max_failure_ratio", f"{path}.max_failure_ratio", quantities.ratio
            ),
        }
        return {"Parallelism": 1, **words} | {k: v for k, v in given.items() if v is not None}

    def _placement(self) -> Json:
        fields = self._sub(self.deploy, "placement")
        path = f"{self.path}.deploy.placement"
        constraints = []
        if "constraints" in fields:
            for i, one in enumerate(fields["constraints"].items):
                constraints.append(
                    self.plan.read(one, f"{path}.constraints[{i}]", values.constraint)
                )
        preferences = [
            {"Spread": {"SpreadDescriptor": one.fields["spread"].text}}
            for one in (fields["preferences"].items if "preferences" in fields else ())
            if "spread" in one.fields and not one.bad
        ]
        limit = self._read(
            fields,
            "max_replicas_per_node",
            "deploy.placement.max_replicas_per_node",
            quantities.count,
        )
        return dropped(
            {"Constraints": constraints, "Preferences": preferences, "MaxReplicas": limit}
        )

    def _mode(self) -> Json:
        replicas = self.deploy.get("replicas")
        if "mode" in self.deploy and self.deploy["mode"].text == "global":
            if replicas is not None:
                self.plan.report(
                    replicas.mark,
                    f"{self.path}.deploy.replicas",
                    "a global service has one task on each node, not a number of replicas",
                )
            return {"Global": {}}
        number = self._read(self.deploy, "replicas", "deploy.replicas", quantities.count)
        return {"Replicated": {"Replicas": 1 if number is None else number}}

    def _ports(self) -> list[Json]:
        node = self.fields.get("ports")
        found: list[Json] = []
        for i, one in enumerate(node.items if node else ()):
            path = f"{self.path}.ports[{i}]"
            ports = None if one.bad else self.plan.at(one.mark, path, partial(ports_of, one))
            found += ports or ()
        return found

    def _mounts(self) -> list[Json]:
        node = self.fields.get("volumes")
        found = []
        for i, one in enumerate(node.items if node else ()):
            path = f"{self.path}.volumes[{i}]"
            mount = None if one.bad else self.plan.at(one.mark, path, partial(mount_of, one))
            if mount is not None:
                self._named_volume(mount, one, path)
                found.append(mount)
        return found + self._list("tmpfs", tmpfs)

    def _named_volume(self, mount: Json, node: Node, path: str) -> None:
        """Give a named volume the stack's name, its driver and its labels."""
        if mount["Type"] != "volume" or not mount.get("Source"):
            return
        name = mount["Source"]
        if name not in self.plan.volumes:
            self.plan.report(node.mark, path, f'the volume "{name}" is not declared below volumes:')
            return
        declared = sound(self.plan.volumes[name].fields)
        external = declared.get("external")
        if external is not None and external.value is not False:
            other = external.fields.get("name") or declared.get("name")
            mount["Source"] = other.text if other else name
            return
        mount["Source"] = (
            declared["name"].text if "name" in declared else f"{self.plan.namespace}_{name}"
        )
        options = mount.setdefault("VolumeOptions", {})
        labels = self._pairs(declared, "labels", "volumes")
        options["Labels"] = labels | {NAMESPACE_LABEL: self.plan.namespace}
        driver = {
            "Name": declared["driver"].text if "driver" in declared else None,
            "Options": {k: v.text for k, v in self._sub(declared, "driver_opts").items()},
        }
        if dropped(driver):
            options["DriverConfig"] = dropped(driver)
