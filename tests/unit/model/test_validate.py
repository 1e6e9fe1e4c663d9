"""Specs that are refused, each for the one field that is wrong; and that sound ones are not."""

from typing import Any

import msgspec
import pytest
from swarmlet.model.specs import Availability, ClusterSpec, NodeSpec, Role, ServiceSpec
from swarmlet.model.validate import (
    cluster_problems,
    node_problems,
    service_change_problems,
    service_problems,
    service_warnings,
)

Json = Any


def service(**changes: Json) -> ServiceSpec:
    base: Json = {"Name": "web", "TaskTemplate": {"ContainerSpec": {"Image": "busybox"}}}
    return msgspec.convert(base | changes, ServiceSpec)


def container(**changes: Json) -> ServiceSpec:
    return service(TaskTemplate={"ContainerSpec": {"Image": "busybox", **changes}})


def template(**changes: Json) -> ServiceSpec:
    return service(TaskTemplate={"ContainerSpec": {"Image": "busybox"}, **changes})


def mount(**fields: Json) -> ServiceSpec:
    return container(Mounts=[fields])


def ports(*given: Json, mode: str = "vip") -> ServiceSpec:
    return service(EndpointSpec={"Mode": mode, "Ports": list(given)})


def resources(kind: str = "Limits", **amounts: Json) -> ServiceSpec:
    return template(Resources={kind: amounts})


def secrets(*references: Json, **others: Json) -> ServiceSpec:
    return container(Secrets=named("Secret", references), **others)


def configs(*references: Json) -> ServiceSpec:
    return container(Configs=named("Config", references))


def named(kind: str, references: tuple[Json, ...]) -> list[Json]:
    return [
        {f"{kind}ID": f"id-{i}", f"{kind}Name": f"name-{i}", **reference}
        for i, reference in enumerate(references)
    ]


def target(name: str, **fields: Json) -> Json:
    return {"File": {"Name": name, "UID": "0", "GID": "0", "Mode": 292, **fields}}


M = {"Type": "bind", "Source": "/x", "Target": "/run/m"}

HOST = {"TargetPort": 80, "PublishedPort": 8080, "PublishMode": "host"}


@pytest.mark.parametrize(
    "spec",
    [
        service(),
        service(Mode={"Global": {}}, EndpointSpec={"Mode": "vip"}),
        service(Mode={"Replicated": {"Replicas": 0}}),
        container(Hostname="{{ .Node.Hostname }}-{{ .Task.Slot }}", Env=["A={{.Service.Name}}"]),
        mount(Type="volume", Source="data-{{.Task.Slot}}", Target="/v"),
        secrets(target("a"), target("/b", UID="", GID="1000", Mode=0), target("c/d.pem")),
        configs(target("a"), target("/etc/b.conf", Mode=0o1777)),
        container(
            Image="registry.example:5000/a/b_c:v1.2@sha256:" + "a" * 64,
            Env=["A=b", "EMPTY=", "BARE"],
            Isolation="default",
            Hosts=["10.0.0.1 a b", "name:10.0.0.1", "::1 six"],
            StopSignal="SIGRTMIN+3",
            Hostname="one-of-many",
            Healthcheck={"Test": ["CMD-SHELL", "true"], "Interval": 2_000_000_000},
            Privileges={"Seccomp": {"Mode": "custom", "Profile": "e30="}},
        ),
        mount(Type="bind", Source="/a", Target="/b", BindOptions={"Propagation": "rslave"}),
        mount(Type="volume", Target="/b"),
        mount(Type="tmpfs", Target="/b", TmpfsOptions={"SizeBytes": 1}),
        ports(HOST, {**HOST, "Protocol": "udp"}, {**HOST, "PublishedPort": 8081}),
        ports({"TargetPort": 80}, {"TargetPort": 80, "Protocol": "udp", "PublishedPort": 80}),
        ports({**HOST, "PublishedPort": 0}, {**HOST, "PublishedPort": 0, "TargetPort": 81}),
        resources(NanoCPUs=500_000_000, MemoryBytes=64 << 20, Pids=100),
        template(RestartPolicy={"Condition": "on-failure", "MaxAttempts": 3}),
        template(Placement={"Preferences": [{"Spread": {"SpreadDescriptor": "node.labels.z"}}]}),
    ],
)
def test_a_sound_service_has_no_problems(spec: ServiceSpec) -> None:
    assert service_problems(spec) == []
    assert service_warnings(spec) == []


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (service(Name="a.b"), "name must be valid as a DNS name component"),
        (service(Name="x" * 64), "name must be valid as a DNS name component"),
        (service(Labels={"": "x"}), "Labels: a label needs a name"),
        (service(Mode={"ReplicatedJob": {}}), "Mode.ReplicatedJob: jobs are not supported yet"),
        (service(Mode={"GlobalJob": {}}), "Mode.GlobalJob: jobs are not supported yet"),
        (service(Mode={"Global": {}, "Replicated": {}}), "only one of Replicated and Global"),
        (service(Mode={"Replicated": {"Replicas": -1}}), "Mode.Replicated.Replicas: must be"),
        (service(Mode={"Replicated": {"Replicas": 10**9}}), "Mode.Replicated.Replicas: must be"),
        (service(Networks=[{}]), "Networks[0].Target: a network must be named"),
        (template(Networks=[{"Target": ""}]), "TaskTemplate.Networks[0].Target: a network must"),
        (template(Networks=[{"Target": "n", "Aliases": ["a", ""]}]), 'Aliases: "" is no name'),
        (service(Labels={"swarmlet.lb.sticky": "cookie"}), '"cookie": client-ip is needed'),
        (service(Labels={"swarmlet.publish.address": "::1"}), '"::1": an IPv4 address of a'),
        (container(Labels={"swarmlet.lb.weight": "1001"}), "between 0 and 1000 is needed"),
        (container(Labels={"swarmlet.lb.weight": "-1"}), "between 0 and 1000 is needed"),
        (container(Labels={"swarmlet.lb.drain": "4m"}), '"4m": a whole number between 0 and 3600'),
        (service(Labels={"swarmlet.lb.weight": "3"}), "belongs on the container"),
        (service(Labels={"swarmlet.lb.drain": "3"}), "belongs on the container"),
        (container(Labels={"swarmlet.lb.sticky": "client-ip"}), "belongs on the service (--label"),
        (container(Labels={"swarmlet.publish.address": "10.0.0.1"}), "belongs on the service"),
        (template(Runtime="plugin"), "plugins are not supported yet"),
        (template(Runtime="moon"), 'unknown runtime "moon"'),
        (service(TaskTemplate={}), "TaskTemplate.ContainerSpec: is required"),
        (container(Image=""), "image reference must be provided"),
        (container(Image="a/UPPER"), "is not a valid repository/tag"),
        (container(Hostname="{{.Node.Name}}"), "Hostname: template, line 1, column 3: there is no"),
        (container(Env=["A=1", "N={{ .Task }}"]), "Env[1]: template, line 1, column 4: there is"),
        (mount(Type="volume", Source="{{", Target="/v"), "Mounts[0].Source: template, line 1"),
        (container(Secrets=[{"SecretID": "x"}]), "malformed secret reference"),
        (container(Configs=[{"ConfigName": "x"}]), "malformed config reference"),
        (secrets({"File": None}), "malformed secret reference, no target provided"),
        (configs({"File": None}), "malformed config reference, no target provided"),
        (configs({"File": None, "Runtime": {}}), "configs as credential specs are not supported"),
        (secrets({"File": {}}), "malformed file secret reference, invalid target file name"),
        (configs({"File": {}}), "malformed file config reference, invalid target file name"),
        (secrets({"File": {"Name": "a/"}}), 'Secrets[0].File.Name: "a/" is not the name of a file'),
        (secrets({"File": {"Name": ".."}}), '".." is not the name of a file'),
        (configs({"File": {"Name": "/"}}), 'Configs[0].File.Name: "/" is not the name of a file'),
        (secrets(target("a", UID="me")), 'Secrets[0].File.UID: "me": a number is needed'),
        (secrets(target("a", GID="-1")), 'Secrets[0].File.GID: "-1": a number is needed'),
        (secrets(target("a", UID="4294967295")), '"4294967295": a number is needed'),
        (secrets(target("a", Mode=-1)), "Secrets[0].File.Mode: cannot be -1"),
        (
            secrets(target("a"), target("a")),
            "secret references 'name-0' and 'name-1' have a conflicting target: 'a'",
        ),
        (
            configs(target("/a"), target("b"), target("/a")),
            "config references 'name-0' and 'name-2' have a conflicting target: '/a'",
        ),
        (secrets(target("a"), target("/run/secrets/a")), "Duplicate mount point: /run/secrets/a"),
        (secrets(target("b/../../m"), Mounts=[M]), "Secrets: Duplicate mount point: /run/m"),
        (container(Isolation="hyperv"), "Isolation: isolation is not supported yet"),
        (container(Privileges={"CredentialSpec": {}}), "CredentialSpec: credential specs are"),
        (container(Privileges={"Seccomp": {"Mode": "custom", "Profile": "!"}}), "JSON in base64"),
        (container(Privileges={"AppArmor": {"Mode": "x"}}), "default or disabled"),
        (container(Env=["=x"]), "Env[0]: a variable needs a name"),
        (container(Hosts=[" "]), "Hosts[0]"),
        (container(StopSignal="SIG KILL"), "invalid signal"),
        (container(Hostname="a b"), "is not a host name"),
        (container(Dir="rel"), "Dir: must be absolute"),
        (container(OomScoreAdj=2000), "between -1000 and 1000"),
        (container(Ulimits=[{"Name": "nofile", "Soft": 2, "Hard": 1}]), "Ulimits[0]"),
        (container(StopGracePeriod=-1), "StopGracePeriod: cannot be -1"),
        (container(Healthcheck={"Test": ["RUN"]}), "unknown health check type"),
        (container(Healthcheck={"Test": ["CMD"]}), "a command is needed"),
        (container(Healthcheck={"Interval": 5}), "Interval: cannot be less than 1ms"),
        (mount(Type="bind", Source="rel", Target="/b"), "invalid bind mount source, must be an"),
        (mount(Type="bind", Source="/a", Target="b"), "invalid mount target, must be an"),
        (mount(Type="cluster", Source="a", Target="/b"), "Type: cluster is not supported yet"),
        (mount(Source="a", Target="/b"), "Type: is required"),
        (mount(Type="tmpfs", Source="a", Target="/b"), "a tmpfs has no source"),
        (mount(Type="volume", Source="a/b", Target="/b"), "invalid volume name"),
        (mount(Type="volume", Target="/b", BindOptions={}), "bind options on another kind"),
        (
            container(Mounts=[{"Type": "tmpfs", "Target": t} for t in ("/a", "/a/")]),
            "Duplicate mount point: /a",
        ),
        (resources(NanoCPUs=1), "invalid cpu value"),
        (resources(MemoryBytes=1 << 20), "invalid memory value 1048576: Must be at least 4MiB"),
        (resources("Reservations", GenericResources=[{}]), "generic resources are not supported"),
        (
            template(Resources={"Limits": {"Pids": 1, "MemoryBytes": 8 << 20},
                                "Reservations": {"MemoryBytes": 9 << 20}}),
            "Reservations.MemoryBytes: is more than the limit",
        ),
        (template(RestartPolicy={"Delay": -5}), "RestartPolicy.Delay: cannot be -5"),
        (template(RestartPolicy={"MaxAttempts": 2**64 - 1}), "RestartPolicy.MaxAttempts"),
        (
            template(Placement={"Preferences": [{"Spread": {"SpreadDescriptor": "node.id"}}]}),
            "node.labels.NAME or engine.labels.NAME is needed",
        ),
        (ports({"TargetPort": 80}, mode="dnsrr"), "can't be used with dnsrr mode"),
        (ports({**HOST, "TargetPort": 0}), "TargetPort: invalid port 0"),
        (ports({**HOST, "PublishedPort": 70_000}), "PublishedPort: invalid port 70000"),
        (ports(HOST, {**HOST, "TargetPort": 81}), "duplicate published port 8080/tcp"),
        (service(UpdateConfig={"MaxFailureRatio": 2}), "between 0 and 1"),
        (service(RollbackConfig={"Monitor": -1}), "RollbackConfig.Monitor: cannot be -1"),
    ],
)  # fmt: skip
def test_one_wrong_field_is_named(spec: ServiceSpec, text: str) -> None:
    """One problem each, but for the port whose endpoint mode is wrong as well."""
    found = [str(problem) for problem in service_problems(spec)]
    assert any(text in message for message in found), found
    assert len(found) <= 2


def test_an_update_keeps_name_and_mode() -> None:
    changed = service(Name="other", Mode={"Global": {}})
    assert [p.message for p in service_change_problems(service(), changed)] == [
        "renaming services is not supported",
        "service mode change is not allowed",
    ]
    assert service_change_problems(service(), service(Labels={"a": "b"})) == []


def test_settings_without_effect_are_warned_of() -> None:
    spec = service(Networks=[{"Target": "n", "DriverOpts": {"a": "b"}}])
    assert [w.partition(":")[0] for w in service_warnings(spec)] == [
        "Networks[0].DriverOpts have no effect in swarmlet",
    ]


@pytest.mark.parametrize(
    ("mode", "words"),
    [({"Global": {}}, "are replaced stop-first"), ({"Replicated": {}}, "an update waits")],
)
def test_start_first_with_host_ports_is_warned_of(mode: object, words: str) -> None:
    port = {"TargetPort": 80, "PublishedPort": 8080, "PublishMode": "host"}
    spec = service(
        Mode=mode,
        UpdateConfig={"Order": "start-first"},
        RollbackConfig={"Order": "stop-first"},
        EndpointSpec={"Ports": [port]},
    )
    (warning,) = service_warnings(spec)
    assert warning.startswith("UpdateConfig.Order: start-first")
    assert warning.endswith(words)
    assert service_warnings(service(Mode=mode, UpdateConfig={"Order": "start-first"})) == []


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"Dispatcher": {"HeartbeatPeriod": 5}}, "Dispatcher.HeartbeatPeriod"),
        ({"CAConfig": {"NodeCertExpiry": 5}}, "CAConfig.NodeCertExpiry"),
        ({"CAConfig": {"ForceRotate": 1}}, "CAConfig"),
        ({"CAConfig": {"ExternalCAs": [{}]}}, "CAConfig.ExternalCAs"),
        ({"EncryptionConfig": {"AutoLockManagers": True}}, "EncryptionConfig.AutoLockManagers"),
        (
            {"Orchestration": {"TaskHistoryRetentionLimit": -1}},
            "Orchestration.TaskHistoryRetentionLimit",
        ),
        (
            {"Labels": {"swarmlet.failure.down-after": "soon"}},
            "Labels.swarmlet.failure.down-after",
        ),
    ],
)
def test_wrong_cluster_settings_are_named(spec: Json, path: str) -> None:
    assert [p.path for p in cluster_problems(msgspec.convert(spec, ClusterSpec))] == [path]


def test_a_node_label_needs_a_name() -> None:
    spec = NodeSpec(labels={" ": "x"}, role=Role.WORKER, availability=Availability.ACTIVE)
    assert [p.path for p in node_problems(spec)] == ["Labels"]
