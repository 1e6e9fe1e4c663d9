"""Where a playground cannot run, one error names all that is missing, and the fix."""

from swarmlet.playground import preflight


def test_a_machine_that_has_everything_is_not_refused() -> None:
    assert preflight.refusal(0, [], namespaces=True) is None


def test_missing_root_and_programs_are_told_in_one_error() -> None:
    error = preflight.refusal(1000, ["dockerd", "nsenter", "unshare"], namespaces=True)
    assert error is not None
    assert error.message == (
        "a playground cannot run here, it needs root (you are uid 1000) "
        "and the programs dockerd, nsenter, unshare"
    )
    assert error.advice == (
        "run it with sudo; apt-get install docker.io util-linux (or scripts/install)"
    )


def test_root_without_the_right_to_make_namespaces_is_told_where_to_go() -> None:
    error = preflight.refusal(0, [], namespaces=False)
    assert error is not None
    assert "network and mount namespaces" in error.message
    assert "privileged container" in error.advice


def test_missing_programs_are_those_that_the_path_lacks() -> None:
    assert preflight.missing_programs(lambda name: None if name == "nft" else f"/bin/{name}") == [
        "nft"
    ]
