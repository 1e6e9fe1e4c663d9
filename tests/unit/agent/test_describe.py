"""What a node says of itself."""

from swarmlet.agent.describe import description
from swarmlet.model.objects import Plugin

INFO = {
    "Architecture": "x86_64",
    "OSType": "linux",
    "NCPU": 2,
    "MemTotal": 4096,
    "ServerVersion": "20.10.24",
    "Labels": ["rack=r1", "bare", "odd=a=b"],
    "Plugins": {"Volume": ["local"], "Network": ["host", "bridge"], "Authorization": None},
}


def test_resources_and_platform_come_from_the_engine() -> None:
    node = description(INFO, "box")
    assert (node.hostname, node.engine_version) == ("box", "20.10.24")
    assert (node.platform.architecture, node.platform.os) == ("x86_64", "linux")
    assert (node.resources.nano_cpus, node.resources.memory_bytes) == (2_000_000_000, 4096)


def test_engine_labels_are_split_once() -> None:
    assert description(INFO, "box").engine_labels == {"rack": "r1", "bare": "", "odd": "a=b"}


def test_plugins_are_sorted_by_kind() -> None:
    assert description(INFO, "box").plugins == (
        Plugin("Volume", "local"),
        Plugin("Network", "bridge"),
        Plugin("Network", "host"),
    )


def test_go_names_of_architectures_become_the_kernels() -> None:
    node = description({"Architecture": "amd64", "Labels": None, "Plugins": None}, "box")
    assert node.platform.architecture == "x86_64"
