"""Names and paths are functions of a playground's name, and two playgrounds never share one."""

import pytest
from swarmlet.errors import InvalidInput
from swarmlet.playground.layout import Site, check_name, host_names


def test_hosts_are_numbered_by_role() -> None:
    assert host_names(3, 2) == [
        ("m1", "manager"),
        ("m2", "manager"),
        ("m3", "manager"),
        ("w1", "worker"),
        ("w2", "worker"),
    ]


@pytest.mark.parametrize(("managers", "workers"), [(0, 2), (1, -1), (60, 5)])
def test_impossible_numbers_of_hosts_are_refused(managers: int, workers: int) -> None:
    with pytest.raises(InvalidInput, match="cannot be made"):
        host_names(managers, workers)


@pytest.mark.parametrize("name", ["", "-a", "A", "a/b", "../x", "a b", "x" * 21, "a.json"])
def test_names_that_would_not_fit_paths_and_links_are_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match="cannot be the name"):
        check_name(name)


def test_link_names_fit_the_kernels_fifteen_characters_for_the_longest_name() -> None:
    site = Site(check_name("x" * 20))
    names = [site.bridge, *[site.spot(host).cable for host, _ in host_names(1, 63)]]
    assert max(map(len, names)) <= 15
    assert len(set(names)) == len(names)


def test_containerds_socket_fits_a_socket_address_for_the_longest_name() -> None:
    spot = Site("x" * 20).spot("w63")
    assert len(str(spot.run_dir / "exec/containerd/containerd-debug.sock")) < 108


def test_a_playground_does_not_take_another_ones_namespaces_for_its_own() -> None:
    """Names with dashes nest: ``a`` must not match what belongs to ``a-b`` or ``a-m1``."""
    ours = Site("a").netns_pattern
    assert ours.fullmatch(Site("a").spot("m1").netns)
    assert not ours.fullmatch(Site("a-b").spot("m1").netns)
    assert not ours.fullmatch(Site("a-m1").spot("m1").netns)


def test_processes_and_containers_have_cgroups_of_their_own_below_the_host() -> None:
    spot = Site("lab").spot("m1")
    assert spot.processes_cgroup == "swarmlet-playground/lab/m1/system"
    assert spot.containers_cgroup == "swarmlet-playground/lab/m1/containers"
