"""Broken stack files and exactly what is said of them. ``UPDATE_GOLDEN=1`` rewrites the texts."""

import os
from pathlib import Path

import pytest
from swarmlet.stack.check import checked
from swarmlet.stack.load import load
from swarmlet.stack.problems import StackError

CASES = Path(__file__).parents[2] / "golden" / "stack"


@pytest.mark.parametrize("path", sorted(CASES.glob("*.yml")), ids=lambda p: p.stem)
def test_broken_stacks_get_exactly_these_messages(path: Path) -> None:
    with pytest.raises(StackError) as caught:
        checked(load(path.read_bytes(), path.name), "shop")
    said = "\n".join(p.render() for p in caught.value.problems)
    said += f"\n{caught.value.message}, nothing was deployed.\n"
    expected = path.with_suffix(".txt")
    if os.environ.get("UPDATE_GOLDEN"):
        expected.write_text(said)
    assert said == expected.read_text()
