"""The loader: YAML 1.2 with places, and nothing that a file can do to it."""

import contextlib
import json
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from swarmlet.stack.check import checked
from swarmlet.stack.load import MAX_BYTES, Node, load, load_file
from swarmlet.stack.problems import StackError


def _value(text: str) -> object:
    return load(f"services: {text}\n".encode(), "x").fields["services"].value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", "yes"), ("on", "on"), ("22:22", "22:22"), ("3000:22", "3000:22"), ("1.10", 1.1),
        ("0x10", 16), ("0o17", 15), ("017", 17), ("~", None), ("null", None), ("true", True),
        ("False", False), ("'true'", "true"), ('"1"', "1"), ("1e3", 1000.0), ("1_000", "1_000"),
        (".inf", ".inf"), ("2001-01-01", "2001-01-01"), ("-", None),
    ],
)  # fmt: skip
def test_words_and_numbers_are_those_of_yaml_1_2(text: str, value: object) -> None:
    if text == "-":
        text = ""
    found = _value(text)
    assert found == value
    assert type(found) is type(value)


def test_a_number_keeps_its_text() -> None:
    """An image tag or a variable of 1.10 must not become 1.1."""
    assert load(b"services: {a: 1.10}", "x").fields["services"].fields["a"].text == "1.10"


def test_every_key_and_item_knows_its_place() -> None:
    root = load(b"services:\n  web:\n    ports:\n      - a\n      - b\n", "x")
    web = root.fields["services"].fields["web"]
    ports = web.fields["ports"]
    assert (web.keys["ports"].line, web.keys["ports"].col) == (2, 4)
    assert [(item.mark.line, item.mark.col) for item in ports.items] == [(3, 8), (4, 8)]


def test_merge_keys_and_anchors_work_and_own_keys_win() -> None:
    text = b"x-a: &a {image: a, user: u}\nservices:\n  web: {<<: *a, image: b}\n"
    web = load(text, "x").fields["services"].fields["web"]
    assert web.plain() == {"image": "b", "user": "u"}
    assert web.keys["user"].line == 0


HOSTILE = {
    "brackets": b"a: " + b"[" * 250_000,
    "braces": b"{a: " * 50_000,
    "dashes": b"- " * 100_000,
    "anchors": b"a: &a a\n" * 20_000,
    "long line": b"a: " + b"x" * (MAX_BYTES - 10) + b": b",
    "many keys": b"".join(b"k%d: 1\n" % i for i in range(25_000)),
    "huge": b"a: b\n" * 1_000_000,
    "nul": b"\0" * 100_000,
    "quotes": b'"' + b"\\n" * 120_000,
    "question marks": b"? " * 100_000,
    "percent": b"%YAML 9.9\n---\n",
    "zip": b"PK\x03\x04" + bytes(range(256)) * 100,
}


@pytest.mark.parametrize("raw", HOSTILE.values(), ids=HOSTILE)
def test_hostile_files_fail_with_one_error_within_a_second(raw: bytes) -> None:
    start = time.process_time()
    with pytest.raises(StackError) as caught:
        checked(load(raw, "x"), "shop")
    assert time.process_time() - start < 2  # a second is promised; the machine may be busy
    assert all(len(p.render()) < 1000 for p in caught.value.problems)


@pytest.mark.parametrize("path", ["/nonexistent/x.yml", "/", "\0"])
def test_a_file_that_cannot_be_read_is_a_stack_error(path: str) -> None:
    with pytest.raises(StackError, match="1 problem"):
        load_file(path)


_YAML = st.text(
    st.sampled_from(list("abc:-?[]{},&*!|>'\"%@`#~<$ \n\t\\=0127./ü\x00\x85\u2028")), max_size=120
)


@settings(max_examples=300, deadline=None)
@given(_YAML)
def test_no_text_makes_the_loader_fail_otherwise(text: str) -> None:
    found: Node | StackError
    try:
        found = load(text.encode(), "x")
    except StackError as error:
        found = error
    assert isinstance(found, Node) or all(p.render() for p in found.problems)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_make_the_loader_fail_otherwise(raw: bytes) -> None:
    with contextlib.suppress(StackError):
        load(raw, "x")


_LEAF = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 99_999), st.floats(allow_nan=False),
    st.sampled_from(["", "x", "10s", "64M", "a:b", "8080:80", "A=b", "/x", "node.role==x", "$X"]),
)  # fmt: skip
_WORDS = """
    image command environment ports volumes deploy replicas mode resources limits memory cpus
    networks aliases ipam config
    healthcheck test interval placement constraints preferences spread restart_policy delay
    ulimits soft hard target published source type tmpfs size driver external name labels
    services extra_hosts cap_add dns x-foo other
"""
_KEYS = st.sampled_from(_WORDS.split())
_TREE = st.recursive(
    _LEAF,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_KEYS, inner, max_size=5)),
    max_leaves=25,
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(_KEYS, _TREE, max_size=4), _TREE, _TREE)
def test_no_well_formed_file_makes_the_checks_fail_otherwise(
    service: dict[str, object], volumes: object, networks: object
) -> None:
    """Whatever stands where: specs, or problems with places."""
    tree = {"services": {"web": service}, "volumes": volumes, "networks": networks}
    root = load(json.dumps(tree, indent=1).encode(), "x.json")
    problems, names = [], ["shop_web"]
    try:
        names = [s["Name"] for s in checked(root, "shop").services]
    except StackError as error:
        problems = error.problems
    assert all(p.render() and p.message for p in problems)
    assert names == ["shop_web"]


#: Stack files that others wrote lie beside the repository, where there are any; none is committed.
FOREIGN = [
    path
    for folder in Path(__file__).resolve().parents
    for path in sorted((folder / "shared" / "stacks").glob("*.yml"))
]


@pytest.mark.skipif(not FOREIGN, reason="the collection of other people's stacks is not here")
def test_other_peoples_stacks_have_only_what_is_not_supported_yet() -> None:
    for path in FOREIGN:
        try:
            checked(load_file(str(path)), "shop")
        except StackError as error:
            others = [p.render() for p in error.problems if "not supported yet" not in p.message]
            assert not others
