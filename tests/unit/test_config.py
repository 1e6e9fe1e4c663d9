"""Where settings come from, and which are refused."""

from pathlib import Path

import pytest
from swarmlet.config import load
from swarmlet.errors import InvalidInput


def test_flags_win_over_environment_file_and_default(tmp_path: Path) -> None:
    file = tmp_path / "swarmletd.toml"
    file.write_text('socket = "/file"\nstate_dir = "/file"\nlog_level = "debug"\n')
    env = {"SWARMLET_SOCKET": "/env", "SWARMLET_STATE_DIR": "/env"}
    found = load({"socket": "/flag", "state_dir": None}, env, file)
    assert (found.config.socket, found.config.state_dir) == ("/flag", "/env")
    assert found.config.log_level == "debug"
    assert {k: v for k, v in found.sources.items() if v != "default"} == {
        "socket": "flag",
        "state_dir": "environment",
        "log_level": str(file),
    }


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_a_level_of_the_log_is_one_of_four(level: str, tmp_path: Path) -> None:
    assert load({}, {"SWARMLET_LOG_LEVEL": level}, tmp_path / "none").config.log_level == level


@pytest.mark.parametrize(
    ("setting", "value", "known"),
    [
        ("log_level", "verbose", "debug, info, warning and error are known"),
        ("log_level", "INFO", "debug, info, warning and error are known"),
        ("log_format", "xml", "console and json are known"),
    ],
)
def test_an_unknown_word_is_refused_with_those_that_are_known(
    setting: str, value: str, known: str, tmp_path: Path
) -> None:
    """Flags are checked by the command line; this is for the environment and the file."""
    with pytest.raises(InvalidInput, match=f"{setting} is '{value}'; {known}"):
        load({}, {f"SWARMLET_{setting.upper()}": value}, tmp_path / "none")
