"""Assignments as container bodies, and containers read back."""

import base64
from typing import Any

import msgspec
import pytest
from swarmlet.clock import Instant
from swarmlet.engine import convert
from swarmlet.engine.convert import container, create_body, instant
from swarmlet.engine.networks import Endpoint
from swarmlet.model.objects import TaskState
from swarmlet.model.specs import (
    AppArmor,
    ContainerSpec,
    DnsConfig,
    HealthConfig,
    Mount,
    NetworkAttachment,
    PortConfig,
    Privileges,
    Seccomp,
    SelinuxContext,
    TaskSpec,
    TmpfsOptions,
)
from swarmlet.rpc.messages import Assignment


def assignment(ports: tuple[PortConfig, ...] = (), slot: int = 1, **spec: Any) -> Assignment:
    return Assignment(
        task_id="taskid",
        service_id="serviceid",
        service_name="web.blue",
        slot=slot,
        node_id="nodeid",
        spec=TaskSpec(container_spec=ContainerSpec(image="i", **spec)),
        desired=TaskState.RUNNING,
        state=TaskState.ASSIGNED,
        ports=ports,
    )


def test_an_empty_spec_leaves_everything_to_the_image_and_the_engine() -> None:
    body = create_body(assignment())
    assert body.keys() == {"Image", "Labels", "StopTimeout", "HostConfig"}
    assert body["HostConfig"] == {"RestartPolicy": {"Name": "no"}}
    assert body["StopTimeout"] == 10


@pytest.mark.parametrize(
    ("options", "search"),
    [
        ((), ["example.org"]),
        (("timeout:2",), ["example.org"]),
        (("ndots:2",), ["front", "back", "example.org"]),
    ],
)
def test_names_of_services_are_found_with_ndots(
    options: tuple[str, ...], search: list[str]
) -> None:
    """An engine that is given this option answers a name without a dot itself: with nothing."""
    endpoints = [
        Endpoint("n1", "10.9.1.5", "10.9.1.1", "front"),
        Endpoint("n2", "10.9.2.5", "10.9.2.1", "back"),
    ]
    dns = DnsConfig(search=("example.org",), options=options)
    config = create_body(assignment(dns_config=dns), endpoints)["HostConfig"]
    assert config["DnsSearch"] == search
    assert config["Dns"] == ["10.9.1.1"]


@pytest.mark.parametrize(
    ("nanos", "seconds"), [(0, 0), (1, 1), (1_000_000_000, 1), (1_500_000_000, 2)]
)
def test_a_grace_period_is_rounded_up(nanos: int, seconds: int) -> None:
    assert create_body(assignment(stop_grace_period=nanos)).get("StopTimeout") == seconds


def test_a_command_drops_the_images_arguments() -> None:
    body = create_body(assignment(command=("a",)))
    assert (body["Entrypoint"], body["Cmd"]) == (["a"], [])
    assert "Entrypoint" not in create_body(assignment(args=("b",)))


@pytest.mark.parametrize(("given", "sent"), [(None, None), (True, True), (False, False)])
def test_init_has_three_values(given: bool | None, sent: bool | None) -> None:
    assert create_body(assignment(init=given))["HostConfig"].get("Init") is sent


def test_hosts_are_turned_around() -> None:
    body = create_body(assignment(hosts=("1.2.3.4 a b", "fd00::1 c", "d:5.6.7.8")))
    assert body["HostConfig"]["ExtraHosts"] == ["a:1.2.3.4", "b:1.2.3.4", "c:fd00::1", "d:5.6.7.8"]


def test_security_options() -> None:
    profile = base64.b64encode(b'{"x":1}').decode()
    body = create_body(
        assignment(
            privileges=Privileges(
                no_new_privileges=True,
                seccomp=Seccomp(mode="custom", profile=profile),
                app_armor=AppArmor(mode="disabled"),
                selinux_context=SelinuxContext(user="u", level="s0"),
            )
        )
    )
    assert body["HostConfig"]["SecurityOpt"] == [
        "no-new-privileges:true",
        'seccomp={"x":1}',
        "apparmor=unconfined",
        "label=user:u",
        "label=level:s0",
    ]


def test_only_host_ports_are_bound_here() -> None:
    ports = (
        PortConfig(target_port=80, published_port=8080, publish_mode="host"),
        PortConfig(target_port=80, published_port=8081, publish_mode="host", protocol="tcp"),
        PortConfig(target_port=53, publish_mode="host", protocol="udp"),
        PortConfig(target_port=90, published_port=9090, publish_mode="ingress"),
    )
    body = create_body(assignment(ports=ports))
    assert body["ExposedPorts"] == {"80/tcp": {}, "53/udp": {}}
    assert body["HostConfig"]["PortBindings"] == {
        "80/tcp": [{"HostPort": "8080"}, {"HostPort": "8081"}],
        "53/udp": [{"HostPort": ""}],
    }


def test_a_tmpfs_becomes_options_of_mount() -> None:
    mount = Mount(
        type="tmpfs",
        target="/t",
        read_only=True,
        tmpfs_options=TmpfsOptions(size_bytes=4096, mode=0o1777, options=(("noexec",),)),
    )
    host = create_body(assignment(mounts=(mount,)))["HostConfig"]
    assert host["Tmpfs"] == {"/t": "ro,size=4096,mode=1777,noexec"}
    assert "Mounts" not in host


def test_a_bare_tmpfs_is_mounted() -> None:
    host = create_body(assignment(mounts=(Mount(type="tmpfs", target="/t"),)))["HostConfig"]
    assert host["Tmpfs"] == {"/t": ""}


def test_a_health_check_of_none_is_passed_on() -> None:
    body = create_body(assignment(healthcheck=HealthConfig(test=("NONE",))))
    assert body["Healthcheck"] == {"Test": ["NONE"]}


def test_the_hosts_own_network_is_a_mode_of_the_container() -> None:
    one = assignment()
    spec = msgspec.structs.replace(one.spec, networks=(NetworkAttachment(target="host"),))
    body = create_body(msgspec.structs.replace(one, spec=spec))
    assert body["HostConfig"]["NetworkMode"] == "host"


def test_labels_that_say_whose_it_is_cannot_be_forged() -> None:
    marks = convert.labels(assignment(labels={convert.TASK_LABEL: "other", "mine": "1"}))
    assert marks[convert.TASK_LABEL] == "taskid"
    assert marks["mine"] == "1"


@pytest.mark.parametrize(("slot", "place"), [(3, "3"), (0, "nodeid")])
def test_a_strangers_slot_is_read_from_its_labels(slot: int, place: str) -> None:
    listed = {"Labels": convert.labels(assignment(slot=slot))}
    assert convert.task_of(listed) == "taskid"
    assert convert.stranger(listed) == ("serviceid", "web.blue", place)


def test_containers_of_others_have_no_task() -> None:
    assert convert.task_of({"Labels": {"com.docker.swarm.task.id": "x"}}) == ""
    assert convert.task_of({"Labels": None}) == ""


@pytest.mark.parametrize(
    ("text", "nanos"),
    [
        ("", 0),
        ("0001-01-01T00:00:00Z", 0),
        ("1970-01-01T00:00:01Z", 1_000_000_000),
        ("1970-01-01T00:00:01.5Z", 1_500_000_000),
        ("1970-01-01T00:00:01.123456789Z", 1_123_456_789),
        ("1970-01-01T02:00:01.000000001+02:00", 1_000_000_001),
        ("1969-12-31T22:30:01-01:30", 1_000_000_000),
    ],
)
def test_times_keep_their_nanoseconds(text: str, nanos: int) -> None:
    assert instant(text) == Instant(nanos)


def test_a_container_is_read_from_its_inspection() -> None:
    found = container(
        {
            "Id": "c1",
            "Config": {"Labels": {convert.TASK_LABEL: "t1"}},
            "HostConfig": {"Memory": 4096},
            "State": {
                "Status": "exited",
                "ExitCode": 137,
                "OOMKilled": True,
                "FinishedAt": "1970-01-01T00:00:01Z",
                "Health": {"Status": "none"},
            },
        }
    )
    assert (found.task_id, found.running, found.health) == ("t1", False, "")
    assert found.status.exit_code == 137
    assert found.status.oom_killed
    assert found.memory_limit == 4096


def test_a_running_container_has_no_exit_code() -> None:
    found = container({"Id": "c", "State": {"Status": "running", "Pid": 7, "ExitCode": 0}})
    assert found.status.exit_code is None
    assert found.status.pid == 7
