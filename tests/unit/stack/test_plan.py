"""Stack files become Docker's ServiceSpec."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from swarmlet.model.specs import ServiceSpec
from swarmlet.stack import quantities, values
from swarmlet.stack.check import checked
from swarmlet.stack.load import load
from swarmlet.stack.merge import merged
from swarmlet.stack.problems import StackError

Json = Any


def _specs(text: str) -> list[Json]:
    return checked(load(text.encode(), "x.yml"), "shop").services


def _container(line: str, more: str = "") -> Json:
    text = f"services:\n  web:\n    image: nginx\n    {line}\n{more}"
    return _specs(text)[0]["TaskTemplate"]["ContainerSpec"]


def test_the_smallest_stack() -> None:
    assert _specs("services: {web: {image: 'nginx:1.29'}}") == [
        {
            "Name": "shop_web",
            "Labels": {
                "com.docker.stack.image": "nginx:1.29",
                "com.docker.stack.namespace": "shop",
            },
            "TaskTemplate": {
                "ContainerSpec": {
                    "Image": "nginx:1.29",
                    "Labels": {"com.docker.stack.namespace": "shop"},
                },
                "Networks": [{"Target": "shop_default", "Aliases": ["web"]}],
            },
            "Mode": {"Replicated": {"Replicas": 1}},
        }
    ]


@pytest.mark.parametrize(
    ("line", "field", "value"),
    [
        ("command: sh -c 'sleep 1'", "Args", ["sh", "-c", "sleep 1"]),
        ("command: [sleep, 1.50]", "Args", ["sleep", "1.50"]),
        ("entrypoint: [a, 'b c']", "Command", ["a", "b c"]),
        ("environment: {B: 1.10, A: true, C: }", "Env", ["A=true", "B=1.10", "C="]),
        ("environment: [B=2, A=x=y, C]", "Env", ["A=x=y", "B=2", "C="]),
        ("environment: {A: $$HOME}", "Env", ["A=$HOME"]),
        ("user: 1000", "User", "1000"),
        ("working_dir: /srv", "Dir", "/srv"),
        ("init: false", "Init", False),
        ("read_only: true", "ReadOnly", True),
        ("stop_grace_period: 1m30s", "StopGracePeriod", 90_000_000_000),
        ("cap_drop: [all]", "CapabilityDrop", ["ALL"]),
        ("extra_hosts: ['db:10.0.0.5']", "Hosts", ["10.0.0.5 db"]),
        ("extra_hosts: {db: 10.0.0.5}", "Hosts", ["10.0.0.5 db"]),
        ("dns: 1.1.1.1", "DNSConfig", {"Nameservers": ["1.1.1.1"]}),
        ("sysctls: {a.b: 1}", "Sysctls", {"a.b": "1"}),
        ("ulimits: {nproc: 5}", "Ulimits", [{"Name": "nproc", "Soft": 5, "Hard": 5}]),
        ("healthcheck: {test: curl x, retries: 3}", "Healthcheck", {
            "Test": ["CMD-SHELL", "curl x"], "Retries": 3}),
        ("healthcheck: {disable: true}", "Healthcheck", {"Test": ["NONE"]}),
        ("tmpfs: /t:size=1M", "Mounts", [
            {"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"SizeBytes": 1 << 20}}]),
        ("volumes: ['/a:/b:ro']", "Mounts", [
            {"Type": "bind", "Target": "/b", "Source": "/a", "ReadOnly": True}]),
        ("labels: [a=b]", "Labels", {"a": "b", "com.docker.stack.namespace": "shop"}),
    ],
)  # fmt: skip
def test_a_services_fields(line: str, field: str, value: Json) -> None:
    assert _container(line)[field] == value


def test_named_volumes_get_the_stacks_name_and_driver() -> None:
    more = (
        "volumes:\n  data: {driver: nfs, driver_opts: {o: rw}}\n"
        "  old: {external: true}\n  other: {name: mine}\n"
    )
    mounts = _container("volumes: ['data:/d', 'old:/o', 'other:/x']", more)["Mounts"]
    label = {"com.docker.stack.namespace": "shop"}
    assert mounts == [
        {
            "Type": "volume",
            "Target": "/d",
            "Source": "shop_data",
            "VolumeOptions": {
                "Labels": label,
                "DriverConfig": {"Name": "nfs", "Options": {"o": "rw"}},
            },
        },
        {"Type": "volume", "Target": "/o", "Source": "old"},
        {"Type": "volume", "Target": "/x", "Source": "mine", "VolumeOptions": {"Labels": label}},
    ]


def test_deploy_becomes_the_rest_of_the_spec() -> None:
    [spec] = _specs(
        """
services:
  web:
    image: nginx
    ports: [{target: 80, published: "8080", mode: host}]
    deploy:
      replicas: "3"
      labels: {a: b}
      resources: {limits: {cpus: '0.50', memory: 64M, pids: 9}, reservations: {memory: 1g}}
      restart_policy: {condition: on-failure, delay: 0s, max_attempts: 3, window: 2m}
      placement:
        constraints: [node.role == worker]
        preferences: [{spread: node.labels.zone}]
        max_replicas_per_node: 2
      update_config: {parallelism: 0, delay: 10s, order: start-first, failure_action: rollback}
      rollback_config: {monitor: 1m, max_failure_ratio: 0.25}
"""
    )
    assert spec["UpdateConfig"] == {
        "Parallelism": 0,
        "Delay": 10_000_000_000,
        "FailureAction": "rollback",
        "Order": "start-first",
    }
    assert spec["RollbackConfig"] == {
        "Parallelism": 1,
        "Monitor": 60_000_000_000,
        "MaxFailureRatio": 0.25,
    }
    assert spec["Mode"] == {"Replicated": {"Replicas": 3}}
    assert spec["Labels"]["a"] == "b"
    assert spec["EndpointSpec"]["Ports"][0]["PublishMode"] == "host"
    template = spec["TaskTemplate"]
    assert template["Resources"] == {
        "Limits": {"NanoCPUs": 500_000_000, "MemoryBytes": 64 << 20, "Pids": 9},
        "Reservations": {"MemoryBytes": 1 << 30},
    }
    assert template["RestartPolicy"] == {
        "Condition": "on-failure",
        "Delay": 0,
        "MaxAttempts": 3,
        "Window": 120_000_000_000,
    }
    assert template["Placement"] == {
        "Constraints": ["node.role == worker"],
        "Preferences": [{"Spread": {"SpreadDescriptor": "node.labels.zone"}}],
        "MaxReplicas": 2,
    }


def test_specs_are_what_the_model_takes() -> None:
    """Every field that the plan writes exists in the daemon's ServiceSpec."""
    [spec] = _specs(
        """
services:
  web:
    image: nginx
    command: a
    tty: true
    healthcheck: {test: x, interval: 1s, timeout: 1s, start_period: 1s, start_interval: 1s}
    volumes: [{type: bind, source: /a, target: /b, bind: {propagation: rshared}}]
    tmpfs: /t:size=1M,mode=1777
    deploy: {replicas: 2, restart_policy: {delay: 1s}}
"""
    )
    taken = msgspec.convert(spec, ServiceSpec)
    again = msgspec.json.decode(msgspec.json.encode(taken))
    assert again["TaskTemplate"] == spec["TaskTemplate"]
    assert again["Mode"] == spec["Mode"]


def test_later_files_override_and_add() -> None:
    one = load(b"services: {web: {image: a, command: [x], environment: {A: 1}}}", "1")
    two = load(
        b"services: {web: {image: b, command: [y], environment: {B: 2}}, db: {image: c}}", "2"
    )
    web, db = checked(merged([one, two]), "shop").services
    container = web["TaskTemplate"]["ContainerSpec"]
    assert container["Image"] == "b"
    assert container["Args"] == ["y"]
    assert container["Env"] == ["A=1", "B=2"]
    assert db["Name"] == "shop_db"


def test_a_problem_names_the_file_it_is_in() -> None:
    one = load(b"services: {web: {image: a}}", "one.yml")
    two = load(b"services:\n  web:\n    foo: 1\n", "two.yml")
    with pytest.raises(StackError) as caught:
        checked(merged([one, two]), "shop")
    assert [p.render().split(": ")[0] for p in caught.value.problems] == ["two.yml:3:5"]


def test_one_mistake_in_a_shared_piece_is_told_once() -> None:
    text = "x-d: &d {replicas: many}\nservices:\n"
    text += "".join(f"  s{i}: {{image: x, deploy: *d}}\n" for i in range(3))
    with pytest.raises(StackError, match="1 problem"):
        _specs(text)


NETWORKS = """
networks:
  front:
  back: {driver: overlay, internal: true, attachable: true, labels: {a: b}, driver_opts: {mtu: 9},
    ipam: {driver: default, config: [{subnet: 10.9.0.0/24, gateway: 10.9.0.9, ip_range: 10.9.0.0/25,
      aux_addresses: {tv: 10.9.0.7}}]}}
  named: {name: own}
  old: {external: {name: theirs}}
  ext: {external: true}
  unused: {internal: true}
"""


def _attached(line: str) -> Json:
    text = f"services:\n  web:\n    image: nginx\n    {line}\n{NETWORKS}"
    found = checked(load(text.encode(), "x.yml"), "shop")
    return found.services[0]["TaskTemplate"]["Networks"], found.networks


@pytest.mark.parametrize(
    ("line", "targets"),
    [
        ("hostname: x", {"shop_default": ["web"]}),
        ("networks: []", {"shop_default": ["web"]}),
        ("networks:", {"shop_default": ["web"]}),
        ("networks: [front, default]", {"shop_front": ["web"], "shop_default": ["web"]}),
        ("networks: {front: , ext: {aliases: [x, y]}}", {
            "shop_front": ["web"], "ext": ["x", "y", "web"]}),
        ("networks: [named, old]", {"own": ["web"], "theirs": ["web"]}),
    ],
)  # fmt: skip
def test_a_service_is_in_its_networks_under_its_short_name(line: str, targets: Json) -> None:
    """As with Docker: only networks that a service is in are made, and one by default."""
    attachments, networks = _attached(line)
    assert {a["Target"]: a["Aliases"] for a in attachments} == targets
    assert {n.name for n in networks} == targets.keys()
    assert {n.name for n in networks if n.body is None} == {"theirs", "ext"} & targets.keys()


def test_a_network_becomes_dockers_request() -> None:
    _, networks = _attached("networks: [back, front]")
    label = {"com.docker.stack.namespace": "shop"}
    back, front = (n.body for n in networks)
    assert front == {
        "Name": "shop_front",
        "Driver": "overlay",
        "CheckDuplicate": True,
        "Labels": label,
    }
    assert back == front | {
        "Name": "shop_back",
        "Labels": {"a": "b"} | label,
        "Options": {"mtu": "9"},
        "Internal": True,
        "Attachable": True,
        "IPAM": {
            "Driver": "default",
            "Config": [
                {
                    "Subnet": "10.9.0.0/24",
                    "IPRange": "10.9.0.0/25",
                    "Gateway": "10.9.0.9",
                    "AuxiliaryAddresses": {"tv": "10.9.0.7"},
                }
            ],
        },
    }


def test_ports_and_the_endpoint_mode() -> None:
    [spec] = _specs(
        "services: {web: {image: x, deploy: {endpoint_mode: vip}, "
        "ports: ['8080:80', '53:53/udp', {target: 9000-9001, published: '9100-9101'}]}}"
    )
    assert spec["EndpointSpec"]["Mode"] == "vip"
    assert [
        (p["Protocol"], p["PublishedPort"], p["TargetPort"], p["PublishMode"])
        for p in spec["EndpointSpec"]["Ports"]
    ] == [
        ("tcp", 8080, 80, "ingress"),
        ("udp", 53, 53, "ingress"),
        ("tcp", 9100, 9000, "ingress"),
        ("tcp", 9101, 9001, "ingress"),
    ]


@pytest.mark.parametrize(
    ("text", "nanos"),
    [("0", 0), ("1.5s", 1_500_000_000), ("1h2m3s", 3_723_000_000_000), ("2d", 172_800 * 10**9)],
)
def test_lengths_of_time(text: str, nanos: int) -> None:
    assert quantities.duration(text) == nanos


@pytest.mark.parametrize("text", ["", "10", "s", "1x", "1s ", "-1s", "1e3s", "9" * 30 + "h"])
def test_what_is_no_length_of_time(text: str) -> None:
    with pytest.raises(ValueError, match="is wanted"):
        quantities.duration(text)


@given(st.integers(0, 10**18))
def test_a_length_of_time_reads_back(nanos: int) -> None:
    assert abs(quantities.duration(quantities.short_duration(nanos)) - nanos) <= nanos * 1e-12


@pytest.mark.parametrize(
    ("text", "number"),
    [("64", 64), ("64b", 64), ("1K", 1024), ("1.5GiB", 3 << 29), ("2tb", 2 << 40)],
)
def test_sizes(text: str, number: int) -> None:
    assert quantities.size(text) == number


@pytest.mark.parametrize("text", ["", "x", "-1", "1Z", "1 2", "9" * 30])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match=r"wanted|machine"):
        quantities.size(text)


@given(st.text(max_size=30))
def test_readers_raise_nothing_but_value_errors(text: str) -> None:
    readers = (
        quantities.duration, quantities.size, quantities.cpus, quantities.count,
        values.short_port, values.short_mount, values.constraint, values.capability,
        values.extra_host, values.service_name,
        lambda t: values.ports_of_fields({"target": t, "published": t}),
        lambda t: values.ports_of_fields({"target": "80", "published": t}),
    )  # fmt: skip
    for read in readers:
        try:
            read(text)
        except ValueError as error:
            assert str(error)  # noqa: PT017 - either way is fine, but not silence


def test_port_ranges() -> None:
    ports = values.short_port("8000-8002:80-82/udp")
    assert [(p["PublishedPort"], p["TargetPort"]) for p in ports] == [
        (8000, 80),
        (8001, 81),
        (8002, 82),
    ]
